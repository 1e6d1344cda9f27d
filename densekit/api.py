"""Training and evaluation as calls; the package ``densekit`` gives these names without importing torch."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from densekit.config_files import find_config
from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.utils.logger import setup_logger
from densekit.engine import launch, run
from densekit.engine.launch import place_from_environment
from densekit.engine.own_data import OWN_NAMES
from densekit.engine.preemption import INTERRUPTED, AgreedStop
from densekit.engine.run import perform
from densekit.engine.setup import read_config
from densekit.engine.sources import ModelSource, with_model
from densekit.run_options import RunOptions

__all__ = ["evaluate", "train"]

DataSet = str | Mapping[str, Any]
Results = dict[str, Any]


def train(
    config: str | os.PathLike[str] | CfgNode,
    opts: Mapping[str, Any] | None = None,
    *,
    output_dir: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    datasets: str | os.PathLike[str] = "",
    train_data: DataSet = "",
    val_data: DataSet = "",
    resume: bool | str = False,
) -> Results | None:
    """Trains as ``densekit train`` does, in this process, and evaluates at the end.

    Args:
        config: A configuration file, the name of a shipped one, or a configuration.
        opts: Keys with new values, as ``{"SOLVER.MAX_ITER": 100}``.
        output_dir: OUTPUT_DIR, the folder of the run.
        weights: MODEL.WEIGHTS, to start from; "" for random ones.
        device: MODEL.DEVICE.
        datasets: A YAML file of own data sets.
        train_data: One own data set to train on: ``{"form": "coco", "json": ..., "images": ...}``, or that in a line.
        val_data: The same to evaluate on; none, with ``train_data``, evaluates nothing.
        resume: True or "auto" goes on from the last checkpoint in the folder, if any; "must" refuses if there is none.

    Returns:
        The last evaluation results, such as ``{"bbox": {"AP": ...}}``. In a process that torchrun or SLURM has started
        the call does not return: the process ends with the job.

    Raises:
        ValueError, FileNotFoundError, KeyError: With what is wrong and where, before anything heavy has run.
        KeyboardInterrupt: After Ctrl-C, when the step that was going on is finished and saved.
    """
    words = {"OUTPUT_DIR": output_dir, "MODEL.WEIGHTS": weights, "MODEL.DEVICE": device}
    options = RunOptions(
        config_file="" if isinstance(config, CfgNode) else find_config(config),
        cfg=config if isinstance(config, CfgNode) else None,
        opts=_pairs(words, opts),
        datasets=os.fspath(datasets),
        train_data=_entry(train_data),
        val_data=_entry(val_data),
        resume=resume if isinstance(resume, str) else "auto" if resume else "never",
    )
    if options.resume not in ("auto", "must", "never"):
        raise ValueError(f"resume is {resume!r}; it can be True, False, 'auto', 'must' or 'never'.")
    return _run(options)


def evaluate(
    source: ModelSource,
    weights: str | os.PathLike[str] | None = None,
    opts: Mapping[str, Any] | None = None,
    *,
    test: str | tuple[str, ...] | list[str] = (),
    output_dir: str | os.PathLike[str] | None = None,
    device: str | None = None,
    datasets: str | os.PathLike[str] = "",
    val_data: DataSet = "",
) -> Results | None:
    """Evaluates as ``densekit train --eval-only`` does, in this process.

    Args:
        source: The folder of a run, with its last weights; a checkpoint in such a folder; a configuration file, the
            name of a shipped one, or a configuration, with its MODEL.WEIGHTS.
        weights: A weight file instead of these.
        opts: Keys with new values.
        test: Registered data sets; by default DATASETS.TEST.
        output_dir: The folder for predictions and results; by default the run's, or OUTPUT_DIR.
        device: MODEL.DEVICE.
        datasets: A YAML file of own data sets.
        val_data: One own data set, as of :func:`train`.

    Returns:
        The results, such as ``{"bbox": {"AP": ...}}``; with several test sets, such by their names. As of
        :func:`train` under torchrun and SLURM.

    Raises:
        ValueError, FileNotFoundError, KeyError: With what is wrong and where.
    """
    names = (test,) if isinstance(test, str) else tuple(test)
    words = {"OUTPUT_DIR": output_dir, "DATASETS.TEST": names or None}
    options = RunOptions(
        opts=_pairs(words, opts), datasets=os.fspath(datasets), val_data=_entry(val_data), eval_only=True
    )
    return _run(with_model(options, source, weights, device))


def _pairs(words: Mapping[str, Any], opts: Mapping[str, Any] | None) -> list[Any]:
    """Returns the overrides of the configuration as a list of keys and values, paths as text."""
    given = {key: value for key, value in words.items() if value is not None} | dict(opts or {})
    return [word for key, value in given.items() for word in (key, _plain(value))]


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _entry(data: DataSet) -> str:
    """The description of a data set in a line, as a flag has it."""
    if isinstance(data, str):
        return data
    plain = {key: _plain(value) for key, value in data.items()}
    return yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), allow_unicode=True).strip()


def _run(options: RunOptions) -> Results | None:
    if place_from_environment(os.environ):
        launch(run, options, read_config(options)[0].MODEL.DEVICE)
    _forget(OWN_NAMES)
    try:
        with _own_logs():
            return perform(options)
    except AgreedStop as stop:
        if stop.code == INTERRUPTED:
            raise KeyboardInterrupt("The training was interrupted and is saved; go on with resume=True.") from None
        raise


def _forget(names: Iterable[str]) -> None:
    """Frees the names that every run gives to its ``train_data`` and ``val_data``, for the next run has others."""
    for name in names:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)


@contextmanager
def _own_logs() -> Iterator[None]:
    """Lets the run have its log, and closes it with the run: the next one may have another folder."""
    getattr(setup_logger, "cache_clear", lambda: None)()
    try:
        yield
    finally:
        for name in ("densekit", "detectron2", "fvcore"):
            logger = logging.getLogger(name)
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
                handler.close()
