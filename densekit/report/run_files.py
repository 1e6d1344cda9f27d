"""The files of a run: its config, the curves of its training and the results of its evaluation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from densekit.files.metrics import read_metrics

__all__ = ["RunFiles", "read_run"]


@dataclass(frozen=True)
class RunFiles:
    """Files in an OUTPUT_DIR.

    Attributes:
        folder: OUTPUT_DIR.
        inference: the folder of one data set's predictions.
        dataset: its name.
        config: of the run; empty where it was not kept.
        header: the comment at the top of the config: which host and versions ran.
        curves: the lines of metrics.json, by iteration.
        results: of this data set, task -> metric -> number; None where it was undefined.
    """

    folder: Path
    inference: Path
    dataset: str
    config: dict[str, Any]
    header: str
    curves: list[dict[str, Any]]
    results: dict[str, dict[str, float | None]]


def read_run(folder: Path, dataset: str | None) -> RunFiles:
    """Reads a run.

    Args:
        folder: OUTPUT_DIR of train_net.py.
        dataset: whose evaluation; may be None where there is only one.

    Raises:
        FileNotFoundError: It is no such folder, or has no evaluation.
        ValueError: There are several evaluations, or a file is damaged.
    """
    if not (folder / "inference").is_dir():
        raise FileNotFoundError(
            f"{folder} has no folder 'inference': is it the OUTPUT_DIR of a run that was evaluated? Evaluate with "
            "train_net.py --eval-only."
        )
    evaluated = sorted(path.name for path in (folder / "inference").iterdir() if path.is_dir())
    if dataset is None and len(evaluated) != 1:
        raise ValueError(f"{folder} has evaluations of {', '.join(evaluated) or 'nothing'}: choose with --dataset.")
    name = dataset if dataset is not None else evaluated[0]
    if name not in evaluated:
        raise FileNotFoundError(f"{folder} has no evaluation of {name!r}, only of {', '.join(evaluated) or 'nothing'}.")
    config, header = _read_config(folder / "config.yaml")
    results_file = folder / "inference" / "results.json"
    results = (_read_json(results_file) or {}) if results_file.is_file() else {}
    return RunFiles(
        folder, folder / "inference" / name, name, config, header, read_metrics(folder / "metrics.json"),
        results.get(name) or {},
    )  # fmt: skip


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    return content if isinstance(content, dict) else {}, first.lstrip("# ") if first.startswith("#") else ""


def _read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: It is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
