"""Pictures of labels for the data sets of :mod:`.semantic_sets` whose downloads hold none, or others than are wanted.

Whole files are left alone, so a run that was interrupted goes on where it stopped.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from densekit.data.labels import IGNORE, read_values
from densekit.data.prepared_pictures import make_pictures
from densekit.data.semantic_classes import PASCAL_CONTEXT_IDS
from densekit.files.atomic import atomic_write

__all__ = ["PREPARED"]

_CONTEXT_VALUES = 460  # of the files' 459 classes and 0


def ade20k(root: Path, workers: int, progress: bool) -> int:
    """Makes annotations_detectron2 from annotations: 0 is the first class and 255 none. Training does without."""
    made = 0
    for split in ("training", "validation"):
        source = _need(root / "ADEChallengeData2016" / "annotations" / split, "unpack ADEChallengeData2016.zip there")
        target = root / "ADEChallengeData2016" / "annotations_detectron2" / split
        pairs = [(path, target / path.name) for path in sorted(source.glob("*.png"))]
        made += make_pictures(pairs, _shifted, workers, f"ADE20K {split}" if progress else None)
    return made


def pascal_context(root: Path, workers: int, progress: bool) -> int:
    """Makes SegmentationClassContext from trainval/*.mat, 1 to 59 and 0 for the rest, and the lists of the splits."""
    tree = root / "VOC2010"
    source = _need(tree / "trainval", "unpack PASCAL-Context's trainval.tar.gz in VOC2010")
    files = sorted(source.glob("*.mat"))
    target = tree / "SegmentationClassContext"
    table = np.zeros(_CONTEXT_VALUES, np.uint8)
    table[PASCAL_CONTEXT_IDS] = np.arange(1, len(PASCAL_CONTEXT_IDS) + 1)

    def read(path: Path) -> np.ndarray:
        labels = _from_mat(path, "LabelMap")
        if labels.max(initial=0) >= _CONTEXT_VALUES:
            raise ValueError(f"{path} has the label {labels.max()}, and PASCAL-Context's end at {_CONTEXT_VALUES - 1}.")
        return table[labels]

    pairs = [(path, target / f"{path.stem}.png") for path in files]
    made = make_pictures(pairs, read, workers, "PASCAL-Context" if progress else None)
    annotated = {path.stem for path in files}
    for split in ("train", "val"):
        listed = _lines(_need(tree / "ImageSets" / "Main" / f"{split}.txt", "unpack VOC 2010 as in VOCdevkit"))
        _write_lines(tree / "ImageSets" / "SegmentationContext" / f"{split}.txt", [n for n in listed if n in annotated])
    return made


def voc_2012_aug(root: Path, workers: int, progress: bool) -> int:
    """Makes SegmentationClassAug and trainaug.txt: VOC's training set with that of SBD, less VOC's validation set."""
    tree, extra = root / "VOC2012", root / "sbd"
    source = _need(extra / "cls", "put the folder `dataset` of SBD's benchmark.tgz there as sbd")
    lists = _need(tree / "ImageSets" / "Segmentation", "unpack VOC 2012 as in VOCdevkit")
    own, held = _lines(lists / "train.txt"), set(_lines(lists / "val.txt"))
    listed = [name for split in ("train", "val") for name in _lines(_need(extra / f"{split}.txt", "it is SBD's list"))]
    added = sorted(set(listed) - set(own) - held)
    target = tree / "SegmentationClassAug"
    title = "SBD" if progress else None
    pairs = [(source / f"{name}.mat", target / f"{name}.png") for name in added]
    made = make_pictures(pairs, functools.partial(_from_mat, key="GTcls"), workers, title)
    pairs = [(tree / "SegmentationClass" / f"{name}.png", target / f"{name}.png") for name in own]
    made += make_pictures(pairs, lambda path: read_values(str(path)), workers, "VOC 2012" if progress else None)
    _write_lines(lists / "trainaug.txt", sorted([*own, *added]))
    return made


def coco_stuff_10k(root: Path, workers: int, progress: bool) -> int:
    """Makes annotations_png from annotations/*.mat: 0 is unlabelled, 1 to 182 are COCO-Stuff's numbers."""
    tree = root / "coco_stuff_10k"
    source = _need(tree / "annotations", "unpack cocostuff-10k-v1.1.zip in coco_stuff_10k")
    pairs = [(path, tree / "annotations_png" / f"{path.stem}.png") for path in sorted(source.glob("*.mat"))]
    return make_pictures(pairs, functools.partial(_from_mat, key="S"), workers, "COCO-Stuff 10k" if progress else None)


# Name for the command line -> what makes its files: called with the folder of all data sets, the number of threads and
# whether to show a progress bar; returns how many pictures it made.
PREPARED: dict[str, Callable[[Path, int, bool], int]] = {
    "ade20k": ade20k,
    "pascal_context": pascal_context,
    "voc_2012_aug": voc_2012_aug,
    "coco_stuff_10k": coco_stuff_10k,
}


def _shifted(path: Path) -> np.ndarray:
    labels = read_values(str(path)).astype(np.uint8)
    return np.where(labels == 0, IGNORE, labels - 1).astype(np.uint8)


def _from_mat(path: Path, key: str) -> np.ndarray:
    """Reads the labels of a file of MATLAB; SBD's lie in the field ``Segmentation`` of ``GTcls``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Unpack the download anew.")
    try:
        labels = np.asarray(loadmat(str(path))[key])
        if labels.dtype.names:
            labels = np.asarray(labels["Segmentation"].item())
    except Exception as error:  # scipy raises what it likes for damaged files
        raise ValueError(f"{path} holds no labels under {key!r} ({error}). Unpack the download anew.") from error
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: {key!r} is {labels.dtype} of shape {labels.shape}, and a label map is expected.")
    return labels if key == "LabelMap" else labels.astype(np.uint8)


def _need(path: Path, remedy: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {remedy}, or name the folder of the data sets with --root.")
    return path


def _lines(path: Path) -> list[str]:
    return _need(path, "unpack the download anew").read_text(encoding="utf-8").split()


def _write_lines(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write("".join(f"{name}\n" for name in names))
