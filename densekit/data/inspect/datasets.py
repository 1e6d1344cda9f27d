"""Inspects registered data sets of any form, by what their metadata says about their files."""

import os

import densekit.data.builtin  # noqa: F401 - registers the standard names, which are looked up here
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.inspect.cityscapes_tree import inspect_cityscapes
from densekit.data.inspect.coco_file import read_entries, read_json
from densekit.data.inspect.findings import Findings
from densekit.data.inspect.images import image_files
from densekit.data.inspect.inspection import Inspection, Options, inspect_coco
from densekit.data.inspect.panoptic_segments import check_panoptic_file, inspect_panoptic
from densekit.data.inspect.pictures import read_pictures
from densekit.data.inspect.records import inspect_records
from densekit.data.inspect.semantic_maps import inspect_semantic
from densekit.data.registry import check_registered

__all__ = ["content_hashes", "inspect_dataset"]

_REMEDY = "Own data: --datasets FILE names it, or --coco JSON --images DIR need no name."


def inspect_dataset(name: str, options: Options) -> Inspection:
    """Inspects a registered data set.

    Raises:
        ValueError: There is no such data set.
        FileNotFoundError: Its annotation file or folder does not exist.
    """
    check_registered(name, _REMEDY)
    metadata = MetadataCatalog.get(name)
    images, json_file = metadata.get("image_root"), metadata.get("json_file")
    labels, panoptic = metadata.get("gt_dir"), metadata.get("panoptic_json")
    if labels is not None:
        inspection = inspect_cityscapes(name, metadata.get("image_dir") or images, labels, options)
        if panoptic is not None:
            _check_cityscapes_panoptic(panoptic, metadata.panoptic_root, inspection.findings, options)
        return inspection
    if panoptic is not None:
        return inspect_panoptic(panoptic, metadata.panoptic_root, images, name, options)
    if json_file is not None and images is not None:
        return inspect_coco(json_file, images, name, options)
    if metadata.get("evaluator_type") == "sem_seg":
        return inspect_semantic(name, options)
    return inspect_records(name, options)


def _check_cityscapes_panoptic(json_file: str, png_root: str, findings: Findings, options: Options) -> None:
    if os.path.isfile(json_file):
        check_panoptic_file(json_file, png_root, findings, options)
    else:
        findings.add("panoptic-not-made", json_file, "the panoptic file does not exist")


def content_hashes(other: str, images: str | None, workers: int) -> dict[bytes, str]:
    """Reads the files of another data set.

    Args:
        other: a registered name, a COCO JSON file, or a folder with images.
        images: the folder of the images of a COCO JSON.
        workers: threads that read files.

    Returns:
        Content hash -> file.

    Raises:
        ValueError: It is none of these.
    """
    facts = read_pictures(_files_of(other, images), decode=False, workers=workers, what=f"files of {other}")
    return {fact.digest: path for path, fact in facts.items() if fact.digest and fact.size}


def _files_of(other: str, images: str | None) -> list[str]:
    if os.path.isdir(other):
        return image_files(other)
    json_file, folder = other, images
    if not os.path.isfile(other):
        check_registered(other, _REMEDY)
        metadata = MetadataCatalog.get(other)
        if metadata.get("gt_dir") is not None:  # a Cityscapes tree, whose loaders outline every object
            return image_files(metadata.get("image_dir") or metadata.image_root)
        json_file, folder = metadata.get("panoptic_json") or metadata.get("json_file"), metadata.get("image_root")
        if json_file is None or folder is None:
            return [record["file_name"] for record in DatasetCatalog.get(other)]
    if folder is None:
        raise ValueError(f"--against {other} needs --images, the folder that its file names are relative to.")
    findings = Findings(other)
    entries = read_entries(json_file, read_json(json_file, findings), folder, findings)
    if entries is None:
        raise ValueError(f"--against {other}: {next(findings.items())[1][0].detail}.")
    return [entries.path(image) for image in entries.images.values()]
