"""Inputs of a prediction: images, folders, patterns, videos or a data set, as one ordered list of pictures."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.registry import check_registered
from densekit.files.remote import is_url
from densekit.inference.sources import entries_of, is_source, location
from densekit.inference.video import count_frames

IMAGE_SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}

_Entry = tuple[str, int | None, Any]  # path, frame, image id or None


@dataclass(frozen=True)
class Picture:
    """An image file or a frame of a video.

    Attributes:
        index: place in the order of the input, from 0.
        image_id: the data set's id; for files that are no data set ``index + 1``.
        path: the file to read, or a URL that fsspec opens.
        name: what the exports call it: its path below the folder that holds all of the input. A frame is a file of a
            folder named after the video, numbered from 1, which is how ``ffmpeg -i clip.mp4 clip/%06d.jpg`` unpacks it.
        stem: ``name`` without its suffix, for files made from it; no two pictures share one.
        frame: which frame of the video ``path``, from 0; None for an image file.
    """

    index: int
    image_id: Any
    path: str
    name: str
    stem: str
    frame: int | None = None


def name_among(words: Sequence[str]) -> str:
    """Returns the word of a command line that may be a data set's name, because it is alone and no file; else ""."""
    word = words[0] if len(words) == 1 else ""
    return "" if glob.has_magic(word) or is_source(word) or os.path.exists(os.path.expanduser(word)) else word


def pictures_of_words(words: Sequence[str], leave_out: str | Path) -> list[Picture]:
    """Collects what the words of a command line name: files, folders with all below them, patterns, lists and URLs.

    Args:
        words: paths, glob patterns, lists of pictures and URLs; files come in the order of the words, those of folders
            and patterns sorted, and once.
        leave_out: nothing below this folder is taken, so that pictures that a run has drawn are no input of the next.

    Raises:
        FileNotFoundError: A word names nothing, or a folder has neither images nor videos.
        ValueError: A video cannot be read.
    """
    unwanted = os.path.abspath(leave_out) + os.sep
    found: dict[str, Any] = {}  # path -> image id
    for word in words:
        if is_source(word):
            pairs = entries_of(word, IMAGE_SUFFIXES)
        else:
            pairs = [(os.path.abspath(path), None) for path in _expand(word)]
        for path, image_id in pairs:
            found.setdefault(path, image_id)
    files = {path: image_id for path, image_id in found.items() if not path.startswith(unwanted)}
    if not files:
        raise FileNotFoundError(f"--input {' '.join(words)}: what is there lies in the output folder {leave_out}.")
    entries: list[_Entry] = [
        (path, frame, image_id if frame is None else None)
        for path, image_id in files.items()
        for frame in _frames(path)
    ]
    whole = len(words) == 1 and (is_url(words[0]) or os.path.isdir(words[0]))
    return _named(entries, location(words[0]) if whole else "")


def pictures_of_dataset(name: str) -> list[Picture]:
    """The images of a registered data set under its image ids; annotations are not looked at.

    Raises:
        ValueError: The data set is not registered, or has no images.
    """
    check_registered(name, "Own data: --datasets FILE names the file that describes it.")
    records = DatasetCatalog.get(name)
    if not records:
        raise ValueError(f"Data set {name!r} has no images.")
    entries: list[_Entry] = [(os.path.abspath(r["file_name"]), None, r.get("image_id")) for r in records]
    root = MetadataCatalog.get(name).get("image_root")
    return _named(entries, os.path.abspath(root) if isinstance(root, str) else "")


def _expand(word: str) -> list[str]:
    path = os.path.expanduser(word)
    if os.path.isfile(path):
        return [path]
    folder = os.path.isdir(path)
    matches = glob.glob(os.path.join(glob.escape(path), "**") if folder else path, recursive=True)
    files = sorted(match for match in matches if os.path.isfile(match) and not os.path.basename(match).startswith("._"))
    if folder:
        files = [file for file in files if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if not files:
        raise FileNotFoundError(f"--input {word} {_nothing(path)}.")
    return files


def _nothing(path: str) -> str:
    if os.path.isdir(path):
        return f"holds no file with one of the suffixes {' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}"
    if glob.has_magic(path):
        return "matches no file"
    return (
        "does not exist and is the name of no data set; give images, videos, folders, patterns in quotes, or the name "
        "of a data set (own ones with --datasets FILE)"
    )


def _frames(path: str) -> Iterable[int | None]:
    return range(count_frames(path)) if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES else (None,)


def _named(entries: list[_Entry], root: str) -> list[Picture]:
    """Gives pictures their names below a folder; "" for the deepest that holds them all."""
    places = [location(path) for path, _, _ in entries]
    folders = {os.path.dirname(place) for place in places}
    if not root or os.path.commonpath([root, *folders]) != root:
        root = os.path.commonpath(folders)
    paths = [os.path.relpath(place, root).replace(os.sep, "/") for place in places]
    names = [path if e[1] is None else f"{_stem(path)}/{e[1] + 1:06d}.jpg" for path, e in zip(paths, entries)]
    clashes = {name for name, count in Counter(names).items() if count > 1}  # a clip beside the folder of its frames
    names = [
        n if e[1] is None or n not in clashes else f"{p}/{e[1] + 1:06d}.jpg" for n, p, e in zip(names, paths, entries)
    ]
    used = Counter(_stem(name) for name in names)
    return [
        Picture(
            index=index,
            image_id=index + 1 if image_id is None else image_id,
            path=path,
            name=name,
            stem=_stem(name) if used[_stem(name)] == 1 else name,
            frame=frame,
        )
        for index, ((path, frame, image_id), name) in enumerate(zip(entries, names))
    ]


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
