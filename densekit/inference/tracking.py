"""Tracking by detection: one identity for the detections of an object through the frames of a video.

The trackers are those of the library ``trackers``, an optional extra: SORT (arXiv 1602.00763), ByteTrack (arXiv
2110.06864), OC-SORT (arXiv 2203.14360) and BoT-SORT (arXiv 2206.14651). Each class has a tracker of its own, so an
object never changes its class. A folder of pictures is taken for the frames of a video, in the order of the input.
"""

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from densekit.files.atomic import atomic_write
from densekit.inference.inputs import Picture
from densekit.inference.journal import JOINED, JoinedLines, Line
from densekit.inference.reading import PictureReader
from densekit.inference.video import frames_per_second
from densekit.ops.packages import MissingPackageError

TRACKERS = {
    "sort": "SORTTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
    "botsort": "BoTSORTTracker",
}
_SEES = ("botsort",)  # trackers that look at the frames, to know how the camera moves
_PACE = 25.0  # frames per second of a folder of pictures


def check_tracker(name: str) -> None:
    """Refuses a tracker that there is not, or that is not installed.

    Raises:
        ValueError: There is no such tracker.
        MissingPackageError: The library is missing.
    """
    if name not in TRACKERS:
        raise ValueError(f"--track {name}: the trackers are {', '.join(TRACKERS)}.")
    _library("trackers")


def track(folder: Path, pictures: Sequence[Picture], name: str) -> None:
    """Writes a ``track_id`` into the detections of ``predictions.jsonl``, from 1, other ones in each video.

    A detection without one belongs to no object that was seen often enough.

    Args:
        folder: of the output.
        pictures: of all lines.
        name: of the tracker.
    """
    lines = JoinedLines(folder / JOINED)
    with atomic_write(folder / JOINED, "wb") as file:
        for line in tqdm(_tracked(lines, pictures, name), desc="tracks", unit="frame", total=len(lines), disable=None):
            file.write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")


def _tracked(lines: JoinedLines, pictures: Sequence[Picture], name: str) -> Iterator[Line]:
    reader = PictureReader("BGR") if name in _SEES else None
    for (path, is_video), frames in groupby(lines, key=lambda line: _video(pictures[line["index"]])):
        tracks = Tracks(name, frames_per_second(path) if is_video else _PACE)
        for line in frames:
            frame = None if reader is None else reader.read(pictures[line["index"]])
            ids = tracks.next_frame(line["instances"], frame)
            found = [
                {key: value for key, value in result.items() if key != "track_id"} | ({"track_id": one} if one else {})
                for result, one in zip(line["instances"], ids)
            ]
            yield line | {"instances": found}


def _video(picture: Picture) -> tuple[str, bool]:
    """The video of a frame, or the folder of a picture, and whether it is a video."""
    is_video = picture.frame is not None
    return (picture.path if is_video else str(Path(picture.path).parent)), is_video


class Tracks:
    """The objects of one video.

    Args:
        name: of the tracker.
        pace: frames per second.
    """

    def __init__(self, name: str, pace: float) -> None:
        self._kind, self._pace = getattr(_library("trackers"), TRACKERS[name]), pace
        self._detections = _library("supervision").Detections
        self._trackers: dict[Any, Any] = {}  # by category
        self._ids: dict[tuple[Any, int], int] = {}  # category, the tracker's id -> id in the video

    def next_frame(self, results: Sequence[dict[str, Any]], frame: np.ndarray | None = None) -> list[int]:
        """Returns the object of each detection of a frame, 0 for none.

        Args:
            results: COCO's, with ``bbox`` (left, top, width, height), ``score`` and ``category_id``.
            frame: (H, W, 3) uint8 in BGR, for a tracker that looks at it.
        """
        ids = [0] * len(results)
        by_category: dict[Any, list[int]] = {category: [] for category in self._trackers}
        for place, result in enumerate(results):
            by_category.setdefault(result["category_id"], []).append(place)
        for category, places in by_category.items():  # also those without a detection now: their objects get older
            if category not in self._trackers:
                self._trackers[category] = self._kind(frame_rate=self._pace)
            found = self._trackers[category].update(
                self._given(results, places), **({} if frame is None else {"frame": frame})
            )
            if found.tracker_id is None:
                continue
            for place, own in zip(found.data.get("place", ()), found.tracker_id):
                if own >= 0:
                    ids[int(place)] = self._ids.setdefault((category, int(own)), len(self._ids) + 1)
        return ids

    def _given(self, results: Sequence[dict[str, Any]], places: Sequence[int]) -> Any:
        boxes = np.array([results[place]["bbox"] for place in places], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([results[place]["score"] for place in places], dtype=np.float64)
        numbers = np.array(places, dtype=np.int64)
        return self._detections(xyxy=boxes, confidence=scores, class_id=np.zeros_like(numbers), data={"place": numbers})


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"--track needs the library trackers: pip install 'densekit[tracking]' ({error})."
        ) from error
