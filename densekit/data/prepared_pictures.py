"""Pictures of labels that are made once from a download, so that an interrupted run goes on where it stopped."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from densekit.files.atomic import atomic_write

__all__ = ["for_each", "is_complete", "make_pictures", "write_png"]

_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def is_complete(path: Path) -> bool:
    """Tells whether a PNG is whole; other tools leave only the beginning of one when they are stopped."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_PNG_END)))
        return file.read() == _PNG_END


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes a picture, BGR if it has colours; the file is whole or it is not there."""
    _, data = cv2.imencode(".png", picture)
    with atomic_write(path, "wb", durable=False) as file:
        file.write(data.tobytes())


def for_each(make: Callable[[Any], Any], items: Sequence[Any], workers: int, title: str | None) -> list[Any]:
    """Applies a function in threads: decoding and encoding pictures leaves the interpreter free.

    Args:
        make: The function.
        items: Its arguments.
        workers: Threads.
        title: Of the progress bar; None for none.
    """
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        return list(tqdm(pool.map(make, items), total=len(items), desc=title, unit="image", disable=title is None))
    finally:
        pool.shutdown(cancel_futures=True)


def make_pictures(
    pairs: Sequence[tuple[Path, Path]], read: Callable[[Path], np.ndarray], workers: int, title: str | None
) -> int:
    """Makes the PNGs that are not whole yet.

    Args:
        pairs: Source and PNG.
        read: Returns the (H, W) uint8 values of a source.
        workers: Threads.
        title: Of the progress bar; None for none.

    Returns:
        How many were made.
    """
    missing = [pair for pair in pairs if not is_complete(pair[1])]
    for folder in {path.parent for _, path in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    for_each(lambda pair: write_png(pair[1], read(pair[0])), missing, workers, title)
    return len(missing)
