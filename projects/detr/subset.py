"""``streets_train_16``: the first sixteen generated street scenes, to see that a model can learn them by heart."""

from typing import Any

import densekit.data.builtin  # noqa: F401 - registers the scenes
from densekit.d2.data import DatasetCatalog, MetadataCatalog

_WHOLE, _PART, _COUNT = "streets_train", "streets_train_16", 16


def _load() -> list[dict[str, Any]]:
    return DatasetCatalog.get(_WHOLE)[:_COUNT]


if _PART not in DatasetCatalog:
    _whole = MetadataCatalog.get(_WHOLE)
    DatasetCatalog.register(_PART, _load)
    # Without a json_file, evaluation takes the ground truth from the records, which are those of the sixteen alone.
    MetadataCatalog.get(_PART).set(
        evaluator_type="coco", thing_classes=_whole.thing_classes, thing_colors=_whole.thing_colors
    )
