"""How published work asks a model, by name: which sentences, how they become a score, and what ours does differently.

A protocol is data: it says what is asked (`Protocol.pairs`) and by which rule the answers become one score per finding
and study.  `vlp.inference.scoring` computes it.  Sentences keep the published form, also where that is no good English;
only `vlp`, this project's own, follows the linter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import yaml

from vlp.errors import ConfigError
from vlp.prompts.descriptors import Descriptor, DescriptorSet
from vlp.reports.findings import LABEL_SETS, NO_FINDING, VOCABULARY

Rule = Literal["single", "pair"]
"""How an ask becomes a number: from its positive sentence alone, or from the pair of opposites."""
Pooling = Literal["geometric_mean", "none"]
"""How the asks of one finding become one score; "none": there is one ask only."""
Fusion = Literal["mean_probability", "mean_score"]
"""What is averaged over the images of a study: each ask's probability before pooling, or the pooled score."""
NoFinding = Literal["own", "one_minus_max"]
"""How "no finding" is scored: by its own sentences, or as 1 - the highest score of the other findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to the model: what is there if it is answered yes, and its opposite."""

    id: str
    text: str
    """What is asked for, in short, for tables."""
    anatomy: str
    positives: tuple[str, ...]
    """Sentences that say it is there; the pooled vectors of several are averaged before normalisation."""
    negatives: tuple[str, ...]
    """Sentences that say it is not; empty where only the positive side is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A way of asking and scoring.

    With s+ and s- the similarities (or logits z+, z- where there is no `temperature`) of an ask's two sides:

        rule "pair":    p = sigma((s+ - s-) / T)   or   sigma(z+ - z-)
        rule "single":  p = sigma(s+ / T)          or   sigma(z+)

    and p is clipped to [1e-6, 1 - 1e-6] before the geometric mean over the asks of a finding.
    """

    name: str
    asks: Callable[[str, DescriptorSet], tuple[Ask, ...]]
    """Canonical finding, descriptors -> what is asked; use `pairs`, which takes any spelling."""
    rule: Rule
    temperature: float | None
    """T of the cosines; None: the model's own logits."""
    pooling: Pooling
    fusion: Fusion
    no_finding: NoFinding
    reference: str
    """Paper and what of it."""
    differs: tuple[str, ...]
    """What this mode does not copy, and why."""

    def pairs(self, finding: str, descriptors: DescriptorSet) -> tuple[Ask, ...]:
        """What is asked for `finding`; empty for "no finding" where that follows from the other findings.

        Raises:
            DataError: for an unknown finding, or one without descriptors where the protocol asks only for these.
        """
        name = descriptors.resolve(finding)
        if name == NO_FINDING and self.no_finding == "one_minus_max":
            return ()
        return self.asks(name, descriptors)


def protocol(name: str) -> Protocol:
    """The protocol of that name, in any case.

    Raises:
        ConfigError: for a name nobody has, with the closest ones.
    """
    wanted = name.strip().lower()
    if wanted in PROTOCOLS:
        return PROTOCOLS[wanted]
    close = get_close_matches(wanted, PROTOCOLS, n=2)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(PROTOCOLS)}"
    raise ConfigError(f"unknown protocol {name[:60]!r}; {hint}")


def published_name(finding: str) -> str:
    """What the evaluations of CARZero and RadZero call a finding, else its official label: "Pulmonary Mass"."""
    named: str | None = _tables()["names"].get(finding)
    return named if named is not None else official_name(finding)


def official_name(finding: str) -> str:
    """The label of CheXpert, else of ChestX-ray14, for a finding; else the name in title case: "Pleural Effusion"."""
    for labels in (LABEL_SETS["chexpert14"], LABEL_SETS["nih14"]):
        for label, name in labels.items():
            if name == finding:
                return label.replace("_", " ")
    return finding.title()


def noun_of(finding: str) -> str:
    """The words for a finding within a sentence; the name itself for one outside the report vocabulary."""
    entry = VOCABULARY.get(finding)
    return entry.noun if entry is not None else finding


@cache
def _tables() -> Mapping[str, Any]:
    tables: dict[str, Any] = yaml.safe_load((files("vlp.prompts") / "protocols.yaml").read_text(encoding="utf-8"))
    return MappingProxyType(tables)


def _one(finding: str, positives: tuple[str, ...], negatives: tuple[str, ...] = ()) -> tuple[Ask, ...]:
    return (Ask(id=finding.replace(" ", "-"), text=finding, anatomy="", positives=positives, negatives=negatives),)


def _pair(descriptor: Descriptor) -> Ask:
    return Ask(
        id=descriptor.id,
        text=descriptor.text,
        anatomy=descriptor.anatomy,
        positives=(descriptor.positive,),
        negatives=(descriptor.negative,),
    )


def _vlp(finding: str, descriptors: DescriptorSet) -> tuple[Ask, ...]:
    return tuple(_pair(descriptor) for descriptor in descriptors.of(finding, prompts="both"))


def _there_is(finding: str, descriptors: DescriptorSet) -> tuple[Ask, ...]:
    if finding == NO_FINDING:  # "There is No Finding" would deny a thing called finding
        return _one(finding, (descriptors.of(finding, prompts="finding")[0].positive,))
    return _one(finding, (f"There is {published_name(finding)}",))


def _bare(finding: str, _: DescriptorSet) -> tuple[Ask, ...]:
    name = official_name(finding)
    return _one(finding, (name,), (f"no {name}",))


def _several(finding: str, _: DescriptorSet) -> tuple[Ask, ...]:
    patterns, noun = _tables()["several"], noun_of(finding)
    if finding == NO_FINDING:
        noun = noun.removeprefix("acute ")  # one pattern says "acute" itself
    positives, negatives = (
        tuple(pattern.format(noun=noun) for pattern in patterns[side]) for side in ("positives", "negatives")
    )
    return _one(finding, negatives, positives) if finding == NO_FINDING else _one(finding, positives, negatives)


def _indicating(finding: str, descriptors: DescriptorSet) -> tuple[Ask, ...]:
    name = official_name(finding)
    return tuple(
        Ask(
            id=descriptor.id,
            text=descriptor.text,
            anatomy=descriptor.anatomy,
            positives=(f"There are {descriptor.text} indicating {name}",),
            negatives=(f"There are no {descriptor.text} indicating {name}",),
        )
        for descriptor in descriptors.of(finding, prompts="descriptors")
    )


_ALL = (
    Protocol(
        name="vlp",
        asks=_vlp,
        rule="pair",
        temperature=None,
        pooling="geometric_mean",
        fusion="mean_probability",
        no_finding="own",
        reference="this project: the finding named as in training and its descriptors, opposites weighed by the "
        "model's own logits",
        differs=(),
    ),
    Protocol(
        name="radzero",
        asks=_there_is,
        rule="single",
        temperature=None,
        pooling="none",
        fusion="mean_score",
        no_finding="own",
        reference="RadZero (2025): 'There is X' alone, probability sigma(l / tau) of the similarity attention",
        differs=(
            "each prompt is encoded once, not again for every batch of images: the scores are the same",
            "thresholds never come from the images that are scored",
            "'no finding' is asked by the sentence training uses: the published sets have no such class",
        ),
    ),
    Protocol(
        name="xplainer",
        asks=_indicating,
        rule="pair",
        temperature=0.5,
        pooling="geometric_mean",
        fusion="mean_probability",
        no_finding="one_minus_max",
        reference="Xplainer (Pellegrini et al., 2023): 'There are D indicating Y' against 'There are no D indicating "
        "Y', softmax at temperature 0.5, views averaged before the geometric mean over descriptors",
        differs=(
            "the descriptors are ours: the published lists have no licence file and hold signs of other organs",
            "probabilities are kept 1e-6 from 0 and 1, so that no logarithm is infinite; at this temperature that "
            "changes nothing",
        ),
    ),
    Protocol(
        name="chexzero",
        asks=_bare,
        rule="pair",
        temperature=1.0,
        pooling="none",
        fusion="mean_probability",
        no_finding="own",
        reference="CheXzero (Tiu et al., 2022): 'X' against 'no X', softmax of the raw cosines",
        differs=(
            "one checkpoint, not the mean over ten",
            "the views of a study are averaged; published is one frontal image per study",
        ),
    ),
    Protocol(
        name="carzero",
        asks=_there_is,
        rule="single",
        temperature=None,
        pooling="none",
        fusion="mean_score",
        no_finding="own",
        reference="CARZero (Lai et al., 2024): 'There is X' alone, in the wording of its evaluation",
        differs=(
            "its score is the mean of two cross-attention decoders, one per direction, which these models do not have; "
            "the model's own logit stands in",
            "one wording per finding for all data sets, that of ChestX-ray14; published wordings change with the set",
            "'no finding' is asked by the sentence training uses: the published sets have no such class",
        ),
    ),
    Protocol(
        name="biovil",
        asks=_several,
        rule="pair",
        temperature=1.0,
        pooling="none",
        fusion="mean_probability",
        no_finding="own",
        reference="BioViL (Boecking et al., 2022): four sentences per polarity, vectors averaged before normalisation, "
        "the higher cosine wins",
        differs=(
            "the sentences were published for pneumonia; those for other findings follow their patterns",
            "published is only which cosine is higher; sigma of the difference ranks images the same way",
            "the views of a study are averaged; published is one image",
        ),
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({entry.name: entry for entry in _ALL})
"""Every protocol by name, this project's own first."""
