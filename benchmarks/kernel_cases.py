"""Which problems `benchmarks.kernel` measures, what is asked of some of them, and which a machine has no room for."""

from dataclasses import dataclass

from benchmarks.variants import Inputs, Size, Variant

_GB = 1e9
_ROOM = 0.85
"""Share of the free memory that may be filled."""
_LIBRARIES_BYTES = 0.2e9
_TILES_BYTES = {"cpu": 0.2e9, "cuda": 2e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the kernel must reach in a case, as limits; None where nothing is asked."""

    seconds_ratio: float | None = None
    """To published."""
    peak_ratio: float | None = None
    """To published."""
    peak_mb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A size by name."""

    name: str
    size: Size
    asked: Asked = Asked()
    asked_of: Variant = "chunked"


def _case(name: str, size: str, asked: Asked | None = None, asked_of: Variant = "chunked") -> Case:
    return Case(name=name, size=Size.parse(size), asked=asked or Asked(), asked_of=asked_of)


ACCEPTANCE = (
    _case("many_pairs", "128x1024x784x256", Asked(seconds_ratio=0.75, peak_mb=450.0)),
    _case("few_patches", "64x512x196x768", Asked(seconds_ratio=0.25)),
    _case("long_grid", "64x256x1369x768", Asked(seconds_ratio=0.6)),
)
"""What must hold in float32 on a CPU with two threads."""

CARD = (
    _case("published_batch", "256x1651x1370x768", Asked(seconds_ratio=1 / 3, peak_ratio=0.1), "fused"),
    _case("batch_1024", "1024x6604x1370x768", asked_of="fused"),
)
"""What must hold in bfloat16 on a GPU of 141 GB: the published batch, and four times that on one card."""

_TEXTS_PER_IMAGE = 6.5
_GRIDS = ((197, 384), (197, 768), (1370, 768))


def _sweep() -> tuple[Case, ...]:
    sizes = [
        Size(images=images, texts=int(_TEXTS_PER_IMAGE * images), patches=patches, width=width)
        for patches, width in _GRIDS
        for images in (16, 64, 256, 1024, 4096)
    ]
    return tuple(Case(name=f"{size.images}_images_{size.patches}_patches_{size.width}", size=size) for size in sizes)


GROUPS = {"acceptance": ACCEPTANCE, "card": CARD, "sweep": _sweep()}


def find_cases(names: list[str]) -> list[Case]:
    """The cases of groups, of names, or of sizes written out; each once, in the order asked for.

    Raises:
        ValueError: for a name that is none of these.
    """
    known = {case.name: case for group in GROUPS.values() for case in group}
    found: dict[str, Case] = {}
    for name in names:
        if name in GROUPS:
            found |= {case.name: case for case in GROUPS[name]}
        elif name in known:
            found[name] = known[name]
        else:
            try:
                found[name] = _case(name, name)
            except ValueError:
                raise ValueError(
                    f"no case {name!r}: {', '.join([*GROUPS, *known])}, or a size like 64x512x196x768"
                ) from None
    return list(found.values())


def needed_bytes(variant: Variant, size: Size, *, bytes_per_number: int, inputs: Inputs, device: str) -> float:
    """About what forward and backward of a variant take at most, beyond the inputs."""
    scores = size.texts * size.images * size.patches
    attended = size.texts * size.images * size.width
    vectors = size.images * size.patches * size.width
    if variant in ("published", "reference"):
        width = bytes_per_number if variant == "published" else max(bytes_per_number, 4)
        copies = 6 if inputs == "tokens" else 3
        return width * (4.0 * scores + 6.0 * attended + copies * vectors) + _LIBRARIES_BYTES
    results = 8 * 4 * size.texts * size.images
    return 2.0 * bytes_per_number * vectors + results + _TILES_BYTES[device] + _LIBRARIES_BYTES


def input_bytes(size: Size, *, bytes_per_number: int) -> float:
    """What the inputs of one contender take."""
    return float(bytes_per_number) * size.width * (size.images * size.patches + size.texts)


def no_room(needed: float, available: float | None) -> str | None:
    """Why something does not fit, in words; None where it does, or where nobody knows."""
    if available is None or needed <= _ROOM * available:
        return None
    return f"needs about {needed / _GB:.1f} GB, {available / _GB:.1f} GB are free"
