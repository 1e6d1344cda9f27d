"""One run of ``densekit quantize``: an exported model in 8 bits, and what that costs and gains."""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from densekit.d2.config import CfgNode
from densekit.data.mapper import build_mapper
from densekit.data.own.catalog import register_from_yaml
from densekit.data.own.runs import catalog_of_run, run_of
from densekit.data.registry import check_registered
from densekit.deploy.exported import ExportedModel, is_exported
from densekit.deploy.quantisation.calibration import Calibration, Feed, calibrate
from densekit.deploy.quantisation.layers import Structure, structure_of
from densekit.deploy.quantisation.quantizing import quantised
from densekit.deploy.quantisation.rounding import rounded_weights
from densekit.deploy.quantisation.sensitivity import Sensitivity, most_sensitive, sensitivities
from densekit.deploy.targets import SUFFIXES, Content, metadata, opened, openvino_of, read, required, write
from densekit.engine.run import perform
from densekit.engine.setup import read_config
from densekit.engine.sources import with_model
from densekit.files.atomic import atomic_write
from densekit.inference.export import export
from densekit.inference.inputs import pictures_of_dataset
from densekit.inference.sensitivity_plot import draw_sensitivity
from densekit.run_options import RunOptions

__all__ = ["TARGETS", "Quantising", "headlines", "quantize"]

logger = logging.getLogger(__name__)

TARGETS = ("onnx", "openvino")
# Steps from 0 to the largest weight. Without instructions for dot products of bytes (VNNI) processors add two products
# of a byte and a signed byte in 16 bits, where 8 bits of both can overflow and 7 of one cannot.
_WEIGHT_STEPS = 63
_ROUNDING, _SENSITIVITY, _TIMING = 32, 16, 5  # of the pictures, so many are looked at
_ROUNDS = 5
_SAVED = 25  # pictures between two times that the histograms are saved


@dataclass(frozen=True)
class Quantising:
    """The choices of a run.

    Attributes:
        calibration: a registered data set.
        images: so many of its pictures are looked at, evenly spread; fewer where it has fewer.
        method: how ranges are chosen, a key of :data:`densekit.deploy.quantisation.histograms.METHODS`.
        keep_float: so many of the most sensitive layers stay in float.
        targets: kinds of files to write, of :data:`TARGETS`.
        evaluates: evaluate the float model and each file on DATASETS.TEST.
        datasets: a YAML file of own data sets; by default that of the run.
    """

    calibration: str
    images: int = 300
    method: str = "mse"
    keep_float: int = 0
    targets: Sequence[str] = TARGETS
    evaluates: bool = True
    datasets: str = ""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"--images {self.images}: at least one picture is needed.")
        if self.keep_float < 0:
            raise ValueError(f"--keep-float {self.keep_float}: a number of layers is not below 0.")


def quantize(
    source: str | Path,
    output: str | Path,
    choices: Quantising,
    *,
    weights: str | None = None,
    opts: Sequence[Any] = (),
) -> dict[str, Any]:
    """Writes a model in 8 bits, with a table and a plot of its layers' sensitivity.

    Args:
        source: The folder of a run, a checkpoint in it, a configuration or its name, which is exported first; or an
            ONNX file of ``densekit export``.
        output: The folder to write to; it is made.
        choices: What to do.
        weights: A weight file instead of the source's.
        opts: KEY VALUE pairs of the configuration.

    Returns:
        The content of ``quantisation.json`` there.

    Raises:
        FileNotFoundError: The model, its weights or the data are missing.
        MissingPackageError: A package is missing.
        ValueError: The model cannot be exported or quantised, or the data has no pictures.
    """
    for package in ("onnx", "onnxruntime", *(["openvino"] if "openvino" in choices.targets else [])):
        required(package)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    cfg = read_config(with_model(RunOptions(opts=[*opts]), source, weights, None if is_exported(source) else "cpu"))[0]
    catalog = _register(source, cfg, choices)
    float_file = _float_file(source, folder, weights, opts)
    content = read(float_file)
    pictures = _Pictures(cfg, choices, ExportedModel(*opened(content, "onnx", str(float_file))))
    model = required("onnx").load_from_string(content[SUFFIXES["onnx"]])
    structure = structure_of(model)
    if choices.keep_float >= len(structure.layers):
        raise ValueError(f"--keep-float {choices.keep_float}: the model has {len(structure.layers)} layers in all.")
    kept, layers, files = _quantised_files(model, structure, pictures, folder, choices)
    both = {"float ONNX": float_file} | files
    report = {
        "model": str(source),
        "calibration": choices.calibration,
        "images": len(pictures),
        "method": choices.method,
        "float_layers": kept,
        "layers": [asdict(layer) for layer in layers],
        "files": {name: str(path) for name, path in both.items()},
        "milliseconds": _latencies(_contents(model, both), pictures),
        "results": _evaluated(both, cfg, catalog, folder) if choices.evaluates else {},
    }
    with atomic_write(folder / "quantisation.json") as file:
        json.dump(report, file, indent=1)
    return report


def _register(source: str | Path, cfg: CfgNode, choices: Quantising) -> str:
    """Registers the data sets that are needed; returns the file that describes them, or ""."""
    run = run_of(Path(source))
    catalog = choices.datasets or (catalog_of_run(run) if run is not None else "") or cfg.DATASETS.CATALOG
    if catalog:
        register_from_yaml(catalog, [choices.calibration, *cfg.DATASETS.TEST])
    check_registered(choices.calibration, "Own data: --datasets FILE names the file that describes it.")
    return catalog


def _float_file(source: str | Path, folder: Path, weights: str | None, opts: Sequence[Any]) -> Path:
    """The exported model in float32."""
    if is_exported(source):
        if Path(source).suffix != SUFFIXES["onnx"]:
            raise ValueError(f"{source}: of exported files only {SUFFIXES['onnx']} can be quantised.")
        return Path(source)
    path = folder / f"model{SUFFIXES['onnx']}"
    export(source, "onnx", path, weights=weights, opts=opts)
    return path


class _Pictures:
    """The pictures of the calibration as the graph's inputs, resized and padded as in an evaluation."""

    def __init__(self, cfg: CfgNode, choices: Quantising, model: ExportedModel) -> None:
        found = pictures_of_dataset(choices.calibration)
        count = min(choices.images, len(found))
        if count < choices.images:
            logger.warning(f"{choices.calibration} has {count} pictures for --images {choices.images}.")
        self.paths = [found[number * len(found) // count].path for number in range(count)]
        self._mapper, self._placement = build_mapper(cfg, is_train=False), model.placement

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, first: int, end: int) -> Iterator[torch.Tensor]:
        """Resized pictures (C, h, w)."""
        for path in self.paths[first:end]:
            yield self._mapper({"file_name": path})["image"]

    def feeds(self, first: int, end: int, task: str) -> Iterator[Feed]:
        """Inputs of the graph, with a progress bar."""
        end = min(end, len(self))
        for image in tqdm(self.images(first, end), task, end, initial=first, unit="picture"):
            placed, _ = self._placement.place(image)
            yield {"image": placed, "size": torch.tensor(image.shape[-2:], dtype=torch.float32)}


def _quantised_files(
    model: Any, structure: Structure, pictures: _Pictures, folder: Path, choices: Quantising
) -> tuple[list[str], list[Sensitivity], dict[str, Path]]:
    """Writes the files, and the plot; returns the layers in float, those of all, and the files by their names."""
    ranges = _calibrated(model, structure, pictures, folder).ranges(choices.method)
    weights = rounded_weights(model, structure, pictures.feeds(0, _ROUNDING, "Rounding weights"), _WEIGHT_STEPS)
    feeds = pictures.feeds(0, _SENSITIVITY, "Measuring layers")
    layers = sensitivities(model, structure, ranges, weights, feeds)
    kept = most_sensitive(layers, choices.keep_float)
    with atomic_write(folder / "sensitivity.png", "wb") as file:
        draw_sensitivity(layers, kept).savefig(file, format="png", dpi=120)
    files = {}
    for target in choices.targets:
        changed = quantised(model, structure, ranges, weights, float_layers=kept, gates=target == "onnx")
        path = folder / f"model.int8{SUFFIXES[target]}"
        write(path, _content(changed, target))
        files[f"int8 {_TITLES[target]}"] = path
    return kept, layers, files


_TITLES = {"onnx": "ONNX", "openvino": "OpenVINO"}


def _content(model: Any, target: str) -> Content:
    data = model.SerializeToString()
    return {SUFFIXES["onnx"]: data} if target == "onnx" else openvino_of(data, metadata(model))


def _calibrated(model: Any, structure: Structure, pictures: _Pictures, folder: Path) -> Calibration:
    """The histograms of all maps, which are kept, so that another --method or an ended command need not begin anew."""
    text = json.dumps([hashlib.sha256(model.SerializeToString()).hexdigest(), pictures.paths])
    path = folder / "calibration.npz"
    calibration = Calibration.load(path, hashlib.sha256(text.encode()).hexdigest())
    feeds = pictures.feeds(calibration.pictures, len(pictures), "Calibrating")
    for count in calibrate(model, [*structure.inputs(), *structure.gated()], feeds, calibration):
        if count % _SAVED == 0 or count == len(pictures):
            calibration.save(path)
    return calibration


def _contents(model: Any, files: Mapping[str, Path]) -> dict[str, tuple[Content, str]]:
    """Files by their names, with the float model for OpenVINO, which is not kept."""
    targets = {suffix: target for target, suffix in SUFFIXES.items()}
    found = {name: (read(path), targets[path.suffix]) for name, path in files.items()}
    if any(target == "openvino" for _, target in found.values()):
        found["float OpenVINO"] = (_content(model, "openvino"), "openvino")
    return found


def _latencies(contents: Mapping[str, tuple[Content, str]], pictures: _Pictures) -> dict[str, float]:
    """Median milliseconds of each file for a picture, resized; the files take turns."""
    models = {name: ExportedModel(*opened(content, target)) for name, (content, target) in contents.items()}
    images = list(pictures.images(0, _TIMING))
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(_ROUNDS + 1):
        for image in images:
            for name, model in models.items():
                start = time.perf_counter()
                model.run(image)
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
    return {name: 1000 * median(values) for name, values in times.items()}


def _evaluated(files: Mapping[str, Path], cfg: CfgNode, catalog: str, folder: Path) -> dict[str, Any]:
    """The results of each file on DATASETS.TEST."""
    if not cfg.DATASETS.TEST:
        logger.warning("DATASETS.TEST is empty: nothing is evaluated.")
        return {}
    results = {}
    for name, path in files.items():
        logger.info(f"Evaluating {path}")
        opts = ["DATASETS.TEST", tuple(cfg.DATASETS.TEST), "OUTPUT_DIR", str(folder / "evaluation" / path.name)]
        options = RunOptions(opts=opts, datasets=catalog, eval_only=True)
        results[name] = perform(with_model(options, path)) or {}
    return results


def headlines(results: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The first number of each task, such as ("bbox AP", 41.2); of each data set where there are several."""
    for name, metrics in results.items():
        first = next(iter(metrics.items()), None) if isinstance(metrics, Mapping) else None
        if first is not None and isinstance(first[1], Mapping):
            yield from ((f"{name} {title}", value) for title, value in headlines(metrics))
        elif first is not None:
            yield f"{name} {first[0]}", float(first[1])
