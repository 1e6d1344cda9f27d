"""One run of ``densekit predict``, in each of its processes.

The pictures are cut into batches once and for all, in the order of the input. A process takes every n-th batch that is
not finished, so what a picture is batched and padded with does not depend on how many processes there are or on where
an earlier run ended, and neither do the predictions.
"""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import densekit.data.builtin  # noqa: F401 - registers the standard names
from densekit.checkpoint import Checkpointer
from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog
from densekit.d2.data import transforms as T
from densekit.d2.modeling import build_model
from densekit.d2.utils import comm
from densekit.d2.utils.logger import setup_logger
from densekit.data import MAPPERS, register_from_yaml
from densekit.data.own.runs import catalog_of_run
from densekit.data.pictures import depth_note
from densekit.engine.errors import DataError, user_errors
from densekit.engine.setup import read_config
from densekit.files.atomic import atomic_write
from densekit.formats.formats import choose_formats, needed_products
from densekit.inference.finish import Output
from densekit.inference.inputs import name_among, pictures_of_dataset, pictures_of_words
from densekit.inference.journal import JOINED, JoinedLines, Journal, Part
from densekit.inference.names import find_classes
from densekit.inference.outputs import LineMaker, products_of
from densekit.inference.predicting import open_batches, predict_batches
from densekit.inference.reading import Views, stamp
from densekit.inference.recorder import Recorder
from densekit.inference.settings import UNREADABLE, claim, describe
from densekit.inference.tiles import Tiling

logger = logging.getLogger(__name__)

SOME_UNREADABLE = 1  # the exit code


@dataclass
class Job:
    """What a run consists of once nothing can be refused any more.

    Attributes:
        cfg: the model's.
        model: with its weights, in eval mode.
        output: the pictures, and where and how their results are written.
        products: which parts of the model's outputs are kept.
        tiling: how pictures are cut.
    """

    cfg: CfgNode
    model: Any
    output: Output
    products: list[str]
    tiling: Tiling | None


def run(args: Namespace) -> None:
    """Predicts what is not predicted yet, then writes the formats.

    Args:
        args: as of :func:`densekit.inference.command.complete`.

    Exits with 1 where pictures could not be read.
    """
    cv2.setNumThreads(1)  # the loader's processes are forked, and OpenCV's threads do not survive that
    with user_errors():
        setup_logger(name="densekit", distributed_rank=comm.get_rank())
        job = _prepare(args)
        if comm.is_main_process():
            claim(job.output.folder, _settings(args, job), overwrite=args.overwrite)
        comm.synchronize()
        done = _journal(job.output).done
        comm.synchronize()  # nobody reads the journal while it grows
    workers = job.cfg.DATALOADER.NUM_WORKERS if args.num_workers is None else args.num_workers
    with user_errors((DataError,)):
        _predict(args, job, done, workers)
    comm.synchronize()
    _finish(job.output, workers)


def _prepare(args: Namespace) -> Job:
    """Collects everything, and refuses what cannot be done; the output folder is not touched yet."""
    cfg, folder = read_predict_config(args), Path(args.output)
    tiling = Tiling(args.tile, args.overlap) if args.tile else None
    dataset = _data_set(args, cfg)
    pictures = pictures_of_dataset(dataset) if dataset else pictures_of_words(args.input, folder)
    classes = find_classes(cfg, dataset)
    model = load_model(cfg)
    with torch.no_grad():
        given = products_of(model)
    formats = choose_formats(args.format, given)
    products = needed_products(formats, given)
    if tiling is not None and "panoptic" in products:
        raise ValueError(
            "--tile cannot make panoptic maps: which of two segments lies in front is known within a tile only. Leave "
            "out --tile, or ask for other formats, such as --format coco semantic."
        )
    if (
        comm.is_main_process()
        and pictures[0].frame is None
        and (note := depth_note(pictures[0].path, cfg.INPUT.BIT_DEPTH))
    ):
        logger.info(note)
    if tiling is not None and comm.is_main_process() and (note := _tile_note(tiling, resizing(cfg))):
        logger.warning(note)
    return Job(cfg, model, Output(folder, pictures, classes, formats), products, tiling)


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


def _data_set(args: Namespace, cfg: CfgNode) -> str:
    """The name of the data set to predict on, registered if it is the user's own; "" for pictures."""
    name = args.dataset or name_among(args.input)
    kept = catalog_of_run(args.run_dir) if args.run_dir else ""
    catalog = args.datasets or kept or cfg.DATASETS.CATALOG
    # A run's own data sets are looked at on demand only: they may lie on another machine.
    if args.datasets or (catalog and (args.dataset or (name and os.path.isfile(catalog)))):
        register_from_yaml(catalog, [name])
    return name if args.dataset or name in DatasetCatalog else ""


def _predict(args: Namespace, job: Job, done: set[int], num_workers: int) -> None:
    """Runs the model over this process's share of what is not done."""
    output = job.output
    if done and comm.is_main_process():
        logger.info(f"{len(done)} of {len(output.pictures)} pictures are finished already in {output.folder}")
    batches = open_batches(len(output.pictures), args.batch_size, done)[comm.get_rank() :: comm.get_world_size()]
    if not batches:
        return
    maker = LineMaker(output.folder, output.classes, args.score_threshold)
    predict_batches(
        job.model,
        Views(output.pictures, job.cfg.INPUT.FORMAT, resizing(job.cfg), job.tiling, job.cfg.INPUT.BIT_DEPTH),
        batches,
        Recorder(Part(output.folder), maker, done),
        products=job.products,
        batch_size=args.batch_size,
        num_workers=num_workers,
        strict=args.strict,
    )


def read_predict_config(args: Namespace) -> CfgNode:
    """The configuration of the command line, on a device that exists.

    Raises:
        ValueError: It names no weights, or a model that needs more than pictures.
    """
    cfg, notes = read_config(args)
    if comm.is_main_process():
        for note in notes:
            logger.warning(note)
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("A model without weights predicts noise: add --weights FILE.")
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(
            "MODEL.LOAD_PROPOSALS True: this model needs a file of proposals for its pictures, not pictures."
        )
    cfg.freeze()
    return cfg


def load_model(cfg: CfgNode) -> Any:
    """The model with its weights, in eval mode."""
    model = build_model(cfg)
    Checkpointer(model, min_coverage=cfg.MODEL.WEIGHTS_MIN_COVERAGE).load(cfg.MODEL.WEIGHTS)
    return model.eval()


def resizing(cfg: CfgNode) -> T.AugmentationList:
    """The test's resizing, from the mapper that the configuration names."""
    name = cfg.INPUT.MAPPER or "DatasetMapper"
    if name not in MAPPERS:
        raise ValueError(f"INPUT.MAPPER {name!r} is not one of {', '.join(sorted(MAPPERS))}.")
    return MAPPERS[name](cfg, False).augmentations  # type: ignore[attr-defined]


def _settings(args: Namespace, job: Job) -> dict[str, Any]:
    return describe(
        job.cfg,
        job.output.pictures,
        products=job.products,
        score_threshold=args.score_threshold,
        batch_size=args.batch_size,
        tile=args.tile,
        overlap=args.overlap if args.tile else None,
    )


def _journal(output: Output) -> Journal:
    """What is finished; a picture whose file has changed since is not."""
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
