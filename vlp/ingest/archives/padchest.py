"""PadChest (BIMCV): 16-bit PNG in numbered folders, one table, stemmed Spanish reports, 193 labels in three trees.

The layout is that of `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`: a line per image, images at
`<ImageDir>/<ImageID>` or all in one folder.  About twenty images of the release are empty or damaged; each costs its
study, which is counted.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from vlp import log
from vlp.errors import DataError
from vlp.ingest.archives.rows import Row, load_studies, log_outside, rows_of, sex_of, studies_in, units_of, when, years
from vlp.ingest.image_index import image_name
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside, read_table
from vlp.records import Certainty, LoadedStudy, Person, Report, View
from vlp.reports.findings import canonical

Projection = Literal["PA", "AP", "AP_horizontal", "L", "COSTAL", "EXCLUDE", "UNK"]
Method = Literal["Physician", "RNN_model"]

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
LICENSE = "PadChest Dataset Research Use Agreement (BIMCV): research only, no redistribution"
NOT_FINDINGS = frozenset({"unchanged", "chronic changes", "exclude", "suboptimal study"})
"""Labels that say nothing of what is in the picture."""

_VIEWS: Mapping[str, View] = {"PA": "PA", "AP": "AP", "AP_HORIZONTAL": "AP", "L": "lateral"}
_REQUIRED = ("ImageID", "StudyID", "PatientID", "Projection", "Labels")
_OPTIONAL = (
    "ImageDir", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "Report", "MethodLabel",
)  # fmt: skip
_LIST = re.compile(r"\[(?P<items>.*)\]", re.DOTALL)
_ITEM = re.compile(r"""\s*(?:'(?P<single>[^'\\]*)'|"(?P<double>[^"\\]*)")\s*(?:,|$)""")
_logger = log.get_logger(__name__)

# The tree of PadChest rolled up to our vocabulary: what a label is a kind of.  Names that the vocabulary knows as they
# are ("pleural effusion") are not repeated.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "atelectasis": ("atelectasis basal", "laminar atelectasis", "lobar atelectasis", "round atelectasis",
                    "segmental atelectasis", "total atelectasis"),
    "pleural effusion": ("loculated pleural effusion", "loculated fissural effusion", "empyema", "hydropneumothorax"),
    "pneumothorax": ("hydropneumothorax",),
    "pleural thickening": ("apical pleural thickening", "calcified pleural thickening"),
    "pleural other": ("pleural plaques", "calcified pleural plaques", "pleural mass"),
    "nodule": ("multiple nodules",),
    "lung lesion": ("lung metastasis", "lepidic adenocarcinoma"),
    "granuloma": ("calcified granuloma",),
    "pneumonia": ("atypical pneumonia",),
    "lung opacity": ("interstitial pattern", "reticular interstitial pattern", "reticulonodular interstitial pattern",
                     "alveolar pattern", "ground glass pattern", "increased density", "miliary opacities"),
    "infiltration": ("infiltrates",),
    "scarring": ("fibrotic band",),
    "hyperinflation": ("hyperinflated lung", "flattened diaphragm"),
    "heart failure": ("heart insufficiency",),
    "vascular congestion": ("hilar congestion", "vascular redistribution", "central vascular redistribution"),
    "edema": ("pulmonary edema",),
    "enlarged cardiomediastinum": ("mediastinal enlargement", "superior mediastinal enlargement", "mediastinal mass"),
    "lymphadenopathy": ("adenopathy", "calcified adenopathy", "calcified mediastinal adenopathy"),
    "tortuous aorta": ("aortic elongation", "supra aortic elongation", "ascendent aortic elongation",
                       "descendent aortic elongation"),
    "aortic calcification": ("aortic atheromatosis",),
    "fracture": ("rib fracture", "callus rib fracture", "clavicle fracture", "vertebral fracture", "humeral fracture"),
    "pneumoperitoneum": ("pneumoperitoneo",),
    "support device": ("catheter", "central venous catheter", "central venous catheter via jugular vein",
                       "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
                       "reservoir central venous catheter", "chest drain tube", "endotracheal tube",
                       "tracheostomy tube", "nsg tube", "pacemaker", "dai", "single chamber device",
                       "dual chamber device", "electrical device", "artificial heart valve",
                       "artificial aortic heart valve", "artificial mitral heart valve"),
}  # fmt: skip
_FINDINGS: Mapping[str, tuple[str, ...]] = {
    label: tuple(finding for finding, kinds in _KINDS.items() if label in kinds)
    for label in {label for kinds in _KINDS.values() for label in kinds}
}


class PadChestSource(Source):
    """A folder with PadChest's table and its images."""

    kind: Literal["padchest"] = "padchest"
    path: Path
    """Folder of the table."""
    table: str = TABLE
    images: Path | None = None
    """Folder of the image folders, or of all images; null: `path`."""
    projections: tuple[Projection, ...] = ("PA", "AP", "AP_horizontal", "L")
    """Images of other projections (ribs; not a chest) are left out and counted."""
    label_methods: tuple[Method, ...] = ("Physician", "RNN_model")
    """Who labelled the report.  [Physician] gives the 27 % read by hand, which evaluation should use."""
    labels_excluded: tuple[str, ...] = ("exclude",)
    """Studies with one of these labels are left out and counted."""
    inverted: Literal["monochrome1", "none"] = "monochrome1"
    """Which images were stored with bone dark: those the table calls MONOCHROME1, for the PNG hold the values as
    stored; "none" for a copy that was corrected."""

    def units(self) -> Sequence[str]:
        """One unit per patient; says once how much the rules of the configuration leave out."""
        table = self._read()
        groups: dict[str, list[int]] = {}
        out: Counter[str] = Counter()
        outside: Counter[str] = Counter()
        for index, row in enumerate(table.rows):
            why = self._left_out(row)
            if why is not None:
                out[why] += 1
                continue
            groups.setdefault(row["PatientID"].strip() or f"\0{index}", []).append(index)
            outside.update(name for name in _listed(row) if not findings_of(name) and name not in NOT_FINDINGS)
        if not groups:
            raise DataError(f"{table.path}: no image to use; is it empty, or do the rules leave all out?")
        if out:
            _logger.info(
                "%s: images left out: %s", table.path, ", ".join(f"{n} {why}" for why, n in sorted(out.items()))
            )
        log_outside(outside)
        return units_of(groups)

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one patient by their dates."""
        table = self._read()
        studies = studies_in(table, rows_of(unit, table), study=lambda row: row["StudyID"].strip(), read=self._row)
        yield from load_studies(studies, source=self.kind, license=LICENSE)

    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return fingerprint([find_table(self.path, self.table)])

    def _read(self) -> Table:
        path = find_table(self.path, self.table)
        return read_table(path or self.path / self.table, columns=_REQUIRED, optional=_OPTIONAL)

    def _left_out(self, row: Mapping[str, str]) -> str | None:
        """The rule that leaves an image out, in the words of a count."""
        projection = row["Projection"].strip()
        if projection not in self.projections:
            return f"of projection {projection}" if projection.isidentifier() else "of unnamed projection"
        method = row["MethodLabel"].strip()
        if method and method not in self.label_methods:
            return "of studies labelled by others"
        if not set(self.labels_excluded).isdisjoint(_listed(row)):
            return "of studies with an excluded label"
        return None

    def _row(self, row: Mapping[str, str], where: str) -> Row:
        patient, study, date = (row[column].strip() for column in ("PatientID", "StudyID", "StudyDate_DICOM"))
        if not patient or not study:
            raise DataError("the cell of the patient or of the study is blank")
        groups = {"scanner": row["Manufacturer_DICOM"].strip(), "labelled by": row["MethodLabel"].strip()}
        labels = {finding: Certainty.PRESENT for name in parse_list(row["Labels"]) for finding in findings_of(name)}
        return Row(
            where=where,
            image=image_name(row["ImageID"].strip()),
            path=self._path(row),
            study=study,
            person=Person(
                id=patient,
                age=age_between(row["PatientBirth"], date),
                sex=sex_of(row["PatientSex_DICOM"]),
                groups={group: value for group, value in groups.items() if value and value.lower() != "none"},
            ),
            view=_VIEWS.get(row["Projection"].strip().upper(), "other"),
            inverted=self.inverted == "monochrome1" and row["PhotometricInterpretation_DICOM"].strip() == "MONOCHROME1",
            report=Report(text=row["Report"], language="es") if row["Report"].strip() else None,
            labels=labels,
            order=when(date),
        )

    def _path(self, row: Mapping[str, str]) -> Path:
        folder = self.images or self.path
        number = row["ImageDir"].strip().removesuffix(".0")
        name = row["ImageID"].strip()
        in_folder = inside(folder, f"{number}/{name}" if number and name else name)
        flat = inside(folder, name)
        return flat if flat.is_file() and not in_folder.is_file() else in_folder


@cache
def findings_of(label: str) -> tuple[str, ...]:
    """The findings of our vocabulary that one of PadChest's labels means, by its tree; none for any other label.

    Whole labels are compared: a "breast mass" is no mass of the lung, "subcutaneous emphysema" no emphysema.
    """
    name = " ".join(label.lower().split())
    known = canonical(name)
    return _FINDINGS.get(name) or ((known,) if known else ())


def parse_list(text: str) -> list[str]:
    """The names in a cell such as "['pleural effusion', ' normal']", lower case; nothing is evaluated.

    Raises:
        DataError: if it is not a list of quoted names.
    """
    if not text.strip() or text.strip().lower() in ("nan", "[]"):
        return []
    match = _LIST.fullmatch(text.strip())
    items = match["items"] if match else ""
    names: list[str] = []
    place = 0
    while place < len(items):
        item = _ITEM.match(items, place)
        if item is None:
            break
        names.append(" ".join((item["single"] or item["double"] or "").lower().split()))
        place = item.end()
    if match is None or place < len(items):
        raise DataError("the cell of the labels is not a list of names in quotes")
    return [name for name in names if name]


def _listed(row: Mapping[str, str]) -> list[str]:
    """The labels of a row; none of one that cannot be read, whose fault is told when it is loaded."""
    try:
        return parse_list(row["Labels"])
    except DataError:
        return []


def age_between(birth_year: str, study_date: str) -> float | None:
    """Years between the two years, which is all the archive tells."""
    try:
        return years(str(int(study_date[:4]) - int(float(birth_year))))
    except (ValueError, OverflowError):
        return None
