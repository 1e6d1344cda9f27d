"""The place of sharded predictions: a folder, or a URL that fsspec writes to."""

import os
import shutil
import uuid
from pathlib import Path

from densekit.files.atomic import atomic_write
from densekit.files.remote import file_system, is_url


class Store:
    """Files by their names below one place; each is there in full or not at all.

    Args:
        place: a folder, which may not exist yet, or a URL.

    Raises:
        ValueError: A URL of an unknown scheme.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/") if is_url(place) else place
        self.folder = None if is_url(place) else Path(place)
        if self.folder is None:
            self._files, root = file_system(place)
            self._root = root.rstrip("/")

    def names(self, folder: str) -> set[str]:
        """Returns the names of the files directly in a folder of it; there may be no such folder."""
        if self.folder is not None:
            path = self.folder / folder
            found = os.listdir(path) if path.is_dir() else []
        else:
            place = f"{self._root}/{folder}".rstrip("/")
            self._files.invalidate_cache()
            there = self._files.ls(place, detail=False) if self._is_there(place) else []
            found = [one.rstrip("/").rpartition("/")[2] for one in there]
        return {name for name in found if not name.startswith(".")}

    def read(self, name: str) -> bytes:
        """Returns a file's bytes.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        return self._files.cat_file(f"{self._root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, or replaces it.

        Raises:
            OSError: The place is full or cannot be written; an older file of that name is as it was.
        """
        if self.folder is not None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, "wb") as file:
                file.write(content)
            return
        folder, _, last = f"{self._root}/{name}".rpartition("/")
        partial = f"{folder}/.{last}.{uuid.uuid4().hex[:12]}.part"
        self._files.makedirs(folder, exist_ok=True)
        self._files.pipe_file(partial, content)
        self._files.mv(partial, f"{folder}/{last}")

    def remove(self, name: str) -> None:
        """Removes a file or a folder of files; there may be none."""
        if self.folder is not None:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif self._is_there(f"{self._root}/{name}"):
            self._files.rm(f"{self._root}/{name}", recursive=True)

    def _is_there(self, path: str) -> bool:
        return self._files.exists(path)
