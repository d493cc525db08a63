import re

import pytest

from vlp.errors import ConfigError, DataError
from vlp.ingest.phantom.truth import FINDINGS
from vlp.prompts.descriptors import DescriptorSet, load_descriptors
from vlp.prompts.protocols import PROTOCOLS, noun_of, official_name, protocol, published_name
from vlp.reports.findings import LABEL_SETS, VOCABULARY


@pytest.fixture(scope="module")
def package() -> DescriptorSet:
    return load_descriptors()


def only(name: str, finding: str, package: DescriptorSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    (ask,) = PROTOCOLS[name].pairs(finding, package)
    return ask.positives, ask.negatives


def test_the_protocols_by_name_and_their_rules() -> None:
    rules = {name: (one.rule, one.temperature, one.pooling, one.no_finding) for name, one in PROTOCOLS.items()}
    assert rules == {
        "vlp": ("pair", None, "geometric_mean", "own"),
        "radzero": ("single", None, "none", "own"),
        "xplainer": ("pair", 0.5, "geometric_mean", "one_minus_max"),
        "chexzero": ("pair", 1.0, "none", "own"),
        "carzero": ("single", None, "none", "own"),
        "biovil": ("pair", 1.0, "none", "own"),
    }
    assert PROTOCOLS["xplainer"].fusion == "mean_probability"
    for name, one in PROTOCOLS.items():
        assert one.name == name
        assert one.reference
        assert bool(one.differs) == (name != "vlp"), "a published protocol says what is not copied"


def test_a_protocol_is_found_in_any_case_and_a_wrong_name_gets_the_right_one() -> None:
    assert protocol(" RadZero ") is PROTOCOLS["radzero"]
    with pytest.raises(ConfigError, match="did you mean xplainer"):
        protocol("explainer")
    with pytest.raises(ConfigError, match="there are vlp, radzero"):
        protocol("qqqq")


# The first column of CARZero's ChestX-ray14 list, in the order of its labels.
CARZERO_NIH14 = [
    "Atelectasis", "Cardiomegaly", "Pleural Effusion", "Pulmonary Infiltration", "Pulmonary Mass", "Lung Nodule",
    "Pneumonia", "Pneumothorax", "Pulmonary Consolidation", "Pulmonary Edema", "Pulmonary Emphysema", "Fibrosis",
    "Pleural Thickening", "Hernia",
]  # fmt: skip


@pytest.mark.parametrize("name", ["radzero", "carzero"])
def test_there_is_in_the_wording_of_carzeros_evaluation(name: str, package: DescriptorSet) -> None:
    asked = [only(name, finding, package) for finding in LABEL_SETS["nih14"].values()]
    assert asked == [((f"There is {published}",), ()) for published in CARZERO_NIH14]
    assert only(name, "fracture", package) == (("There is Bone Fracture",), ())
    assert only(name, "Enlarged Cardiomediastinum", package) == (("There is Enlarged Cardiomediastinum",), ())
    assert only(name, "no finding", package) == (("There is no acute cardiopulmonary abnormality.",), ())


def test_chexzero_names_the_label_and_its_no(package: DescriptorSet) -> None:
    assert only("chexzero", "effusion", package) == (("Pleural Effusion",), ("no Pleural Effusion",))
    assert only("chexzero", "no finding", package) == (("No Finding",), ("no No Finding",))
    assert only("chexzero", "pleural thickening", package) == (("Pleural Thickening",), ("no Pleural Thickening",))
    assert only("chexzero", "scoliosis", package) == (("Scoliosis",), ("no Scoliosis",))


def test_biovils_published_sentences_for_pneumonia(package: DescriptorSet) -> None:
    positives, negatives = only("biovil", "pneumonia", package)
    assert positives == (
        "Findings consistent with pneumonia",
        "Findings suggesting pneumonia",
        "This opacity can represent pneumonia",
        "Findings are most compatible with pneumonia",
    )
    assert negatives == (
        "There is no pneumonia",
        "No evidence of pneumonia",
        "No evidence of acute pneumonia",
        "No signs of pneumonia",
    )
    positives, negatives = only("biovil", "no finding", package)
    assert positives[0] == "There is no cardiopulmonary abnormality"
    assert not any(text.startswith("No") or " no " in text for text in negatives)
    assert not any("acute acute" in text for text in positives + negatives)


def test_xplainer_asks_every_descriptor_for_its_finding_and_nothing_for_no_finding(package: DescriptorSet) -> None:
    asks = PROTOCOLS["xplainer"].pairs("Effusion", package)
    observed = package.observed["pleural effusion"]
    assert [ask.id for ask in asks] == [one.id for one in observed]
    for ask, one in zip(asks, observed, strict=True):
        assert ask.positives == (f"There are {one.text} indicating Pleural Effusion",)
        assert ask.negatives == (f"There are no {one.text} indicating Pleural Effusion",)
        assert ask.anatomy == one.anatomy
    assert PROTOCOLS["xplainer"].pairs("no finding", package) == ()
    with pytest.raises(DataError, match="no descriptors"):
        PROTOCOLS["xplainer"].pairs("scoliosis", package)


def test_ours_asks_the_name_and_all_descriptors(package: DescriptorSet) -> None:
    asks = PROTOCOLS["vlp"].pairs("nodule", package)
    assert [(ask.id, ask.positives, ask.negatives) for ask in asks] == [
        (one.id, (one.positive,), (one.negative,)) for one in package.of("nodule")
    ]
    assert [ask.text for ask in PROTOCOLS["vlp"].pairs("scoliosis", package)] == ["named directly"]


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_finding_is_asked_in_distinct_sentences(name: str, package: DescriptorSet) -> None:
    seen: dict[str, str] = {}
    for finding in {*FINDINGS, *package.findings}:
        asks = PROTOCOLS[name].pairs(finding, package)
        assert asks
        assert len({ask.id for ask in asks}) == len(asks)
        for ask in asks:
            assert bool(ask.negatives) == (PROTOCOLS[name].rule == "pair")
            for text in (*ask.positives, *ask.negatives):
                assert not re.search(r"[{}]|  |^\s|\s$", text), text
                assert seen.setdefault(text, finding) == finding, text
    with pytest.raises(DataError, match="unknown finding"):
        PROTOCOLS[name].pairs("xyzzy", package)


def test_names() -> None:
    assert published_name("consolidation") == "Pulmonary Consolidation"
    assert official_name("consolidation") == "Consolidation"
    assert official_name("heart failure") == "Heart Failure", "not the label it counts for"
    assert (noun_of("no finding"), noun_of("tortuous blob")) == ("acute cardiopulmonary abnormality", "tortuous blob")
    assert all(published_name(name) for name in VOCABULARY)
