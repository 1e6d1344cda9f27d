"""The zip file that the Cityscapes benchmark takes, made of the predictions that an evaluation has kept.

Everything is checked before the file is there: that every frame has its prediction, at the size of its image, and that
nothing is in it but what the benchmark knows.
"""

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from tqdm import tqdm

import densekit.data.builtin  # noqa: F401 - registers the standard names
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data.pictures import image_size
from densekit.evaluation.cityscapes.frames import frame_of, read_label_map, threaded
from densekit.evaluation.cityscapes.instance_scores import read_listing
from densekit.files.atomic import atomic_write, leads_out
from densekit.files.panoptic_png import read_panoptic_png

_NAMED_AT_MOST = 10


def find_predictions(run_folder: Path, kind: str | None = None) -> Path:
    """Finds the folder of predictions, named after its kind, in or below what the user calls a run.

    Args:
        run_folder: That folder itself, ``OUTPUT_DIR/inference/<data set>`` or ``OUTPUT_DIR``.
        kind: ``"semantic"``, ``"instances"`` or ``"panoptic"``; needed where there are several.

    Raises:
        ValueError: There is none, or more than one.
    """
    kinds = KINDS if kind is None else (kind,)
    patterns = [pattern for name in kinds for pattern in (name, f"*/{name}", f"inference*/*/{name}")]
    found = sorted({path for pattern in patterns for path in run_folder.glob(pattern) if path.is_dir()})
    if run_folder.name in kinds and run_folder.is_dir():
        found = [run_folder]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"{run_folder} has no folder {' or '.join(kinds)} with Cityscapes predictions. An evaluation on a data "
            "set in Cityscapes' form (train_net.py --eval-only) leaves them in OUTPUT_DIR/inference/<data set>."
        )
    raise ValueError(
        f"{run_folder} has several sets of predictions: {', '.join(map(str, found))}. Choose with --kind "
        f"({' or '.join(sorted({path.name for path in found}))}), or give one of these folders."
    )


def image_folder(folder: Path) -> Path:
    """The split's images of the data set that predictions are of, by the name of the folder around them.

    Raises:
        ValueError: There is no registered data set of that name, or it does not say where its images are.
    """
    name = folder.absolute().parent.name
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    images = metadata and (metadata.get("image_dir") or metadata.get("image_root"))
    if not images:
        raise ValueError(
            f"What frames {folder} must have is not known: '{name}' is not the name of a data set in Cityscapes' form. "
            "Add --images with the folder leftImg8bit/SPLIT."
        )
    return Path(images)


def list_images(image_dir: Path) -> dict[str, Path]:
    """The image of each frame of a split.

    Args:
        image_dir: Such as ``leftImg8bit/test``.

    Raises:
        ValueError: There are no images.
    """
    found = sorted(image_dir.glob("[!.]*/[!.]*_leftImg8bit.png"))
    images = {frame_of(path): path for path in found}
    if not images:
        raise ValueError(f"{image_dir} has no <city>/*_leftImg8bit.png; it has to be a split's folder of leftImg8bit.")
    return images


def write_submission(folder: Path, images: Mapping[str, Path], target: Path, *, progress: bool = False) -> int:
    """Checks the predictions of a split and packs them.

    Args:
        folder: From :func:`find_predictions`.
        images: The image of each frame that has to be there; other predictions stay out.
        target: The zip file; it is complete or not there.
        progress: Whether to show a progress bar.

    Returns:
        The number of packed files.

    Raises:
        ValueError: A frame has no prediction, or one that the benchmark cannot use.
    """
    kind = _KINDS[folder.name](folder)
    _refuse_missing(folder, [kind.expected(frame) for frame in images])
    checked = threaded(kind.check, images, images.values())
    files = list(kind.of_all_frames)
    for found in tqdm(checked, total=len(images), desc="checking", unit="frame", disable=not progress):
        files.extend(found)
    with (
        atomic_write(target, "wb") as stream,
        zipfile.ZipFile(stream, "w", compression=zipfile.ZIP_DEFLATED) as archive,
    ):
        for path in tqdm(files, desc="packing", unit="file", disable=not progress):
            # PNGs are compressed already.
            stored = zipfile.ZIP_STORED if path.suffix == ".png" else zipfile.ZIP_DEFLATED
            archive.write(path, path.relative_to(folder), compress_type=stored)
    return len(files)


class _Kind(ABC):
    """Predictions of one kind in a folder."""

    of_all_frames: Sequence[Path] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def expected(self, frame: str) -> Path:
        """The file that a frame must have."""

    @abstractmethod
    def check(self, frame: str, image: Path) -> list[Path]:
        """Returns the files of a frame; raises ValueError if the benchmark cannot use one."""


class _Semantic(_Kind):
    def expected(self, frame: str) -> Path:
        return self.folder / f"{frame}_pred.png"

    def check(self, frame: str, image: Path) -> list[Path]:
        path = self.expected(frame)
        unknown = sorted(_values(read_label_map(path), path, image) - id2label.keys())
        if unknown:
            raise ValueError(f"{path} has the values {unknown}, which are no label ids of Cityscapes.")
        return [path]


class _Instances(_Kind):
    def expected(self, frame: str) -> Path:
        return self.folder / f"{frame}_pred.txt"

    def check(self, frame: str, image: Path) -> list[Path]:
        listing = self.expected(frame)
        masks = [listed.file for listed in read_listing(listing)]
        for path in masks:
            values = _values(read_label_map(path), path, image)
            if not values <= {0, 255}:
                raise ValueError(f"{path} is a mask, but has other values than 0 and 255: {sorted(values)[:5]}.")
        return [listing, *masks]


class _Panoptic(_Kind):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        documents = [path for path in folder.glob("*.json") if path.with_suffix("").is_dir()]
        if len(documents) != 1:
            raise ValueError(
                f"{folder} has to hold one JSON file with the folder of its PNGs beside it, named alike, such as "
                "cityscapes_panoptic_test.json and cityscapes_panoptic_test."
            )
        self.document = documents[0]
        self.of_all_frames = documents
        annotations = json.loads(self.document.read_text(encoding="utf-8"))["annotations"]
        self.annotations = {annotation["image_id"]: annotation for annotation in annotations}

    def expected(self, frame: str) -> Path:
        if frame not in self.annotations:
            return Path(f"{self.document} (no annotation with the image_id '{frame}')")
        name = self.annotations[frame]["file_name"]
        if leads_out(name):
            raise ValueError(f"{self.document}: '{frame}' has the file name {name!r}, which leads out of its folder.")
        return self.document.with_suffix("") / name

    def check(self, frame: str, image: Path) -> list[Path]:
        path = self.expected(frame)
        segments = {segment["id"]: segment["category_id"] for segment in self.annotations[frame]["segments_info"]}
        if _values(read_panoptic_png(path), path, image) - {0} != segments.keys():
            raise ValueError(f"{path} does not have the segments that {self.document} lists for it.")
        unknown = sorted(key for key in segments.values() if key not in id2label or id2label[key].ignoreInEval)
        if unknown:
            raise ValueError(f"{self.document}: '{frame}' has the categories {unknown}, which are not evaluated.")
        return [path]


_KINDS: dict[str, Callable[[Path], _Kind]] = {"semantic": _Semantic, "instances": _Instances, "panoptic": _Panoptic}
KINDS = tuple(_KINDS)


def _values(array: np.ndarray, path: Path, image: Path) -> set[int]:
    """The values of a map, which has to have the size of its image."""
    height, width = image_size(str(image))
    if array.shape != (height, width):
        raise ValueError(
            f"{path} has {array.shape[1]} x {array.shape[0]} pixels, but its image {image} has {width} x {height}."
        )
    return set(np.unique(array).tolist())


def _refuse_missing(folder: Path, expected: Sequence[Path]) -> None:
    missing = [path for path in expected if not path.is_file()]
    if missing:
        named = "".join(f"\n  {path}" for path in missing[:_NAMED_AT_MOST])
        more = f"\n  and {len(missing) - _NAMED_AT_MOST} more" if len(missing) > _NAMED_AT_MOST else ""
        raise ValueError(f"{folder} lacks the predictions of {len(missing)} of {len(expected)} frames:{named}{more}")
