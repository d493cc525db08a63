"""Parts of an archive, sharded by different jobs, joined to one folder of shards without reading them again.

Shards keep their bytes and get new numbers, so the result holds the very studies, in the very order, that one job
would have written; only where one shard ends and the next begins differs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vlp import log
from vlp.data.counts import Counts, Sums, count_patients
from vlp.data.journal import Journal, Refused, differences
from vlp.data.manifest import QUARANTINE_NAME, SPLITS, Manifest, Shard, write_manifest, write_whole
from vlp.data.storage import Target
from vlp.errors import DataError
from vlp.records import Split

Approve = Callable[[Manifest, Sequence[Refused]], None]
"""Looks at what the whole will be, and raises a `DataError` if it will not do."""

_ADDED = ("faults", "left_out", "privacy")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A finished part."""

    target: Target
    manifest: Manifest


def merge(parts: Sequence[Target], target: Target, *, facts: Mapping[str, Any], approve: Approve) -> Manifest:
    """Joins all parts, in order, to `target`, deletes them, and returns the manifest of the whole.

    Args:
        parts: as they were written, the first one first.
        target: where the whole goes.
        facts: what every part's manifest must say, e.g. its recipe.
        approve: has the last word before anything is published.

    Raises:
        DataError: if a part is missing, unfinished, or made of something else; if a study is in two parts, or a person
            in two splits.  Then the parts are left as they are and the target as it was.
    """
    pieces = [_piece(part, f"{number}/{len(parts)}", facts) for number, part in enumerate(parts, start=1)]
    _refuse_doubles(pieces)
    refused = [line for piece in pieces for line in _quarantine(piece)]
    renamed = list(_numbered(pieces))
    manifest = _joined([piece.manifest for piece in pieces], [shard for _, _, shard in renamed])
    assert manifest.adds_up(), "a study was lost between parts and whole"
    approve(manifest, refused)
    target.prepare()
    with target.writing(), Journal(target.journal) as journal:
        if journal.entries:
            raise DataError(
                f"{target.name}: a build of the whole was broken off there; finish it, or remove {journal.path}"
            )
        try:
            _publish(target, manifest, renamed, refused)
        finally:
            target.discard()
            journal.remove()
            target.retreat()
    for piece in pieces:
        piece.target.delete()
    return manifest


def _publish(
    target: Target, manifest: Manifest, renamed: Sequence[tuple[_Piece, Shard, Shard]], refused: Sequence[Refused]
) -> None:
    target.settle()
    target.discard()  # what a killed merge left
    target.partial.mkdir()
    for piece, before, after in log.progress(renamed, description="merging", unit="shards"):
        target.adopt(before, piece.target, after.name)
    if refused:
        lines = b"".join(line.model_dump_json().encode() + b"\n" for line in refused)
        write_whole(target.partial / QUARANTINE_NAME, lines)
    write_manifest(manifest, target.partial)
    target.publish(manifest)


def _piece(part: Target, label: str, facts: Mapping[str, Any]) -> _Piece:
    again = f"run it (again) with part={label}"
    manifest = part.finished()
    if manifest is None:
        raise DataError(f"{part.name}: part {label} is not finished; {again}")
    wanted = dict(facts) | {"part": label}
    found = differences({name: getattr(manifest, name) for name in wanted}, wanted)
    if found:
        raise DataError(f"{part.name}: part {label} was made of something else ({found[0]}); {again}")
    return _Piece(target=part, manifest=manifest)


def _refuse_doubles(pieces: Sequence[_Piece]) -> None:
    keys: set[str] = set()
    split_of: dict[str, Split] = {}
    for piece in pieces:
        for shard in piece.manifest.shards:
            for sample in shard.samples:
                if sample.key in keys:
                    raise DataError(f"{piece.target.name}: study {sample.key} is in an earlier part, too")
                keys.add(sample.key)
                if split_of.setdefault(sample.patient, shard.split) != shard.split:
                    raise DataError(
                        f"{piece.target.name}: the patient of study {sample.key} stands in two splits "
                        f"({split_of[sample.patient]} and {shard.split}); split by patient"
                    )


def _quarantine(piece: _Piece) -> Iterator[Refused]:
    if not piece.manifest.faults:
        return
    content = piece.target.read(QUARANTINE_NAME)
    try:
        lines = [Refused.model_validate_json(line) for line in content.splitlines()]
    except ValidationError:
        raise DataError(f"{piece.target.name}/{QUARANTINE_NAME}: damaged; make the part again with --again") from None
    yield from lines


def _numbered(pieces: Sequence[_Piece]) -> Iterator[tuple[_Piece, Shard, Shard]]:
    """(part, shard there, shard in the whole), split by split, in the order of the whole."""
    for split in SPLITS:
        shards = [(piece, shard) for piece in pieces for shard in piece.manifest.shards if shard.split == split]
        for number, (piece, shard) in enumerate(shards):
            yield piece, shard, shard.model_copy(update={"name": f"{split}-{number:06d}.tar"})


def _joined(manifests: Sequence[Manifest], shards: Sequence[Shard]) -> Manifest:
    sums = Sums()
    for manifest in manifests:
        sums.counts(Counts.of(manifest))
    return manifests[0].model_copy(
        update={
            **dict(sums.total(count_patients(shards))),
            **{name: _added(getattr(manifest, name) for manifest in manifests) for name in _ADDED},
            "read": sum(manifest.read or 0 for manifest in manifests),
            "part": None,
            "shards": tuple(shards),
        }
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for each in counts:
        total.update(each)  # unlike +, this keeps what is 0 everywhere
    return dict(sorted(total.items()))
