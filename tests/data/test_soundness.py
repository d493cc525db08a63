import pytest

from vlp.data.counts import Counts, Sums, count_patients
from vlp.data.manifest import Sample
from vlp.data.schema import BoxJson, MaskJson, PointJson, RegionJson
from vlp.data.soundness import as_counted, contradictions, examine
from vlp.errors import DataError


@pytest.fixture
def files(reader) -> dict[str, bytes]:
    key = reader.keys("train")[2]  # with a lateral
    return {suffix: reader.member(key, suffix) for suffix in reader.sample(key).members}


def _examine(files, **changes):
    def member(suffix: str) -> bytes:
        content = (files | changes)[suffix]
        if content is None:
            raise DataError(f"there is no {suffix}")
        return content

    return examine(member, image_format="png", where="here")


def _codes(files, **changes) -> list[str]:
    return [code for code, _ in _examine(files, **changes)[1]]


def test_a_whole_study_has_no_fault(files):
    json, found = _examine(files)
    assert found == []
    assert len(json.images) == 2


def test_each_file_matters(files):
    assert _codes(files, json=b"{}") == ["sample"]
    assert _codes(files, json=None) == ["sample"]
    assert _codes(files, txt=b"\xff\xfe") == ["sample"]
    assert _codes(files, png=b"") == ["image"]
    assert _codes(files, **{"view1.png": files["view1.png"][:-20]}) == ["image"]
    assert _codes(files, txt=b"short") == ["span"]


def test_an_image_of_another_size_or_name(files, reader):
    key = reader.keys("train")[10]  # lies across
    assert _codes(files, png=reader.member(key, "png")) == ["image_size"]
    renamed = files["json"].replace(b'"view1.png"', b'"view2.png"')
    assert _codes(files, json=renamed) == ["sample"]


@pytest.mark.parametrize(
    ("geometry", "good"),
    [
        (BoxJson(kind="box", box=(0.0, 0.0, 32.0, 40.0)), True),
        (BoxJson(kind="box", box=(-0.9, 0.0, 32.9, 40.9)), True),  # rounding
        (BoxJson(kind="box", box=(-1.1, 0.0, 5.0, 5.0)), False),
        (BoxJson(kind="box", box=(0.0, 0.0, 40.0, 32.0)), False),  # rows and columns exchanged
        (BoxJson(kind="box", box=(5.0, 5.0, 5.0, 9.0)), False),
        (BoxJson(kind="box", box=(9.0, 5.0, 5.0, 9.0)), False),
        (PointJson(kind="point", point=(31.5, 39.5)), True),
        (PointJson(kind="point", point=(39.5, 31.5)), False),
        (MaskJson(kind="mask", rows=40, columns=32, counts=(1280,)), True),
        (MaskJson(kind="mask", rows=32, columns=40, counts=(1280,)), False),
    ],
)
def test_regions_must_lie_in_their_image(files, geometry, good):
    json, _ = _examine(files)
    region = RegionJson(finding="mass", image=json.images[0].id, geometry=geometry)
    changed = json.model_copy(update={"regions": (region,)})
    found = _examine(files, json=changed.model_dump_json().encode())[1]
    assert [code for code, _ in found] == ([] if good else ["box"])
    lost = changed.model_copy(update={"regions": (region.model_copy(update={"image": "another"}),)})
    assert _codes(files, json=lost.model_dump_json().encode()) == ["region"]


@pytest.mark.parametrize("change", [{"key": "k"}, {"patient": "x"}, {"views": ("PA",)}, {"sentences": 99}])
def test_a_manifest_that_says_otherwise(reader, files, change):
    json, _ = _examine(files)
    sample: Sample = reader.sample(reader.keys("train")[2])
    assert not list(contradictions(sample, json, "train"))
    assert list(contradictions(sample, json, "test"))
    assert list(contradictions(sample.model_copy(update=change), json, "train"))


def test_descriptions_add_up_to_the_figures_of_the_manifest(reader):
    sums = Sums()
    for key in reader.keys(None):
        sums.study(as_counted(reader.sample_json(key)))
    assert sums.total(count_patients(reader.manifest.shards)) == Counts.of(reader.manifest)
