"""Where each descriptor of a diagnosis is: its map on every image, and the box, side and zone of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlp.inference.classify import WORDINGS
from vlp.inference.diagnosis import Diagnosis, FindingEvidence
from vlp.inference.evidence import Where, where
from vlp.inference.ground import Grounding, MapThresholds, choose_threshold, outline
from vlp.inference.lungs import LungField, lung_field
from vlp.inference.picture import Picture
from vlp.log import progress
from vlp.tensors import ImageFeatures, Placement

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

_MANY_MAPS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The images of a study that are answered for."""

    images: Sequence[Picture]
    features: ImageFeatures
    placements: Sequence[Placement]
    lateral: Sequence[bool]
    """Per image whether it is a lateral view, which has no sides."""


def placed(
    engine: "Engine", diagnosis: Diagnosis, views: Views, *, calibration: MapThresholds | None = None
) -> Diagnosis:
    """The diagnosis with the place of every descriptor on every image.

    A map counts from the threshold that was calibrated for the finding, else from the checkpoint's, else from Otsu's.
    """
    fields = [lung_field(engine, image) for image in views.images]
    asked = [(one.finding, item.positive) for one in diagnosis.findings for item in one.descriptors]
    shown = progress(asked, description="maps of descriptors", unit="maps") if len(asked) >= _MANY_MAPS else asked
    places = {
        (finding, positive): tuple(_places(engine, finding, positive, views, fields, calibration))
        for finding, positive in shown
    }
    return replace(diagnosis, findings=tuple(_with_places(one, places) for one in diagnosis.findings))


def groundings(
    engine: "Engine", image: Picture, evidence: FindingEvidence, *, calibration: MapThresholds | None = None
) -> tuple[Grounding, ...]:
    """The map of each descriptor of a finding on one image, outlined as in `placed`: what `write_overlay` draws."""
    features, placements = engine.features([image])
    field = lung_field(engine, image)
    answers = []
    for item in evidence.descriptors:
        values = placements[0].map_to_original(_grids(engine, item.positive, features)[0])
        threshold, source = choose_threshold(values, evidence.finding, engine=engine, calibration=calibration)
        answers.append(outline(item.positive, values, threshold=threshold, source=source, lungs=field))
    return tuple(answers)


def _grids(
    engine: "Engine", positive: str, features: ImageFeatures
) -> Float[np.ndarray, "image grid_rows grid_columns"]:
    grids: np.ndarray = engine.maps_of(positive.split(WORDINGS), features).mean(axis=0)
    return grids


def _places(
    engine: "Engine",
    finding: str,
    positive: str,
    views: Views,
    fields: Sequence[LungField | None],
    calibration: MapThresholds | None,
) -> Iterator[Where]:
    grids = _grids(engine, positive, views.features)
    for grid, placement, field, lateral in zip(grids, views.placements, fields, views.lateral, strict=True):
        values = placement.map_to_original(grid)
        threshold, _ = choose_threshold(values, finding, engine=engine, calibration=calibration)
        yield where(values, lungs=field, threshold=threshold, view="lateral" if lateral else "frontal")


def _with_places(evidence: FindingEvidence, places: dict[tuple[str, str], tuple[Where, ...]]) -> FindingEvidence:
    descriptors = tuple(replace(item, where=places[evidence.finding, item.positive]) for item in evidence.descriptors)
    return replace(evidence, descriptors=descriptors)
