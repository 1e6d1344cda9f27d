"""Pictures as arrays of 8 bits: one decoder for training, evaluation, predictions, checks and reports.

A channel of more than 8 bits is scaled from its full range, 65535 becoming 255, unless the file or the caller says that
fewer bits are used: microscopes and thermal cameras write 10, 12 or 14 bits into 16. Files say so in PNG's sBIT chunk
and in TIFF's tag MaxSampleValue.
"""

import struct
from typing import IO

import cv2
import numpy as np
from PIL import Image

__all__ = ["YUV", "decode", "eight_bits", "is_deep", "upright", "used_bits"]

YUV = "YUV-BT.601"
# Analogue YUV after ITU-R BT.601, for RGB in [0, 1].
_RGB_TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])

_EXIF_ORIENTATION = 0x0112
_MAX_SAMPLE_VALUE, _BITS_PER_SAMPLE = 0x0119, 0x0102
# The orientation tag says how the stored picture must be turned to stand upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FULL = 16  # bits of a deep channel


def decode(stream: IO[bytes], format: str | None = None, bits: int = 0) -> np.ndarray:
    """Decodes a picture, upright as its EXIF orientation says.

    Args:
        stream: The file.
        format: "BGR", "YUV-BT.601" or a PIL mode such as "RGB" or "L"; None keeps the file's own mode.
        bits: How many bits of a channel of 16 are used; 0 takes what the file says, 16 if it says nothing.

    Returns:
        (H, W, C) array, uint8 in 0..255; float64 for YUV; (H, W) for a file of one channel that keeps its mode.

    Raises:
        ValueError: Its pixels are fractions of an unknown range.
        OSError: It is no picture, or breaks off.
    """
    stored = Image.open(stream)
    deep = _deep_colour(stored, stream, bits)
    image = upright(eight_bits(stored, bits) if deep is None else deep, stored)
    if format is not None:
        image = image.convert("RGB" if format in ("BGR", YUV) else format)
    array = np.asarray(image)
    if format == "L":
        return array[:, :, None]
    if format == "BGR":
        return array[:, :, ::-1]
    return np.dot(array / 255.0, _RGB_TO_YUV.T) if format == YUV else array


def is_deep(image: Image.Image) -> bool:
    """Tells whether a grey picture has more than 8 bits a pixel."""
    return image.mode.startswith("I")


def used_bits(image: Image.Image) -> int:
    """Returns the number of bits that the file says a deep channel uses; 16 if it says nothing."""
    said = 0
    if image.format == "PNG":
        said = _significant_bits(image)
    elif image.format == "TIFF":
        most = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
        most = most[0] if isinstance(most, tuple) and most else most
        said = int(most).bit_length() if isinstance(most, int | float) and most > 0 else 0
    return said if 8 < said < _FULL else _FULL


def upright(image: Image.Image, header: Image.Image) -> Image.Image:
    """Turns a picture as the EXIF orientation of its header says."""
    try:
        turn = _UPRIGHT.get(header.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # EXIF blocks come broken in every way, and a picture without one is whole
        turn = None
    return image if turn is None else image.transpose(turn)


def _significant_bits(image: Image.Image) -> int:
    """The first number of PNG's sBIT chunk, which stands before the pixels; 0 where there is none."""
    stream = getattr(image, "fp", None)
    if stream is None:
        return 0
    place = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"sBIT" and length:
                return stream.read(1)[0]
            if name == b"IDAT":
                return 0
            stream.seek(length + 4, 1)
        return 0
    finally:
        stream.seek(place)


def eight_bits(image: Image.Image, bits: int = 0) -> Image.Image:
    """Returns a grey picture of 16 bits with 8, another one as it is; see :func:`decode`."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if not is_deep(image):
        return image
    bits = bits or used_bits(image)  # which the header says; decoding closes the file
    return Image.fromarray(_scaled(np.asarray(image, dtype=np.int64), bits))


def _scaled(values: np.ndarray, bits: int) -> np.ndarray:
    most = 2**bits - 1
    return (values.clip(0, most) * 255 // most).astype(np.uint8)


def _deep_colour(image: Image.Image, stream: IO[bytes], bits: int) -> Image.Image | None:
    """A picture of several channels of 16 bits of which fewer are used; Pillow would keep the upper 8 of the 16."""
    if (
        image.mode not in ("RGB", "RGBA")
        or image.format not in ("PNG", "TIFF")
        or not _has_deep_channels(image, stream)
    ):
        return None
    bits = bits or used_bits(image)
    if bits >= _FULL:
        return None
    stream.seek(0)
    array = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if array is None or array.dtype != np.uint16 or array.ndim != 3:
        return None
    return Image.fromarray(np.ascontiguousarray(_scaled(array[:, :, 2::-1].astype(np.int64), bits)))


def _has_deep_channels(image: Image.Image, stream: IO[bytes]) -> bool:
    if image.format == "TIFF":
        stored = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
        return 16 in (stored if isinstance(stored, tuple) else (stored,))
    place = stream.tell()
    try:
        stream.seek(24)  # behind the signature, the length and name of IHDR, and the sides
        return stream.read(1) == b"\x10"
    finally:
        stream.seek(place)
