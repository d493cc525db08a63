"""CheXmask for ChestX-ray14: landmarks with line breaks, a poor mask, a padded copy, an image of CheXpert's kind."""

from pathlib import Path

import numpy as np

from tests.contracts.miniature import write_csv
from tests.ingest.annotations.replicas.replica import AnnotationReplica
from vlp.records import ImageFile, Mask, Person, Region, Study

ROWS, COLUMNS = 40, 32
GOOD, SMALL, POOR, PADDED, BROKEN, OTHER = (f"0000710{number}_000" for number in range(6))


def picture(organ: int, *, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Heart, left lung or right lung: rectangles on even pixels, so that half the size is exact."""
    pixels = np.zeros((rows, columns), dtype=bool)
    x0 = (12, 18, 4)[organ] * columns // COLUMNS
    pixels[rows // 4 : rows // 2 + organ * rows // 20, x0 : x0 + columns // 4] = True
    return pixels


def runs(pixels: np.ndarray) -> str:
    """Run lengths row by row, counted from 1, one run at a time."""
    text, flat = [], pixels.ravel().tolist()
    start = None
    for place, value in enumerate([*flat, False]):
        if value and start is None:
            start = place
        elif not value and start is not None:
            text += [start + 1, place - start]
            start = None
    return " ".join(map(str, text))


def row(image: str, *, dice: float = 0.9, **cells: object) -> dict[str, object]:
    heart, left, right = (runs(picture(organ)) for organ in range(3))
    return {
        "Image Index": f"{image}.png", "Dice RCA (Max)": 0.95, "Dice RCA (Mean)": dice,
        "Landmarks": "[ 100  200\n  300, 400]", "Left Lung": left, "Right Lung": right, "Heart": heart,
        "Height": ROWS, "Width": float(COLUMNS),
    } | cells  # fmt: skip


def study(image: str, *, rows: int = ROWS, columns: int = COLUMNS) -> Study:
    """A study of ChestX-ray14 as its importer gives it."""
    file = ImageFile(id=image, path=None, view="PA", rows=rows, columns=columns)
    return Study(id=image, person=Person(id=image[:8]), images=(file,), source="nih", split="test")


def regions(image: str, **size: int) -> tuple[Region, ...]:
    names = ("heart", "left lung", "right lung")
    return tuple(
        Region(finding=name, image=image, geometry=Mask.encode(picture(organ, **size)))
        for organ, name in enumerate(names)
    )


def build(folder: Path) -> AnnotationReplica:
    write_csv(
        folder / "ChestX-Ray8.csv",
        [
            row(GOOD),
            row(POOR, dice=0.69),
            row(PADDED),
            row(SMALL),
            row(BROKEN, Heart=f"{ROWS * COLUMNS} 2"),
        ],
    )
    return AnnotationReplica(
        values={"kind": "chexmask", "table": str(folder / "ChestX-Ray8.csv")},
        studies=(
            study(GOOD),
            study(SMALL, rows=ROWS // 2, columns=COLUMNS // 2),
            study(POOR),
            study(PADDED, rows=ROWS, columns=ROWS),
            study(BROKEN),
            study(OTHER),
        ),
        regions={GOOD: regions(GOOD), SMALL: regions(SMALL, rows=ROWS // 2, columns=COLUMNS // 2)},
        refused=(PADDED, BROKEN),
        secrets=(GOOD, PADDED, BROKEN),
    )
