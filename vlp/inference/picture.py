"""What a person may hand in where an image is asked for."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from vlp.data.transforms import SeenImage
from vlp.errors import DataError
from vlp.ingest import read_image

Picture: TypeAlias = Path | str | np.ndarray | SeenImage
"""A file; pixels [rows columns] as uint8 with bone bright; or what `Engine.see` takes from a shard."""


def pixels_of(image: Path | str | np.ndarray) -> UInt8[np.ndarray, "rows columns"]:
    """The pixels of a file, or those that were handed in.

    Raises:
        DataError: for a file that is no usable image, or an array of another type or shape.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
            raise DataError(
                f"an image is an array of uint8 [rows columns], not {image.dtype} with shape {list(image.shape)}"
            )
        return image
    pixels: np.ndarray = read_image(Path(image))[1]
    return pixels
