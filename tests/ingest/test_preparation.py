from dataclasses import replace

import numpy as np
import pytest

from vlp.data.writer import EncodedStudy
from vlp.ingest.preparation import Preparation, complete, limit_size, prepare
from vlp.ingest.source import StudyFault
from vlp.ingest.splits import Splits, assign
from vlp.records import Certainty, ImageFile, LoadedStudy, Mask, Person, Region, Report, Study

TEXT = "FINDINGS: There is a small left pleural effusion. No pneumothorax."


def _study(**facts) -> Study:
    image = ImageFile(id="i", path=None, view="PA", rows=100, columns=200, spacing_mm=(0.2, 0.2))
    return Study(**({"id": "s", "person": Person(id="p"), "images": (image,), "source": "made"} | facts))


def _loaded(study: Study) -> LoadedStudy:
    return LoadedStudy(study=study, pixels=(np.arange(20000, dtype=np.uint32).reshape(100, 200).astype(np.uint8),))


def test_reports_become_sentences_and_labels():
    study, origin = complete(_study(report=Report(text=TEXT)), Preparation())
    findings = {sentence.finding: sentence.certainty for sentence in study.sentences}
    assert findings["pleural effusion"] is Certainty.PRESENT
    assert findings["pneumothorax"] is Certainty.ABSENT
    assert all(sentence.origin == "report" for sentence in study.sentences)
    assert study.labels["pleural effusion"] is Certainty.PRESENT
    assert origin == "report"


def test_the_archives_labels_win():
    labels = {"pleural effusion": Certainty.ABSENT}
    study, origin = complete(_study(report=Report(text=TEXT), labels=labels), Preparation())
    assert (study.labels, origin) == (labels, "source")
    assert study.sentences[0].origin == "report"


def test_sentences_from_labels_are_marked_and_can_be_switched_off():
    labels = {"edema": Certainty.PRESENT, "mass": Certainty.ABSENT}
    study, _ = complete(_study(labels=labels), Preparation())
    assert {sentence.finding: sentence.certainty for sentence in study.sentences} == labels
    assert {sentence.origin for sentence in study.sentences} == {"labels"}
    assert complete(_study(labels=labels), Preparation(sentences_from_labels=False))[0].sentences == ()


def test_nothing_known_stays_nothing():
    study, origin = complete(_study(), Preparation())
    assert (study.sentences, dict(study.labels), origin) == ((), {}, "none")


def test_the_archives_split_wins_else_the_hash_decides():
    preparation = Preparation()
    assert complete(_study(split="test"), preparation)[0].split == "test"
    splits = preparation.splits
    assert complete(_study(), preparation)[0].split == assign("p", salt=splits.salt, fractions=splits.fractions)
    anew = Preparation(splits=Splits(official=False, train=1.0, val=0.0, test=0.0))
    assert complete(_study(split="test"), anew)[0].split == "train"


def test_shrinking_takes_everything_measured_in_pixels_along():
    picture = np.zeros((100, 200), dtype=bool)
    picture[20:60, 40:120] = True
    regions = (
        Region(finding="mass", image="i", geometry=(40.0, 20.0, 120.0, 60.0)),
        Region(finding="mass", image="i", geometry=(80.0, 40.0)),
        Region(finding="mass", image="i", geometry=Mask.encode(picture)),
    )
    small = limit_size(_loaded(_study(regions=regions)), 50)
    assert small.pixels[0].shape == (25, 50)
    image = small.study.images[0]
    assert (image.rows, image.columns, image.spacing_mm) == (25, 50, (0.8, 0.8))
    box, point, mask = (region.geometry for region in small.study.regions)
    assert box == (10.0, 5.0, 30.0, 15.0)
    assert point == (20.0, 10.0)
    assert mask.box() == box


def test_small_images_are_never_enlarged():
    loaded = _loaded(_study())
    assert limit_size(loaded, 200) is loaded
    assert limit_size(loaded, None) is loaded


def test_a_prepared_study_is_encoded():
    encoded = prepare(_loaded(_study(report=Report(text=TEXT))), Preparation(image_format="png"))
    assert isinstance(encoded, EncodedStudy)
    assert encoded.images[0].startswith(b"\x89PNG")
    assert encoded.labels_origin == "report"


@pytest.mark.parametrize(
    "study", [_study(report=Report(text="half \ud800")), _study(labels={"nonsense": Certainty.ABSENT})]
)
def test_what_cannot_be_used_is_a_fault_of_that_study(study):
    fault = prepare(_loaded(replace(study)), Preparation())
    assert isinstance(fault, StudyFault)
    assert fault.code == "unusable_study"


def test_a_foreign_report_is_kept_and_no_sentence_is_read_from_it():
    text = "Se observa derrame pleural izquierdo. No hay neumotórax ni otras alteraciones en el parénquima pulmonar."
    study = _study(report=Report(text=text, language="es"), labels={"pleural effusion": Certainty.PRESENT})
    done, origin = complete(study, Preparation())
    assert done.report == Report(text=text, language="es")
    assert [sentence.origin for sentence in done.sentences] == ["labels"]
    assert origin == "source"
    assert complete(study, Preparation(sentences_from_labels=False))[0].sentences == ()
