"""Catalogues, mapper and loaders: the names that densekit uses of ``detectron2.data``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.data import (
        DatasetCatalog,
        DatasetFromList,
        DatasetMapper,
        MapDataset,
        Metadata,
        MetadataCatalog,
        build_batch_data_loader,
        build_detection_test_loader,
        build_detection_train_loader,
        get_detection_dataset_dicts,
    )
else:
    from detectron2.data import (
        DatasetCatalog,
        DatasetFromList,
        DatasetMapper,
        MapDataset,
        Metadata,
        MetadataCatalog,
        build_batch_data_loader,
        build_detection_test_loader,
        build_detection_train_loader,
        get_detection_dataset_dicts,
    )

__all__ = [
    "DatasetCatalog",
    "DatasetFromList",
    "DatasetMapper",
    "MapDataset",
    "Metadata",
    "MetadataCatalog",
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
]
