"""Frames of videos by number, and videos from pictures, through OpenCV or, where it is installed, PyAV."""

import os
from collections.abc import Iterable
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# Browsers play the first (VP9); the last (MPEG-4) is in every OpenCV, and only players outside of browsers take it.
_CODECS = ("vp09", "mp4v")


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


def write_video(path: Path, pictures: Iterable[np.ndarray], pace: float) -> None:
    """Writes an MP4 file that browsers play, which takes its name when it is complete.

    PyAV (``pip install 'densekit[video]'``) writes frames of any size. OpenCV takes even sides only: without PyAV the
    last row or column of odd ones is repeated, so that nothing is lost.

    Args:
        path: the file.
        pictures: (H, W, 3) uint8 in RGB, all of one size.
        pace: frames per second.

    Raises:
        ValueError: There is no encoder.
    """
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    frames = iter(pictures)
    first = next(frames, None)
    if first is None:
        return
    write = _write_by_opencv if find_spec("av") is None else _write_by_pyav
    write(partial, chain([first], frames), pace, (first.shape[1], first.shape[0]))
    os.replace(partial, path)


def _write_by_pyav(path: Path, pictures: Iterable[np.ndarray], pace: float, size: tuple[int, int]) -> None:
    import av

    with av.open(os.fspath(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libvpx-vp9", rate=Fraction(pace).limit_denominator(1001))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "crf": "32",
            "b": "0",
            "cpu-used": "8",
            "deadline": "realtime",
        }  # small, and as fast as it gets
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def _write_by_opencv(path: Path, pictures: Iterable[np.ndarray], pace: float, size: tuple[int, int]) -> None:
    odd = [side % 2 for side in size]
    writer = _opencv_writer(path, pace, (size[0] + odd[0], size[1] + odd[1]))
    for picture in pictures:
        padded = cv2.copyMakeBorder(picture[..., ::-1], 0, odd[1], 0, odd[0], cv2.BORDER_REPLICATE)
        writer.write(padded)
    writer.release()


def _opencv_writer(path: Path, pace: float, size: tuple[int, int]) -> cv2.VideoWriter:
    """A writer with the first codec that this OpenCV has."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it has not is no news
    try:
        for codec in _CODECS:
            writer = cv2.VideoWriter(os.fspath(path), cv2.VideoWriter.fourcc(*codec), pace, size)
            if writer.isOpened():
                return writer
            writer.release()
    finally:
        cv2.utils.logging.setLogLevel(level)
    raise ValueError(f"This OpenCV cannot write the video {path}; ask for the format overlay of its frames.")
