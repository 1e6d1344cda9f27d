"""Cityscapes trees: which files of which frames are missing, and what the labels hold.

Frames are found from both sides, images and labels, so that a city that was not unpacked shows on either.
"""

import os
from collections.abc import Iterator

import numpy as np

from densekit.data.cityscapes import CLASSES, IMAGE_ENDING
from densekit.data.inspect.findings import Findings
from densekit.data.inspect.inspection import Inspection, Options, inspect_pictures
from densekit.data.inspect.label_maps import LabelMap, check_label_maps
from densekit.data.inspect.pictures import Picture
from densekit.data.labels import IGNORE
from densekit.files.cityscapes_files import labels_of

__all__ = ["inspect_cityscapes"]

_NEEDED = ("_labelIds.png", "_instanceIds.png")
_FURTHER = ("_polygons.json", "_color.png")
_LAST_LABEL = 33

_TRAIN_IDS = np.full(_LAST_LABEL + 1, IGNORE, dtype=np.int64)
_TRAIN_IDS[[label.id for label in CLASSES]] = [label.trainId for label in CLASSES]


def inspect_cityscapes(name: str, image_dir: str, gt_dir: str, options: Options) -> Inspection:
    """Inspects one split.

    Args:
        name: of the data set.
        image_dir: ``.../leftImg8bit/<split>``.
        gt_dir: ``.../gtFine/<split>`` or ``.../gtCoarse/<split>``.
        options: how to inspect.

    Raises:
        FileNotFoundError: A folder does not exist.
    """
    findings = Findings(name)
    for folder in (image_dir, gt_dir):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"Folder {folder} of data set {name!r} does not exist.")
    kind = os.path.basename(os.path.dirname(os.path.normpath(gt_dir)))
    images = dict(_files(image_dir, IMAGE_ENDING))
    labels = {
        ending: dict(_files(gt_dir, f"_{kind}{ending}")) for ending in (*_NEEDED, *_FURTHER, "_labelTrainIds.png")
    }
    if not images:
        findings.add("no-images", image_dir, f"no <city>/*{IMAGE_ENDING}")
    _check_frames(images, labels, findings)
    findings.images = len(images)
    facts, leaked = inspect_pictures([Picture(path, frame) for frame, path in images.items()], findings, options,
                                     sizes_are_claimed=False)  # fmt: skip
    maps = [
        LabelMap(labels[ending][frame], path, frame, numbers)
        for ending, numbers in (("_labelIds.png", _label_numbers), ("_instanceIds.png", _instance_numbers),
                                ("_labelTrainIds.png", _train_numbers))
        for frame, path in images.items()
        if frame in labels[ending]
    ]  # fmt: skip
    # Pixels are counted in one of the three, for they say the same.
    names = [label.name for label in CLASSES]
    counted = [entry for entry in maps if entry.values is _label_numbers]
    others = [entry for entry in maps if entry.values is not _label_numbers]
    check_label_maps(others, [], facts, findings, options.workers, options.progress)
    check_label_maps(counted, names, facts, findings, options.workers, options.progress)
    return Inspection(findings, facts=facts, leaked=leaked)


def _files(folder: str, ending: str) -> Iterator[tuple[str, str]]:
    """Goes through (frame, file) of the cities of a folder."""
    for city in sorted(os.listdir(folder)):
        place = os.path.join(folder, city)
        if city.startswith("."):
            continue
        for file in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            if file.endswith(ending) and not file.startswith("."):
                yield file.removesuffix(ending), os.path.join(place, file)


def _check_frames(images: dict[str, str], labels: dict[str, dict[str, str]], findings: Findings) -> None:
    for frame, path in images.items():
        for kind, endings in (("frame-incomplete", _NEEDED), ("frame-partial", _FURTHER)):
            missing = [ending for ending in endings if frame not in labels[ending]]
            if missing:
                findings.add(kind, frame, f"no {', '.join(missing)}", image=path, image_id=frame)
    # Where some frames have labelTrainIds, training takes those and the others mixed: all should have them.
    made = labels["_labelTrainIds.png"]
    for frame in sorted(images.keys() - made.keys()) if made else ():
        findings.add("frame-partial", frame, "no _labelTrainIds.png, which other frames have", image=images[frame])
    for frame in sorted({frame for ending in _NEEDED for frame in labels[ending]} - images.keys()):
        findings.add("frame-stray", frame)


def _label_numbers(values: np.ndarray) -> np.ndarray:
    return np.where((values >= 0) & (values <= _LAST_LABEL), _TRAIN_IDS[np.clip(values, 0, _LAST_LABEL)], -1)


def _instance_numbers(values: np.ndarray) -> np.ndarray:
    """No class is counted in these; instances are label id * 1000 + number."""
    labels = labels_of(values)
    return np.where((labels >= 0) & (labels <= _LAST_LABEL), IGNORE, -1)


def _train_numbers(values: np.ndarray) -> np.ndarray:
    return np.where(((values >= 0) & (values < len(CLASSES))) | (values == IGNORE), IGNORE, -1)
