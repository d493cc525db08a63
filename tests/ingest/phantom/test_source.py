from pathlib import Path

import numpy as np
import pytest

from vlp import config
from vlp.errors import ConfigError, DataError
from vlp.ingest.phantom.history import HistoryConfig, person
from vlp.ingest.phantom.source import LICENSE, PhantomSource, labels
from vlp.ingest.phantom.truth import FINDINGS
from vlp.records import FRONTAL, Certainty, LoadedStudy

CONFIGS = Path(__file__).parents[3] / "configs" / "ingest"
SMALL = PhantomSource(patients=8, size_px=64, seed=2)


@pytest.fixture(scope="module")
def loaded() -> list[LoadedStudy]:
    return list(SMALL.load(SMALL.units()[0]))


@pytest.mark.parametrize("patients", [1, 8, 9, 20])
def test_units_cover_every_patient_once(patients):
    covered = []
    for unit in PhantomSource(patients=patients).units():
        first, last = map(int, unit.split("-"))
        covered += range(first, last + 1)
    assert covered == list(range(patients))


def test_loading_again_gives_the_same_studies_and_pixels(loaded):
    unit = SMALL.units()[0]
    for first, second in zip(
        loaded, PhantomSource.model_validate_json(SMALL.model_dump_json()).load(unit), strict=True
    ):
        assert first.study == second.study
        assert all(np.array_equal(one, other) for one, other in zip(first.pixels, second.pixels, strict=True))


def test_a_larger_archive_begins_with_the_smaller_one(loaded):
    larger = PhantomSource(patients=1000, size_px=64, seed=2)
    first = next(iter(larger.load(larger.units()[0])))
    assert first.study == loaded[0].study
    assert np.array_equal(first.pixels[0], loaded[0].pixels[0])


def test_the_studies_are_those_of_the_history(loaded):
    truths = [truth for index in range(8) for truth in person(index, seed=2, settings=HistoryConfig())]
    assert [item.study.id for item in loaded] == [truth.id for truth in truths]
    for item, truth in zip(loaded, truths, strict=True):
        assert item.study.labels == labels(truth)
        assert set(item.study.labels) == set(FINDINGS)
        present = {name for name, value in item.study.labels.items() if value is Certainty.PRESENT}
        assert present == {place.name for place in truth.findings}
        assert item.study.person.groups["site"] == truth.exposure.site
        assert len(item.study.images) == 1 + truth.exposure.lateral


def test_images_and_pixels_agree(loaded):
    for item in loaded:
        assert item.study.images[0].view in FRONTAL
        assert len(item.pixels) == len(item.study.images)
        for image, pixels in zip(item.study.images, item.pixels, strict=True):
            assert pixels.dtype == np.uint8
            assert pixels.shape == (image.rows, image.columns) == (64, 64)
            assert image.path is None
            assert 0.5 < image.spacing_mm[0] < 20.0
            assert pixels.std() > 10


def test_regions_lie_in_their_image_and_belong_to_present_findings(loaded):
    regions = 0
    for item in loaded:
        shapes = {image.id: (image.rows, image.columns) for image in item.study.images}
        for region in item.study.regions:
            regions += 1
            assert item.study.labels[region.finding] is Certainty.PRESENT
            assert region.kind == "mask"
            mask = region.geometry.decode()
            assert mask.shape == shapes[region.image]
            assert mask.any()
    assert regions > 5


def test_every_present_finding_has_a_region_in_the_frontal_image(loaded):
    for item in loaded:
        frontal = {region.finding for region in item.study.regions if region.image == item.study.images[0].id}
        assert frontal == {name for name, value in item.study.labels.items() if value is Certainty.PRESENT}


def test_sides_of_regions_are_the_patients_own(loaded):
    """The patient's left is on the right of a frontal picture."""
    truths = {truth.id: truth for index in range(8) for truth in person(index, seed=2, settings=HistoryConfig())}
    checked = 0
    for item in loaded:
        sided = [
            place for place in truths[item.study.id].findings if place.name in ("pleural effusion", "nodule", "mass")
        ]
        for place in sided:
            if sum(other.name == place.name for other in sided) == 1:
                region = next(r for r in item.study.regions if r.finding == place.name)
                centre = np.argwhere(region.geometry.decode())[:, 1].mean()
                assert (centre > 32) == (place.side == "left")
                checked += 1
    assert checked


def test_everything_says_where_it_comes_from(loaded):
    earlier: dict[str, tuple[str, ...]] = {}
    for item in loaded:
        study = item.study
        assert study.synthetic
        assert (study.source, study.license, study.split) == ("phantom", LICENSE, None)
        assert study.earlier == earlier.get(study.person.id, ())
        earlier[study.person.id] = (*study.earlier, study.id)
        assert study.report is not None
        assert study.report.text
        assert not study.sentences


@pytest.mark.parametrize("unit", ["", "banana", "000003-000001", "000000-000009", "5"])
def test_units_of_other_archives_are_refused(unit):
    with pytest.raises(DataError, match="range"):
        next(iter(SMALL.load(unit)))


@pytest.mark.parametrize("values", [{"patients": 0}, {"size_px": 16}, {"colour": "red"}, {"seed": "one"}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError):
        config.validate(PhantomSource, values, where="here")


@pytest.mark.parametrize(("name", "patients"), [("phantom.yaml", 5000), ("demo.yaml", 1200)])
def test_the_shipped_configurations_describe_this_source(name, patients):
    source = config.validate(PhantomSource, config.read_values(CONFIGS / name)["source"], where=name)
    assert source.patients == patients
    assert source.history == HistoryConfig()


def test_lung_fields_are_regions_where_asked_for(loaded):
    withlungs = list(SMALL.model_copy(update={"anatomy": True}).load(SMALL.units()[0]))
    for plain, item in zip(loaded, withlungs, strict=True):
        assert item.study.regions[: len(plain.study.regions)] == plain.study.regions
        lungs = item.study.regions[len(plain.study.regions) :]
        assert [region.finding for region in lungs] == ["lungs"] * len(item.study.images)
        for region, image, pixels in zip(lungs, item.study.images, item.pixels, strict=True):
            assert region.image == image.id
            mask = region.geometry.decode()
            assert mask.shape == pixels.shape
            assert 0.1 < mask.mean() < 0.7
            if image.view != "lateral":  # air is darker than the rest of the body, heart and diaphragm included
                assert pixels[mask].mean() < pixels[~mask][pixels[~mask] > 20].mean()
                halves = mask[:, : mask.shape[1] // 2].sum(), mask[:, mask.shape[1] // 2 :].sum()
                assert min(halves) > 0.25 * sum(halves)
