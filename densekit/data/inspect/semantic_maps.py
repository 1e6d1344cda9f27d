"""Data sets of images and label maps."""

import os
from typing import Any

from densekit.d2.data import MetadataCatalog
from densekit.data.inspect.findings import Findings
from densekit.data.inspect.images import image_files
from densekit.data.inspect.inspection import Inspection, Options, check_class_count, inspect_pictures
from densekit.data.inspect.label_maps import LabelMap, check_label_maps
from densekit.data.inspect.pictures import Picture
from densekit.data.inspect.records import load_records
from densekit.data.labels import IGNORE

__all__ = ["inspect_semantic"]


def inspect_semantic(name: str, options: Options) -> Inspection:
    """Inspects a data set whose records name label maps."""
    findings = Findings(name)
    records = load_records(name, findings, {FileNotFoundError: "label-missing"})
    metadata = MetadataCatalog.get(name)
    classes = list(metadata.get("stuff_classes") or ())
    check_class_count(len(classes), findings, options)
    findings.images = len(records)
    pictures = [Picture(record["file_name"], record.get("image_id")) for record in records]
    facts, leaked = inspect_pictures(pictures, findings, options, sizes_are_claimed=False)
    plain = {**{k: k for k in range(len(classes))}, IGNORE: IGNORE, metadata.get("ignore_label", IGNORE): IGNORE}
    maps = [_label_map(record, plain) for record in records if "sem_seg_file_name" in record]
    check_label_maps(maps, classes, facts, findings, options.workers, options.progress)
    root = metadata.get("sem_seg_root")
    used = {entry.path for entry in maps}
    if root is not None and any(path.startswith(os.path.join(root, "")) for path in used):  # else others are read
        for path in image_files(root):
            if path.lower().endswith(".png") and path not in used:
                findings.add("label-not-listed", path)
    return Inspection(findings, facts=facts, leaked=leaked)


def _label_map(record: dict[str, Any], plain: dict[int, int]) -> LabelMap:
    values = record.get("sem_seg_values") or plain
    return LabelMap(record["sem_seg_file_name"], record["file_name"], record.get("image_id"), values)
