"""Whether one study of a shard is whole: its files, what they say, and whether they agree with each other."""

from collections import Counter
from collections.abc import Callable, Iterator

from vlp.data.encoded import BadImageError, decode
from vlp.data.manifest import Sample
from vlp.data.packing import PackedStudy
from vlp.data.schema import BoxJson, ImageJson, MaskJson, RegionJson, SampleJson, member_name
from vlp.errors import DataError
from vlp.records import Split

Finding = tuple[str, str]
"""(code, what is wrong)."""
_TOLERANCE_PX = 1.0
"""How far a box may reach over its image: rounding, when an image was made smaller, does no more."""


def examine(
    member: Callable[[str], bytes], *, image_format: str, where: str, strict: bool = False
) -> tuple[SampleJson | None, list[Finding]]:
    """What a study's files say of it, and everything that is wrong with them.

    Args:
        member: gives the content of the study's file by what follows the key and a dot, or raises a `DataError`.
        image_format: what its images must be.
        where: its place, for messages.
        strict: look for damage inside images that decode all the same (see `encoded.decode`); there can be none in a
            tar whose checksum is right.

    Returns:
        Its description, None where that itself cannot be read; and (code, message) of each fault.
    """
    try:
        json = SampleJson.parse(member("json"), where=where)
        text = member("txt").decode("utf-8")
    except UnicodeDecodeError:
        return None, [("sample", f"{where}: its text is not UTF-8")]
    except DataError as error:
        return None, [("sample", str(error))]
    found = [*_span_faults(json, text), *_region_faults(json)]
    for index, image in enumerate(json.images):
        if image.member != member_name(index, image_format):
            found.append(("sample", f"image {index} is described under another name than it has"))
        found.extend(_image_faults(index, image, member, image_format, strict=strict))
    return json, found


def contradictions(sample: Sample, json: SampleJson, split: Split) -> Iterator[Finding]:
    """Where a study's description says something else than the manifest."""
    said = (json.key, json.person.id, tuple(image.view for image in json.images), len(json.sentences), json.split)
    if said != (sample.key, sample.patient, sample.views, sample.sentences, split):
        yield "sample", "the study's own description contradicts the manifest"


def as_counted(json: SampleJson) -> PackedStudy:
    """The study as whoever adds up the figures of a manifest wants it: without its content."""
    return PackedStudy(
        key=json.key,
        split=json.split,
        patient=json.person.id,
        views=tuple(image.view for image in json.images),
        places=(),
        sentences=Counter(sentence.origin for sentence in json.sentences),
        labels=json.labels,
        labels_origin=json.labels_origin,
        source=json.source,
        license=json.license,
        synthetic=json.synthetic,
        content=b"",
    )


def _span_faults(json: SampleJson, text: str) -> Iterator[Finding]:
    bad = sum(
        sentence.origin == "report" and not 0 <= sentence.start < sentence.end <= len(text)
        for sentence in json.sentences
    )
    if bad:
        yield "span", f"{bad} sentences point outside the text"


def _region_faults(json: SampleJson) -> Iterator[Finding]:
    images = {image.id: image for image in json.images}
    if any(region.image not in images for region in json.regions):
        yield "region", "a region lies in an image that the study does not have"
    outside = [
        region for region in json.regions if region.image in images and not _inside(region, images[region.image])
    ]
    if outside:
        kinds = ", ".join(sorted({region.geometry.kind for region in outside}))
        yield "box", f"{len(outside)} regions are empty or reach out of their image ({kinds})"


def _inside(region: RegionJson, image: ImageJson) -> bool:
    geometry = region.geometry
    if isinstance(geometry, MaskJson):
        return (geometry.rows, geometry.columns) == (image.rows, image.columns)
    corners = geometry.box if isinstance(geometry, BoxJson) else geometry.point * 2
    x0, y0, x1, y1 = corners
    if isinstance(geometry, BoxJson) and not (x0 < x1 and y0 < y1):
        return False
    low, right, bottom = -_TOLERANCE_PX, image.columns + _TOLERANCE_PX, image.rows + _TOLERANCE_PX
    return low <= min(x0, y0) and x1 <= right and y1 <= bottom


def _image_faults(
    index: int, image: ImageJson, member: Callable[[str], bytes], image_format: str, *, strict: bool
) -> Iterator[Finding]:
    try:
        shape = decode(member(member_name(index, image_format)), image_format=image_format, strict=strict).shape
    except BadImageError as error:
        yield "image", f"image {index} cannot be decoded: {error}"
        return
    except DataError as error:
        yield "image", str(error)
        return
    if shape != (image.rows, image.columns):
        yield "image_size", f"image {index} has {shape[0]} x {shape[1]} pixels, not {image.rows} x {image.columns}"
