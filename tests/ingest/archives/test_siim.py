import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.archives.replicas import siim as replica
from tests.ingest.archives.replicas.nih import write_image
from vlp.errors import DataError
from vlp.ingest.archives.siim import SiimSource, decode, runs_of
from vlp.ingest.source import StudyFault
from vlp.records import Certainty


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {
        item.study.id.removeprefix(replica.PREFIX): item.study
        for item in _load(source)
        if not isinstance(item, StudyFault)
    }


def _painted(runs, rows, columns):
    """As the challenge describes it: paint runs one after the other, then turn the picture on its side."""
    flat = np.zeros(rows * columns, dtype=bool)
    position = 0
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        position += start
        flat[position : position + length] = True
        position += length
    return flat.reshape(columns, rows).T


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=8))
def test_run_lengths_are_relative_and_run_down_the_columns(pairs):
    runs = [number for pair in pairs for number in pair]
    rows, columns = 11, 13
    expected = _painted(runs, rows, columns)
    if expected.any() and sum(runs) <= rows * columns:
        assert np.array_equal(decode(runs, rows=rows, columns=columns).decode(), expected)
    else:
        with pytest.raises(DataError, match=r"no pixel|outside"):
            decode(runs, rows=rows, columns=columns)


def test_the_first_and_the_last_pixel_can_be_painted():
    assert decode((0, 1), rows=4, columns=3).box() == (0.0, 0.0, 1.0, 1.0)
    assert decode((11, 1), rows=4, columns=3).box() == (2.0, 3.0, 3.0, 4.0)
    assert decode((0, 12), rows=4, columns=3).decode().all()
    with pytest.raises(DataError, match="outside its image"):
        decode((11, 2), rows=4, columns=3)


@pytest.mark.parametrize(
    ("cells", "runs"),
    [
        ([" -1"], ()),
        (["-1", " -1"], ()),
        (["10 5", " 10 5"], ((10, 5),)),
        (["10 5", "3 4 5 6"], ((10, 5), (3, 4, 5, 6))),
    ],
)
def test_rows_of_one_image_come_together(cells, runs):
    assert runs_of(cells) == runs


@pytest.mark.parametrize("cells", [["-1", "10 5"], [""], ["1 2 3"], ["a b"], ["1 -2"], ["1.0 2"], ["-1 -1"]])
def test_cells_that_are_no_outline_are_refused(cells):
    with pytest.raises(DataError, match="EncodedPixels"):
        runs_of(cells)


def test_an_image_has_as_many_masks_as_rows(tmp_path):
    replica.build(tmp_path)
    studies = _studies(SiimSource(path=tmp_path))
    study = studies["13666.1517875247.117800"]
    assert [region.finding for region in study.regions] == ["pneumothorax"] * 2
    first, last = (region.geometry for region in study.regions)
    # 557374 = 544 columns of 1024 and 318 rows; the second run begins 1015 pixels after the end of the first.
    assert first.box() == (544.0, 304.0, 547.0, 320.0)
    assert first.decode().sum() == 2 + 8 + 14
    assert first.decode()[318:320, 544].all()
    assert first.decode()[311:319, 545].all()
    assert last.box() == (1023.0, 1018.0, 1024.0, 1024.0)
    assert studies["11557.1517875237.994921"].regions[0].geometry.box() == (0.0, 0.0, 2.0, 3.0)


def test_none_is_a_label_too(tmp_path):
    replica.build(tmp_path)
    studies = _studies(SiimSource(path=tmp_path))
    assert studies["6904.1517875201.850819"].labels == {"pneumothorax": Certainty.ABSENT}
    assert studies["10005.1517875220.94347"].labels == {"pneumothorax": Certainty.PRESENT}
    assert len(studies["10005.1517875220.94347"].regions) == 1


def test_the_header_says_who_it_is_and_how_old(tmp_path):
    replica.build(tmp_path)
    studies = _studies(SiimSource(path=tmp_path))
    person = studies["6904.1517875201.850819"].person
    assert (person.id, person.age, person.sex) == ("17ad3bd8", 58.0, "F")
    assert studies["32219.1517875159.70802"].person == person
    image = studies["6904.1517875201.850819"].images[0]
    assert (image.view, image.spacing_mm) == ("PA", (0.139, 0.139))


def test_a_smaller_copy_gets_a_smaller_mask(tmp_path):
    replica.build(tmp_path)
    mask = _studies(SiimSource(path=tmp_path))["10006.1517875220.94347"].regions[0].geometry
    assert (mask.rows, mask.columns, mask.box()) == (64, 64, (1.0, 1.0, 2.0, 2.0))


def test_copies_in_png_are_persons_of_their_own(tmp_path):
    (tmp_path / "stage_2_train.csv").write_text("ImageId,EncodedPixels\n1.2.3,-1\n1.2.4,-1\n")
    write_image(tmp_path / "png" / "1.2.3.png", seed=3)
    (study,) = [item.study for item in _load(SiimSource(path=tmp_path, absent_images="leave_out")) if _is_study(item)]
    assert (study.person.id, study.images[0].view) == ("1.2.3", "other")


def _is_study(item):
    return not isinstance(item, StudyFault)


def test_images_without_a_row_are_counted(tmp_path, caplog):
    (tmp_path / "train-rle.csv").write_text("ImageId, EncodedPixels\n1.2.3,-1\n")
    write_image(tmp_path / "train" / "1.2.3.png", seed=3)
    write_image(tmp_path / "test" / "1.2.9.png", seed=4)
    with caplog.at_level("INFO", logger="vlp"):
        assert len(SiimSource(path=tmp_path).units()) == 1
    assert "1 images have no row" in caplog.text


def test_an_archive_without_table_or_images_says_so(tmp_path):
    with pytest.raises(DataError, match=r"train-rle\.csv"):
        SiimSource(path=tmp_path).units()
    (tmp_path / "train-rle.csv").write_text("ImageId, EncodedPixels\n1.2.3,-1\n")
    with pytest.raises(DataError, match="none of its 1 images"):
        SiimSource(path=tmp_path).units()
