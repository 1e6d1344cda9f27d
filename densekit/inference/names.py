"""Which classes a model knows: those of the data that it was trained on."""

import logging

from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.export.classes import Classes

logger = logging.getLogger(__name__)


def find_classes(cfg: CfgNode, dataset: str) -> Classes:
    """Returns the classes of the first data set of the configuration that is registered and names some.

    Args:
        cfg: the run's.
        dataset: name of the data set to predict on, or "".
    """
    things, labels = cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *([dataset] if dataset else [])]))
    for name in names:
        found = _classes_of(name)
        if found.things or found.labels:
            logger.info(f"The names and ids of the classes are those of the data set {name!r}")
            return found.or_numbers(things, labels)
    logger.warning(
        f"None of the data sets {', '.join(map(repr, names)) or '(none)'} of the configuration is registered here, so "
        "classes have numbers from 0 for names and ids. Register the training data with --datasets FILE."
    )
    return Classes().or_numbers(things, labels)


def _classes_of(name: str) -> Classes:
    """The classes of a registered data set; of many their file has to be read for it."""
    if name not in DatasetCatalog:
        return Classes()
    found = Classes.of(MetadataCatalog.get(name))
    if not found.things and not found.labels:
        try:
            DatasetCatalog.get(name)
        except FileNotFoundError as error:
            logger.warning(f"The classes of data set {name!r} are not known: {error}")
            return Classes()
        found = Classes.of(MetadataCatalog.get(name))
    return found
