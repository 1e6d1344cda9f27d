"""Resized training pictures that are kept: in the memory of a process, in a folder for all processes and later runs."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from densekit.files.atomic import atomic_write

_Kept = tuple[np.ndarray, tuple[int, int]]


class PictureCache:
    """Pixels of picture files, each with the (height, width) that its file has.

    The first pictures that fit stay in memory. A folder keeps every picture, without compression; a picture whose file
    has changed since is made again. A damaged file of the folder is replaced. Where nothing can be written, a warning
    says so once, and pictures are made each time.

    Args:
        memory_bytes: of pixels that this process keeps; 0: none.
        folder: made when it is needed; "": none. Any number of processes may share it.
    """

    def __init__(self, memory_bytes: int = 0, folder: str = "") -> None:
        self._left, self._folder = memory_bytes, folder
        self._memory: dict[str, _Kept] = {}

    def __len__(self) -> int:
        """Returns the number of pictures in memory."""
        return len(self._memory)

    def get(self, name: str, form: str, make: Callable[[], _Kept]) -> _Kept:
        """Returns what is kept of a file, or makes and keeps it.

        Args:
            name: of the picture file.
            form: names all that decides what is made of a file, as sizes and channel order; of a file always the same.
            make: returns pixels (H, W, C) uint8 and the (height, width) of the file.

        Raises:
            OSError, ValueError: those of ``make``.
        """
        if name in self._memory:
            return self._memory[name]
        found = self._from_folder(name, form, make) if self._folder else make()
        if found[0].nbytes <= self._left:
            self._memory[name] = found
            self._left -= found[0].nbytes
        return found

    def _from_folder(self, name: str, form: str, make: Callable[[], _Kept]) -> _Kept:
        try:
            state = os.stat(name)
        except OSError:  # of another machine, or missing: whoever reads it says so
            return make()
        stamp = f"{os.path.abspath(name)}\n{state.st_mtime_ns} {state.st_size}\n{form}"
        path = Path(self._folder) / f"{hashlib.sha256(stamp.encode(errors='surrogateescape')).hexdigest()[:32]}.npz"
        try:
            with np.load(path, allow_pickle=False) as kept:
                height, width = kept["size"].tolist()
                return kept["pixels"], (height, width)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # there is none yet, or half of one
        pixels, size = make()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, "wb", durable=False) as file:
                np.savez(file, pixels=pixels, size=np.array(size))
        except OSError as error:
            logging.getLogger(__name__).warning("Pictures are not kept in %s: %s", self._folder, error)
            self._folder = ""
        return pixels, size
