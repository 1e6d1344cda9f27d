"""The evaluator for semantic segmentation: IoU and accuracy, and how well boundaries are met."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from densekit.d2.data import DatasetCatalog, Metadata, MetadataCatalog
from densekit.d2.evaluation import DatasetEvaluator
from densekit.d2.utils.logger import create_small_table
from densekit.data.labels import IGNORE, load_sem_seg
from densekit.data.panoptic import with_label_map
from densekit.evaluation.gathering import check_all_there, gathered_once
from densekit.evaluation.predicted_classes import PIXEL_OUTPUTS, predicted_classes
from densekit.evaluation.predictions import encode_masks, write_json_list
from densekit.files.atomic import atomic_write
from densekit.metrics.contours import count_contours
from densekit.metrics.semantic_scores import NOTHING, boundary_iou, count_boundaries, count_pixels
from densekit.metrics.semantic_tally import ImageScores, SemanticTally

_FOLDER = "sem_seg"
_SCORES = "sem_seg_scores.json"
_RECORD_KEYS = ("file_name", "sem_seg_file_name", "sem_seg_values", "height", "width")

logger = logging.getLogger(__name__)


class SemSegEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC, pACC and, if asked for, how well boundaries are met, on a registered data set.

    Boundaries are judged by Boundary IoU (arXiv:2103.16562) and boundary F1 (:mod:`densekit.metrics.contours`).

    Takes a model's ``"sem_seg"``, and where it has none the classes of its ``"panoptic_seg"``. Each process counts its
    images as they come, and writes their label maps; only the counts are gathered. The main process refuses to judge
    when images are missing.

    Into ``output_dir`` go ``sem_seg_predictions.json`` (COCO's stuff format: a run-length mask for each class of each
    image), in ``sem_seg/`` a PNG of the data set's label ids for each image, named after its place in the folder of the
    images, and ``sem_seg_scores.json``:

    - ``classes``: of each its ``name``, ``id``, annotated ``pixels``, the ``images`` that show it, ``IoU``, ``ACC``,
      and ``BoundaryIoU`` and ``BoundaryF`` if they are asked for;
    - ``confusion``: a row of pixels for each annotated class, a column for each predicted class, the last one for none;
    - ``images``: the worst first, of each its ``file_name``, ``mIoU``, ``pACC`` and, if asked for, ``BoundaryF``.

    Other than Detectron2's, the boundaries of Boundary IoU are those of the paper, the pixels of each class near its
    outline, where Detectron2 erodes the map of class numbers.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True, boundary: bool = False
    ) -> None:
        """Reads the list of images.

        Args:
            dataset_name: A registered data set with ``stuff_classes``, whose records name label maps; without those
                it can only be predicted on.
            output_dir: Where the files go; by default nothing is written.
            distributed: Gather from all processes; else each process evaluates what it has seen.
            boundary: Judge boundaries too.

        Raises:
            ValueError: The data set has no class names, or only some of its records name a label map.
        """
        self._dataset_name = dataset_name
        self._output_dir = Path(output_dir) if output_dir else None
        self._distributed = distributed
        self._boundary = boundary
        records = map(with_label_map, DatasetCatalog.get(dataset_name))
        # Without their annotations, which a record of a panoptic data set has too.
        self._records = {r["file_name"]: {key: r[key] for key in _RECORD_KEYS if key in r} for r in records}
        metadata = MetadataCatalog.get(dataset_name)
        self._classes: Sequence[str] = metadata.get("stuff_classes") or ()
        if not self._classes:
            raise ValueError(
                f"Data set '{dataset_name}' has no class names. Set them with "
                f"MetadataCatalog.get('{dataset_name}').stuff_classes = [...]."
            )
        self._ignore = metadata.get("ignore_label", IGNORE)
        self._label_ids = label_ids(metadata, len(self._classes))
        unlabelled = [name for name, record in self._records.items() if "sem_seg_file_name" not in record]
        self._labelled = len(unlabelled) < len(self._records)
        if unlabelled and self._labelled:
            raise ValueError(f"Image {unlabelled[0]} of '{dataset_name}' names no label map, and other images do.")
        self._png_names = png_names(self._records)
        self.reset()

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in one batch.

        Args:
            inputs: One dict per image with its ``"file_name"``.
            outputs: One dict per image; ``"sem_seg"`` are scores (C, H, W) in the original image's pixels, and
                ``"panoptic_seg"`` is as the panoptic evaluator takes it.

        Raises:
            ValueError: An image or a class that the data set does not have, or a map of another size.
        """
        metadata = MetadataCatalog.get(self._dataset_name)
        for item, output in zip(inputs, outputs):
            if not output.keys() & PIXEL_OUTPUTS:
                continue
            name = item["file_name"]
            if name not in self._records:
                raise ValueError(f"Image {name} is not one of '{self._dataset_name}'.")
            prediction = {"file_name": name}
            try:
                classes = predicted_classes(output, metadata)
                if self._labelled:
                    prediction |= self._compare(classes, load_sem_seg(self._records[name]))
            except ValueError as error:
                raise ValueError(f"Image {name} of '{self._dataset_name}': {error}") from error
            if self._output_dir is not None:
                prediction["results"] = self._keep(classes, name, self._output_dir)
            self._predictions.append(prediction)

    def evaluate(self) -> Mapping[str, Any]:
        """Returns the numbers, and writes ``sem_seg_predictions.json``.

        Returns:
            ``{"sem_seg": {"mIoU", "fwIoU", "IoU-<class>" ..., "mACC", "pACC", "ACC-<class>" ...}}``, 0 to 100, NaN
            for what is not annotated; with boundaries also ``"mBoundaryIoU"``, ``"BoundaryIoU-<class>"``,
            ``"mBoundaryF"``, ``"BoundaryF-<class>"`` and, as Detectron2 spells it, ``"min(IoU, B-Iou)-<class>"``. Empty
            in other processes than the main one, and where the data set has no label maps.

        Raises:
            ValueError: Images of the data set were not predicted.
        """
        source = f"'{self._dataset_name}'"
        places = {name: place for place, name in enumerate(self._records)}
        predictions = gathered_once(self._predictions, places, source, "file_name", distributed=self._distributed)
        if predictions is None:
            return {}
        if not predictions:
            logger.warning(f"No output with 'sem_seg' or 'panoptic_seg' was received for {source}.")
            return {}
        check_all_there(predictions, places, source, key="file_name")
        if self._output_dir is not None:
            results = chain.from_iterable(prediction["results"] for prediction in predictions)
            write_json_list(self._output_dir / "sem_seg_predictions.json", results)
        if not self._labelled:
            logger.warning(f"{source} has no label maps, so the predictions are not evaluated.")
            return {}
        return {"sem_seg": self._report(predictions)}

    def _compare(self, classes: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        """Returns an image's counts, without the zeros that most of them are."""
        kinds: dict[str, Callable[..., np.ndarray]] = {"pixels": count_pixels}
        if self._boundary:
            kinds |= {"boundaries": count_boundaries, "contours": count_contours}
        return {kind: _packed(count(classes, truth, len(self._classes), self._ignore)) for kind, count in kinds.items()}

    def _keep(self, classes: np.ndarray, name: str, folder: Path) -> list[dict[str, Any]]:
        """Writes an image's PNG and returns its entries for the JSON file."""
        found = np.unique(classes)
        found = found[found != NOTHING]
        if found.max(initial=0) >= len(self._classes):
            raise ValueError(
                f"Class {found.max()} was predicted in image {name}, but '{self._dataset_name}' has the classes 0 .. "
                f"{len(self._classes) - 1}. MODEL.SEM_SEG_HEAD.NUM_CLASSES must be {len(self._classes)}."
            )
        table = np.append(self._label_ids, nothing_id(self._label_ids))  # the last is what NOTHING points to
        path = folder / _FOLDER / self._png_names[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb", durable=False) as file:
            Image.fromarray(table[classes]).save(file, format="PNG")
        masks = encode_masks(torch.from_numpy(classes[None] == found[:, None, None]))
        ids = table[found].tolist()
        return [{"file_name": name, "category_id": key, "segmentation": mask} for key, mask in zip(ids, masks)]

    def _report(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Logs the tables, writes the scores and returns the numbers under Detectron2's names."""
        size = len(self._classes)
        tally, images = SemanticTally(size), []
        for prediction in predictions:
            pixels = _unpacked(prediction["pixels"], (size + 1, size))
            contours = _unpacked(prediction["contours"], (4, size)) if self._boundary else None
            images.append((prediction["file_name"], tally.add(pixels, contours)))
        scores = tally.scores
        main = {
            "mIoU": scores.mean_iou,
            "fwIoU": scores.frequency_weighted_iou,
            "mACC": scores.mean_accuracy,
            "pACC": scores.pixel_accuracy,
        }
        columns = {"IoU": scores.iou, "ACC": scores.accuracy}
        if self._boundary:
            parts = (_unpacked(prediction["boundaries"], (3, size)) for prediction in predictions)
            edges, main["mBoundaryIoU"] = boundary_iou(sum(parts, np.zeros((3, size), dtype=np.int64)))
            f1, main["mBoundaryF"] = tally.boundary_f
            columns |= {"BoundaryIoU": edges, "BoundaryF": f1, "min(IoU, B-Iou)": np.minimum(scores.iou, edges)}
        main = {name: 100 * value for name, value in main.items()}
        columns = {kind: 100 * values for kind, values in columns.items()}
        self._log(main, columns, tally)
        if self._output_dir is not None:
            self._write_scores(self._output_dir / _SCORES, columns, tally, images)
        return main | {
            f"{kind}-{name}": float(value)
            for kind, values in columns.items()
            for name, value in zip(self._classes, values)
        }

    def _log(self, main: Mapping[str, float], columns: Mapping[str, np.ndarray], tally: SemanticTally) -> None:
        """Logs the averages, and a line for each class."""
        logger.info("Evaluation results for sem_seg:\n" + create_small_table(dict(main)))
        total = max(1, int(tally.pixels.sum()))
        rows = [
            [name, int(images), 100 * pixels / total, *values]
            for name, images, pixels, values in zip(
                self._classes, tally.images, tally.pixels, np.stack(list(columns.values()), axis=1)
            )
        ]
        headers = ["class", "images", "% of pixels", *columns]
        logger.info("Per class:\n" + tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f"))

    def _write_scores(
        self,
        path: Path,
        columns: Mapping[str, np.ndarray],
        tally: SemanticTally,
        images: Sequence[tuple[str, ImageScores]],
    ) -> None:
        """Writes the scores and the support of classes, the confusion and the scores of images."""
        kept = [kind for kind in columns if kind != "min(IoU, B-Iou)"]
        classes = [
            {
                "name": name,
                "id": int(self._label_ids[k]),
                "pixels": int(tally.pixels[k]),
                "images": int(tally.images[k]),
            }
            | {kind: _or_null(columns[kind][k]) for kind in kept}
            for k, name in enumerate(self._classes)
        ]
        ranked = sorted(images, key=lambda entry: (math.isnan(entry[1].mean_iou), entry[1].mean_iou))
        entries = [
            {"file_name": name, "mIoU": _or_null(100 * one.mean_iou), "pACC": _or_null(100 * one.pixel_accuracy)}
            | ({"BoundaryF": _or_null(100 * one.boundary_f)} if self._boundary else {})
            for name, one in ranked
        ]
        with atomic_write(path) as file:
            content = {"classes": classes, "confusion": tally.confusion.tolist(), "images": entries}
            json.dump(content, file, allow_nan=False)


def label_ids(metadata: Metadata, num_classes: int) -> np.ndarray:
    """Returns the data set's id of each class, in the smallest type that a PNG can have.

    Where stuff classes list the things too, as in Detectron2's joint panoptic data sets, the ids of those are things'.
    """
    ids: dict[int, int] = {}
    for kind in ("thing", "stuff"):
        ids |= {index: key for key, index in (metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {}).items()}
    if not metadata.get("stuff_dataset_id_to_contiguous_id"):
        ids = {index: index for index in range(num_classes)}
    missing = [index for index in range(num_classes) if index not in ids]
    if missing:
        raise ValueError(
            f"stuff_dataset_id_to_contiguous_id of '{metadata.name}' gives no id for the classes {missing[:5]} of its "
            f"{num_classes} stuff_classes."
        )
    values = [ids[index] for index in range(num_classes)]
    return np.array(values, dtype=np.uint8 if max(values) < IGNORE else np.uint16)


def nothing_id(ids: np.ndarray) -> np.generic:
    """The value in a kept PNG, with the ids of :func:`label_ids`, of pixels that no class was predicted for."""
    return ids.dtype.type(np.iinfo(ids.dtype).max)


def png_names(image_files: Iterable[str]) -> dict[str, str]:
    """Names a PNG after the place of each image below the folder that they share."""
    files = list(image_files)
    root = os.path.commonpath([os.path.dirname(name) for name in files]) if files else ""
    names = {name: str(Path(os.path.relpath(name, root)).with_suffix(".png")) for name in files}
    if len(set(names.values())) < len(names):  # two images differ in their ending only
        names = {name: f"{os.path.relpath(name, root)}.png" for name in files}
    return names


def _packed(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = np.flatnonzero(counts)
    return places, counts.ravel()[places]


def _unpacked(part: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    places, counts = part
    whole = np.zeros(shape[0] * shape[1], dtype=np.int64)
    whole[places] = counts
    return whole.reshape(shape)


def _or_null(value: float) -> float | None:
    """The value as JSON has it, which knows no NaN."""
    return None if math.isnan(value) else float(value)
