"""Image files against what a data set says about them, each other and another data set."""

import os
from collections.abc import Iterable, Mapping, Sequence

from densekit.data.inspect.findings import Findings
from densekit.data.inspect.pictures import Picture, PictureFacts
from densekit.data.pictures import SUFFIXES

__all__ = ["check_images", "check_leakage", "image_files"]


def image_files(folder: str) -> list[str]:
    """Returns all image files below a folder, sorted.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"The folder {folder} does not exist.")
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )


def check_images(
    pictures: Sequence[Picture], facts: Mapping[str, PictureFacts], findings: Findings, sizes_are_claimed: bool = True
) -> None:
    """Checks each file, equal contents, and what else lies in the folders.

    Args:
        pictures: as the data set lists them.
        facts: what the files say.
        findings: where to record.
        sizes_are_claimed: whether an image without a size is a finding.
    """
    for picture in pictures:
        _check_image(picture, facts[picture.path], findings, sizes_are_claimed)
    _check_copies(pictures, facts, findings)
    listed = {os.path.normpath(picture.path) for picture in pictures}
    for folder in sorted({os.path.dirname(path) for path in listed}):
        if not os.path.isdir(folder):
            continue
        with os.scandir(folder) as files:
            names = sorted(
                entry.name for entry in files if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != "."
            )
        for name in names:
            path = os.path.join(folder, name)
            if path not in listed:
                findings.add("file-not-listed", path, image=path)


def _check_image(picture: Picture, facts: PictureFacts, findings: Findings, sizes_are_claimed: bool) -> None:
    where = picture.path if picture.image_id is None else f"image {picture.image_id} ({picture.path})"

    def add(kind: str, detail: str) -> None:
        findings.add(kind, where, detail, image=picture.path, image_id=picture.image_id)

    if facts.problem:
        add(facts.problem, facts.detail)
    if facts.size is None or facts.upright_size is None:
        return
    if facts.deep:
        add("image-depth", f"mode {facts.mode}")
    shown = f"the file is {facts.upright_size[0]} x {facts.upright_size[1]}"
    turned = facts.orientation != 1
    if picture.size is None:
        if sizes_are_claimed:
            add("image-size-absent", shown)
        elif turned:
            add("exif-ambiguous", f"EXIF orientation {facts.orientation}")
    elif tuple(picture.size) != facts.upright_size:
        stored = turned and tuple(picture.size) == facts.size
        detail = f"{shown}, the data set says {picture.size[0]} x {picture.size[1]} (width x height)"
        add("exif-contradicts" if stored else "image-size-differs", f"{detail}{_orientation(facts)}")
    elif turned and facts.size == facts.upright_size:
        add("exif-ambiguous", f"EXIF orientation {facts.orientation}")


def _orientation(facts: PictureFacts) -> str:
    return f", EXIF orientation {facts.orientation}" if facts.orientation != 1 else ""


def _check_copies(pictures: Iterable[Picture], facts: Mapping[str, PictureFacts], findings: Findings) -> None:
    first: dict[bytes, str] = {}
    for path, picture in {os.path.normpath(picture.path): picture for picture in pictures}.items():
        digest = facts[picture.path].digest
        if digest and facts[picture.path].size and first.setdefault(digest, path) != path:
            findings.add("content-twice", path, f"equals {first[digest]}", image=path, image_id=picture.image_id)


def check_leakage(
    pictures: Iterable[Picture], facts: Mapping[str, PictureFacts], others: Mapping[bytes, str], findings: Findings
) -> set[str]:
    """Finds files whose content another data set has too.

    Args:
        pictures: of the data set.
        facts: what the files say.
        others: content hash -> file of the other data set.
        findings: where to record.

    Returns:
        The files of this data set.
    """
    leaked = set()
    for picture in pictures:
        other = others.get(facts[picture.path].digest) if facts[picture.path].digest else None
        if other is not None:
            leaked.add(picture.path)
            detail = "the same file" if os.path.normpath(other) == os.path.normpath(picture.path) else f"equals {other}"
            findings.add("leakage", picture.path, detail, image=picture.path, image_id=picture.image_id)
    return leaked
