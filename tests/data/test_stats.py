import json
from dataclasses import replace

import numpy as np
import pytest

from vlp.data.reader import open_shards
from vlp.data.stats import Lengths, make_card
from vlp.data.writer import ShardWriter
from vlp.records import Certainty


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.data.conftest import make_study

    def study(number, *, age=None, sex=None, labels=None, text=None, sha="", **settings):
        loaded = make_study(number, **settings)
        changed = replace(
            loaded.study,
            person=replace(loaded.study.person, age=age, sex=sex, groups={"site": "north" if number % 2 else "south"}),
            labels={name: Certainty(said) for name, said in (labels or {}).items()},
            images=tuple(replace(image, sha256=sha) for image in loaded.study.images),
        )
        if text is not None:
            changed = replace(changed, report=replace(changed.report, text=text), sentences=())
        return replace(loaded, study=changed)

    both = {"edema": "present", "mass": "present"}
    path = tmp_path_factory.mktemp("stats") / "s"
    with ShardWriter(path) as writer:
        writer.write(study(1, age=39.9, sex="F", labels=both, sha="a", views=("PA", "lateral")))
        writer.write(study(2, age=40.0, sex="M", labels=both | {"nodule": "uncertain"}, sha="b"))
        writer.write(study(3, age=101.0, labels={"edema": "present", "mass": "absent"}, sha="a", split="test"))
        writer.write(study(4, sex="F", labels={"mass": "present"}, text="NO  Finding."))
        writer.write(study(5, sex="F", text="no finding", split="test"))
        writer.write(study(6, report=False, split="val"))
    return path


@pytest.fixture(scope="module")
def card(folder):
    return make_card(open_shards(folder))


def test_splits_views_persons(card):
    assert card.splits["train"] == {
        "persons": 3,
        "studies": 3,
        "images": 4,
        "reports": 3,
        "sentences": 4,
        "without_sentences": 1,
    }
    assert list(card.splits) == ["train", "val", "test"]
    assert card.views["train"] == {"PA": 3, "lateral": 1}
    assert card.ages == {"F": {"30": 1, "unknown": 2}, "M": {"40": 1}, "unknown": {"100": 1, "unknown": 1}}
    assert list(card.ages["F"]) == ["30", "unknown"]
    assert card.sexes["test"] == {"F": 1, "unknown": 1}
    assert card.groups == {"site": {"north": 3, "south": 3}}


def test_findings_by_certainty_and_what_comes_together(card):
    assert card.findings["train"] == {
        "edema": {"present": 2},
        "mass": {"present": 3},
        "nodule": {"uncertain": 1},
    }
    assert card.findings["test"] == {"edema": {"present": 1}, "mass": {"absent": 1}}
    assert card.said == {"pleural effusion": {"present": 3}, "pneumothorax": {"absent": 3}}
    (pair,) = card.pairs
    assert (pair.findings, pair.studies) == (("edema", "mass"), 2)
    assert pair.lift == pytest.approx(2 / 6 / ((3 / 6) * (3 / 6)), abs=0.01)
    assert card.regions == {"edema": {"box": 6}, "mass": {"mask": 6}, "nodule": {"point": 6}}


def test_origins_and_duplicates(card):
    assert card.sources == {"made here": 6}
    assert card.licenses == {"CC0": 6}
    assert card.texts == {"report": 5, "none": 1}
    assert card.labels_origin == {"source": 4, "none": 2}
    same = card.same_reports
    assert (same.distinct, same.repeated, same.across_splits, same.most) == (2, 3, 2, 3)
    same = card.same_images
    assert (same.distinct, same.repeated, same.across_splits, same.most) == (2, 2, 1, 3)
    assert card.synthetic


def test_lengths_of_sentences_in_words_and_tokens(folder, card):
    assert card.words.histogram == {4: 6}
    assert card.tokens is None
    assert card.report_words.count == 5
    in_letters = make_card(open_shards(folder), count_tokens=len).tokens
    assert in_letters.histogram == {len("There is no pneumothorax."): 3, len("There is pleural effusion."): 3}


def test_quantiles_are_those_of_the_single_lengths():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 501)
    values, counts = np.unique(lengths, return_counts=True)
    found = Lengths.of(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    assert found.median == np.quantile(lengths, 0.5, method="inverted_cdf")
    assert found.p95 == np.quantile(lengths, 0.95, method="inverted_cdf")
    assert (found.largest, found.count) == (lengths.max(), 501)
    assert Lengths.of({}) is None


def test_figures_agree_with_the_manifest_and_name_no_person(shards):
    reader = open_shards(shards)
    card = make_card(reader)
    for split, counts in reader.manifest.splits.items():
        said = card.splits[split]
        assert (said["studies"], said["images"], said["sentences"], said["persons"]) == (
            counts.studies,
            counts.images,
            counts.sentences,
            counts.patients,
        )
        assert card.findings.get(split, {}) == {
            name: {str(certainty): number for certainty, number in found.items()}
            for name, found in counts.findings.items()
        }
    text = json.dumps(card.values())
    assert "person-" not in text
    assert "study." not in text


def test_no_pixel_is_read(shards, monkeypatch):
    from vlp.data.reader import ShardReader

    monkeypatch.setattr(ShardReader, "encoded", None)
    make_card(open_shards(shards))
