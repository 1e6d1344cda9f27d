"""Small JPEGs of images, as data URIs."""

import base64
import io
import warnings
from dataclasses import dataclass

from PIL import Image

from densekit.data.pictures import TURNED, exif_orientation
from densekit.files.picture import eight_bits, upright

__all__ = ["Thumbnail", "thumbnail"]

_QUALITY = 72  # of the JPEG, 1 to 95


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        uri: ``data:image/jpeg;base64,...``.
        width: of the image it was made from, upright, in pixels.
        height: likewise.
    """

    uri: str
    width: int
    height: int


def thumbnail(path: str, longest: int) -> Thumbnail | None:
    """Shrinks an image; returns None where it cannot be read.

    Args:
        path: its file.
        longest: pixels of the longer side at most.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                turned = exif_orientation(image) in TURNED
                image.draft("RGB", (longest, longest))  # JPEGs are decoded at a fraction of their size
                small = upright(eight_bits(image), image).convert("RGB")
                small.thumbnail((longest, longest))
    except Exception:  # the readers of damaged files raise what they like, and the page says why they are damaged
        return None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(uri, *((height, width) if turned else (width, height)))
