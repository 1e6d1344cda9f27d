"""How many classes a model tells apart: taken from its data set, unless the user has said so.

Projects extend the three tables when they are imported.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.data import MetadataCatalog
from densekit.data.registry import load_and_keep

__all__ = ["CLASS_COUNT_KEYS", "COUNT_COPIES", "STUFF_COUNT_KEYS", "count_keys", "get_key", "set_class_counts"]

# The key that says how many classes of things a system of this architecture tells apart.
CLASS_COUNT_KEYS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
}
# The key that says how many classes its label maps have.
STUFF_COUNT_KEYS = {
    "SemanticSegmentor": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "PanopticFPN": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
}
# Further keys that must repeat one of these counts -> which one, for a config; "" where the config does not read it.
COUNT_COPIES: dict[str, Callable[[CfgNode], str]] = {}

_KEYPOINTS = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"


def count_keys(cfg: CfgNode) -> dict[str, str]:
    """Returns which keys hold counts in this config -> the list in a data set's metadata that they count."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    keys = {}
    for table, names in ((CLASS_COUNT_KEYS, "thing_classes"), (STUFF_COUNT_KEYS, "stuff_classes")):
        if architecture in table:
            keys[table[architecture]] = names
    if cfg.MODEL.KEYPOINT_ON:
        keys[_KEYPOINTS] = "keypoint_names"
    for copy, original in COUNT_COPIES.items():
        if original(cfg) in keys:
            keys[copy] = keys[original(cfg)]
    return keys


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
        what = "keypoints" if key == _KEYPOINTS else "classes"
        notes.append(
            f"{key} is {len(classes)}, the {what} of data set {dataset_name!r} ({shortly(classes)}), not {before}."
        )
    return notes


def shortly(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
