"""A step's texts from all ranks; images stay where they are.

Ranks exchange what is small: one vector a sentence, a few numbers a text, at most one vector an image.  Patches, a
thousand times as much, never travel: every rank scores all texts against its own images.

Gradients: what a rank receives it uses in its own loss, so the backward pass sends the sum over ranks home.  Every
rank's loss is the same global one, hence a rank's gradient is (ranks) x its share, and the mean over ranks that
`DistributedDataParallel` takes is exactly the gradient one process would have on the joined batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.tensors import Batch, Statements

_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)
"""Odd 64-bit multipliers (those of SplitMix64), as torch's signed integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """All ranks' texts and this rank's images, numbered alike on every rank: as if the batch were one.

    A sentence is here once however many ranks hold it: rows of equal tokens and equal words are one, and the first
    rank's vector stands for all.  Since towers share their weights, values and gradients are those of one process
    that has read the sentence once; with dropout it is the first rank's draw that counts.
    """

    said: Statements
    """Of every distinct sentence; one that states this here and that there states nothing (as `data.texts` has it)."""
    sentence: Int[Tensor, " text"]
    """The distinct sentence each text uses."""
    owner: Int[Tensor, " text"]
    """The study of each text, counted over all ranks."""
    flipped: Bool[Tensor, " text"]
    study: Int[Tensor, " image"]
    """The study of each of this rank's images, counted over all ranks."""
    known_study: Int[Tensor, " statement"]
    """The study of each of this rank's `Batch.known`, counted over all ranks."""
    every_study: Int[Tensor, " everyone"]
    """The study of every image, those of rank 0 first."""
    num_images: tuple[int, ...]
    """Images of each rank."""
    num_rows: tuple[int, ...]
    """Rows of `Batch.tokens` of each rank."""
    rank: int
    group: Any
    """The ranks' process group; None for a process alone."""
    rows: Int[Tensor, " unique"]
    """Among the rows of all ranks, the one that stands for each distinct sentence."""

    @property
    def first_image(self) -> int:
        """Where this rank's images begin among all images."""
        return sum(self.num_images[: self.rank])

    def texts(self, vectors: Float[Tensor, "row dim"]) -> Float[Tensor, "unique dim"]:
        """The vectors of all distinct sentences, from this rank's rows; with gradients."""
        return gather_rows(vectors, counts=self.num_rows, rank=self.rank, group=self.group)[self.rows]

    def images(self, vectors: Float[Tensor, "image dim"]) -> Float[Tensor, "everyone dim"]:
        """One vector of every image, from this rank's; with gradients."""
        return gather_rows(vectors, counts=self.num_images, rank=self.rank, group=self.group)


def gather_texts(batch: Batch, *, group: Any = None) -> Joined:
    """What the ranks of `group` must know of each other's batches; all of them call it, with their own.

    Args:
        batch: This rank's part; it may hold no text at all.
        group: A process group, or None for a process alone.
    """
    table = _Table.of(batch)
    tables = [table] if group is None else _exchange(table, group)
    rank = 0 if group is None else dist.get_rank(group)
    first_row, first_study = 0, [0]
    sentence, owner, every_study = [], [], []
    for part in tables:
        sentence.append(part.texts[:, 0] + first_row)
        owner.append(part.texts[:, 1] + first_study[-1])
        every_study.append(part.study + first_study[-1])
        first_row += len(part.codes)
        first_study.append(first_study[-1] + part.num_studies)
    codes = torch.cat([part.codes for part in tables])
    rows, distinct = _first_of_equals(codes[:, 0])
    identity, (finding, location, certainty) = codes[rows, 1], _agreed(codes[:, 2:], distinct, len(rows)).unbind(dim=1)
    return Joined(
        said=Statements(identity=identity, finding=finding, location=location, certainty=certainty),
        sentence=distinct[torch.cat(sentence)],
        owner=torch.cat(owner),
        flipped=torch.cat([part.texts[:, 2] for part in tables]) > 0,
        study=every_study[rank],
        known_study=batch.known_study + first_study[rank],
        every_study=torch.cat(every_study),
        num_images=tuple(len(part.study) for part in tables),
        num_rows=tuple(len(part.codes) for part in tables),
        rank=rank,
        group=group,
        rows=rows,
    )


def gather_rows(
    rows: Float[Tensor, "row dim"], *, counts: Sequence[int], rank: int, group: Any
) -> Float[Tensor, "rows dim"]:
    """The rows of all ranks, those of rank 0 first, by one collective; the gradient is summed over ranks.

    Args:
        rows: This rank's, `counts[rank]` of them; perhaps none.
        counts: Rows of every rank.
        rank: Which rank this is.
        group: Their process group; None for a process alone, which gets its own rows back.
    """
    if group is None:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, tuple(counts), rank, group)
    return gathered


class _GatherRows(torch.autograd.Function):
    """Rows padded to the longest rank, gathered, and cut again; backward is the sum over ranks of a rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...], rank: int, group: Any) -> Tensor:
        ctx.counts, ctx.rank, ctx.group = counts, rank, group
        return torch.cat(_gather_ragged(rows, counts, group))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        start = sum(ctx.counts[: ctx.rank])
        return total[start : start + ctx.counts[ctx.rank]], None, None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """The numbers of one rank's batch."""

    codes: Int[Tensor, "row 5"]
    """Of each row of tokens: a code of the whole row, then identity, finding, location, certainty."""
    texts: Int[Tensor, "text 3"]
    """Of each text: its row, its study, whether it is flipped."""
    study: Int[Tensor, " image"]
    num_studies: int

    @classmethod
    def of(cls, batch: Batch) -> "_Table":
        """The table of a batch."""
        said = batch.said
        facts = torch.stack((said.identity, said.finding, said.location, said.certainty), dim=1)
        # Different words may be one to the tokenizer (unknown ones, cut ends), and words in another case two.
        whole = torch.cat((facts[:, :1], batch.tokens.ids), dim=1)
        real = torch.cat((torch.ones_like(facts[:, :1], dtype=torch.bool), batch.tokens.mask), dim=1)
        return cls(
            codes=torch.cat((_row_codes(whole, real)[:, None], facts), dim=1),
            texts=torch.stack((batch.sentence, batch.owner, batch.flipped.to(torch.int64)), dim=1),
            study=batch.study,
            num_studies=len(batch.keys),
        )

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Rows, texts, images, studies."""
        return len(self.codes), len(self.texts), len(self.study), self.num_studies

    def flat(self) -> Int[Tensor, " number"]:
        """Everything in one line."""
        return torch.cat((self.codes.flatten(), self.texts.flatten(), self.study))

    @classmethod
    def from_flat(cls, numbers: Tensor, sizes: Sequence[int]) -> "_Table":
        """What `flat` was made of."""
        rows, texts, images, studies = sizes
        codes, said, study = numbers.split((5 * rows, 3 * texts, images))
        return cls(codes=codes.view(rows, 5), texts=said.view(texts, 3), study=study, num_studies=studies)


def _exchange(table: _Table, group: Any) -> list[_Table]:
    """The tables of all ranks: one collective for how long they are, one for what they hold."""
    sizes = torch.tensor([table.sizes], dtype=torch.int64, device=table.codes.device)
    everyone = torch.cat(_gather_ragged(sizes, (1,) * dist.get_world_size(group), group)).tolist()
    lengths = [5 * rows + 3 * texts + images for rows, texts, images, _ in everyone]
    parts = _gather_ragged(table.flat(), lengths, group)
    return [_Table.from_flat(part, own) for part, own in zip(parts, everyone, strict=True)]


def _gather_ragged(rows: Tensor, counts: Sequence[int], group: Any) -> list[Tensor]:
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def _row_codes(numbers: Int[Tensor, "row column"], real: Bool[Tensor, "row column"]) -> Int[Tensor, " row"]:
    """64 bits for each row, equal for equal rows however far they are padded."""
    mixed = numbers + torch.arange(1, numbers.shape[1] + 1, device=numbers.device) * _ODD[0]
    for shift, factor in ((30, _ODD[1]), (27, _ODD[2]), (31, 1)):
        # Torch shifts copies of the sign in; the mask takes them out.
        mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return mixed.masked_fill(~real, 0).sum(dim=1)


def _first_of_equals(codes: Int[Tensor, " row"]) -> tuple[Int[Tensor, " unique"], Int[Tensor, " row"]]:
    """(rows of first occurrences, in their order; for each row, which of them it equals)."""
    distinct, equal = torch.unique(codes, return_inverse=True)
    places = torch.arange(len(codes), device=codes.device)
    first = torch.full_like(distinct, len(codes)).scatter_reduce(0, equal, places, "amin")
    rows, order = first.sort()
    return rows, order.argsort()[equal]


def _agreed(facts: Int[Tensor, "row 3"], distinct: Int[Tensor, " row"], number: int) -> Int[Tensor, "unique 3"]:
    """What all rows of each distinct sentence state; zeros where they do not agree."""
    index, start = distinct[:, None].expand_as(facts), facts.new_zeros((number, facts.shape[1]))
    least, most = (start.scatter_reduce(0, index, facts, how, include_self=False) for how in ("amin", "amax"))
    return most.masked_fill((least != most).any(dim=1, keepdim=True), 0)
