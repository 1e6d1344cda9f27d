"""Metrics for Weights & Biases and MLflow, where they are installed and ``WRITERS`` asks for them.

Nothing leaves the machine unless the user has set these programs up for it: W&B runs offline, with its files in
OUTPUT_DIR, unless WANDB_MODE says otherwise; MLflow writes a database there unless MLFLOW_TRACKING_URI names another
place. Both know the run by the id in ``run.json``, so that a resumed run goes on in its own curves.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from densekit.d2.config import CfgNode
from densekit.d2.utils.events import EventWriter
from densekit.engine.run_folder import RunFolder
from densekit.engine.writers import Lazily, ScalarWriter

__all__ = ["MLflowWriter", "WandbWriter", "build_trackers"]

_PROJECT = "densekit"


class WandbWriter(ScalarWriter):
    """Logs to a run of Weights & Biases. WANDB_PROJECT, WANDB_NAME and the like work as usual.

    Args:
        cfg: the config of the run.
        folder: of the run.
    """

    def __init__(self, cfg: CfgNode, folder: RunFolder) -> None:
        super().__init__()
        self._run = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", os.path.basename(os.path.abspath(cfg.OUTPUT_DIR))),
            id=folder.id,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=cfg.OUTPUT_DIR,
            config=_plain(cfg),
        )
        # By its own count of steps W&B would drop what a resumed run repeats.
        self._run.define_metric("*", step_metric="iteration")

    def put(self, lines: dict[int, dict[str, float]]) -> None:
        for iteration, values in lines.items():
            self._run.log({"iteration": iteration, **values})

    def close(self) -> None:
        self._run.finish(exit_code=0 if _ending() is None else 1)


class MLflowWriter(ScalarWriter):
    """Logs to a run of MLflow. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME work as usual.

    What a resumed run repeats stands twice there, the newer value last, for MLflow takes nothing back.

    Args:
        cfg: the config of the run.
        folder: of the run, which notes MLflow's id of it.
    """

    def __init__(self, cfg: CfgNode, folder: RunFolder) -> None:
        super().__init__()
        self._mlflow = import_module("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self._mlflow.set_tracking_uri(f"sqlite:///{os.path.abspath(os.path.join(cfg.OUTPUT_DIR, 'mlflow.db'))}")
        known = folder.facts.get("mlflow_run_id")
        if not known:
            self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        name = os.path.basename(os.path.abspath(cfg.OUTPUT_DIR))
        run = self._mlflow.start_run(run_id=known, run_name=None if known else name)
        if not known:
            folder.note(mlflow_run_id=run.info.run_id)
            self._mlflow.set_tags({"densekit.run_id": folder.id, "densekit.output_dir": cfg.OUTPUT_DIR})
            self._mlflow.log_params(dict(_flat(cfg)))  # which cannot be changed by a resumed run

    def put(self, lines: dict[int, dict[str, float]]) -> None:
        for iteration, values in lines.items():
            # Its names have no brackets, its databases no NaN.
            finite = {re.sub(r"[^\w\-./: ]", "_", name): v for name, v in values.items() if math.isfinite(v)}
            self._mlflow.log_metrics(finite, step=iteration)

    def close(self) -> None:
        ending = _ending()
        stopped = isinstance(ending, (SystemExit, KeyboardInterrupt))
        self._mlflow.end_run("FINISHED" if ending is None else "KILLED" if stopped else "FAILED")


_TRACKERS: dict[str, Callable[[CfgNode, RunFolder], EventWriter]] = {"wandb": WandbWriter, "mlflow": MLflowWriter}


def build_trackers(cfg: CfgNode, folder: RunFolder) -> list[EventWriter]:
    """The writers that ``WRITERS`` names; they begin when there is something to write.

    Raises:
        ValueError: A name is unknown, or its program is not installed.
    """
    writers: list[EventWriter] = []
    for name in dict.fromkeys(cfg.WRITERS):
        if name == "tensorboard":  # always there
            continue
        if name not in _TRACKERS:
            raise ValueError(f"WRITERS has {name!r}; it can name tensorboard, {', '.join(_TRACKERS)}.")
        try:
            import_module(name)
        except ImportError as error:
            raise ValueError(
                f"WRITERS has {name!r}, which cannot be imported ({error}): pip install {name}, or leave it out."
            ) from error
        writers.append(Lazily(lambda make=_TRACKERS[name]: make(cfg, folder)))  # type: ignore[misc]
    return writers


def _ending() -> BaseException | None:
    """Returns the exception that ends the training, if one does: writers are closed while it is on its way."""
    return sys.exc_info()[1]


def _flat(node: CfgNode, before: str = "") -> Iterator[tuple[str, Any]]:
    """The config as keys with dots and their values."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _plain(node: CfgNode) -> dict[str, Any]:
    """The config as dictionaries."""
    return {key: _plain(value) if isinstance(value, CfgNode) else value for key, value in node.items()}
