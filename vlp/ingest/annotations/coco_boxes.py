"""COCO's JSON of boxes, polygons and run lengths for the images of any archive, matched by their names.

An image of the set is one of the archive if its `file_name`, without folders and ending, is the archive's own name of
the image (for MIMIC-CXR the dicom_id, for ChestX-ray14 "00000001_000").
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.archives.rows import strongest
from vlp.ingest.coco_file import Shapes, check_categories, drawn_in, read_coco
from vlp.ingest.image_index import image_name
from vlp.ingest.tables import fingerprint
from vlp.records import Certainty, Region, Study
from vlp.reports.findings import canonical


class CocoBoxesAnnotation(Annotation):
    """A file of boxes or outlines beside any archive; see the module's documentation."""

    kind: Literal["coco_boxes"] = "coco_boxes"
    path: Path
    """The JSON file."""
    categories: dict[str, str | None] = Field(default_factory=dict)
    """Category -> finding, by any name the vocabulary knows, or null for categories that are not wanted.  What is not
    named here keeps its own name, which need not be one of the vocabulary."""
    shapes: Shapes = "masks"
    """What becomes of a thing that has an outline and a box."""
    crowds: Literal["leave_out", "keep"] = "leave_out"
    """Whether a region that covers many things at once (`iscrowd`) is kept."""
    labels: Literal["leave", "add"] = "leave"
    """Whether what is drawn also becomes a label (present) of the study."""

    def apply(self, study: Study) -> Study:
        """The study with what is drawn in its images.

        Raises:
            DataError: for a missing or damaged file, a category it does not have, and what lies outside its image.
        """
        coco = read_coco(self.path)
        check_categories(coco, self.categories)
        regions: list[Region] = []
        for file in study.images:
            image = coco.images.get(image_name(file.id))
            if image is not None:
                drawn = drawn_in(coco, image, file, categories=self.categories, shapes=self.shapes)
                kept = (each for each in drawn if self.crowds == "keep" or not each.crowd)
                regions += (Region(finding=each.finding, image=file.id, geometry=each.geometry) for each in kept)
        new = [region for region in dict.fromkeys(regions) if region not in study.regions]
        study = replace(study, regions=(*study.regions, *new)) if new else study
        said = {known: Certainty.PRESENT for region in regions if (known := canonical(region.finding)) is not None}
        if self.labels == "leave" or not said:
            return study
        return replace(study, labels=strongest([study.labels, said]))

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return fingerprint([self.path])
