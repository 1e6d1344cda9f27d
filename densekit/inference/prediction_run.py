"""One run of ``densekit predict``, in each of its processes.

The pictures are cut into batches once and for all, in the order of the input. A process takes every n-th batch that is
not finished, so what a picture is batched and padded with does not depend on how many processes there are or on where
an earlier run ended, and neither do the predictions.
"""

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import densekit.data.builtin  # noqa: F401 - registers the standard names
from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog
from densekit.d2.data import transforms as T
from densekit.d2.utils import comm
from densekit.d2.utils.logger import setup_logger
from densekit.data import register_from_yaml
from densekit.data.mapper import inference_augmentations
from densekit.data.own.runs import catalog_of_run
from densekit.data.pictures import depth_note
from densekit.deploy import inference_form
from densekit.engine.errors import DataError, user_errors
from densekit.engine.loading import build_with_weights
from densekit.engine.setup import read_config
from densekit.engine.sources import with_model
from densekit.files.atomic import atomic_write
from densekit.formats.formats import choose_formats, needed_products
from densekit.formats.palettes import with_palette
from densekit.inference.class_names import find_classes
from densekit.inference.finish import Output
from densekit.inference.hole_masks import Masks, masks_of_words
from densekit.inference.inputs import name_among, pictures_of_dataset, pictures_of_words
from densekit.inference.journal import JOINED, JoinedLines, Journal, Part
from densekit.inference.options import PredictOptions
from densekit.inference.outputs import LineMaker, products_of
from densekit.inference.predicting import open_batches, predict_batches
from densekit.inference.predictor import check_predicts
from densekit.inference.reading import Views, stamp
from densekit.inference.recorder import Recorder
from densekit.inference.settings import UNREADABLE, claim, describe
from densekit.inference.tiles import Tiling
from densekit.inference.tracking import check_tracker
from densekit.modeling.semantic_inference import semantic_inference
from densekit.run_options import RunOptions

logger = logging.getLogger(__name__)

SOME_UNREADABLE = 1  # the exit code


@dataclass
class Job:
    """Parts of a run, complete once nothing can be refused any more.

    Attributes:
        cfg: the model's.
        model: with its weights, in eval mode.
        output: the pictures, and where and how their results are written.
        products: which parts of the model's outputs are kept.
        tiling: how pictures are cut.
        masks: of the pictures' holes, for a model that paints.
    """

    cfg: CfgNode
    model: Any
    output: Output
    products: list[str]
    tiling: Tiling | None
    masks: Masks | None = None


def run(options: PredictOptions) -> None:
    """Predicts what is not predicted yet, then writes the formats.

    Args:
        options: what to predict on, and how.

    Exits with 1 where pictures could not be read.
    """
    cv2.setNumThreads(1)  # the loader's processes are forked, and OpenCV's threads do not survive that
    with user_errors():
        setup_logger(name="densekit", distributed_rank=comm.get_rank())
        job = prepare(options)
        if comm.is_main_process():
            claim(job.output.folder, settings_of(options, job), overwrite=options.overwrite)
        comm.synchronize()
        done = _journal(job.output).done
        comm.synchronize()  # nobody reads the journal while it grows
    workers = job.cfg.DATALOADER.NUM_WORKERS if options.num_workers is None else options.num_workers
    with user_errors((DataError,)):
        _predict(options, job, done, workers)
    comm.synchronize()
    _finish(job.output, workers)


def prepare(options: PredictOptions) -> Job:
    """Collects everything, and refuses what cannot be done; the output folder is not touched yet.

    Raises:
        ValueError, FileNotFoundError: The options ask for what the model or the inputs cannot give.
        ImportError: They ask for a tracker that is not installed.
    """
    if options.track:
        check_tracker(options.track)
    cfg, folder = read_predict_config(options), Path(options.output)
    tiling = Tiling(options.tile, options.overlap) if options.tile else None
    dataset = _data_set(options, cfg)
    pictures = pictures_of_dataset(dataset) if dataset else pictures_of_words(options.input, folder)
    classes = find_classes(cfg, dataset)
    if options.palette:
        classes = with_palette(classes, options.palette)
    model = semantic_inference(cfg, inference_form(cfg, build_with_weights(cfg)))
    given = products_of(model)
    formats = choose_formats(options.format, given)
    products = needed_products(formats, given)
    if options.palette and "semantic" not in given:
        raise ValueError(
            f"--palette {options.palette} colours classes of pixels, and this model gives {', '.join(given)}."
        )
    if tiling is not None and "panoptic" in products:
        raise ValueError(
            "--tile cannot make panoptic maps: which of two segments lies in front is known within a tile only. Leave "
            "out --tile, or ask for other formats, such as --format coco semantic."
        )
    if tiling is not None and "classes" in products:
        raise ValueError("--tile cuts pictures, and this model tells the class of a whole picture. Leave it out.")
    if (
        comm.is_main_process()
        and pictures[0].frame is None
        and (note := depth_note(pictures[0].path, cfg.INPUT.BIT_DEPTH))
    ):
        logger.info(note)
    if tiling is not None and comm.is_main_process() and (note := _tile_note(tiling, inference_augmentations(cfg))):
        logger.warning(note)
    if options.track and "instances" not in products:
        raise ValueError(f"--track {options.track} follows objects, and this model gives {', '.join(given)}.")
    output = Output(folder, pictures, classes, formats, options.track)
    return Job(cfg, model, output, products, tiling, _masks(options, given))


def _tile_note(tiling: Tiling, augmentations: T.AugmentationList) -> str:
    """Says to what size the model's tiles are resized; "" where they keep theirs."""
    inputs = T.AugInput(np.zeros((tiling.size, tiling.size, 3), dtype=np.uint8))
    augmentations(inputs)
    side = inputs.image.shape[0]
    if side == tiling.size:
        return ""
    return (
        f"Tiles of {tiling.size} x {tiling.size} pixels are resized to {side} x {side} for the model, as "
        f"INPUT.MIN_SIZE_TEST says. INPUT.MIN_SIZE_TEST {tiling.size} keeps their size."
    )


def _masks(options: PredictOptions, given: Sequence[str]) -> Masks | None:
    """The holes of the pictures, which a model that paints needs and others have no use for."""
    masks = masks_of_words(options.mask, options.mask_polarity, options.mask_classes, options.mask_grow)
    if ("inpainted" in given) != (masks is not None):
        raise ValueError(
            "This model paints the holes of pictures: say where they are with --mask FILE, or a folder of masks."
            if masks is None
            else f"--mask: this model gives {', '.join(given)} and paints nothing."
        )
    return masks


def _data_set(options: PredictOptions, cfg: CfgNode) -> str:
    """The name of the data set to predict on, registered if it is the user's own; "" for pictures."""
    name = options.dataset or name_among(options.input)
    kept = catalog_of_run(options.run_dir) if options.run_dir else ""
    catalog = options.datasets or kept or cfg.DATASETS.CATALOG
    # A run's own data sets are looked at on demand only: they may lie on another machine.
    if options.datasets or (catalog and (options.dataset or (name and os.path.isfile(catalog)))):
        register_from_yaml(catalog, [name])
    return name if options.dataset or name in DatasetCatalog else ""


def _predict(options: PredictOptions, job: Job, done: set[int], num_workers: int) -> None:
    """Runs the model over this process's share of what is not done."""
    output = job.output
    if done and comm.is_main_process():
        logger.info(f"{len(done)} of {len(output.pictures)} pictures are finished already in {output.folder}")
    batches = open_batches(len(output.pictures), options.batch_size, done)[comm.get_rank() :: comm.get_world_size()]
    if not batches:
        return
    is_bgr = job.cfg.INPUT.FORMAT == "BGR"
    maker = LineMaker(output.folder, output.classes, options.score_threshold, is_bgr=is_bgr)
    predict_batches(
        job.model,
        Views(
            output.pictures,
            job.cfg.INPUT.FORMAT,
            inference_augmentations(job.cfg),
            job.tiling,
            job.cfg.INPUT.BIT_DEPTH,
            job.masks,
        ),
        batches,
        Recorder(Part(output.folder), maker, done),
        products=job.products,
        batch_size=options.batch_size,
        num_workers=num_workers,
        strict=options.strict,
    )


def read_predict_config(options: PredictOptions) -> CfgNode:
    """The configuration of the options, on a device that exists.

    Raises:
        ValueError: It names no weights, or a model that needs more than pictures.
    """
    run = RunOptions(config_file=options.config_file, opts=options.opts, eval_only=True)
    cfg, notes = read_config(with_model(run, options.exported) if options.exported else run)
    if comm.is_main_process():
        for note in notes:
            logger.warning(note)
    check_predicts(cfg)
    cfg.freeze()
    return cfg


def settings_of(options: PredictOptions, job: Job) -> dict[str, Any]:
    """The settings that predictions depend on; see :func:`densekit.inference.settings.describe`."""
    return describe(
        job.cfg,
        job.output.pictures,
        products=job.products,
        score_threshold=options.score_threshold,
        batch_size=options.batch_size,
        tile=options.tile,
        overlap=options.overlap if options.tile else None,
    )


def _journal(output: Output) -> Journal:
    """Opens the journal of finished pictures; one whose file has changed since is not finished."""
    stamps: dict[str, str] = {}

    def holds(line: dict[str, Any]) -> bool:
        path = output.pictures[line["index"]].path
        if path not in stamps:
            stamps[path] = stamp(path)
        return line["stamp"] == stamps[path]

    return Journal(output.folder, holds)


def _finish(output: Output, num_workers: int) -> None:
    """Writes the formats and says what is where and what is missing."""
    with user_errors((OSError, ValueError)):
        journal = _journal(output)
        comm.synchronize()
        output.write(journal, num_workers)
    if not comm.is_main_process():
        return
    logger.info(
        f"{len(journal.done)} of {len(output.pictures)} pictures are in {output.folder}: {', '.join(output.formats)}"
    )
    if note := _nothing_left(JoinedLines(output.folder / JOINED)):
        logger.warning(note)
    missing = [picture for picture in output.pictures if picture.index not in journal.done]
    reasons = [journal.problems.get(picture.index, f"{picture.path} is missing") for picture in missing]
    _list_unreadable(output.folder / UNREADABLE, reasons)
    if missing:
        sys.exit(SOME_UNREADABLE)


def _nothing_left(lines: Iterable[dict[str, Any]]) -> str:
    """Says that no detection has reached the threshold, and what would; "" where some have, or there are none."""
    highest = -1.0
    for line in lines:
        if line.get("instances"):
            return ""
        highest = max(highest, line.get("highest_score", -1.0))
    if highest < 0:
        return ""
    return (
        f"No detection reaches --score-threshold: the highest score is {highest:.3f}. Give --score-threshold "
        f"{max(0.0, int(highest * 10) / 10):g} (with --overwrite) to see the best ones."
    )


def _list_unreadable(path: Path, reasons: list[str]) -> None:
    """Keeps the list of the pictures that could not be read up to date, where there are such."""
    path.unlink(missing_ok=True)
    if reasons:
        with atomic_write(path) as file:
            file.writelines(f"{reason}\n" for reason in reasons)
        logger.error(f"{len(reasons)} pictures could not be read, listed in {path}:\n  " + "\n  ".join(reasons[:10]))
