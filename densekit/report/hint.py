"""A plain hint where an evaluation found next to nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densekit.report.run_files import RunFiles

__all__ = ["hint_near_zero"]

_NEAR_ZERO = 1.0  # of 100


def hint_near_zero(run: RunFiles, results: Mapping[str, Mapping[str, float | None]], highest: float | None) -> str:
    """Says what a run had that found next to nothing: steps, epochs, weights, scores; "" where it found something.

    Args:
        run: The run.
        results: Task -> metric -> number.
        highest: The highest score of any detection; None where there is none.
    """
    averages = [results.get(task, {}).get("AP") for task in ("bbox", "segm", "keypoints")]
    known = [value for value in averages if value is not None]
    if not known or max(known) >= _NEAR_ZERO:
        return ""
    threshold = _value(run.config, "MODEL.ROI_HEADS.SCORE_THRESH_TEST")
    if highest is None:
        scores = f"no detection reached the score threshold of {threshold}" if threshold is not None else "no detection"
    else:
        scores = f"the highest score of a detection is {highest:.2f}"
    return (
        f"The AP is near 0. {_training(run)}; {_weights(run)}; {scores}. Random weights want thousands of steps "
        "even on small data, trained ones hundreds (MODEL.WEIGHTS, SOLVER.MAX_ITER). If the losses no longer "
        "fall, look at first_batch.jpg in the run's folder and at densekit check."
    )


def _training(run: RunFiles) -> str:
    steps = [line["iteration"] + 1 for line in run.curves if "total_loss" in line]
    if not steps:
        return "This folder has no training"
    epochs = [line["epoch"] for line in run.curves if isinstance(line.get("epoch"), int | float)]
    return f"The training had {steps[-1]:,} steps" + (f", {epochs[-1]:.2g} epochs" if epochs else "")


def _weights(run: RunFiles) -> str:
    weights = _value(run.config, "MODEL.WEIGHTS")
    return f"it began with the weights {Path(str(weights)).name}" if weights else "it began with random weights"


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
