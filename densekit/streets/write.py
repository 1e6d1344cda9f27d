"""Writes the data set: the same scenes in every format, in parallel, and all or nothing."""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from densekit.files.cityscapes_files import (
    panoptic_colours,
    panoptic_document,
    panoptic_folder,
    panoptic_png_name,
    panoptic_records,
)
from densekit.files.panoptic_png import id2rgb
from densekit.streets import cityscapes_files, coco_files, panoptic_files
from densekit.streets.coarse import coarse_document, coarse_ids, coarse_outlines
from densekit.streets.coco_files import Json
from densekit.streets.render import Picture, make_picture

MARKER = "streets.json"
SPLITS = ("train", "val")
LEAST_SIDE = 32
_VERSION = 2  # raise it whenever the same parameters give other files

_FINE, _COARSE = "gtFine", "gtCoarse"


@dataclass(frozen=True)
class Parameters:
    """Parameters that determine the data set, down to the bytes."""

    train: int
    val: int
    width: int
    height: int
    seed: int
    version: int = _VERSION

    def check(self) -> None:
        """Raises ValueError if no such data set can be made."""
        for name in SPLITS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least one picture is needed in each split")
        for name in ("width", "height"):
            if getattr(self, name) < LEAST_SIDE:
                raise ValueError(f"{name}={getattr(self, name)}: pictures need at least {LEAST_SIDE} pixels a side")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: seeds are not negative")


class _Result(NamedTuple):
    """Entries of one picture in the written JSON files.

    Attributes:
        image: its record.
        instances: its objects.
        persons: its persons with keypoints.
        segments: its panoptic annotation.
        frame: its record and panoptic annotation in the Cityscapes tree.
    """

    image: Json
    instances: list[Json]
    persons: list[Json]
    segments: Json
    frame: tuple[Json, Json]


@dataclass(frozen=True)
class _Job:
    """One picture to be written below ``folder``."""

    folder: Path
    parameters: Parameters
    split: int
    index: int

    @property
    def image_id(self) -> int:
        """Counted from 1 through train and then val, so that ids differ between the splits."""
        return self.index + 1 + (self.parameters.train if self.split else 0)


def write_streets(
    root: str | os.PathLike[str],
    *,
    train: int = 200,
    val: int = 50,
    width: int = 512,
    height: int = 256,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Makes the data set in the folder ``root``; returns at once if it is already there.

    The files are written to a hidden folder beside ``root`` that takes its name when all are complete, so ``root``
    holds the whole data set or does not exist.

    Args:
        root: where it goes, usually ``$DETECTRON2_DATASETS/streets``.
        train: number of training pictures.
        val: number of validation pictures.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        seed: another seed gives other scenes; the same seed gives the same bytes.
        workers: processes; None takes all the cores that this process may use. The files do not depend on it.
        overwrite: replace a data set that was made with other parameters.
        progress: show a progress bar on the terminal.

    Returns:
        The folder.

    Raises:
        ValueError: a parameter is out of range.
        FileExistsError: the folder holds other files, or a data set of other parameters.
    """
    wanted = Parameters(train, val, width, height, seed)
    wanted.check()
    root = Path(root).resolve()
    if _is_there(root, wanted, overwrite):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _stage(root) as stage:
        jobs = [_Job(stage, wanted, split, i) for split in range(2) for i in range((train, val)[split])]
        _make_folders(stage, wanted)
        with _mapper(min(workers or _cores(), len(jobs))) as mapper:
            results = list(tqdm(mapper(_write_one, jobs), total=len(jobs), unit="image", disable=not progress))
        _write_documents(stage, jobs, results)
        _write_json(stage / MARKER, asdict(wanted))
        _swap(stage, root)
    return root


def _is_there(root: Path, wanted: Parameters, overwrite: bool) -> bool:
    """Tells whether the data set exists; raises FileExistsError if something else does that may not be replaced."""
    marker = root / MARKER
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not marker.is_file():
        raise FileExistsError(f"{root} exists but is not a street data set (no {MARKER}): choose another folder")
    found = json.loads(marker.read_text())
    if found == asdict(wanted):
        return True
    if not overwrite:
        raise FileExistsError(
            f"{root} holds a street data set made with {_words(found)}, not {_words(asdict(wanted))}: "
            "choose another folder, or replace it with overwrite=True (--overwrite)"
        )
    return False


def _words(parameters: Json) -> str:
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _stage(root: Path) -> Iterator[Path]:
    """A folder beside ``root`` that is gone afterwards, whatever happens."""
    stage = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        stage.chmod(0o755)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _swap(stage: Path, root: Path) -> None:
    """Gives the finished folder its name; a data set that was there goes with the stage."""
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.old.", dir=root.parent) as old:
        before = Path(old) / root.name
        if root.exists():
            os.replace(root, before)
        try:
            os.replace(stage, root)
        except OSError:
            if before.exists():
                os.replace(before, root)
            raise


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[[Callable[[_Job], _Result], list[_Job]], Iterable[_Result]]]:
    """An ordered ``map`` over so many processes."""
    if workers <= 1:
        yield map
        return
    # A forked worker starts at once and needs no importable main module; elsewhere fork is not safe or not there.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # before the fork: a child that has inherited OpenCV's threads by name only waits for them
    try:
        with context.Pool(workers) as pool:
            yield lambda function, items: pool.imap(function, items, chunksize=2)
    finally:
        cv2.setNumThreads(threads)


def _make_folders(stage: Path, wanted: Parameters) -> None:
    (stage / "annotations").mkdir()
    for split, name in enumerate(SPLITS):
        (stage / name).mkdir()
        (stage / "annotations" / f"panoptic_{name}").mkdir()
        count = getattr(wanted, name)
        for city in {cityscapes_files.stem(split, i, count)[0] for i in range(count)}:
            for kind in ("leftImg8bit", _FINE, _COARSE):
                (stage / "cityscapes" / kind / name / city).mkdir(parents=True)
        panoptic_folder(stage / "cityscapes" / _FINE, name).mkdir()


def _write_one(job: _Job) -> _Result:
    """Paints and writes one picture."""
    wanted, split = job.parameters, SPLITS[job.split]
    picture = make_picture(wanted.seed, job.split, job.index, wanted.width, wanted.height)
    name = f"{job.image_id:06d}.png"
    _write_png(job.folder / split / name, picture.image)
    ids = panoptic_files.segment_ids(picture)
    _write_png(job.folder / "annotations" / f"panoptic_{split}" / name, id2rgb(ids)[..., ::-1])  # BGR
    frame = _write_cityscapes(job, picture, ids, job.folder / split / name)
    instances, persons = coco_files.annotate(picture, job.image_id)
    record = coco_files.image_record(job.image_id, name, picture)
    return _Result(record, instances, persons, panoptic_files.annotate(picture, ids, job.image_id, name), frame)


def _write_cityscapes(job: _Job, picture: Picture, ids: np.ndarray, image: Path) -> tuple[Json, Json]:
    """Writes a frame of the tree; returns its entries in the panoptic document."""
    split, tree = SPLITS[job.split], job.folder / "cityscapes"
    city, stem = cityscapes_files.stem(job.split, job.index, getattr(job.parameters, split))
    left = tree / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    try:
        os.link(image, left)
    except OSError:  # a file system without links
        shutil.copyfile(image, left)
    fine = tree / _FINE / split / city / f"{stem}_{_FINE}"
    instances = _write_labels(fine, ids, cityscapes_files.polygon_document(picture))
    outlines = coarse_outlines(ids)
    coarse = tree / _COARSE / split / city / f"{stem}_{_COARSE}"
    _write_labels(coarse, coarse_ids(outlines, ids.shape), coarse_document(outlines, ids.shape))
    frame = panoptic_records(instances, ids)
    colours = panoptic_colours(ids, frame[1])[..., ::-1]  # BGR
    _write_png(panoptic_folder(tree / _FINE, split) / panoptic_png_name(instances), colours)
    return frame


def _write_labels(prefix: Path, ids: np.ndarray, document: Json) -> Path:
    """Writes the label files of a frame from its instance ids; returns that of these ids."""
    labels = panoptic_files.label_ids(ids)
    instances = Path(f"{prefix}_instanceIds.png")
    _write_png(Path(f"{prefix}_labelIds.png"), labels)
    _write_png(instances, ids.astype(np.uint16))
    _write_png(Path(f"{prefix}_color.png"), cityscapes_files.colour_image(labels))
    _write_json(Path(f"{prefix}_polygons.json"), document)
    return instances


def _write_documents(stage: Path, jobs: list[_Job], results: list[_Result]) -> None:
    folder = stage / "annotations"
    for split, name in enumerate(SPLITS):
        mine = [result for job, result in zip(jobs, results) if job.split == split]
        images = [result.image for result in mine]
        instances = [annotation for result in mine for annotation in result.instances]
        persons = [annotation for result in mine for annotation in result.persons]
        segments = [result.segments for result in mine]
        _write_json(
            folder / f"instances_{name}.json", coco_files.document(images, instances, coco_files.INSTANCE_CATEGORIES)
        )
        _write_json(
            folder / f"person_keypoints_{name}.json",
            coco_files.document(images, persons, coco_files.KEYPOINT_CATEGORIES),
        )
        document = {"info": coco_files.INFO, "licenses": [], "images": images, "annotations": segments}
        _write_json(folder / f"panoptic_{name}.json", document | {"categories": panoptic_files.CATEGORIES})
        frames = panoptic_folder(stage / "cityscapes" / _FINE, name).with_suffix(".json")
        _write_json(frames, panoptic_document(result.frame for result in mine))


def _write_png(path: Path, image: np.ndarray) -> None:
    # Encoded here and not by imwrite, which answers False where a disk is full.
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def _write_json(path: Path, document: Json) -> None:
    path.write_text(json.dumps(document, separators=(",", ":")))
