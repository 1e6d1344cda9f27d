"""Data sets by name, the mapper from records to tensors, and the loaders of training and inference."""

from densekit.runtime.data.build import (
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from densekit.runtime.data.catalog import DatasetCatalog, Metadata, MetadataCatalog
from densekit.runtime.data.common import DatasetFromList, MapDataset, ToIterableDataset
from densekit.runtime.data.dataset_mapper import DatasetMapper
