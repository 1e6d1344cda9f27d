"""Pictures of data sets: their pixels, and what can be known without decoding them."""

import os
import re

import numpy as np
from PIL import Image

from densekit.d2.utils.file_io import PathManager
from densekit.files.image_limit import UNREADABLE, readable
from densekit.files.picture import decode, is_deep, used_bits

__all__ = ["SUFFIXES", "depth_note", "exif_orientation", "image_size", "list_pictures", "name_hint", "read_picture"]

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif")
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


def read_picture(path: str, format: str | None = None, bits: int = 0) -> np.ndarray:
    """Reads a picture; all of densekit does so with this function.

    Args:
        path: The file.
        format: As INPUT.FORMAT: "BGR", "RGB", "L" ...
        bits: As INPUT.BIT_DEPTH: how many bits of a channel of 16 are used; 0 takes what the file says.

    Returns:
        (H, W, C) array, uint8 in 0..255 for the formats named.

    Raises:
        ValueError, OSError: It cannot be read.
    """
    with PathManager.open(path, "rb") as stream:
        return decode(stream, format, bits)


def depth_note(path: str, bits: int = 0) -> str:
    """Says what is done with the pixels of a grey picture of more than 8 bits; "" for another."""
    try:
        with PathManager.open(path, "rb") as stream, Image.open(stream) as image:
            if not is_deep(image):
                return ""
            used = bits or used_bits(image)
            reached = int(np.asarray(image).max())
    except UNREADABLE:  # whoever reads it says so
        return ""
    hint = ""
    if not bits and used == 16 and 0 < reached < 2**14:
        hint = f" The values of this one end at {reached}: if they have {max(reached.bit_length(), 9)} bits, set it."
    factor = "divided by 257" if used == 16 else f"scaled from 0 .. {2**used - 1} to 0 .. 255"
    return (
        f"Pictures of 16 bits, such as {path}, are {factor}. INPUT.BIT_DEPTH, or bit_depth in the data set's YAML, "
        f"says how many bits are used.{hint}"
    )


def name_hint(name: str) -> str:
    """The likely reason why a file of this name is not there, from its spelling; "" for none."""
    if re.search(r"(^|/)[a-zA-Z][a-zA-Z0-9+.-]+:/", name):
        return "The name is a URL: download the pictures and name the files."
    if re.search(r"(^|/)[a-zA-Z]:[\\/]", name):
        return "The name begins with a drive letter of Windows: write names relative to the folder of the images."
    if "\\" in name:
        return "The name has backslashes, as Windows writes paths: write / instead."
    if re.search(r"%[0-9a-fA-F]{2}", name):
        return "The name has signs such as %20, as URLs write spaces: write the name as the folder shows it."
    return ""


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
