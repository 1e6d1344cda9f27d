"""Inputs that are not paths of this machine's pictures: lists of pictures, and URLs that fsspec opens.

A list is a text file with a path or URL on each line, or a Parquet file with a column ``path`` and, if pictures have
ids of their own, a column ``image_id``. Relative paths begin at the folder of the list.
"""

import io
import os
import posixpath
from collections.abc import Sequence
from typing import Any

from densekit.files.remote import file_system, is_url, read_url

LISTS = (".txt", ".parquet")

Entry = tuple[str, Any]  # path or URL, image id or None


def is_source(word: str) -> bool:
    """Tells whether a word of the command line is a URL or an existing list of pictures."""
    return is_url(word) or (word.lower().endswith(LISTS) and os.path.isfile(os.path.expanduser(word)))


def entries_of(word: str, suffixes: set[str]) -> list[Entry]:
    """Returns the pictures of a list or of a URL.

    Args:
        word: as :func:`is_source` takes it; a URL is a picture's, a folder's, a pattern's or a list's.
        suffixes: of the files that count in a folder.

    Raises:
        FileNotFoundError: It names nothing.
        ValueError: A list is empty or damaged, or has no column of paths.
    """
    if word.lower().endswith(LISTS):
        found = _listed(word)
        if not found:
            raise ValueError(f"--input {word}: the list is empty; give a path or URL on each line.")
        return found
    files, name = file_system(word)
    if files.isdir(name):
        names = sorted(one for one in files.find(name) if posixpath.splitext(one)[1].lower() in suffixes)
        lack = f"holds no file with one of the suffixes {' '.join(sorted(suffixes))}"
    else:
        names = sorted(files.glob(name)) if any(sign in name for sign in "*?[") else [name] * files.exists(name)
        lack = "names no file"
    if not names:
        raise FileNotFoundError(f"--input {word} {lack}.")
    return [(files.unstrip_protocol(one), None) for one in names]


def location(path: str) -> str:
    """Returns a path that stands for a file's place, so that URLs and paths get their names in the same way."""
    return os.path.normpath(os.sep + path.replace("://", "/")) if is_url(path) else os.path.abspath(path)


def _listed(word: str) -> list[Entry]:
    path = word if is_url(word) else os.path.abspath(os.path.expanduser(word))
    try:
        content = read_url(path) if is_url(path) else _read(path)
    except OSError as error:
        raise FileNotFoundError(f"--input {word} cannot be read: {error}") from error
    rows = _of_parquet(word, content) if path.lower().endswith(".parquet") else _of_text(word, content)
    folder = path.rpartition("/")[0] if is_url(path) else os.path.dirname(path)
    join = posixpath.join if is_url(folder) else os.path.join
    return [(name if is_url(name) else join(folder, name), image_id) for name, image_id in rows]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _of_text(word: str, content: bytes) -> list[Entry]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--input {word} is no list in UTF-8: {error}") from error
    return [(line.strip(), None) for line in lines if line.strip()]


def _of_parquet(word: str, content: bytes) -> list[Entry]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"--input {word}: pip install 'densekit[ray]' brings pyarrow, which reads Parquet.") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        columns: Sequence[str] = file.schema_arrow.names
        if "path" not in columns:
            raise ValueError(f"--input {word} has no column path; its columns are {', '.join(columns)}.")
        table = file.read([name for name in ("path", "image_id") if name in columns])
    except pyarrow.ArrowException as error:
        raise ValueError(f"--input {word} is no Parquet file that can be read: {error}") from error
    paths = table["path"].to_pylist()
    if None in paths:
        raise ValueError(f"--input {word}: row {paths.index(None)} has no path.")
    return list(zip(paths, table["image_id"].to_pylist() if "image_id" in columns else [None] * len(paths)))
