import numpy as np
import pytest
from PIL import Image

from vlp.data.preview import contact_sheet
from vlp.errors import DataError


def test_every_study_has_its_tile_with_boxes_in_colour(reader, tmp_path):
    out = tmp_path / "new folder" / "sheet.png"
    assert contact_sheet(reader, out, split="train", count=6, columns=3) == 6
    with Image.open(out) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    tiles = [pixels[y + 8 : y + 264, x + 8 : x + 264] for y in (0, 326) for x in (0, 264, 528)]
    for tile in tiles:
        assert tile.std() > 20  # an image is there
        assert ((tile[..., 0] > 200) & (tile[..., 2] < 60)).sum() > 10  # and the orange of its first region
    assert len({tile.tobytes() for tile in tiles}) == 6
    assert [path.name for path in out.parent.iterdir()] == ["sheet.png"]


def test_a_box_is_drawn_where_it_lies(tmp_path, make_study):
    from dataclasses import replace

    from vlp.data.reader import open_shards
    from vlp.data.writer import ShardWriter
    from vlp.records import LoadedStudy, Region

    loaded = make_study(1, size=(128, 128))
    region = Region(finding="mass", image=loaded.study.images[0].id, geometry=(32.0, 64.0, 96.0, 112.0))
    dark = np.zeros((128, 128), dtype=np.uint8)
    dark[0, 0] = 1
    with ShardWriter(tmp_path / "s", image_format="png") as writer:
        writer.write(LoadedStudy(study=replace(loaded.study, regions=(region,)), pixels=(dark,)))
    contact_sheet(open_shards(tmp_path / "s"), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        tile = np.asarray(picture.convert("RGB")).astype(int)[8:264, 8:264]
    rows, columns = np.nonzero(tile[..., 0] > 200)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (64, 128, 192, 224)


def test_more_than_there_is_shows_what_there_is(reader, tmp_path):
    assert contact_sheet(reader, tmp_path / "sheet.png", split="val", count=50) == 2


def test_nothing_to_show_and_nowhere_to_write(reader, tmp_path):
    with pytest.raises(DataError, match="no study to show"):
        contact_sheet(reader, tmp_path / "sheet.png", count=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        contact_sheet(reader, tmp_path / "file" / "sheet.png")
