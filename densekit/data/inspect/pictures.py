"""Image files: are they there, whole, and of the size that the annotations say?

A file is read once, in full, for its content hash; it is not decoded. Damage shows without that. In a JPEG (ITU T.81,
B.1) the byte FF within entropy-coded data is followed by 00 or is a marker, and the last marker is FFD9: a file that
breaks off lacks it, and a few hundred foreign bytes nearly always have an impossible marker among them, which decoders
pass over in silence. Each chunk of a PNG (W3C PNG, 5.3) has its length and a CRC, the last being IEND. Other formats
have no such marks and are decoded, as all are on request.
"""

import hashlib
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image
from tqdm import tqdm

from densekit.data.pictures import TURNED, exif_orientation, name_hint
from densekit.files.image_limit import readable

__all__ = ["Picture", "PictureFacts", "progress_map", "read_picture", "read_pictures"]

_PNG_EXIF = (b"eXIf", b"Raw profile type")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Frames, tables, scans, restart interval, application data and comments, all with a length; the end and fill bytes.
_MARKERS = frozenset([*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xF0), 0xFE, 0xFF, 0xD9])
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Picture:
    """An image as the data set lists it.

    Attributes:
        path: its file.
        image_id: its id.
        size: (width, height) that the data set claims, None where it says nothing.
    """

    path: str
    image_id: Any = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PictureFacts:
    """Facts of an image file, as it says them itself.

    Attributes:
        problem: kind of finding that makes it useless, empty where it is sound.
        detail: what exactly.
        size: (width, height) of the stored pixels; None where unreadable.
        orientation: of EXIF, 1 where there is none.
        mode: of Pillow: ``RGB``, ``L``, ``P``, ``I;16`` ...
        format: of Pillow: ``JPEG``, ``PNG`` ...
        digest: hash of the content.
    """

    problem: str = ""
    detail: str = ""
    size: tuple[int, int] | None = None
    orientation: int = 1
    mode: str = ""
    format: str = ""
    digest: bytes = b""

    @property
    def upright_size(self) -> tuple[int, int] | None:
        """(width, height) after the EXIF orientation, as images are read."""
        return self.size[::-1] if self.size and self.orientation in TURNED else self.size

    @property
    def deep(self) -> bool:
        """Tells whether a channel has more than 8 bits."""
        return self.mode in _DEEP_MODES


def read_pictures(
    paths: Iterable[str], *, decode: bool, workers: int, progress: bool = True, what: str = "images"
) -> dict[str, PictureFacts]:
    """Reads files in parallel, each path once.

    Args:
        paths: files.
        decode: decode every file in full; otherwise only formats without marks of their end.
        workers: how many threads read at once (reading, hashing and decoding all run outside Python's lock).
        progress: show a progress bar on a terminal.
        what: its label.
    """
    unique = list(dict.fromkeys(paths))
    facts = progress_map(lambda path: read_picture(path, decode=decode), unique, workers, progress, what)
    return dict(zip(unique, facts))


def progress_map(function: Any, items: list[Any], workers: int, progress: bool, what: str) -> Iterator[Any]:
    """Maps in threads, in order, with a progress bar."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(function, items)
        yield from tqdm(results, total=len(items), desc=what, unit="file", disable=None if progress else True)


def read_picture(path: str, *, decode: bool = False) -> PictureFacts:
    """Reads one file; never raises for what is wrong with it."""
    if not os.path.isfile(path):
        return PictureFacts("image-missing", name_hint(path) or _near_name(path))
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        return PictureFacts("image-unreadable", str(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    if not data:
        return PictureFacts("image-unreadable", "the file is empty", digest=digest)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on damaged EXIF and on size, which say no file name
            with Image.open(io.BytesIO(data)) as image:
                known: dict[str, Any] = {
                    "size": image.size, "mode": image.mode, "format": image.format or "", "digest": digest,
                    "orientation": _orientation(image, data),
                }  # fmt: skip
                problem, detail = _broken_off(data, image.format or "")
                if decode and problem == "image-damaged":
                    refused = _decode(image)
                    problem, detail = refused if refused[0] else (problem, detail)
                if not problem and (decode or image.format not in ("JPEG", "MPO", "PNG")):
                    problem, detail = _decode(image)
    except Exception as error:  # Pillow's readers raise what they like: SyntaxError, struct.error, ValueError ...
        # A file cut within its header is not recognised at all, but begins like an image.
        kind = "JPEG" if data.startswith(b"\xff\xd8") else "PNG" if data.startswith(_PNG_MAGIC) else ""
        problem, detail = _broken_off(data, kind)
        if problem == "image-damaged":  # a warning elsewhere, where decoders guess the rest
            problem = "image-unreadable"
        return PictureFacts(problem or "image-unreadable", detail or _plain_reason(error), digest=digest)
    return PictureFacts(problem, detail, **known)


def _decode(image: Image.Image) -> tuple[str, str]:
    try:
        image.load()
    except Exception as error:
        kind = "image-truncated" if "truncated" in str(error) else "image-unreadable"
        return kind, f"decoding fails: {_plain_reason(error)}"
    return "", ""


def _plain_reason(error: Exception) -> str:
    return readable(error) or type(error).__name__


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and not any(mark in data for mark in _PNG_EXIF):
        return 1  # Pillow would decode the whole image to look for it behind the pixels
    value = exif_orientation(image)
    return value if value in range(1, 9) else 1


def _broken_off(data: bytes, kind: str) -> tuple[str, str]:
    if kind in ("JPEG", "MPO"):
        return _check_jpeg(data)
    return _check_png(data) if kind == "PNG" else ("", "")


def _check_jpeg(data: bytes) -> tuple[str, str]:
    """Walks from marker to marker, over the scans of the image proper; what follows its end is not looked at."""
    position, restarts = 2, False
    cut = "image-truncated", f"the JPEG has no end-of-image marker; {len(data)} bytes are there"
    while position + 2 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker not in _MARKERS:
            return "image-damaged", f"byte {position:,} of {len(data):,} is no JPEG marker"
        if marker == 0xD9:
            return "", ""
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        restarts |= marker == 0xDD
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker != 0xDA:
            continue
        following = _MARKER_IN_SCAN.search(data, position)
        if following is None:
            return cut
        if not restarts and (restart := _RESTART.search(data, position, following.start())):
            return "image-damaged", f"byte {restart.start():,} of {len(data):,} is a restart that was not announced"
        position = following.start()
    return cut


def _check_png(data: bytes) -> tuple[str, str]:
    """Walks through the chunks and compares their CRCs."""
    position, end = len(_PNG_MAGIC), len(data)
    while position + 12 <= end:
        (length,) = struct.unpack_from(">I", data, position)
        name, stop = data[position + 4 : position + 8], position + 12 + length
        if stop > end:
            break
        (crc,) = struct.unpack_from(">I", data, stop - 4)
        if zlib.crc32(memoryview(data)[position + 4 : stop - 4]) != crc:
            return "image-unreadable", f"the PNG's chunk {name.decode('latin-1')!r} is damaged (its CRC differs)"
        if name == b"IEND":
            return "", ""
        position = stop
    return "image-truncated", f"the PNG has no end; {end} bytes are there"


def _near_name(path: str) -> str:
    """Names a file that differs only in case or ending, the two usual reasons."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist"
    stem = os.path.splitext(name)[0].lower()
    for suffix in dict.fromkeys((os.path.splitext(name)[1], ".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")):
        for candidate in (name.lower(), name.upper(), os.path.splitext(name)[0] + suffix, stem + suffix):
            if candidate != name and os.path.isfile(os.path.join(folder, candidate)):
                return f"there is a {candidate}"
    return ""
