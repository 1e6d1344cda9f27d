"""Outlines of instances, which take minutes for a whole Cityscapes, kept between starts.

They lie in the folder that ``DENSEKIT_CACHE`` names, by default ``~/.cache/densekit``, one file for each folder of
labels; an outline counts while its label file has the size and the time of change that it had.
"""

import gzip
import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from densekit.d2.structures import BoxMode
from densekit.files.atomic import atomic_write

__all__ = ["OutlineCache"]

_VERSION = 1  # of how outlines are made and kept
_VARIABLE = "DENSEKIT_CACHE"

logger = logging.getLogger(__name__)


class OutlineCache:
    """The outlines of a folder of labels.

    Args:
        labels: The folder.
    """

    def __init__(self, labels: str) -> None:
        root = Path(os.environ.get(_VARIABLE) or Path.home() / ".cache" / "densekit")
        name = hashlib.sha256(os.path.abspath(labels).encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self._path = root / f"outlines_{name}.json.gz"
        self._known: dict[str, Any] = {}
        self._changed = False
        with suppress(OSError, ValueError, EOFError, KeyError, TypeError):  # a damaged file is made anew
            with gzip.open(self._path, "rt", encoding="utf-8") as file:
                content = json.load(file)
            if content["version"] == _VERSION and isinstance(content["files"], dict):
                self._known = content["files"]

    def get(self, path: str) -> dict[str, Any] | None:
        """The record of a label file, None where it is not known or the file has changed."""
        entry = self._known.get(path)
        if entry is None or entry["stamp"] != _stamp(path):
            return None
        annotations = [{**region, "bbox_mode": BoxMode(region["bbox_mode"])} for region in entry["annotations"]]
        return {"height": entry["height"], "width": entry["width"], "annotations": annotations}

    def put(self, path: str, record: dict[str, Any]) -> None:
        """Keeps a record."""
        annotations = [{**region, "bbox_mode": int(region["bbox_mode"])} for region in record["annotations"]]
        size = {"height": int(record["height"]), "width": int(record["width"])}
        self._known[path] = {"stamp": _stamp(path), **size, "annotations": annotations}
        self._changed = True

    def save(self) -> None:
        """Writes what is new; where that is not possible, the next start outlines again."""
        if not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps({"version": _VERSION, "files": self._known}).encode()
            with atomic_write(self._path, "wb") as file:
                file.write(gzip.compress(content, compresslevel=1))
        except OSError as error:
            logger.info("The outlines are not kept for the next start (%s).", error)


def _stamp(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
