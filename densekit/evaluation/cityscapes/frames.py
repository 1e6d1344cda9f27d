"""The files of a Cityscapes tree: which frames there are, and label maps in and out.

A frame is known by ``<city>_<sequence>_<frame>``, what the names of its image, labels and predictions have in common.
"""

import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import name2label

from densekit.data.pictures import image_size
from densekit.files.atomic import atomic_write

_TRUTH = re.compile(r"(?P<frame>.+)_gt(?:Fine|Coarse)_[A-Za-z]+\.png")
_MOST_THREADS = 16
_NAMED_AT_MOST = 3

_Out = TypeVar("_Out")


def frame_of(image_file: str | os.PathLike[str]) -> str:
    """The frame that an image shows: ``a_000001_000019`` for ``val/a/a_000001_000019_leftImg8bit.png``."""
    return Path(image_file).stem.removesuffix("_leftImg8bit")


def ground_truth(gt_dir: str | os.PathLike[str], kind: str) -> dict[str, Path]:
    """Finds the ground truth of a split.

    Args:
        gt_dir: The split's folder, such as ``gtFine/val``, which holds a folder per city.
        kind: ``"labelIds"`` or ``"instanceIds"``.

    Returns:
        The PNG of each frame, in the order of the frames; empty where a split has no annotations.

    Raises:
        ValueError: Two files are of the same frame.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(gt_dir).glob(f"*/*_{kind}.png")):
        match = _TRUTH.fullmatch(path.name)
        hidden = path.name.startswith(".") or path.parent.name.startswith(".")  # macOS' ._ files, notebooks' copies
        if match is None or hidden:
            continue
        frame = match["frame"]
        if frame in found:
            raise ValueError(
                f"{found[frame]} and {path} are both the ground truth of the frame '{frame}'; take one away."
            )
        found[frame] = path
    return dict(sorted(found.items()))


def read_label_map(path: Path) -> np.ndarray:
    """Reads a PNG of 8 or 16 bits with one channel.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        ValueError: The file is no such PNG.
    """
    if path.is_file():
        image_size(str(path))  # refuses what would fill the memory
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path} is missing or is not a complete PNG.")
    if image.ndim != 2:
        raise ValueError(f"{path} has {image.shape[2]} channels; a map of labels or a mask has one, with 8 or 16 bits.")
    return image


def distinct(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values of a map of 8 or 16 bits (any shape): values (K,), index of each pixel's value, pixels of each (K,).

    As ``numpy.unique``, without sorting the pixels.
    """
    counts = np.bincount(label_map.ravel())
    values = np.flatnonzero(counts)
    table = np.zeros(len(counts), dtype=np.intp)
    table[values] = np.arange(len(values))
    return values, table[label_map], counts[values]


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes an image (H, W) or (H, W, 3; blue, green, red); the file is complete or not there."""
    with atomic_write(path, "wb", durable=False) as file:
        file.write(cv2.imencode(".png", image)[1].tobytes())


def check_same_size(prediction: np.ndarray, truth: np.ndarray, prediction_file: Path, truth_file: Path) -> None:
    """Raises ValueError where a prediction does not have the size of its ground truth."""
    if prediction.shape[:2] != truth.shape[:2]:
        sizes = [f"{array.shape[1]} x {array.shape[0]} pixels" for array in (prediction, truth)]
        raise ValueError(
            f"{prediction_file} has {sizes[0]}, but {truth_file} has {sizes[1]}; predictions are made at the size of "
            "the ground truth."
        )


def refuse_missing(output: str, expected: Mapping[str, Path], seen: Container[str]) -> None:
    """Refuses to score a split of which frames have not been predicted.

    Args:
        output: What was to be predicted.
        expected: The file that each frame must have.
        seen: The frames that this evaluation has written, for a file may also be left of an earlier one.

    Raises:
        ValueError: Frames are missing; some are named, with the files that were expected.
    """
    missing = [frame for frame, file in expected.items() if frame not in seen or not file.is_file()]
    if missing:
        named = ", ".join(f"'{frame}' (expected: {expected[frame]})" for frame in missing[:_NAMED_AT_MOST])
        more = f" and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
        raise ValueError(
            f"{len(missing)} of {len(expected)} frames have no '{output}' prediction of this evaluation: {named}{more}."
            " The data set has to list every frame that has a ground truth, the model has to answer for each, and "
            "several machines have to write to one folder."
        )


def label_ids(class_names: Sequence[str], dataset_name: str) -> list[int]:
    """The label id of each class, by its name in Cityscapes' table.

    Raises:
        ValueError: A class is not in the table.
    """
    unknown = [name for name in class_names if name not in name2label]
    if unknown:
        raise ValueError(
            f"Classes of the data set '{dataset_name}' are not Cityscapes': {unknown}. Its label ids are found by name "
            "(cityscapesscripts.helpers.labels); other classes need another evaluator_type, such as 'sem_seg'."
        )
    return [name2label[name].id for name in class_names]


def threaded(function: Callable[..., _Out], *arguments: Iterable[Any]) -> Iterator[_Out]:
    """``map`` in threads, in order; PNGs and large arrays are worked on outside the interpreter's lock."""
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        yield from pool.map(function, *arguments)
