import dataclasses
import typing

import pytest

from vlp.ingest.phantom import truth
from vlp.ingest.phantom.truth import DEVICES, FINDINGS, FOCAL, PlacedFinding
from vlp.reports.findings import VOCABULARY, canonical


def test_findings_are_words_of_the_report_vocabulary() -> None:
    assert len(set(FINDINGS)) == len(FINDINGS) == 14
    for name in FINDINGS:
        assert name in VOCABULARY
        assert canonical(name) == name


def test_focal_findings_are_some_of_the_findings() -> None:
    assert set(FINDINGS) > FOCAL
    # What fills a lung or a chest, or is a thread through it, is nothing to point at.
    assert FOCAL.isdisjoint({"edema", "emphysema", "fibrosis", "cardiomegaly", "support device"})


def test_devices_are_of_several_kinds_and_no_findings_themselves() -> None:
    assert len(set(DEVICES)) == len(DEVICES) >= 4
    assert set(DEVICES).isdisjoint(FINDINGS)


def test_truth_cannot_be_changed_once_it_is_decided() -> None:
    classes = [kind for kind in vars(truth).values() if dataclasses.is_dataclass(kind)]
    assert {kind.__name__ for kind in classes} == {"PlacedFinding", "Body", "Exposure", "StudyTruth"}
    place = PlacedFinding(name="nodule", side="left", zone="upper")
    with pytest.raises(dataclasses.FrozenInstanceError):
        place.side = "right"  # type: ignore[misc]
    assert not hasattr(place, "__dict__")


def test_a_place_is_left_open_where_a_finding_has_none() -> None:
    heart = PlacedFinding(name="cardiomegaly")
    assert (heart.side, heart.zone, heart.device) == (None, None, None)
    assert typing.get_args(truth.Side) == ("left", "right")
    assert typing.get_args(truth.Zone) == ("upper", "middle", "lower")
