"""Numbers of classes of a model: taken from its data set, unless the user has set them.

A model's classes are counted in keys of its own; a rule, registered beside the model, says which keys of a config those
are and which list in the metadata of a data set each of them counts.
"""

from collections.abc import Collection, Sequence
from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.data import MetadataCatalog
from densekit.d2.utils.registry import Registry
from densekit.data.registry import load_and_keep

__all__ = ["CLASS_COUNTS", "KEYPOINTS", "STUFF", "THINGS", "count_keys", "get_key", "host_counts", "set_class_counts"]

# Rules, named after what they are for: a config -> {key: list in the metadata}, empty where they are not concerned.
CLASS_COUNTS = Registry("CLASS_COUNT")

# The lists in a data set's metadata that keys count.
THINGS, STUFF, KEYPOINTS = "thing_classes", "stuff_classes", "keypoint_names"


@CLASS_COUNTS.register()
def host_counts(cfg: CfgNode) -> dict[str, str]:
    """The keys of the host's models: objects, label maps, keypoints."""
    architecture, keys = cfg.MODEL.META_ARCHITECTURE, {}
    if architecture in ("GeneralizedRCNN", "PanopticFPN"):
        keys["MODEL.ROI_HEADS.NUM_CLASSES"] = THINGS
    if architecture in ("SemanticSegmentor", "ImageSizedSegmentor", "PanopticFPN"):
        keys["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = STUFF
    if architecture == "RetinaNet":
        keys["MODEL.RETINANET.NUM_CLASSES"] = THINGS
    if cfg.MODEL.KEYPOINT_ON:
        keys["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] = KEYPOINTS
    return keys


def count_keys(cfg: CfgNode) -> dict[str, str]:
    """Returns which keys hold counts in this config -> the list in a data set's metadata that they count."""
    return {key: names for _, rule in CLASS_COUNTS for key, names in rule(cfg).items()}


def get_key(cfg: CfgNode, key: str) -> Any:
    """Returns the value of ``MODEL.A.B``."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def set_class_counts(cfg: CfgNode, dataset_name: str, explicit: Collection[str]) -> list[str]:
    """Sets the keys that count classes and keypoints to what the data set has.

    Where its metadata does not say that yet, the data set is loaded, and kept for the loader that asks next.

    Args:
        cfg: The config, not frozen.
        dataset_name: A registered name.
        explicit: Keys that the user has set; they stay, and the check of the data set judges them.

    Returns:
        A line for the log for each key that was changed.
    """
    keys = {key: names for key, names in count_keys(cfg).items() if key not in explicit}
    metadata = MetadataCatalog.get(dataset_name)
    if any(metadata.get(names) is None for names in keys.values()):
        load_and_keep(dataset_name)
    notes = []
    for key, names in keys.items():
        classes, before = metadata.get(names), get_key(cfg, key)
        if classes is None or len(classes) == before:
            continue
        cfg.merge_from_list([key, len(classes)])
        what = "keypoints" if names == KEYPOINTS else "classes"
        notes.append(
            f"{key} is {len(classes)}, the {what} of data set {dataset_name!r} ({shortly(classes)}), not {before}."
        )
    return notes


def shortly(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
