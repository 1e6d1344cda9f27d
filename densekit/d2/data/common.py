"""Data set wrappers: the names that densekit uses of ``detectron2.data.common``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.data.common as host
else:
    import detectron2.data.common as host

AspectRatioGroupedDataset = host.AspectRatioGroupedDataset
DatasetFromList = host.DatasetFromList
MapDataset = host.MapDataset
ToIterableDataset = host.ToIterableDataset
