"""The text format of the MOT challenges: a file for each video, a line for each object in a frame."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any

from densekit.files.atomic import atomic_write
from densekit.formats.classes import Classes

FOLDER = "mot"


def write_tracks(folder: Path, lines: Iterable[dict[str, Any]], classes: Classes) -> None:
    """Writes ``mot/<video>.txt``: frame from 1, id, left, top, width, height, score, and -1 three times.

    A file of each class, ``mot/<video>.<class>.txt``, where the model has several: the format has no classes.

    Args:
        folder: the output's.
        lines: with the ``track_id`` of their objects; frames in their order.
        classes: of the model.
    """
    names, frames = dict(classes.objects()), dict[str, int]()
    with ExitStack() as stack:
        files: dict[Path, IO[str]] = {}
        for line in lines:
            video = PurePosixPath(line["stem"]).parent.as_posix()
            frames[video] = frames.get(video, 0) + 1
            for result in line["instances"]:
                if "track_id" not in result:
                    continue
                part = "" if len(names) == 1 else f".{_plain(names.get(result['category_id'], result['category_id']))}"
                path = folder / FOLDER / f"{'frames' if video == '.' else video}{part}.txt"
                if path not in files:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    files[path] = stack.enter_context(atomic_write(path))
                box = ",".join(f"{value:.2f}" for value in result["bbox"])
                files[path].write(f"{frames[video]},{result['track_id']},{box},{result['score']:.4f},-1,-1,-1\n")


def _plain(name: Any) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in str(name))
