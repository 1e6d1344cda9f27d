"""Two views of the generated street scenes.

``streets_train_16``: the first sixteen, to see that a model can learn them by heart.
``streets_panoptic_standard_{train,val}``: things and stuff in one numbering, as DETR predicts them.
"""

import functools
from typing import Any

import densekit.data.builtin  # noqa: F401 - registers the scenes
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.panoptic import load_coco_panoptic
from densekit.data.registry import Entry, register
from densekit.streets.labels import STUFF, THINGS

_WHOLE, _PART, _COUNT = "streets_train", "streets_train_16", 16


def _first() -> list[dict[str, Any]]:
    return DatasetCatalog.get(_WHOLE)[:_COUNT]


def _register_part() -> None:
    whole = MetadataCatalog.get(_WHOLE)
    metadata = {"thing_classes": whole.thing_classes, "thing_colors": whole.thing_colors}
    # Without a json_file, evaluation takes the ground truth from the records, which are those of the sixteen alone.
    register(Entry(_PART, functools.partial(_first), {"evaluator_type": "coco", **metadata}))


def _register_standard(split: str) -> None:
    separated, name = MetadataCatalog.get(f"streets_panoptic_{split}"), f"streets_panoptic_standard_{split}"
    labels = [*THINGS, *STUFF]
    names, colours = [label.name for label in labels], [list(label.colour) for label in labels]
    kept = ("panoptic_json", "image_root", "panoptic_root", "json_file", "evaluator_type", "ignore_label")
    metadata = {key: separated.get(key) for key in kept} | {
        "thing_classes": names,
        "thing_colors": colours,
        "stuff_classes": names,
        "stuff_colors": colours,
        "thing_dataset_id_to_contiguous_id": {label.id: i for i, label in enumerate(THINGS)},
        "stuff_dataset_id_to_contiguous_id": {label.id: i for i, label in enumerate(STUFF, start=len(THINGS))},
    }
    files = (separated.panoptic_json, separated.image_root, separated.panoptic_root)
    register(Entry(name, functools.partial(load_coco_panoptic, *files, name), metadata))


_register_part()
for _split in ("train", "val"):
    _register_standard(_split)
