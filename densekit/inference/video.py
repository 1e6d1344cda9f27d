"""Frames of videos by number, and videos from pictures, through OpenCV."""

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np


def count_frames(path: str) -> int:
    """Counts the frames that can be read, by reading them: what containers say about their length is a guess.

    Raises:
        ValueError: There is none.
    """
    capture = cv2.VideoCapture(path)
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    if not count:
        raise ValueError(f"Video {path} cannot be read: is it complete, and does this OpenCV know its codec?")
    return count


# Browsers play the first (VP9); the last (MPEG-4) is in every OpenCV, and only players outside of browsers take it.
_CODECS = ("vp09", "mp4v")


class VideoReader:
    """Gives the frames of videos, cheaply where their numbers rise; jumps by seeking are not exact in all formats."""

    def __init__(self) -> None:
        self._path = ""
        self._next = 0
        self._capture: cv2.VideoCapture | None = None

    def read(self, path: str, frame: int) -> np.ndarray:
        """Returns frame number ``frame``, from 0, as (H, W, 3) uint8 in BGR.

        Raises:
            ValueError: It cannot be read.
        """
        if self._capture is None or path != self._path or frame < self._next:
            if self._capture is not None:
                self._capture.release()
            self._capture, self._path, self._next = cv2.VideoCapture(path), path, 0
        while self._next < frame and self._capture.grab():
            self._next += 1
        good, picture = self._capture.read() if self._next == frame else (False, None)
        if not good or picture is None:
            raise ValueError(f"frame {frame} of the video cannot be read")
        self._next += 1
        return picture


def frames_per_second(path: str) -> float:
    """The pace of a video; 25 where it does not say."""
    capture = cv2.VideoCapture(path)
    pace = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return pace if 0 < pace < 1000 else 25.0


def _open(path: Path, pace: float, size: tuple[int, int]) -> cv2.VideoWriter | None:
    """A writer with the first codec that this OpenCV has; None where it has none."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it has not is no news
    try:
        for codec in _CODECS:
            writer = cv2.VideoWriter(os.fspath(path), cv2.VideoWriter.fourcc(*codec), pace, size)
            if writer.isOpened():
                return writer
            writer.release()
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)


def write_video(path: Path, pictures: Iterable[np.ndarray], pace: float) -> None:
    """Writes an MP4 file, which takes its name when it is complete.

    Args:
        path: the file.
        pictures: (H, W, 3) uint8 in RGB, all of one size; an odd last row or column is cut off, as the codecs want.
        pace: frames per second.

    Raises:
        ValueError: OpenCV has no encoder.
    """
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    writer = None
    for picture in pictures:
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        if writer is None:
            writer = _open(partial, pace, (width, height))
            if writer is None:
                raise ValueError(
                    f"This OpenCV cannot write the video {path}; ask for the format overlay of its frames."
                )
        writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
    if writer is not None:
        writer.release()
        os.replace(partial, path)
