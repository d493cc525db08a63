"""Chest ImaGenome (PhysioNet): scene graphs of MIMIC-CXR's frontal images: anatomy, and what was said of each part.

Read: `silver_dataset/scene_graph/<dicom_id>_SceneGraph.json` and, where they are there, the lists of images in
`silver_dataset/splits/{train,valid,test,images_to_avoid}.csv`.  Kept: the box of each anatomical part under its own
name, and the same box under the name of every finding that was said to be in it ("anatomicalfinding|yes|pleural
effusion" of "right lung").  All of it was found by programs.  The set's splits are not MIMIC-CXR's: a person's group
`chest_imagenome` says which of its splits he is in, and a warning says so when persons of its test or gold split are
in the train split.
"""

import hashlib
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from vlp import log
from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.archives.rows import strongest
from vlp.ingest.geometry import clipped_box
from vlp.ingest.tables import find_table, fingerprint, inside, read_json, read_table
from vlp.records import Box, Certainty, ImageFile, Region, Study
from vlp.reports.findings import canonical

GROUP = "chest_imagenome"
_ENDING = "_SceneGraph.json"
_FOLDERS = ("silver_dataset/scene_graph", "silver_dataset/scene_graph/scene_graph", "scene_graph", ".")
_SPLITS: Mapping[str, str] = {"gold": "images_to_avoid", "test": "test", "valid": "valid", "train": "train"}
"""Group -> list of images; the first that names a person counts."""
_HELD_OUT = frozenset({"gold", "test"})
_SAID = {"yes": Certainty.PRESENT, "no": Certainty.ABSENT}
_FINDINGS = frozenset({"anatomicalfinding", "disease", "tubesandlines", "device"})
"""Categories of attributes that are findings; the others are textures, degrees, temporal and technical remarks."""
_SMALL_SIDE = 224
"""Side of the square the boxes were found in, beside which each has its coordinates in the original image."""
_SIZE_TOLERANCE = 0.15
_logger = log.get_logger(__name__)


class ChestImaGenomeAnnotation(Annotation):
    """Chest ImaGenome beside MIMIC-CXR in its original size; see the module's documentation."""

    kind: Literal["chest_imagenome"] = "chest_imagenome"
    path: Path
    """The folder that holds `silver_dataset/`, or the folder of scene graphs itself."""
    regions: tuple[Literal["anatomy", "findings"], ...] = ("anatomy", "findings")
    """Whether the boxes of anatomical parts are kept under their own names, under those of findings, or both."""
    labels: Literal["keep", "complete"] = "keep"
    """Whether the study's labels stay as they are, or findings that it has no label of get the set's."""

    def apply(self, study: Study) -> Study:
        """The study with the boxes of its images.

        Boxes are cut at the border of their image, and one that lies outside is left out: they were found by a
        program in a padded square.

        Raises:
            DataError: for a missing folder, a damaged scene graph, and an image that is not in its original size.
        """
        graphs = [(image, graph) for image in study.images if (graph := self._graph(image)) is not None]
        group = self._group(study)
        if not graphs and group is None:
            return study
        said = [self._said(image, graph) for image, graph in graphs]
        labels = dict(study.labels)
        if self.labels == "complete":
            labels = strongest(found for _, found in said) | labels
        person = study.person
        if group is not None:
            person = replace(person, groups={**person.groups, GROUP: group})
            if group in _HELD_OUT and study.split == "train":
                _warn_once(self.path, group)
        regions = dict.fromkeys(region for regions, _ in said for region in regions)
        added = tuple(region for region in regions if region not in study.regions)
        return replace(study, regions=(*study.regions, *added), labels=labels, person=person)

    def fingerprint(self) -> str:
        """SHA-256 of the lists of images and of the names and sizes of all scene graphs."""
        digest = hashlib.sha256(fingerprint(self._list(name) for name in _SPLITS.values()).encode())
        with os.scandir(self._folder()) as entries:
            graphs = sorted((entry.name, entry.stat().st_size) for entry in entries if entry.name.endswith(_ENDING))
        digest.update(repr(graphs).encode())
        return digest.hexdigest()

    def _folder(self) -> Path:
        for name in _FOLDERS:
            folder = self.path / name
            if _has_graphs(folder):
                return folder
        raise DataError(f"{self.path}: no scene graphs are here; is this the folder of Chest ImaGenome, unpacked?")

    def _graph(self, image: ImageFile) -> Mapping[str, Any] | None:
        path = inside(self._folder(), f"{image.id}{_ENDING}".replace("/", "_"))
        if not path.is_file():
            return None
        try:
            graph = read_json(path)
        except DataError as error:
            reason = str(error).removeprefix(f"{path}: ")  # the file's name says whose image it is
            raise DataError(f"{path.parent}: a scene graph: {reason}") from None
        if not isinstance(graph, dict) or graph.get("image_id") != image.id:
            raise DataError(f"{path.parent}: a scene graph is not that of the image it is named after")
        return graph

    def _said(self, image: ImageFile, graph: Mapping[str, Any]) -> tuple[list[Region], dict[str, Certainty]]:
        """The regions and the labels of one image."""
        try:
            _refuse_other_size(graph["objects"], image)
            boxes = {part["bbox_name"].lower(): _box(part, image) for part in graph["objects"]}
            findings = [
                (part["bbox_name"].lower(), strongest({name: said} for name, said in _attributes(part)))
                for part in graph.get("attributes", ())
            ]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise DataError(f"{self._folder()}: a scene graph has not the form of Chest ImaGenome's") from None
        regions = [(name, name) for name in boxes] if "anatomy" in self.regions else []
        if "findings" in self.regions:
            present = [(name, part) for part, said in findings for name in said if said[name] is Certainty.PRESENT]
            regions.extend(present)
        return (
            [
                Region(finding=name, image=image.id, geometry=box)
                for name, part in regions
                if (box := boxes.get(part)) is not None
            ],
            {name: said for name, said in strongest(said for _, said in findings).items() if canonical(name) == name},
        )

    def _group(self, study: Study) -> str | None:
        """The split of the set that the study's person is in."""
        return next((group for group, name in _SPLITS.items() if self._holds(name, study)), None)

    def _holds(self, name: str, study: Study) -> bool:
        path = self._list(name)
        if path is None:
            return False
        table = read_table(path, columns=("dicom_id",), optional=("subject_id",))
        images = table.groups("dicom_id")
        return study.person.id in table.groups("subject_id") or any(image.id in images for image in study.images)

    def _list(self, name: str) -> Path | None:
        return find_table(self.path / "silver_dataset/splits", f"{name}.csv")


@lru_cache(maxsize=32)
def _has_graphs(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(_ENDING) for entry in entries)


@lru_cache(maxsize=32)
def _warn_once(path: Path, group: str) -> None:
    _logger.warning(
        "%s: persons of its %s split are in the train split here; leave out group %s = %s before testing on it",
        path,
        group,
        GROUP,
        group,
    )


def _refuse_other_size(parts: Sequence[Mapping[str, Any]], image: ImageFile) -> None:
    """The longest side of the original is 224 times the scale between a box's two sets of coordinates."""
    scales = [
        (part["original_x2"] - part["original_x1"]) / (part["x2"] - part["x1"])
        for part in parts
        if "x1" in part and part["x2"] - part["x1"] >= _SMALL_SIDE // 8
    ]
    if scales:
        longest = _SMALL_SIDE * statistics.median(scales)
        if abs(longest / max(image.rows, image.columns) - 1) > _SIZE_TOLERANCE:
            raise DataError(
                "the image is not in the size Chest ImaGenome's boxes are for; use MIMIC-CXR's original images "
                "(max_side_px makes them smaller together with their boxes)"
            )


def _box(part: Mapping[str, Any], image: ImageFile) -> Box | None:
    x0, y0, x1, y1 = (float(part[f"original_{edge}"]) for edge in ("x1", "y1", "x2", "y2"))
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError("no number")
    cut = max(0.0, x0), max(0.0, y0), min(float(image.columns), x1), min(float(image.rows), y1)
    try:
        return clipped_box(cut, rows=image.rows, columns=image.columns)
    except DataError:
        return None


def _attributes(part: Mapping[str, Any]) -> Iterator[tuple[str, Certainty]]:
    """(finding, present or absent) of one anatomical part; names outside the vocabulary in the set's own words."""
    for phrase in part["attributes"]:
        for attribute in phrase:
            category, said, name = attribute.split("|", 2)
            if category in _FINDINGS and said in _SAID:
                yield canonical(name) or name.lower(), _SAID[said]
