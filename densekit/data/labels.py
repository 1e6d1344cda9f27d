"""Label maps: the class of every pixel, read in one way by mappers, evaluators, checks and pictures.

A record names its label map under ``sem_seg_file_name``. Where the file's values are not the contiguous class indices
that models learn, the record says what they stand for under ``sem_seg_values``: {value in the file: class index}, 255
for what belongs to no class. In a picture of three channels a value is R + 256 G + 65536 B, so the segments of a
panoptic PNG make a label map too.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from densekit.d2.utils.file_io import PathManager
from densekit.data.pictures import exif_orientation, image_size
from densekit.files.image_limit import UNREADABLE, readable
from densekit.files.panoptic_png import rgb2id

__all__ = ["IGNORE", "MAX_CLASSES", "load_sem_seg", "read_values", "without_label_map"]

IGNORE = 255
MAX_CLASSES = 254
_UNKNOWN = 254  # stands for values without a meaning while a map is translated

_KEYS = ("sem_seg_file_name", "sem_seg_values")


def load_sem_seg(record: Mapping[str, Any]) -> np.ndarray:
    """Reads the label map of a record.

    Args:
        record: With ``sem_seg_file_name``, perhaps ``sem_seg_values``, and ``height`` and ``width`` or ``file_name``.

    Returns:
        (H, W) uint8 contiguous class indices, 255 where there is none.

    Raises:
        FileNotFoundError: The label map or its image does not exist.
        ValueError: It cannot be read, has another size than its image, or a value that stands for nothing.
    """
    path = record["sem_seg_file_name"]
    raw = read_values(path)
    _check_size(record, path, raw.shape)
    values = record.get("sem_seg_values")
    if values is not None:
        return _translate(raw, values, path)
    if raw.dtype != np.uint8 and raw.max(initial=0) > IGNORE:
        raise ValueError(
            f"Label map {path} has the value {raw.max()}, more than the 255 that a class index may be. If it holds "
            "colours or ids, the record needs sem_seg_values: {value: class index}."
        )
    return raw.astype(np.uint8, copy=False)


def without_label_map(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record without what :func:`load_sem_seg` reads."""
    return {key: value for key, value in record.items() if key not in _KEYS}


def read_values(path: str) -> np.ndarray:
    """Reads the values of a picture of labels or segments as they are stored.

    Returns:
        (H, W) integers: grey values, palette indices (not the palette's colours), or R + 256 G + 65536 B.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no picture, or one whose compression changes values.
    """
    if not PathManager.isfile(path):
        raise FileNotFoundError(f"Label map {path} does not exist.")
    try:
        with PathManager.open(path, "rb") as stream, Image.open(stream) as image:
            if image.format == "JPEG":
                raise ValueError("it is a JPEG, whose compression changes values. Save label maps as PNG")
            array = np.asarray(image)
    except UNREADABLE as error:
        raise ValueError(f"Label map {path} cannot be read: {readable(error)}.") from error
    if array.dtype.kind == "f":
        raise ValueError(f"Label map {path} holds fractions ({array.dtype}). Save it as an 8-bit PNG.")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.ndim == 2:
        return array
    if array.shape[2] < 3 or (array[..., :1] == array[..., 1:3]).all():  # grey, in several channels
        return np.ascontiguousarray(array[..., 0])
    return rgb2id(array[..., :3])


def _check_size(record: Mapping[str, Any], path: str, found: tuple[int, ...]) -> None:
    name = record.get("file_name")
    expected: Any = (record.get("height"), record.get("width"))
    if None in expected:
        if name is None:
            return
        expected = image_size(name)
    if found == expected:
        return
    message = (
        f"Label map {path} is {found[1]} x {found[0]} (width x height), and its image {name} is {expected[1]} x "
        f"{expected[0]}."
    )
    if name is not None and found == expected[::-1] and PathManager.isfile(name):
        with PathManager.open(name, "rb") as stream, Image.open(stream) as image:
            orientation = exif_orientation(image)
        if orientation != 1:
            raise ValueError(
                f"{message} The image carries EXIF orientation {orientation} and is read upright, while the labels "
                f"were made on the stored pixels. Remove the tag (exiftool -Orientation= {name}), or turn the labels."
            )
    raise ValueError(f"{message} They must have one size; resize labels with nearest neighbours only.")


def _translate(raw: np.ndarray, values: Mapping[int, int], path: str) -> np.ndarray:
    table = np.full(max(values, default=0) + 2, _UNKNOWN, dtype=np.uint8)
    for value, index in values.items():
        table[value] = index
    labels = table[np.clip(raw, 0, len(table) - 1)]  # the last entry is never known
    if (labels == _UNKNOWN).any():
        unknown = np.unique(raw[labels == _UNKNOWN])
        first = ", ".join(map(str, unknown[:5].tolist())) + (", ..." if len(unknown) > 5 else "")
        known = ", ".join(map(str, sorted(values)[:40])) + (", ..." if len(values) > 40 else "")
        raise ValueError(
            f"Label map {path} has the value {first} in {(labels == _UNKNOWN).sum()} pixels, and it stands for "
            f"nothing; known values are {known}. Add it to the class list, or to the values to ignore."
        )
    return labels
