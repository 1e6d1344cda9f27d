"""A run of ``densekit predict --engine ray``: what is not finished is predicted on a cluster and written in shards."""

import json
import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from densekit.config import load_config
from densekit.d2.utils.logger import setup_logger
from densekit.data.mapper import inference_augmentations
from densekit.engine.errors import DataError, user_errors
from densekit.inference import ray_engine
from densekit.inference.options import PredictOptions
from densekit.inference.outputs import LineMaker
from densekit.inference.prediction_run import SOME_UNREADABLE, Job, prepare, settings_of
from densekit.inference.settings import MANIFEST, SETTINGS, SHARDS, UNREADABLE, check_same, claim
from densekit.inference.shards import Answer, JoinedShards, Shards, digest_of, remove_litter
from densekit.inference.store import Store

logger = logging.getLogger(__name__)


def run_on_ray(options: PredictOptions) -> None:
    """Predicts what is not predicted yet, in shards, then writes the formats that were asked for.

    Args:
        options: what to predict on, and how.

    Exits with 1 where pictures could not be read.
    """
    with user_errors():
        setup_logger(name="densekit")
        device = load_config(options.config_file, options.opts).MODEL.DEVICE
        # The model is made here, on a machine that may have no GPU, and travels to where there are some.
        job = prepare(replace(options, opts=[*options.opts, "MODEL.DEVICE", "cpu"]))
        store = Store(options.output)
        _check(options, job, store)
        shards = Shards(store, job.output.pictures, options.batch_size, options.shard_size, options.shard_format)
        claim_store(store, _settings(options, job, shards), overwrite=options.overwrite)
        todo = shards.unfinished()
    logger.info(f"{shards.count - len(todo)} of {shards.count} shards are finished already in {options.output}")
    if todo:
        with user_errors((DataError, ValueError, OSError)):
            ray_engine.connect(options.address)
            pool = ray_engine.share_out(device, options.num_gpus, options.num_workers)
            batches = batches_of(shards, todo)
            answers = ray_engine.predict_on_ray(
                job.model, job.output.pictures, batches, _decoding(job), _predicting(options, job), pool
            )
            collect(answers, shards, todo, strict=options.strict)
            ray_engine.disconnect()
    with user_errors((OSError, ValueError)):
        _finish(options, job, store, shards)


def batches_of(shards: Shards, numbers: Sequence[int]) -> list[range]:
    """Cuts shards into batches, where the plain engine cuts the whole input."""
    members = (shards.members(number) for number in numbers)
    size = shards.batch_size
    return [some[start : start + size] for some in members for start in range(0, len(some), size)]


def collect(answers: Iterable[Sequence[Answer]], shards: Shards, numbers: Sequence[int], *, strict: bool) -> None:
    """Writes each shard as soon as all of its pictures are answered.

    Args:
        answers: those of a batch at a time; batches come in any order.
        shards: where to.
        numbers: of the shards to expect.
        strict: stop at a picture that could not be read.

    Raises:
        DataError: With ``strict``, such a picture.
        OSError: The output cannot be written.
    """
    waiting: dict[int, list[Answer]] = defaultdict(list)
    count = sum(len(shards.members(number)) for number in numbers)
    with tqdm(total=count, desc="predict", unit="image", disable=None, smoothing=0.05) as bar:
        for some in answers:
            for answer in some:
                if answer.problem and strict:
                    raise DataError(f"{answer.problem}. Without --strict such pictures are skipped.")
                if answer.problem:
                    logger.warning(answer.problem)
                number = answer.index // shards.size
                waiting[number].append(answer)
                if len(waiting[number]) == len(shards.members(number)):
                    shards.write(number, waiting.pop(number))
            bar.update(len(some))
    if waiting:
        raise DataError(f"Answers for {len(waiting)} shards are incomplete; the same command goes on from here.")


def claim_store(store: Store, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Makes the place ready, or makes sure that what it holds was made with the same settings.

    Raises:
        ValueError: It holds other predictions, or other files, or cannot be written.
    """
    if store.folder is not None:
        claim(store.folder, settings, overwrite=overwrite)
        remove_litter(store.folder)
        return
    names = store.names("")
    if overwrite and SETTINGS in names:
        for name in (SHARDS, MANIFEST, UNREADABLE, SETTINGS):
            store.remove(name)
        names = set()
    if SETTINGS in names:
        check_same(store.place, store.read(SETTINGS), settings)
        return
    if names and not overwrite:
        raise ValueError(f"--output {store.place} is not empty and holds no predictions; give a new or an empty place.")
    try:
        store.write(SETTINGS, json.dumps(settings).encode())
    except OSError as error:
        raise ValueError(f"--output {store.place} cannot be written ({error}).") from error


def _check(options: PredictOptions, job: Job, store: Store) -> None:
    """Refuses what shards cannot hold."""
    pictures = job.output.pictures
    if video := next((picture for picture in pictures if picture.frame is not None), None):
        raise ValueError(f"--engine ray takes pictures, and {video.path} is a video; leave --engine out for it.")
    if options.num_machines > 1:
        raise ValueError("--engine ray: the cluster at --address says what machines there are.")
    if store.folder is None and (options.format or job.products != ["instances"]):
        raise ValueError(
            f"--output {store.place} takes shards of detections; formats and label maps ({', '.join(job.products)}) "
            "need a folder that all machines share."
        )


def _settings(options: PredictOptions, job: Job, shards: Shards) -> dict[str, Any]:
    """The settings of a run; the input as a sum, because it may be millions of pictures."""
    settings = settings_of(options, job)
    pictures = settings.pop("input")
    settings |= {"engine": "ray", "pictures": len(pictures), "pictures_digest": digest_of(job.output.pictures)}
    return settings | {"shard_size": shards.size, "shard_format": options.shard_format}


def _decoding(job: Job) -> ray_engine.Decoding:
    cfg = job.cfg
    return ray_engine.Decoding(
        cfg.INPUT.FORMAT, inference_augmentations(cfg), job.tiling, cfg.INPUT.BIT_DEPTH, job.masks
    )


def _predicting(options: PredictOptions, job: Job) -> ray_engine.Predicting:
    output, is_bgr = job.output, job.cfg.INPUT.FORMAT == "BGR"
    folder = output.folder.absolute()  # workers have folders of their own to work in
    maker = LineMaker(folder, output.classes, options.score_threshold, is_bgr=is_bgr)
    return ray_engine.Predicting(maker, job.products, options.batch_size)


def _finish(options: PredictOptions, job: Job, store: Store, shards: Shards) -> None:
    """Writes the formats, and says what is where and what is missing."""
    problems, count = shards.problems(), len(job.output.pictures)
    logger.info(
        f"{count - len(problems)} of {count} pictures are in {shards.count} shards in {options.output}/{SHARDS}"
    )
    if options.format:
        workers = job.cfg.DATALOADER.NUM_WORKERS if options.num_workers is None else options.num_workers
        job.output.write(JoinedShards(shards, job.output.folder), workers)
        logger.info(f"Formats: {', '.join(job.output.formats)}")
    if problems:
        reasons = [problems[index] for index in sorted(problems)]
        store.write(UNREADABLE, "".join(f"{reason}\n" for reason in reasons).encode("utf-8", "backslashreplace"))
        logger.error(
            f"{len(reasons)} pictures could not be read, listed in {options.output}/{UNREADABLE}:\n  "
            + "\n  ".join(reasons[:10])
        )
        sys.exit(SOME_UNREADABLE)
    store.remove(UNREADABLE)
