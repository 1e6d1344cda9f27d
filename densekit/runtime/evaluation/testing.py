"""Results as lines for a spreadsheet, as a flat dict, and against the numbers a config expects."""

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Logs the main metrics of each task as two lines of comma-separated text, names and values.

    Per-class metrics, which have a hyphen in their name, are left out.

    Args:
        results: ``{task: {metric: score}}``, or ``{name: score}``.
    """
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        main = {name: score for name, score in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main))
        logger.info("copypaste: " + ",".join(f"{score:.4f}" for score in main.values()))


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``{"a/b/c": score}`` for ``{"a": {"b": {"c": score}}}``."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": score for inner, score in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat


def verify_results(cfg: Any, results: Mapping[str, Any]) -> bool:
    """Compares results with ``cfg.TEST.EXPECTED_RESULTS`` and ends the process where they disagree.

    Args:
        cfg: A config; ``TEST.EXPECTED_RESULTS`` is a list of ``[task, metric, expected, tolerance]``.
        results: ``{task: {metric: score}}``.

    Returns:
        True: all expected numbers were met, or none were given.

    Raises:
        SystemExit: A number is missing, not finite, or further off than its tolerance; each is logged. Exit code 1.
        ValueError: An entry of ``TEST.EXPECTED_RESULTS`` does not have those four parts.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    if not len(expected_results):
        return True
    complaints = [text for entry in expected_results if (text := _complaint(entry, results))]
    for text in complaints:
        logger.error(f"Expected result not met: {text}")
    if complaints:
        logger.error(f"Result verification failed: {len(complaints)} of {len(expected_results)}. Results: {results}")
        sys.exit(1)
    logger.info("Results verification passed.")
    return True


def _complaint(entry: Any, results: Mapping[str, Any]) -> str:
    """Returns what is wrong with one expected number, or an empty string."""
    try:
        task, metric, expected, tolerance = entry
        expected, tolerance = float(expected), float(tolerance)
    except (TypeError, ValueError) as error:
        raise ValueError(f"TEST.EXPECTED_RESULTS: {entry!r} is not [task, metric, expected, tolerance].") from error
    if task not in results:
        return f"there is no task '{task}' in the results (tasks: {', '.join(results) or 'none'})"
    if metric not in results[task]:
        return f"task '{task}' has no metric '{metric}' (metrics: {', '.join(results[task])})"
    actual = results[task][metric]
    if not math.isfinite(actual) or abs(actual - expected) > tolerance:
        return f"{task}/{metric} is {actual:.4f}, expected {expected} +- {tolerance}"
    return ""
