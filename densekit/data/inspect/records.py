"""Data sets without a file of COCO's: Pascal VOC, YOLO, LabelMe, and whatever registers Python dicts.

Their loaders read file by file and say what is wrong with each; the files that they refuse become findings, and what
they can read is inspected in COCO's form.
"""

import os
from typing import Any

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.ground_truth import dataset_to_coco
from densekit.data.inspect.findings import Findings
from densekit.data.inspect.pictures import Picture
from densekit.data.inspect.run import Inspection, Options, inspect_coco_content, inspect_pictures
from densekit.data.regions import errors_collected

__all__ = ["inspect_records", "load_records"]

Records = list[dict[str, Any]]


def load_records(name: str, findings: Findings, kinds: dict[type[Exception], str] | None = None) -> Records:
    """Reads the records that can be read and records a finding for each file that the loader refuses.

    Args:
        name: a registered data set.
        findings: where to record.
        kinds: kind of finding by type of error, where it is not ``loader-refuses``.
    """
    with errors_collected() as errors:
        try:
            records = list(DatasetCatalog.get(name))
        except (ValueError, OSError, KeyError) as error:
            errors.append(error)
            records = []
    for refused in errors:
        kind = next((kind for of, kind in (kinds or {}).items() if isinstance(refused, of)), "loader-refuses")
        findings.add(kind, name, str(refused.args[0] if isinstance(refused, KeyError) else refused))
    return records


def inspect_records(name: str, options: Options) -> Inspection:
    """Inspects a data set through its records, in COCO's form; without class names, its images alone."""
    findings = Findings(name)
    records = load_records(name, findings)
    metadata = MetadataCatalog.get(name)
    if not records:
        return Inspection(findings)
    if not metadata.get("thing_classes"):
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


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    return (record["width"], record["height"]) if "width" in record and "height" in record else None
