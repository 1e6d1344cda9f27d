"""Data sets without a file of COCO's: Pascal VOC, YOLO, LabelMe, and whatever registers Python dicts.

Their loaders read file by file and say what is wrong with each; the files that they refuse become findings, and what
they can read is inspected in COCO's form.
"""

import os
from collections import Counter
from typing import Any

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.ground_truth import dataset_to_coco
from densekit.data.inspect.findings import Findings, Histogram
from densekit.data.inspect.inspection import (
    Inspection,
    Options,
    check_class_count,
    inspect_coco_content,
    inspect_pictures,
)
from densekit.data.inspect.pictures import Picture
from densekit.data.regions import errors_collected

__all__ = ["inspect_records", "load_records"]

Records = list[dict[str, Any]]


def load_records(name: str, findings: Findings, kinds: dict[type[Exception], str] | None = None) -> Records:
    """Reads the records that can be read and records a finding for each file that the loader refuses.

    Args:
        name: a registered data set.
        findings: where to record.
        kinds: kind of finding by type of error, where it is neither ``file-refused``, for a file of many, nor
            ``loader-refuses``, for all of them.
    """
    with errors_collected() as errors:
        try:
            records: Records | None = list(DatasetCatalog.get(name))
        except (ValueError, OSError, KeyError) as error:
            errors.append(error)
            records = None
    for number, refused in enumerate(errors, start=1):
        ends = records is None and number == len(errors)
        usual = "loader-refuses" if ends else "file-refused"
        kind = next((kind for of, kind in (kinds or {}).items() if isinstance(refused, of)), usual)
        findings.add(kind, name, str(refused.args[0] if isinstance(refused, KeyError) else refused))
    return records or []


def inspect_records(name: str, options: Options) -> Inspection:
    """Inspects a data set through its records, in COCO's form; without objects, its images and their classes."""
    findings = Findings(name)
    records = load_records(name, findings)
    metadata = MetadataCatalog.get(name)
    if not records:
        return Inspection(findings)
    classes = metadata.get("thing_classes")
    of_images = "category_id" in records[0]
    if not classes or of_images:
        if of_images:
            _count_images(records, list(classes or ()), findings, options)
        findings.images = len(records)
        pictures = [Picture(r["file_name"], r.get("image_id"), _size(r)) for r in records]
        facts, leaked = inspect_pictures(pictures, findings, options)
        return Inspection(findings, facts=facts, leaked=leaked)
    content = dataset_to_coco(name, records)
    folder = metadata.get("image_root") or os.path.commonpath([os.path.dirname(r["file_name"]) for r in records])
    root = os.path.abspath(folder)
    for image in content["images"]:
        image["file_name"] = os.path.relpath(image["file_name"], root)
    return inspect_coco_content(content, name, root, findings, options)


def _count_images(records: Records, classes: list[str], findings: Findings, options: Options) -> None:
    """Counts the images of each class, where a class is a property of the whole image."""
    check_class_count(len(classes), findings, options)
    found = Counter(record["category_id"] for record in records)
    counts = {name: found[place] for place, name in enumerate(classes)}
    findings.histogram = Histogram("images", counts, counts)
    for name in (name for name, count in counts.items() if not count):
        findings.add("class-unused", f"class {name}")


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    return (record["width"], record["height"]) if "width" in record and "height" in record else None
