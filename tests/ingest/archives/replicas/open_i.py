"""A miniature of the original Open-I: one XML file per report, images by name, Kaggle's table of views beside it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.replica import Replica

BOTH = "Xray Chest PA and Lateral"
REPORTS: Mapping[int, Mapping[str, str]] = {
    90041: {
        "INDICATION": "XXXX-year-old XXXX with cough & fever.",
        "COMPARISON": "None.",
        "FINDINGS": "Heart size < normal limits. Small left effusion, drained by Zweistein.",
        "IMPRESSION": "Small effusion.",
    },
    90042: {"COMPARISON": "", "INDICATION": "Quillfeather syndrome", "FINDINGS": "", "IMPRESSION": "Normal chest."},
    90043: {"COMPARISON": " ", "INDICATION": "", "FINDINGS": "", "IMPRESSION": ""},
    90044: {"FINDINGS": "No image was kept of Oglethorpe.", "IMPRESSION": "None."},
    90045: {"FINDINGS": "An image is lost.", "IMPRESSION": "None."},
}
CODES: Mapping[int, tuple[tuple[str, ...], tuple[str, ...]]] = {
    90041: (("Pleural Effusion/left/small", "Opacity/lung/base/left"), ("pleural effusion", "Pacemaker, Artificial")),
    90042: (("normal",), ()),
    90043: (("No Indexing",), ()),
    90044: (("normal",), ()),
    90045: (("Mass/breast",), ()),
}
IMAGES: Mapping[int, tuple[tuple[str, str], ...]] = {
    90041: (("CXR90041_90041_IM-0001-3001", BOTH), ("CXR90041_90041_IM-0001-4001", BOTH)),
    90042: (("CXR90042_IM-0652-1001", "PORTABLE AP CHEST"), ("CXR90042_IM-0652-2001", "PORTABLE AP CHEST")),
    90043: (("CXR90043_IM-0007-1001", BOTH),),
    90044: (),
    90045: (("CXR90045_IM-0009-1001", BOTH), ("CXR90045_IM-0009-2001", BOTH)),
}
PROJECTIONS = (
    "90041,90041_IM-0001-3001.dcm.png,Lateral",
    "90041,90041_IM-0001-4001.dcm.png,Frontal",
)
BOMB = """<?xml version="1.0"?>
<!DOCTYPE eCitation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>
<eCitation><uId id="CXR90046"/><Abstract><AbstractText Label="FINDINGS">&b;&c;</AbstractText></Abstract></eCitation>
"""


def build(folder: Path) -> Replica:
    reports = folder / "ecgen-radiology"
    reports.mkdir()
    for number in REPORTS:
        (reports / f"{number}.xml").write_text(xml(number), encoding="utf-8")
    (reports / "90046.xml").write_text(BOMB)
    (reports / "90047.xml").write_text(xml(90041)[:600], encoding="utf-8")
    for images in IMAGES.values():
        for name, _ in images:
            write_image(folder / "NLMCXR_png" / f"{name}.png", seed=int(name[-4:]), mode="RGB")
    (folder / "NLMCXR_png" / "CXR90045_IM-0009-2001.png").unlink()
    projections = write_projections(folder, PROJECTIONS)
    return Replica(
        source={"kind": "open_i", "path": folder, "projections": projections},
        studies=3,
        persons=3,
        faults={"excluded_no_image": 1, "missing_image": 1, "bad_row": 2},
        secrets=("90041", "90042", "90046", "Zweistein", "Quillfeather", "Oglethorpe"),
    )


def xml(number: int) -> str:
    """A report as the collection stores it, without the parts nobody reads."""
    sections = "".join(f'<AbstractText Label="{k}">{escape(v)}</AbstractText>\n' for k, v in REPORTS[number].items())
    major, automatic = CODES[number]
    codes = _elements("major", major) + _elements("automatic", automatic)
    images = "".join(
        f'<parentImage id="{name}">\n<figureId>F1</figureId>\n<caption>{caption}</caption>\n'
        f"<panel><url>/{name}.jpg</url></panel></parentImage>\n"
        for name, caption in IMAGES[number]
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation>\n<uId id="CXR{number}"/>\n'
        "<licenseURL>http://creativecommons.org/licenses/by-nc-nd/4.0/</licenseURL>\n"
        f"<MedlineCitation><Article><Abstract>\n{sections}</Abstract></Article></MedlineCitation>\n"
        f"<MeSH>\n{codes}</MeSH>\n{images}</eCitation>\n"
    )


def _elements(name: str, values: Iterable[str]) -> str:
    return "".join(f"<{name}>{escape(value)}</{name}>\n" for value in values)


def write_projections(folder: Path, rows: Iterable[str]) -> Path:
    path = folder / "indiana_projections.csv"
    path.write_text("\n".join(("uid,filename,projection", *rows)) + "\n")
    return path
