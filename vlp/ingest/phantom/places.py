"""Where each finding lies in one person: sides, zones and devices, fixed for all of the person's studies."""

from dataclasses import dataclass

import numpy as np

from vlp.ingest.phantom.truth import FINDINGS, Side, Zone

SIDES: tuple[Side, Side] = ("left", "right")

_ZONE_SHARES: dict[str, tuple[float, float, float]] = {
    "pneumothorax": (1.0, 0.0, 0.0),
    "consolidation": (0.25, 0.25, 0.50),
    "atelectasis": (0.10, 0.15, 0.75),
    "nodule": (0.45, 0.25, 0.30),
    "mass": (0.45, 0.30, 0.25),
    "fibrosis": (0.25, 0.05, 0.70),
    "fracture": (0.15, 0.45, 0.40),
    "pleural thickening": (0.55, 0.10, 0.35),
}
"""Shares of (upper, middle, lower); findings not named here say nothing about a zone."""

_BILATERAL: dict[str, float] = {
    "pleural effusion": 0.35,
    "consolidation": 0.15,
    "atelectasis": 0.25,
    "edema": 1.0,
    "nodule": 0.12,
    "emphysema": 1.0,
    "fibrosis": 0.85,
    "pleural thickening": 0.20,
}
"""Chance of both sides; 1.0 for diseases of both lungs."""

_MIDLINE = frozenset({"cardiomegaly", "hernia"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place a finding takes whenever the person has it."""

    side: Side | None
    zone: Zone | None
    share: float
    """Severity here relative to the finding's severity."""
    seed: int


def places(finding: str, generator: np.random.Generator) -> tuple[Place, ...]:
    """The one or two places of `finding`, the worse side first."""
    order: tuple[Side, ...] = SIDES if generator.random() < 0.45 else SIDES[::-1]
    both = generator.random() < _BILATERAL.get(finding, 0.0)
    shares = _ZONE_SHARES.get(finding)
    zones: tuple[Zone, ...] = ("upper", "middle", "lower")
    zone = None if shares is None else zones[int(generator.choice(3, p=shares))]
    seeds = generator.integers(2**31, size=2)
    second_share = float(generator.uniform(0.6, 1.0))
    if finding in _MIDLINE:
        return (Place(side=None, zone=None, share=1.0, seed=int(seeds[0])),)
    sides = order if both else order[:1]
    return tuple(
        Place(side=side, zone=zone, share=1.0 if rank == 0 else second_share, seed=int(seeds[rank]))
        for rank, side in enumerate(sides)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wardrobe:
    """Which devices a person gets when a device is called for; the same ones in every study."""

    permanent: tuple[str, ...]
    bedside: tuple[str, ...]
    """What is in place on a day without intensive care."""
    intensive: tuple[str, ...]
    chest_tube_side: Side
    central_side: Side
    seeds: tuple[int, ...]


def wardrobe(generator: np.random.Generator) -> Wardrobe:
    """A person's devices."""
    permanent = (("pacemaker",), ("sternal wires",), ("pacemaker", "sternal wires"))
    bedside = (("central venous catheter",), ("enteric tube",), ("central venous catheter", "enteric tube"))
    intensive = (
        ("endotracheal tube", "enteric tube", "central venous catheter"),
        ("endotracheal tube", "enteric tube"),
        ("endotracheal tube", "central venous catheter"),
    )
    return Wardrobe(
        permanent=permanent[int(generator.choice(3, p=(0.45, 0.40, 0.15)))],
        bedside=bedside[int(generator.choice(3, p=(0.6, 0.2, 0.2)))],
        intensive=intensive[int(generator.choice(3, p=(0.5, 0.25, 0.25)))],
        chest_tube_side=SIDES[int(generator.integers(2))],
        central_side=SIDES[int(generator.random() < 0.75)],
        seeds=tuple(int(seed) for seed in generator.integers(2**31, size=len(FINDINGS))),
    )
