"""Form ``cityscapes``: a tree of leftImg8bit with gtFine or gtCoarse."""

import os

from densekit.data.cityscapes import instance_entry, semantic_entry
from densekit.data.cityscapes_panoptic import cityscapes_panoptic_entries
from densekit.data.own.options import Form, Option, choice, folder, text
from densekit.data.registry import Entry

__all__ = ["CITYSCAPES"]

_TASKS = ("instance_seg", "sem_seg", "panoptic", "panoptic_separated")


def _entry(name: str, *, root: str, split: str, task: str, labels: str = "fine") -> Entry:
    kind = f"gt{labels.capitalize()}"
    images, gt = os.path.join(root, f"leftImg8bit/{split}/"), os.path.join(root, f"{kind}/{split}/")
    for path in (images, gt):
        if not os.path.isdir(path):
            raise FileNotFoundError(f"{path} does not exist; split is {split!r}, labels {labels!r}.")
    if task == "instance_seg":
        return instance_entry(name, images, gt)
    if task == "sem_seg":
        return semantic_entry(name, images, gt)
    if labels != "fine":
        raise ValueError(f"task {task} needs labels: fine.")
    standard, separated = cityscapes_panoptic_entries(name, root, (split,))
    return (standard if task == "panoptic" else separated)._replace(name=name)


CITYSCAPES = Form(
    "a Cityscapes tree",
    {
        "root": Option(folder, "folder that holds leftImg8bit and gtFine (or gtCoarse)"),
        "split": Option(text, "train, val, ...: the folder below these"),
        "task": Option(choice(*_TASKS), ", ".join(_TASKS)),
        "labels": Option(choice("fine", "coarse"), "fine (default) or coarse", required=False),
    },
    _entry,
)
