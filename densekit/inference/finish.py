"""From the lines of finished pictures to the formats: whole files by one process, files of pictures by all."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from densekit.d2.utils import comm
from densekit.formats.classes import Classes
from densekit.formats.drawing import draw_picture, write_overlay
from densekit.formats.formats import FORMATS
from densekit.inference.inputs import Picture
from densekit.inference.journal import JOINED, JoinedLines
from densekit.inference.reading import PictureReader
from densekit.inference.tracking import track
from densekit.inference.video import frames_per_second, write_video

logger = logging.getLogger(__name__)


class Joinable(Protocol):
    """Lines of finished pictures that become one file: a :class:`densekit.inference.journal.Journal`, or shards."""

    def join(self) -> Path:
        """Makes ``predictions.jsonl``."""


@dataclass
class Output:
    """An output folder whose pictures are all predicted.

    Attributes:
        folder: it.
        pictures: the whole input.
        classes: of the model.
        formats: to write.
        tracker: name of the one that follows objects through frames; "" for none.
    """

    folder: Path
    pictures: Sequence[Picture]
    classes: Classes
    formats: Sequence[str]
    tracker: str = ""

    def write(self, journal: Joinable, num_workers: int) -> None:
        """Joins the journal and writes the formats; called in all processes.

        Args:
            journal: with the lines of all pictures.
            num_workers: helping processes of this one.
        """
        if comm.is_main_process():
            journal.join()
            if self.tracker:
                track(self.folder, self.pictures, self.tracker)
        comm.synchronize()
        lines = JoinedLines(self.folder / JOINED)
        if comm.is_main_process():
            for name in self.formats:
                if (whole := FORMATS[name].whole) is not None:
                    whole(self.folder, lines, self.classes)
        self._write_each(lines, num_workers)
        if "overlay" in self.formats:
            self._write_videos(lines)
        comm.synchronize()

    def _write_each(self, lines: JoinedLines, num_workers: int) -> None:
        """Writes this process's share of the files of single pictures."""
        jobs = _EachPicture(self, lines)
        mine = range(comm.get_rank(), len(jobs), comm.get_world_size())
        if (not jobs.writers and not jobs.draws) or not mine:
            return
        loader = DataLoader(jobs, batch_size=1, sampler=mine, num_workers=num_workers)
        for _ in tqdm(loader, desc=", ".join(jobs.names), unit="image", disable=None):
            pass

    def _write_videos(self, lines: JoinedLines) -> None:
        """Draws this process's share of the videos."""
        frames = [k for k in range(len(lines)) if self.pictures[lines[k]["index"]].frame is not None]
        videos = [list(those) for _, those in groupby(frames, key=lambda k: self.pictures[lines[k]["index"]].path)]
        for numbers in videos[comm.get_rank() :: comm.get_world_size()]:
            first = self.pictures[lines[numbers[0]]["index"]]
            path = self.folder / "overlay" / f"{Path(first.name).parent.as_posix()}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, self._drawn(lines, numbers), frames_per_second(first.path))
            logger.info(f"Drew {path}")

    def _drawn(self, lines: JoinedLines, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        reader = PictureReader("RGB")
        for number in tqdm(numbers, desc="video", unit="frame", disable=None):
            line = lines[number]
            pixels = reader.read(self.pictures[line["index"]])
            yield draw_picture(pixels, line, self.folder, self.classes, keep_size=True)


class _EachPicture(Dataset):
    """A data set whose items are written, not read: a loader's processes share the work."""

    def __init__(self, output: Output, lines: JoinedLines) -> None:
        self._output, self._lines, self._reader = output, lines, PictureReader("RGB")
        self.writers = [w for name in output.formats if (w := FORMATS[name].each) is not None]
        self.draws = "overlay" in output.formats
        self.names = [name for name in output.formats if name == "overlay" or FORMATS[name].each is not None]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> int:
        line, output = self._lines[number], self._output
        picture = output.pictures[line["index"]]
        for write in self.writers:
            write(output.folder, line, picture.path, output.classes)
        if self.draws and picture.frame is None:
            write_overlay(output.folder, line, self._reader.read(picture), output.classes)
        return number
