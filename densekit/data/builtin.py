"""The standard data sets, by name, under the folder that DETECTRON2_DATASETS names (default ``datasets``).

Importing this module registers them; files are read when a data set is used.
"""

import os
from collections.abc import Iterator

from densekit.data.citypersons import citypersons_entries
from densekit.data.cityscapes import cityscapes_entries
from densekit.data.cityscapes_panoptic import cityscapes_panoptic_entries
from densekit.data.coco import register_coco_instances
from densekit.data.coco_meta import (
    coco_metadata,
    coco_panoptic_metadata,
    coco_person_metadata,
    coco_separated_metadata,
)
from densekit.data.panoptic import coco_panoptic_entries
from densekit.data.registry import Entry, register, take_over
from densekit.data.semantic_sets import semantic_set_entries
from densekit.data.streets import register_streets

__all__ = ["datasets_root", "register_builtin"]

# Split -> folder of images, ending of the annotation files' names.
_LABELLED = {
    "2014_train": ("train2014", "train2014"),
    "2014_val": ("val2014", "val2014"),
    "2014_minival": ("val2014", "minival2014"),
    "2014_valminusminival": ("val2014", "valminusminival2014"),
    "2017_train": ("train2017", "train2017"),
    "2017_val": ("val2017", "val2017"),
    "2017_val_100": ("val2017", "val2017_100"),
}
_PANOPTIC = {"2017_train": "train2017", "2017_val": "val2017", "2017_val_100": "val2017_100"}
_UNLABELLED = {"2017_test": "image_info_test2017", "2017_test-dev": "image_info_test-dev2017"}


def datasets_root() -> str:
    """Returns the folder that holds the data sets."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_builtin(root: str | None = None) -> None:
    """Registers COCO, Cityscapes, the sets of :mod:`.semantic_sets` and the generated street scenes.

    On the real Detectron2 these names exist; they keep their metadata and get the loader with densekit's checks.

    Args:
        root: Folder that holds the data sets; :func:`datasets_root` if None.
    """
    root = datasets_root() if root is None else root
    for split, (images, ending) in _LABELLED.items():
        _register_coco(root, f"coco_{split}", images, f"instances_{ending}")
        _register_coco(root, f"keypoints_coco_{split}", images, f"person_keypoints_{ending}")
    for split, stem in _UNLABELLED.items():
        _register_coco(root, f"coco_{split}", "test2017", stem)
    for entry in (*_coco_panoptic(root), *_cityscapes(os.path.join(root, "cityscapes")), *semantic_set_entries(root)):
        take_over(entry.name)
        register(entry)
    register_streets(root)


def _coco_panoptic(root: str) -> Iterator[Entry]:
    coco = os.path.join(root, "coco")
    for split, ending in _PANOPTIC.items():
        images, stem = _LABELLED[split]
        yield from coco_panoptic_entries(
            f"coco_{split}_panoptic",
            image_root=os.path.join(coco, images),
            panoptic_root=os.path.join(coco, f"panoptic_{ending}"),
            panoptic_json=os.path.join(coco, f"annotations/panoptic_{ending}.json"),
            sem_seg_root=os.path.join(coco, f"panoptic_stuff_{ending}"),
            instances_json=os.path.join(coco, f"annotations/instances_{stem}.json"),
            standard=coco_panoptic_metadata(),
            separated=coco_separated_metadata(),
        )


def _cityscapes(tree: str) -> Iterator[Entry]:
    yield from cityscapes_entries("cityscapes_fine", tree, "gtFine", ("train", "val", "test"))
    yield from cityscapes_entries("cityscapes_coarse", tree, "gtCoarse", ("train", "train_extra", "val"))
    yield from cityscapes_panoptic_entries("cityscapes_fine_panoptic", tree, ("train", "val", "test"))
    yield from citypersons_entries("cityscapes_persons", tree)


def _register_coco(root: str, name: str, images: str, annotations: str) -> None:
    take_over(name)
    metadata = coco_person_metadata() if name.startswith("keypoints_") else coco_metadata()
    register_coco_instances(
        name, metadata, os.path.join(root, f"coco/annotations/{annotations}.json"), os.path.join(root, f"coco/{images}")
    )


register_builtin()
