"""Inspects a data set: which files to look at, and in which order.

Annotations come from the raw files, since the loaders refuse what is to be found here; every image file is read once,
in threads.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from densekit.data.inspect.coco_file import Entries, read_entries, read_json
from densekit.data.inspect.findings import Findings
from densekit.data.inspect.images import check_images, check_leakage
from densekit.data.inspect.objects import check_objects, image_size, without_wrong_sizes
from densekit.data.inspect.pictures import Picture, PictureFacts, read_pictures

__all__ = ["Inspection", "Options", "inspect_coco"]


@dataclass(frozen=True)
class Options:
    """Options of an inspection.

    Attributes:
        num_classes: the model's number of classes, None to compare with nothing.
        others: content hash -> file of another data set, for leakage.
        decode: decode every image in full.
        workers: threads that read files.
        progress: show progress bars on a terminal.
    """

    num_classes: int | None = None
    others: Mapping[bytes, str] = field(default_factory=dict)
    decode: bool = False
    workers: int = os.cpu_count() or 1
    progress: bool = True


@dataclass
class Inspection:
    """Result of an inspection, with all that a correction needs.

    Attributes:
        findings: what was found.
        content: of the COCO file, None where the data set has none or it cannot be read.
        paths: image id -> file.
        facts: file -> what it says about itself.
        leaked: files that another data set has too.
    """

    findings: Findings
    content: Any = None
    paths: Mapping[Any, str] = field(default_factory=dict)
    facts: Mapping[str, PictureFacts] = field(default_factory=dict)
    leaked: set[str] = field(default_factory=set)


def inspect_coco(json_file: str, image_root: str, name: str, options: Options) -> Inspection:
    """Inspects a COCO file of instances or keypoints and its images.

    Raises:
        FileNotFoundError: There is no such file.
    """
    findings = Findings(name)
    content = read_json(json_file, findings)
    return inspect_coco_content(content, json_file, image_root, findings, options)


def inspect_coco_content(
    content: Any, source: str, image_root: str, findings: Findings, options: Options
) -> Inspection:
    """Inspects what a COCO file holds, or what was converted to that form.

    Args:
        content: the file's content, None where it could not be read.
        source: the file, for messages.
        image_root: that its file names are relative to.
        findings: where to record.
        options: how to inspect.
    """
    entries = None if content is None else read_entries(source, content, image_root, findings)
    if entries is None:
        return Inspection(findings)
    check_class_count(len(entries.categories), findings, options)
    pictures = listed_pictures(entries)
    facts, leaked = inspect_pictures(pictures, findings, options)
    sizes = {picture.image_id: facts[picture.path].upright_size for picture in pictures}
    check_objects(replace(entries, images=without_wrong_sizes(entries.images, sizes)), findings)
    paths = {picture.image_id: picture.path for picture in pictures}
    return Inspection(findings, content, paths, facts, leaked)


def listed_pictures(entries: Entries) -> list[Picture]:
    """Returns the images of a COCO file, with the sizes that it claims."""
    sizes = ((image, image_size(image)) for image in entries.images.values())
    return [
        Picture(entries.path(image), image["id"], (int(size[0]), int(size[1])) if size else None)
        for image, size in sizes
    ]


def inspect_pictures(
    pictures: list[Picture], findings: Findings, options: Options, *, sizes_are_claimed: bool = True
) -> tuple[dict[str, PictureFacts], set[str]]:
    """Reads and checks the image files of any data set; returns what they say and which of them leak.

    Args:
        pictures: the images.
        findings: where to record.
        options: how to inspect.
        sizes_are_claimed: whether the data set has to say sizes; label maps are compared with the files instead.
    """
    facts = read_pictures(
        (picture.path for picture in pictures),
        decode=options.decode, workers=options.workers, progress=options.progress,
    )  # fmt: skip
    check_images(pictures, facts, findings, sizes_are_claimed)
    return facts, check_leakage(pictures, facts, options.others, findings)


def check_class_count(count: int, findings: Findings, options: Options) -> None:
    """Compares the number of classes with the model's."""
    if options.num_classes is not None and options.num_classes != count:
        findings.add("num-classes", "class list", f"{count} classes, NUM_CLASSES {options.num_classes}")
