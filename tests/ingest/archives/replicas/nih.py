"""A miniature ChestX-ray14: the old table with its trailing comma, folders of images, boxes, both official lists."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.ingest.archives.replicas.replica import Replica

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = (
    # Follow-ups out of order; the first one's box touches the border, the second one's lies a hair outside.
    "00028417_002.png,Effusion|Mass,2,28417,059Y,F,AP,2048,1536,0.2,0.1",
    "00028417_000.png,Infiltration,0,28417,058Y,F,PA,2682,2749,0.143,0.143",
    "00028417_001.png,No Finding,1,28417,058Y,F,PA,2682,2749,0.143,0.143",
    # An age nobody reaches, and one in months.
    "00028420_000.png,Hernia,0,28420,411Y,M,PA,2682,2749,0.143,0.143",
    "00028421_000.png,Pleural_Thickening,0,28421,006M,M,AP,2682,2749,0.143,0.143",
    # Faults: no file, a file that is no image, the same image twice, two labels that cannot both be, in no list.
    "00028422_000.png,Edema,0,28422,044Y,M,AP,2682,2749,0.143,0.143",
    "00028422_001.png,Edema,1,28422,044Y,M,AP,2682,2749,0.143,0.143",
    "00028425_000.png,Edema,0,28425,051Y,M,AP,2682,2749,0.143,0.143",
    "00028425_000.png,Mass,0,28425,051Y,M,AP,2682,2749,0.143,0.143",
    "00028423_000.png,No Finding|Mass,0,28423,070Y,F,PA,2682,2749,0.143,0.143",
    "00028424_000.png,Mass,0,28424,070Y,F,PA,2682,2749,0.143,0.143",
)
BOXES = (
    "00028417_000.png,Infiltrate,0,0,512,1024",
    "00028417_002.png,Effusion,899.5,512.25,125.2,100.5",
    "00028417_002.png,Mass,100,200,50,25",
)
TEST = ("00028420_000.png",)
UNLISTED = "00028424_000.png"


def build(folder: Path) -> Replica:
    write_table(folder / "Data_Entry_2017.csv", ROWS)
    write_boxes(folder / "BBox_List_2017.csv", BOXES)
    names = list(dict.fromkeys(row.partition(",")[0] for row in ROWS))
    trained = [name for name in names if name not in (*TEST, UNLISTED)]
    (folder / "train_val_list.txt").write_text("\n".join(trained))
    (folder / "test_list.txt").write_text("\r\n".join(TEST) + "\r\n")
    for number, name in enumerate(names):
        if name != "00028422_000.png":
            place = folder / f"images_{number % 2 + 1:03}" / "images"
            write_image(place / name, seed=number, mode="RGBA" if number == 1 else "L")
    (folder / "images_001" / "images" / "00028422_001.png").unlink(missing_ok=True)
    (folder / "images_002" / "images" / "00028422_001.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    return Replica(
        source={"kind": "nih", "path": folder},
        studies=5,
        persons=3,
        faults={"missing_image": 1, "truncated_image": 1, "bad_row": 3},
        secrets=("28417", "28420", "28421", "28422", "28423", "28424", "28425"),
    )


def write_table(path: Path, rows: Iterable[str]) -> None:
    """The first release ends its header and its rows with a comma."""
    path.write_text("".join(f"{row},\n" for row in (HEADER, *rows)))


def write_boxes(path: Path, rows: Iterable[str]) -> None:
    """The header promises three columns that no row has."""
    path.write_text("".join(f"{row}\n" for row in ("Image Index,Finding Label,Bbox [x,y,w,h],,,", *rows)))


def write_image(path: Path, *, seed: int, mode: str = "L", side_px: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
