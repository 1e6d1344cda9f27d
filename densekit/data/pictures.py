"""What can be known of a picture without decoding it: its size as viewers show it."""

import os

from PIL import Image

from densekit.d2.utils.file_io import PathManager
from densekit.files.image_limit import UNREADABLE, readable

__all__ = ["SUFFIXES", "exif_orientation", "image_size", "list_pictures"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height

_EXIF_ORIENTATION = 0x0112


def exif_orientation(image: Image.Image) -> int:
    """Returns how the stored pixels are to be turned: 1 not at all, up to 8."""
    return image.getexif().get(_EXIF_ORIENTATION, 1)


def image_size(path: str) -> tuple[int, int]:
    """Returns (height, width) of an image after its EXIF orientation, from its header.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, or its header is damaged.
    """
    if not PathManager.isfile(path):
        raise FileNotFoundError(f"Image {path} does not exist.")
    try:
        with PathManager.open(path, "rb") as stream, Image.open(stream) as image:
            width, height = image.size
            return (width, height) if exif_orientation(image) in TURNED else (height, width)
    except UNREADABLE as error:
        raise ValueError(f"Image {path} cannot be read: {readable(error)}. Copy or download it again.") from error


def list_pictures(folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, str]:
    """Finds the pictures below a folder.

    Returns:
        Path within the folder without its ending, with ``/`` between its parts -> whole path; sorted.

    Raises:
        ValueError: There are none, or two differ in nothing but their endings.
    """
    found: dict[str, str] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            path = os.path.join(parent, name)
            key = os.path.splitext(os.path.relpath(path, folder))[0].replace(os.sep, "/")
            if key in found:
                raise ValueError(f"{found[key]} and {path} differ in their ending only. Rename or remove one of them.")
            found[key] = path
    if not found:
        raise ValueError(f"Folder {folder} holds no pictures ({', '.join(suffixes)}). Is it the right one?")
    return dict(sorted(found.items()))
