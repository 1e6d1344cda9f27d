"""Data set wrappers: the names that densekit uses of ``detectron2.data.common``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.data.common import (
        AspectRatioGroupedDataset,
        DatasetFromList,
        MapDataset,
        ToIterableDataset,
    )
else:
    from detectron2.data.common import (
        AspectRatioGroupedDataset,
        DatasetFromList,
        MapDataset,
        ToIterableDataset,
    )

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]
