"""Names of a model's classes: those of the data that it was trained on."""

import json
import logging
from pathlib import Path

from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.class_counts import count_keys, get_key
from densekit.data.identity import FILE
from densekit.deploy.exported import load_exported
from densekit.formats.classes import Classes

logger = logging.getLogger(__name__)


def find_classes(cfg: CfgNode, dataset: str) -> Classes:
    """Returns the classes that the training wrote beside the weights, else those of a data set of the configuration.

    An exported file has them inside.

    Args:
        cfg: the run's.
        dataset: name of the data set to predict on, or "".

    Raises:
        ValueError: What the training wrote is damaged, or belongs to other weights.
    """
    if cfg.MODEL.EXPORTED:
        about = load_exported(cfg.MODEL.EXPORTED).about
        things, labels = ([(one["id"], one["name"]) for one in about[kind]] for kind in ("classes", "labels"))
        return Classes(things=things, labels=labels)
    counts = _counts(cfg)
    path = Path(cfg.MODEL.WEIGHTS).parent / FILE
    if path.is_file():
        found = _written(path)
        if not _fits(found, counts):
            raise ValueError(f"{path} does not have as many classes as the configuration; is it of other weights?")
        logger.info(f"The names and ids of the classes are those in {path}")
        return found.or_numbers(*counts)
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *([dataset] if dataset else [])]))
    for name in names:
        found = _classes_of(name)
        if (found.things or found.labels) and _fits(found, counts):
            logger.info(f"The names and ids of the classes are those of the data set {name!r}")
            return found.or_numbers(*counts)
    logger.warning(
        f"There is no {FILE} beside the weights, and none of the data sets {', '.join(map(repr, names)) or '(none)'} "
        "of the configuration is known here with as many classes: they have numbers from 0 for names and ids. Register "
        "the training data with --datasets FILE."
    )
    return Classes().or_numbers(*counts)


def _counts(cfg: CfgNode) -> tuple[int, int]:
    """Counts the classes of objects and of pixels that the model tells apart."""
    counts = {kind: get_key(cfg, key) for key, kind in count_keys(cfg).items()}
    return counts.get("thing_classes", 0), counts.get("stuff_classes", 0)


def _fits(classes: Classes, counts: tuple[int, int]) -> bool:
    """Tells whether the lists have the model's numbers of classes; an architecture that says none takes any."""
    lists = (classes.things, classes.labels)
    return all(not names or not count or len(names) == count for names, count in zip(lists, counts))


def _written(path: Path) -> Classes:
    """The classes of a file; where its data set is known here, with the colours too."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Classes.of_description(content)
        name = content["dataset"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it to take the classes of a data set.") from error
    here = Classes.of(MetadataCatalog.get(name)) if name in DatasetCatalog else found
    return here if here.names() == found.names() else found


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
