"""Catalogues, mapper and loaders: the names that densekit uses of ``detectron2.data``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.data as host
else:
    import detectron2.data as host

DatasetCatalog = host.DatasetCatalog
DatasetFromList = host.DatasetFromList
DatasetMapper = host.DatasetMapper
MapDataset = host.MapDataset
Metadata = host.Metadata
MetadataCatalog = host.MetadataCatalog
build_batch_data_loader = host.build_batch_data_loader
build_detection_test_loader = host.build_detection_test_loader
build_detection_train_loader = host.build_detection_train_loader
get_detection_dataset_dicts = host.get_detection_dataset_dicts
