"""Which text is true of which image: positives, pairs to leave out, and contradictions, from what sentences say.

A batch of reports is full of pairs that are no negatives although another study's report says them: the same words,
the same fact in other words, a fact that follows from a more precise one.  What sentences say comes as 64-bit codes
(`tensors.Statements`), so all of it is equality of integers.  Every rule is a join: a text asks for a key, a study
holds keys.  Joins sort and search, so nothing larger than `[unique image]` is ever made, and nothing waits for the
device.

Between places only this much is known: no location is anywhere, and two codes are the same place or not.  What is
present in a place is present; what is absent is absent in every place.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int, Int8
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from vlp.config import Config
from vlp.tensors import ABSENT, IGNORE, PRESENT, UNCERTAIN, Statements

Verdict = Literal["positive", "ignore", "negative"]
TextWeights = Literal["occurrence", "distinct", "study"]

_FACTORS = (-7046029254386353131, -4417276706812531889, 1609587929392839161)
"""Odd numbers that mix codes into keys (modulo 2**64)."""
_BLOCK = 4096
"""Sentence vectors that are compared with all others at a time."""


class PositivesConfig(Config):
    """What counts as true of another study's images.  A rule that says "negative" changes nothing.

    Where several rules speak of a pair, a contradiction comes first, then "positive", then "ignore"; a text that a
    study both says and contradicts is ignored.  A study's own texts are always positive.
    """

    same_sentence: Verdict = "positive"
    """The study says it in the same words, but for case, white space and final stops."""
    same_fact: Verdict = "positive"
    """The study says it in other words: same finding, location and certainty."""
    entailed: Verdict = "ignore"
    """It follows from something more precise: "There is F." where F is in some place, "no F of the left" where there
    is no F at all."""
    unsure: Verdict = "ignore"
    """The study speaks of the finding in a place that may be meant and leaves the text open: one of the two is
    uncertain, or the text is the more precise one, or F is present somewhere and absent somewhere."""
    near_duplicate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Cosine of sentence vectors from which on a text counts as a rewording of one of the study's texts in the batch:
    ignored, unless a rule above makes it positive or it contradicts.  null compares no vectors."""
    contradiction: PositiveFloat = 1.0
    """How many times a pair stands in the sums over negatives where the text says the contrary of the study: the
    same finding present against absent, in the same place or where it was said to be absent altogether.  Such a pair
    is always negative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the rules make of every text and image."""

    positives: Int8[Tensor, "text image"]
    """1 positive, 0 negative, `tensors.IGNORE` neither."""
    hardness: Float[Tensor, "text image"] | None
    """`PositivesConfig.contradiction` where `contradicts`, else 1; None where that is 1 everywhere."""
    contradicts: Bool[Tensor, "text image"]
    """True where a text says the contrary of what the image's study says; a flipped text does of its own study."""


@torch.no_grad()
def find_positives(
    config: PositivesConfig,
    *,
    said: Statements,
    sentence: Int[Tensor, " text"],
    flipped: Bool[Tensor, " text"],
    owner: Int[Tensor, " text"],
    study: Int[Tensor, " image"],
    known: Statements,
    known_study: Int[Tensor, " statement"],
    vectors: Float[Tensor, "unique dim"] | None = None,
) -> Found:
    """Applies the rules to every text and image; arguments as in `tensors.Batch`.

    On several ranks: texts of all ranks, images and `known` of this one, studies numbered across ranks.

    A flipped text is negative to the images of its own study and to those it contradicts; elsewhere it is what the
    rules say, and ignored where they say nothing, since nothing is known about it.

    Args:
        config: The rules.
        said: What each distinct text says, [unique].
        sentence: Row of `said` that each text uses.
        flipped: Texts made to be untrue of their owner.
        owner: Study each text belongs to, >= 0.
        study: Study each image belongs to, >= 0.
        known: Everything the studies of the images say.
        known_study: Study each of `known` belongs to.
        vectors: A vector of any length for each distinct text; needed for `near_duplicate`.

    Raises:
        ValueError: if `near_duplicate` is set and there are no vectors.
    """
    rules = _Rules(said, known, _Columns(study, known_study))
    own = own_pairs(owner, study, flipped)
    untrue = flipped[:, None] & (owner[:, None] == study[None, :])
    contradicts = (rules.contradiction()[sentence] & ~own) | untrue

    verdicts = torch.zeros((said.identity.shape[0], study.shape[0]), dtype=torch.int8, device=study.device)
    if config.near_duplicate is not None:
        if vectors is None:
            raise ValueError("near duplicates are found by sentence vectors: pass vectors")
        held = torch.where(flipped, 0, sentence + 1)
        rows = torch.arange(1, said.identity.shape[0] + 1, device=study.device)
        texts = _Columns(study, owner).holding(rows, held)
        verdicts.masked_fill_(_near(vectors, texts, band=config.near_duplicate), IGNORE)
    ruled = (
        (config.same_sentence, rules.same_sentence),
        (config.same_fact, rules.same_fact),
        (config.entailed, rules.entailed),
        (config.unsure, rules.unsure),
    )
    for verdict, value in (("ignore", IGNORE), ("positive", 1)):
        for rule in (rule for wanted, rule in ruled if wanted == verdict):
            verdicts.masked_fill_(rule(), value)

    positives = verdicts[sentence]
    positives.masked_fill_(flipped[:, None] & (positives == 0), IGNORE)
    both_ways = contradicts & (positives == 1) & ~untrue  # the study says it, and says the contrary
    contradicts &= ~both_ways
    positives.masked_fill_(contradicts, 0)
    positives.masked_fill_(both_ways, IGNORE)
    positives.masked_fill_(own, 1)
    hardness = None
    if config.contradiction != 1.0:
        hardness = torch.ones_like(positives, dtype=torch.float32).masked_fill_(contradicts, config.contradiction)
    return Found(positives=positives, hardness=hardness, contradicts=contradicts)


@torch.no_grad()
def agreement(
    said: Statements,
    sentence: Int[Tensor, " text"],
    known: Statements,
    known_study: Int[Tensor, " statement"],
    study: Int[Tensor, " image"],
) -> Float[Tensor, "text image"]:
    """1 where the study says what the text says of its finding, -1 where it says the contrary, else 0.

    Present and absent count, wherever; what is uncertain, unmentioned, or said both ways is 0.  This is MedCLIP's
    product of label vectors (Wang et al. 2022) for texts that state one finding.
    """
    columns = _Columns(study, known_study)
    definite = _spoken(said) & (said.certainty != UNCERTAIN)
    asked = _key(said.finding, said.certainty, where=definite)
    alike, contrary = (
        columns.holding(asked, _key(known.finding, certainty, where=_spoken(known)))
        for certainty in (known.certainty, _turned(known.certainty))
    )
    return (alike.float() - contrary.float())[sentence]


def own_pairs(
    owner: Int[Tensor, " text"], study: Int[Tensor, " image"], flipped: Bool[Tensor, " text"]
) -> Bool[Tensor, "text image"]:
    """Which texts were written of the study an image belongs to; flipped ones were not."""
    return (owner[:, None] == study[None, :]) & ~flipped[:, None]


def text_weights(
    kind: TextWeights,
    *,
    sentence: Int[Tensor, " text"],
    owner: Int[Tensor, " text"],
    flipped: Bool[Tensor, " text"],
) -> Float[Tensor, " text"]:
    """How much each text counts as an anchor; flipped ones do not.

    occurrence: every text 1; distinct: every distinct sentence 1 in all; study: every study 1 in all.  `sentence` may
    be any number that is equal exactly for equal sentences, so on several ranks a row or the identity's code.
    """
    if kind == "occurrence":
        return (~flipped).float()
    group = sentence if kind == "distinct" else owner
    return torch.where(flipped, 0.0, _times(group, ~flipped).clamp_min(1).float().reciprocal())


def shares(
    found: Found, own: Bool[Tensor, "text image"], *, flipped: Bool[Tensor, " text"] | None = None
) -> dict[str, Float[Tensor, ""]]:
    """What a step reports: which shares of the pairs of different studies are no plain negatives.

    "collisions": positive all the same, what plain CLIP gets wrong; "ignored"; "contradicting".  Flipped texts are
    left out where `flipped` says which they are.
    """
    other = ~own if flipped is None else ~own & ~flipped[:, None]
    total = other.sum().clamp_min(1)
    return {
        "collisions": ((found.positives == 1) & other).sum() / total,
        "ignored": ((found.positives == IGNORE) & other).sum() / total,
        "contradicting": (found.contradicts & other).sum() / total,
    }


class _Columns:
    """The images, as what holds keys through their studies."""

    def __init__(self, study: Int[Tensor, " image"], holder: Int[Tensor, " key"]) -> None:
        """`holder` is the study that each key which will be held belongs to; one without images holds for nobody."""
        ordered = study.sort().values
        self._of_image = torch.searchsorted(ordered, study)
        place = torch.searchsorted(ordered, holder)
        self._of_key = torch.where(functional.pad(ordered, (0, 1), value=-1)[place] == holder, place, len(study))

    def holding(self, wanted: Int[Tensor, " unique"], held: Int[Tensor, " key"]) -> Bool[Tensor, "unique image"]:
        """Where the image's study holds the key a text wants; 0 is no key."""
        ordered = wanted.sort().values
        row = torch.searchsorted(ordered, held)
        match = functional.pad(ordered, (0, 1))[row] == held
        # One more row and column take what nobody wants and nobody sees.
        nowhere = len(self._of_image)
        table = torch.zeros((len(wanted) + 1, nowhere + 1), dtype=torch.bool, device=wanted.device)
        table[row, torch.where(match, self._of_key, nowhere)] = True
        return table[torch.searchsorted(ordered, wanted)][:, self._of_image] & (wanted != 0)[:, None]


@dataclass(frozen=True, slots=True)
class _Rules:
    """One method per rule: where it holds between distinct texts and images."""

    said: Statements
    known: Statements
    columns: _Columns

    def same_sentence(self) -> Bool[Tensor, "unique image"]:
        return self.columns.holding(self.said.identity, self.known.identity)

    def same_fact(self) -> Bool[Tensor, "unique image"]:
        return self._in_one_place(*self._alike)

    def entailed(self) -> Bool[Tensor, "unique image"]:
        return self._here_and_anywhere(*self._alike, of=~self._strong)

    def unsure(self) -> Bool[Tensor, "unique image"]:
        hedged = (
            torch.where(self.said.certainty == UNCERTAIN, 1, 2),
            torch.where(self.known.certainty == UNCERTAIN, 2, 1),
        )
        return (
            self._in_one_place(*hedged)
            | self._here_and_anywhere(*hedged, of=torch.ones_like(self._strong))
            | self._here_and_anywhere(*self._alike, of=self._strong)
            | self._here_and_anywhere(*self._contrary, of=~self._strong)
        )

    def contradiction(self) -> Bool[Tensor, "unique image"]:
        return self._in_one_place(*self._contrary) | self._here_and_anywhere(*self._contrary, of=self._strong)

    @property
    def _alike(self) -> tuple[Tensor, Tensor]:
        """Tags that are equal where the certainties are."""
        return self.said.certainty, self.known.certainty

    @property
    def _contrary(self) -> tuple[Tensor, Tensor]:
        """Tags that are equal where one is present and the other absent."""
        return self.said.certainty, _turned(self.known.certainty)

    @property
    def _strong(self) -> Bool[Tensor, " unique"]:
        """Texts that say more than their like with or without a place: present *here*, absent *anywhere*."""
        return (self.said.location != 0) ^ (self.said.certainty == ABSENT)

    def _in_one_place(
        self, tag: Int[Tensor, " unique"], known_tag: Int[Tensor, " statement"]
    ) -> Bool[Tensor, "unique image"]:
        """Where finding, place and tag are equal."""
        said, known = self.said, self.known
        return self.columns.holding(
            _key(said.finding, said.location, tag, where=_spoken(said)),
            _key(known.finding, known.location, known_tag, where=_spoken(known)),
        )

    def _here_and_anywhere(
        self, tag: Int[Tensor, " unique"], known_tag: Int[Tensor, " statement"], *, of: Bool[Tensor, " unique"]
    ) -> Bool[Tensor, "unique image"]:
        """Where finding and tag are equal, and one of the two has a place and the other none; only `of` some texts."""
        said, known = self.said, self.known
        return self.columns.holding(
            _key(said.finding, tag, (said.location != 0).long(), where=_spoken(said) & of),
            _key(known.finding, known_tag, (known.location == 0).long(), where=_spoken(known)),
        )


def _spoken(said: Statements) -> Bool[Tensor, " statement"]:
    """Which of them state a fact."""
    return (said.finding != 0) & (said.certainty != 0)


def _turned(certainty: Int[Tensor, " statement"]) -> Int[Tensor, " statement"]:
    """Present for absent and absent for present; what is uncertain has no contrary."""
    return torch.where(certainty == PRESENT, ABSENT, torch.where(certainty == ABSENT, PRESENT, 0))


def _key(*codes: Int[Tensor, " statement"], where: Bool[Tensor, " statement"]) -> Int[Tensor, " statement"]:
    """One number that is equal where all codes are; 0, no key, elsewhere."""
    mixed = sum((code * factor for code, factor in zip(codes, _FACTORS, strict=False)), torch.zeros_like(codes[0]))
    return torch.where(where, mixed, 0)


def _times(values: Int[Tensor, " text"], counted: Bool[Tensor, " text"]) -> Int[Tensor, " text"]:
    """How many of the counted values equal each value."""
    ordered = torch.where(counted, values, torch.iinfo(torch.int64).max).sort().values
    return torch.searchsorted(ordered, values, right=True) - torch.searchsorted(ordered, values)


def _near(
    vectors: Float[Tensor, "unique dim"], texts: Bool[Tensor, "unique image"], *, band: float
) -> Bool[Tensor, "unique image"]:
    """Where the image's study has a text, by `texts`, whose vector is as close as `band`."""
    with torch.autocast(vectors.device.type, enabled=False):
        unit, held = functional.normalize(vectors.float(), dim=1), texts.float()
        return torch.cat([((rows @ unit.T >= band).float() @ held) > 0 for rows in unit.split(_BLOCK)])
