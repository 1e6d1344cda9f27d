"""Segment ids as the colours of a panoptic PNG, the COCO format that Cityscapes took over: id = R + 256 G + 65536 B."""

from pathlib import Path

import numpy as np
from PIL import Image

from densekit.files.atomic import atomic_write
from densekit.files.image_limit import UNREADABLE, readable

MAX_ID = 256**3 - 1


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Returns the colours of segment ids.

    Args:
        ids: (H, W) integers from 0 (void) to 16777215.

    Returns:
        (H, W, 3) uint8 in the order red, green, blue.

    Raises:
        ValueError: An id is negative or does not fit into three bytes.
    """
    ids = np.asarray(ids)
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(
            f"Segment ids must lie between 0 and {MAX_ID} for a PNG of three bytes; these go from {ids.min()} to "
            f"{ids.max()}."
        )
    # The bytes of a little-endian number are its colours in this order.
    return np.ascontiguousarray(ids.astype("<u4")[..., None].view(np.uint8)[..., :3])


def rgb2id(colours: np.ndarray) -> np.ndarray:
    """Returns the segment ids that the colours of a panoptic PNG stand for.

    Args:
        colours: (H, W, 3) uint8 in the order red, green, blue.

    Returns:
        (H, W) int32.

    Raises:
        ValueError: The array is no picture of three channels.
    """
    colours = np.asarray(colours)
    if colours.shape[-1:] != (3,) or colours.dtype != np.uint8:
        raise ValueError(
            f"A panoptic PNG has three channels of 8 bits; this array is {colours.dtype} of shape {colours.shape}. "
            "Read it as RGB."
        )
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red | green << 8 | blue << 16


def write_panoptic_png(path: str | Path, ids: np.ndarray) -> None:
    """Writes segment ids (H, W) as a PNG, in full or not at all; does not wait for the disk, as there are many."""
    with atomic_write(path, "wb", durable=False) as file:
        Image.fromarray(id2rgb(ids)).save(file, format="PNG")


def read_panoptic_png(path: str | Path) -> np.ndarray:
    """Returns the segment ids (H, W) int32 of a panoptic PNG.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be decoded, or it is no picture of three channels.
    """
    try:
        with Image.open(path) as image:
            colours = np.asarray(image)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"Panoptic PNG {path} cannot be read: {readable(error)}. Copy or make it again.") from error
    try:
        return rgb2id(colours)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
