"""Judges painted pictures: L1, PSNR and SSIM over the hole and over the whole picture, by the share of the hole.

``inpainting.json`` has an entry for each picture, and ``strips`` the pictures: with the hole, painted, and as they are.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate

from densekit.d2.config import CfgNode
from densekit.d2.data import DatasetCatalog
from densekit.d2.evaluation import DatasetEvaluator
from densekit.d2.utils import comm
from densekit.d2.utils.events import get_event_storage, has_event_storage
from densekit.evaluation.build import EVALUATORS
from densekit.evaluation.gathering import check_all_there, each_image_once
from densekit.evaluation.predictions import write_json_list
from densekit.evaluation.sem_seg import png_names
from densekit.files.atomic import atomic_write, strict
from densekit.metrics.picture_quality import picture_quality

from .distances import Distance, build_distances

FILE, STRIPS, SAMPLES = "inpainting.json", "strips", "samples"
_BUCKETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)  # shares of the hole, as papers group them
_SAMPLED = 6  # pictures of the data set that are watched during a training
_METRICS = ("L1", "PSNR", "SSIM")
_HOLE_GREY = 127

logger = logging.getLogger(__name__)


class InpaintingEvaluator(DatasetEvaluator):
    """Compares what a model paints with the pictures as they were.

    Args:
        dataset_name: a registered data set; its annotations are not looked at.
        output_dir: where the files go; None writes none.
        is_bgr: whether images are blue, green, red.
        samples_dir: for a picture of the first images after each evaluation of a training; None for none.
        distances: further numbers about all pictures.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None,
        *,
        is_bgr: bool,
        samples_dir: str | None = None,
        distances: Mapping[str, Distance] | None = None,
    ) -> None:
        self._name = dataset_name
        self._folder = Path(output_dir) if output_dir else None
        self._samples_folder = Path(samples_dir) if samples_dir else None
        self._is_bgr, self._distances = is_bgr, dict(distances or {})
        files = [record["file_name"] for record in DatasetCatalog.get(dataset_name)]
        self._places = {name: place for place, name in enumerate(files)}
        self._strips = png_names(files)
        self.reset()

    def reset(self) -> None:
        self._found: list[dict[str, Any]] = []
        for distance in self._distances.values():
            distance.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in one batch: images with their holes, and ``"inpainted"`` (3, H, W) uint8 of the same size."""
        for item, output in zip(inputs, outputs):
            truth, painted = (_as_array(x) for x in (item["image"], output["inpainted"]))
            hole = item["hole"].cpu().numpy().astype(bool)
            for distance in self._distances.values():
                pair = (output["inpainted"], item["image"])
                distance.add(*(image.flip(0) if self._is_bgr else image for image in pair))
            name = item["file_name"]
            entry: dict[str, Any] = {"file_name": name, "hole": float(hole.mean())}
            entry |= dict(zip(_METRICS, picture_quality(painted, truth)))
            entry |= dict(zip((f"hole_{metric}" for metric in _METRICS), picture_quality(painted, truth, hole)))
            strip = np.concatenate([np.where(hole[:, :, None], _HOLE_GREY, truth), painted, truth], axis=1)
            strip = strip.astype(np.uint8)
            if self._folder is not None:
                entry["strip"] = f"{STRIPS}/{self._strips[name]}"
                _write_picture(self._folder / entry["strip"], strip if self._is_bgr else strip[:, :, ::-1])
            if self._places.get(name, _SAMPLED) < _SAMPLED:
                entry["sample"] = strip[:, :, ::-1] if self._is_bgr else strip
            self._found.append(entry)

    def evaluate(self) -> Mapping[str, Any]:
        """Returns the means over pictures, and writes the files.

        Returns:
            ``{"inpainting": {"L1" (percent), "PSNR" (decibels), "SSIM", "hole_L1" ..., and each by the share of the
            hole, such as "PSNR-10-20%", and the distances by their names}}``; pictures of which a number is infinite or
            undefined have no part in its mean, and a bucket without pictures is left out. Empty in other processes than
            the main one.

        Raises:
            ValueError: Images of the data set were not painted.
        """
        distances = {name: distance.value() for name, distance in self._distances.items()}
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return {}
        source = f"'{self._name}'"
        entries = each_image_once(chain.from_iterable(gathered), self._places, source, key="file_name")
        check_all_there(entries, self._places, source, key="file_name")
        samples = [entry.pop("sample") for entry in entries if "sample" in entry]
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json_list(self._folder / FILE, [strict(entry) for entry in entries])
        if samples and self._samples_folder is not None and has_event_storage():
            self._show(samples, self._samples_folder)
        return {"inpainting": _report(entries) | distances}

    def _show(self, samples: Sequence[np.ndarray], folder: Path) -> None:
        """Draws the watched pictures, below each other, into the folder and for TensorBoard."""
        storage = get_event_storage()
        width = max(strip.shape[1] for strip in samples)
        rows = [np.pad(strip, ((0, 2), (0, width - strip.shape[1]), (0, 0)), constant_values=255) for strip in samples]
        sheet = np.concatenate(rows)
        _write_picture(folder / f"{storage.iter:07d}.png", sheet[:, :, ::-1])
        storage.put_image(f"{SAMPLES}/{self._name}", np.ascontiguousarray(sheet.transpose(2, 0, 1)))


@EVALUATORS.register()
def inpainting(cfg: CfgNode, dataset_name: str, output_folder: str) -> InpaintingEvaluator:
    """Judges painted pictures, whatever the type of the data set."""
    samples = os.path.join(cfg.OUTPUT_DIR, SAMPLES)
    return InpaintingEvaluator(
        dataset_name,
        output_folder,
        is_bgr=cfg.INPUT.FORMAT == "BGR",
        samples_dir=samples,
        distances=build_distances(cfg.MODEL.INPAINTING.DISTANCES),
    )


def _report(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means over all pictures and over those of each bucket, logged as a table."""
    names = [*_METRICS, *(f"hole_{metric}" for metric in _METRICS)]
    results = {name: _mean(entry[name] for entry in entries) for name in names}
    rows: list[list[Any]] = [["all", len(entries), *results.values()]]
    for low, high in pairwise(_BUCKETS):
        inside = [entry for entry in entries if low < entry["hole"] <= high]
        if not inside:
            continue
        label = f"{100 * low:.0f}-{100 * high:.0f}%"
        means = {f"{name}-{label}": _mean(entry[name] for entry in inside) for name in names}
        rows.append([label, len(inside), *means.values()])
        results |= means
    table = tabulate(rows, headers=["hole", "pictures", *names], tablefmt="pipe", floatfmt=".3f")
    logger.info("Evaluation results for inpainting (L1 in percent, PSNR in dB):\n" + table)
    return results


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _as_array(image: Any) -> np.ndarray:
    return image.cpu().numpy().transpose(1, 2, 0)


def _write_picture(path: Path, bgr: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb", durable=False) as file:
        file.write(cv2.imencode(".png", bgr)[1].tobytes())
