import csv
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.annotations.replicas.chexmask import (
    COLUMNS,
    GOOD,
    POOR,
    ROWS,
    build,
    regions,
    row,
    runs,
    study,
)
from vlp.errors import DataError
from vlp.ingest.annotations.chexmask import CheXmaskAnnotation, image_key, mask_of_runs


def _annotation(folder, *rows, name="masks.csv", **settings):
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return CheXmaskAnnotation(table=path, **settings)


def test_masks_below_the_quality_are_left_out(tmp_path):
    build(tmp_path)
    table = tmp_path / "ChestX-Ray8.csv"
    poor = study(POOR)
    assert CheXmaskAnnotation(table=table).apply(poor) is poor
    assert CheXmaskAnnotation(table=table, min_dice=0.69).apply(poor).regions == regions(POOR)
    unknown = _annotation(tmp_path, row(GOOD, dice=""))
    assert unknown.apply(study(GOOD)).regions == ()


def test_only_the_organs_that_are_wanted_and_that_are_there(tmp_path):
    annotation = _annotation(tmp_path, row(GOOD, Heart="", **{"Left Lung": "nan"}), organs=("heart", "right lung"))
    assert [region.finding for region in annotation.apply(study(GOOD)).regions] == ["right lung"]


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31 - 1))
def test_run_lengths_row_by_row_from_one(rows, columns, seed):
    pixels = np.random.default_rng(seed).random((rows, columns)) < 0.5
    mask = mask_of_runs(runs(pixels), rows=rows, columns=columns)
    assert np.array_equal(pixels, np.zeros_like(pixels) if mask is None else mask.decode())


@pytest.mark.parametrize("text", ["1", "0 1", "5 3", "1 -1", "1.5 2", "one 2", "1 2 3", f"1 {2**70}"])
def test_run_lengths_that_cannot_be(text):
    with pytest.raises(DataError, match="run lengths of a mask"):
        mask_of_runs(text, rows=2, columns=3)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg", "patient00001_study1_view1_frontal"),
        ("train/patient00001/study1/view1_frontal.jpg", "patient00001_study1_view1_frontal"),
        ("patient00001_study1_view1_frontal", "patient00001_study1_view1_frontal"),
        ("00000001_000.png", "00000001_000"),
        ("02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"),
        ("1.2.826.0.1.3680043", "1.2.826.0.1.3680043"),
    ],
)
def test_an_image_is_called_the_same_in_the_set_and_in_its_archive(name, key):
    assert image_key(name) == key


@pytest.mark.parametrize("column", ["ImageID", "Path", "dicom_id", "image_id"])
def test_the_tables_of_other_archives(tmp_path, column):
    named = {column if name == "Image Index" else name: value for name, value in row(GOOD).items()}
    assert _annotation(tmp_path, named).apply(study(GOOD)).regions == regions(GOOD)


def test_the_image_may_stand_in_any_column_and_in_quotes(tmp_path):
    values = {"Note": 'a "quoted", note', **row(GOOD)}
    assert _annotation(tmp_path, values, values).apply(study(GOOD)).regions == regions(GOOD)


def test_an_image_that_is_there_twice_is_told(tmp_path, caplog):
    annotation = _annotation(tmp_path, row(GOOD), row(GOOD, dice=0.1))
    assert annotation.apply(study(GOOD)).regions == regions(GOOD)
    assert "1 images are there twice; their first row is used" in caplog.text


def test_the_table_is_not_held_in_memory(tmp_path):
    heavy = [row(f"{number:08d}_000", Landmarks="7 " * 50_000) for number in range(60)]
    annotation = _annotation(tmp_path, *heavy, row(GOOD))
    size = annotation.table.stat().st_size
    tracemalloc.start()
    assert annotation.apply(study(GOOD)).regions == regions(GOOD)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 6, (peak, size)


def test_a_copy_of_another_shape_is_refused(tmp_path):
    with pytest.raises(DataError, match="another shape"):
        _annotation(tmp_path, row(GOOD)).apply(study(GOOD, rows=ROWS, columns=COLUMNS + 4))


@pytest.mark.parametrize(
    ("cells", "word"),
    [({"Height": 0}, "size of an image cannot be"), ({"Width": "wide"}, "size of an image cannot be"),
     ({"Heart": "1"}, "cut off")],
)  # fmt: skip
def test_rows_that_cannot_be_refuse_their_study_only(tmp_path, cells, word):
    annotation = _annotation(tmp_path, row(POOR, dice=0.9, **cells), row(GOOD))
    with pytest.raises(DataError, match=word):
        annotation.apply(study(POOR))
    assert annotation.apply(study(GOOD)).regions == regions(GOOD)


def test_tables_that_are_none_say_why(tmp_path):
    annotation = _annotation(tmp_path, {"Image Index": "a", "Heart": ""})
    with pytest.raises(DataError, match=r"column 'Dice RCA \(Mean\)', 'Height', 'Width', 'Left Lung', 'Right Lung' is"):
        annotation.apply(study(GOOD))
    nameless = {name: value for name, value in row(GOOD).items() if name != "Image Index"}
    with pytest.raises(DataError, match="no column names the image; expected one of Image Index"):
        _annotation(tmp_path, nameless).apply(study(GOOD))
    with pytest.raises(DataError, match=r"unpack it to \.csv first"):
        _annotation(tmp_path, row(GOOD), name="masks.csv.gz").apply(study(GOOD))
    with pytest.raises(DataError, match="cannot be read"):
        CheXmaskAnnotation(table=tmp_path / "none.csv").apply(study(GOOD))


def test_a_table_that_is_cut_off_is_noticed(tmp_path):
    annotation = _annotation(tmp_path, row(POOR), row(GOOD))
    whole = annotation.table.read_bytes()
    for length in (len(whole) - 1, len(whole) - 5, len(whole) - 200, whole.rindex(b"[ 100") + 3):
        annotation.table.write_bytes(whole[:length])
        with pytest.raises(DataError, match="the last row is not whole; is the file cut off"):
            annotation.apply(study(GOOD))
