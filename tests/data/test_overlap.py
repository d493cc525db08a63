import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from vlp.data import overlap
from vlp.data.overlap import Seen, family, registry, sources, warnings
from vlp.data.reader import open_shards
from vlp.data.writer import ShardWriter
from vlp.errors import DataError


def _one(train: str, evaluate: str) -> overlap.Overlap:
    (found,) = warnings([train], [evaluate])
    assert "\n" not in found.message
    return found


@pytest.mark.parametrize(
    ("train", "evaluate", "share", "certain", "named"),
    [
        ("mimic-cxr", "ms-cxr", "images", True, "dicom_id"),
        ("MIMIC_CXR_JPG", "Chest ImaGenome", "images", True, "its own split is not MIMIC-CXR's"),
        ("chexpert", "chexlocalize", "images", True, "validation and test sets"),
        ("chexpert", "CheXpert 5x200", "images", True, "training set"),
        ("chexpert-plus", "chexpert", "images", True, "CheXpert Plus"),
        ("nih-chestxray14", "chestx_det", "images", True, "image name"),
        ("NIH", "RSNA", "images", True, "map of ids"),
        ("chestx-det10", "nih", "images", True, "ChestX-Det10"),
        ("siim-pneumothorax", "rsna-pneumonia", "images", False, "both take images from NIH ChestX-ray14"),
        ("covidx", "nih", "images", False, "takes some images"),  # through RSNA
        ("tb-qatar", "chestx-det", "images", False, "NIH ChestX-ray14"),
        ("padchest", "padchest-gr", "images", True, "ImageID"),
        ("ct-rate", "drr_rate", "persons", True, "describe the CT"),
        ("IU X-Ray", "r2gen", "images", True, "split is its own"),
        ("roentgen-v2", "mimic-cxr", "generator", True, "generator learned"),
        ("mimic-cxr", "mimic", "persons", True, "same split"),
    ],
)
def test_what_is_known_of_public_sets(train, evaluate, share, certain, named):
    found = _one(train, evaluate)
    assert (found.share, found.certain) == (share, certain)
    assert named in found.message


def test_the_other_way_round_is_known_too():
    for one in registry():
        for two in registry():
            there, back = warnings([one], [two]), warnings([two], [one])
            assert [(found.share, found.certain) for found in there] == [(found.share, found.certain) for found in back]


def test_sets_without_anything_in_common_and_unknown_ones_say_nothing():
    assert warnings(["mimic-cxr", "padchest", "ours"], ["nih", "chexpert", "theirs"]) == ()
    assert warnings([], ["nih"]) == ()


def test_one_set_in_two_splits_of_the_same_shards_is_no_overlap():
    assert warnings(["nih", "ours"], ["ours", "nih"], same_shards=True) == ()
    assert len(warnings(["nih", "ours"], ["ours", "nih"])) == 2
    # ... but a part of it under another name is, for its persons were split apart from the whole's.
    assert len(warnings(["nih"], ["chestx-det"], same_shards=True)) == 1


def test_the_registry_is_consistent():
    known = registry()
    meant = {(overlap._plain(name), one.name) for one in known.values() for name in (one.name, *one.also)}
    assert len(meant) == len({spelling for spelling, _ in meant})  # no spelling means two sets
    for one in known.values():
        assert {part.of for part in one.inside} <= set(known)
        assert one.name not in overlap._ways(one.name)  # nothing contains itself


def test_sets_of_one_family_share_ids():
    assert {family(name) for name in ("nih", "chestx-det10", "rsna", "google-nih")} == {"nih-chestxray14"}
    assert family("ms-cxr") == family("radgraph") == "mimic-cxr"
    assert family("covidx") == "covidx"  # taken from several
    assert family("ours") == "ours"


LONG = "No acute cardiopulmonary abnormality. Both lungs are clear, heart of normal size, no effusion, {} of the bones."


def _folder(path, *studies):
    with ShardWriter(path) as writer:
        for study in studies:
            writer.write(study)
    return open_shards(path)


@pytest.fixture
def study(make_study):
    def make(number, *, source="ours", split="train", person=None, sha="", text=None):
        loaded = make_study(number, split=split, person=person)
        images = tuple(replace(image, sha256=sha) for image in loaded.study.images)
        report = replace(loaded.study.report, text=text) if text else loaded.study.report
        sentences = () if text else loaded.study.sentences
        changed = replace(loaded.study, source=source, images=images, report=report, sentences=sentences)
        return replace(loaded, study=changed)

    return make


def test_persons_studies_images_and_reports_are_found_again(study, tmp_path):
    train = _folder(
        tmp_path / "train",
        study(1, person="p1", sha="a"),
        study(2, person="p2", sha="b", text=LONG.format("nothing")),
        study(3, person="p3", sha="c", split="val"),
    )
    tested = _folder(
        tmp_path / "test",
        study(9, person="p1", split="test"),
        study(2, person="p2", split="test", text=LONG.format("nothing").upper()),
        study(8, person="p8", sha="b", split="test", text=LONG.format("something")),
        study(3, person="p3", sha="c", split="test"),
    )
    found = Seen.of(train, "train").shared(Seen.of(tested, "test"))
    assert (found.persons, found.studies, found.images, found.reports) == (2, 1, 1, 1)
    assert found
    assert found.message == "of what is tested on, training has seen: 2 persons, 1 studies, 1 images, 1 reports"
    everything = Seen.of(train).shared(Seen.of(tested))
    assert (everything.persons, everything.studies, everything.images) == (3, 2, 2)


def test_the_same_id_in_another_archive_is_another_person(study, tmp_path):
    ours = Seen.of(_folder(tmp_path / "a", study(1, person="p1", source="ours")))
    assert not ours.shared(Seen.of(_folder(tmp_path / "b", study(1, person="p1", source="theirs"))))
    nih = Seen.of(_folder(tmp_path / "c", study(1, person="p1", source="nih-chestxray14")))
    assert nih.shared(Seen.of(_folder(tmp_path / "d", study(2, person="p1", source="chestx-det")))).persons == 1


def test_stock_phrases_are_no_sign(study, tmp_path):
    seen = [
        Seen.of(_folder(tmp_path / name, study(number, text="No acute disease. Heart normal.")))
        for name, number in (("a", 1), ("b", 2))
    ]
    assert seen[0].reports.size == 0
    assert not seen[0].shared(seen[1])


def test_it_is_saved_and_loaded_and_names_nobody(study, tmp_path):
    seen = Seen.of(_folder(tmp_path / "a", study(1, person="somebody", sha="a")))
    seen.save(tmp_path / "seen.npz")
    assert b"somebody" not in (tmp_path / "seen.npz").read_bytes()
    loaded = Seen.load(tmp_path / "seen.npz")
    assert loaded.shared(seen) == seen.shared(seen)
    assert seen.shared(seen).persons == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "seen.npz"]


def _npz(**arrays) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


WHOLE = {name: np.zeros(1, dtype=np.uint64) for name in ("persons", "studies", "images", "reports")}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        _npz(persons=np.zeros(1, dtype=np.uint64)),
        _npz(**WHOLE | {"images": np.zeros(3)}),
        _npz(**WHOLE | {"images": np.zeros((3, 3), dtype=np.uint64)}),
        _npz(**WHOLE | {"images": np.array([{}], dtype=object)}),  # pickled
        _npz(**WHOLE)[:-30],
    ],
)
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "seen.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"seen\.npz: not a list"):
        Seen.load(tmp_path / "seen.npz")


def test_what_is_not_there_or_unpacks_to_too_much(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="No such file"):
        Seen.load(tmp_path / "seen.npz")
    with zipfile.ZipFile(tmp_path / "seen.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("persons.npy", bytes(10**6))
    monkeypatch.setattr(overlap, "_MAX_BYTES", 10**5)
    with pytest.raises(DataError, match="too large"):
        Seen.load(tmp_path / "seen.npz")


def test_the_sources_of_a_split(study, tmp_path):
    reader = _folder(
        tmp_path / "a", study(1, source="nih"), study(2, source="ours"), study(3, source="mimic-cxr", split="test")
    )
    assert sources(reader, "train") == ("nih", "ours")
    assert sources(reader) == ("mimic-cxr", "nih", "ours")
    assert sources(reader, "val") == ()
