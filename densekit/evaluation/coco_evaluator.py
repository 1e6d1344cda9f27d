"""The evaluator for boxes, masks, keypoints and proposals with COCO's metrics."""

import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tabulate import tabulate

from densekit.d2.data import MetadataCatalog
from densekit.d2.evaluation import DatasetEvaluator
from densekit.d2.utils import comm
from densekit.d2.utils.logger import create_small_table
from densekit.data.ground_truth import GroundTruth, dataset_to_coco, read_coco_json
from densekit.evaluation.coco_metrics import CocoScores, evaluate_coco
from densekit.evaluation.diagnosis import explain
from densekit.evaluation.gathering import each_image_once
from densekit.evaluation.predictions import instances_to_coco_json, proposals_to_arrays, write_json_list
from densekit.evaluation.proposals import evaluate_box_proposals, save_box_proposals
from densekit.files.atomic import atomic_write

TASKS = ("bbox", "keypoints", "segm")
_OPTIONAL_TASKS = {"pred_masks": "segm", "pred_keypoints": "keypoints"}
_TABLE_PAIRS = 3

logger = logging.getLogger(__name__)


class COCOEvaluator(DatasetEvaluator):
    """Average precision of boxes, masks and keypoints, and average recall of proposals, on a registered data set.

    Takes a model's ``"instances"`` or ``"proposals"``. Masks are run-length encoded as they arrive. With several
    processes the predictions are gathered once and the main process evaluates them, each image once, however a sampler
    has padded its share.

    Into ``output_dir`` go ``coco_instances_results.json`` (COCO's result format), ``box_proposals.pkl`` (for
    ``DATASETS.PROPOSAL_FILES_*``) and, for a data set without a JSON file, its ground truth as
    ``<name>_coco_format.json``.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = False,
        boundary: bool = False,
    ) -> None:
        """Reads the ground truth.

        Args:
            dataset_name: A registered data set, from a COCO JSON file or from Python dicts with ``thing_classes``.
            tasks: Some of ``"bbox"``, ``"segm"``, ``"keypoints"``; by default what the model predicts.
            distributed: Gather from all processes; else each process evaluates what it has seen.
            output_dir: Where the files go; by default nothing is written.
            max_dets_per_image: Detections per image and class that count, instead of COCO's 100; poses keep 20.
            kpt_oks_sigmas: One per keypoint; by default those of COCO's persons.
            allow_cached_coco: Take the ground truth of a data set without a JSON file from an earlier run's
                ``<name>_coco_format.json``. That file does not notice when the data set changes.
            boundary: Judge masks by their boundaries too (arXiv:2103.16562); the numbers are under ``"boundary"``.

        Raises:
            ValueError: An unknown task, or a ground truth that is not COCO's.
        """
        unknown = sorted(set(tasks or ()) - set(TASKS))
        if unknown:
            raise ValueError(f"Unknown COCO tasks {unknown}; there are {', '.join(TASKS)}.")
        self._dataset_name = dataset_name
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = Path(output_dir) if output_dir else None
        self._max_dets_per_image = max_dets_per_image
        self._kpt_oks_sigmas = kpt_oks_sigmas
        self._boundary = boundary
        self._truth: GroundTruth | None = None
        if not distributed or comm.is_main_process():
            self._truth = self._read_ground_truth(allow_cached_coco)
        self.reset()

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in one batch.

        Args:
            inputs: One dict per image with its ``"image_id"``.
            outputs: One dict per image with ``"instances"`` or ``"proposals"``; images with neither are passed over.
        """
        for item, output in zip(inputs, outputs):
            prediction: dict[str, Any] = {"image_id": item["image_id"]}
            if "instances" in output:
                instances = output["instances"]
                prediction["instances"] = instances_to_coco_json(instances, item["image_id"])
                # Recorded even when nothing was found: a model that finds nothing still has its tasks.
                prediction["tasks"] = ["bbox", *(t for name, t in _OPTIONAL_TASKS.items() if instances.has(name))]
            if "proposals" in output:
                prediction["proposals"] = proposals_to_arrays(output["proposals"])
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self, img_ids: Iterable[Any] | None = None) -> Mapping[str, Any]:
        """Returns the numbers of all tasks, and writes the files.

        Args:
            img_ids: The images to evaluate on; by default all of the data set.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>" ...}, "segm": ..., "keypoints": ...,
            "boundary": ..., "box_proposals": {"AR@100" ...}}``, 0 to 100, NaN where there is no ground truth. Empty in
            other processes than the main one, and where the data set has no annotations.

        Raises:
            ValueError: A prediction of an image or a class that the data set does not have.
        """
        gathered = comm.gather(self._predictions, dst=0) if self._distributed else [self._predictions]
        if self._truth is None:
            return {}
        truth = self._truth
        img_ids = None if img_ids is None else list(img_ids)  # every task goes through them
        predictions = each_image_once(chain.from_iterable(gathered), truth.image_numbers, truth.source)
        instances = [prediction for prediction in predictions if "instances" in prediction]
        proposals = [prediction for prediction in predictions if "proposals" in prediction]
        if not predictions:
            logger.warning(f"No output with 'instances' or 'proposals' was received for '{self._dataset_name}'.")
        elif img_ids is None and len(predictions) < len(truth.image_numbers):
            missed = len(truth.image_numbers) - len(predictions)
            logger.warning(f"{missed} images of '{self._dataset_name}' were not shown; their objects count as missed.")
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
        results: OrderedDict[str, Any] = OrderedDict()
        if proposals:
            results.update(self._evaluate_proposals(truth, proposals))
        if instances:
            results.update(self._evaluate_instances(truth, instances, img_ids))
        return results

    def _evaluate_proposals(self, truth: GroundTruth, predictions: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        if self._output_dir is not None:
            save_box_proposals(self._output_dir / "box_proposals.pkl", predictions)
        if not self._can_evaluate(truth):
            return {}
        recalls = evaluate_box_proposals(truth, predictions)
        logger.info("Proposal metrics:\n" + create_small_table(recalls))
        return {"box_proposals": recalls}

    def _evaluate_instances(
        self, truth: GroundTruth, predictions: list[dict[str, Any]], img_ids: Iterable[Any] | None
    ) -> dict[str, dict[str, float]]:
        class_names = self._class_names(truth)
        found = _in_category_ids(chain.from_iterable(p["instances"] for p in predictions), list(class_names))
        if self._output_dir is not None:
            write_json_list(self._output_dir / "coco_instances_results.json", found)
        if not self._can_evaluate(truth):
            return {}
        predicted_tasks = {task for prediction in predictions for task in prediction["tasks"]}
        tasks = set(self._tasks or predicted_tasks)
        if not tasks <= predicted_tasks:
            raise ValueError(f"The model predicts {sorted(predicted_tasks)}; asked for were {sorted(tasks)}.")
        if self._boundary and "segm" in tasks:
            tasks.add("boundary")
        results = {}
        for task in sorted(tasks):
            scores = evaluate_coco(
                truth,
                found,
                task,
                max_dets_per_image=self._max_dets_per_image,
                kpt_oks_sigmas=self._kpt_oks_sigmas,
                image_ids=img_ids,
            )
            results[task] = _report(task, scores, class_names)
            for reason in explain(task, scores, truth, found):
                logger.warning(reason)
        return results

    def _class_names(self, truth: GroundTruth) -> dict[int, str]:
        """Returns the data set's category ids, in the order of the model's classes, with their names.

        Read late: a data set that comes from a JSON file gets this metadata when its loader is built.
        """
        metadata = MetadataCatalog.get(self._dataset_name)
        classes = metadata.get("thing_dataset_id_to_contiguous_id") or {
            key: k for k, key in enumerate(truth.categories)
        }
        ids = sorted(classes, key=lambda key: classes[key])
        if sorted(classes.values()) != list(range(len(ids))):
            raise ValueError(
                f"thing_dataset_id_to_contiguous_id of '{self._dataset_name}' has to map to 0 .. {len(ids) - 1}, "
                f"but maps to {sorted(classes.values())}."
            )
        names = metadata.get("thing_classes") or [truth.categories[key] for key in ids]
        return dict(zip(ids, names))

    def _read_ground_truth(self, allow_cached_coco: bool) -> GroundTruth:
        if MetadataCatalog.get(self._dataset_name).get("json_file") or self._output_dir is None:
            return GroundTruth.of(self._dataset_name)
        cache = self._output_dir / f"{self._dataset_name}_coco_format.json"
        if allow_cached_coco and cache.is_file():
            logger.warning(f"The ground truth of '{self._dataset_name}' comes from {cache}, written by an earlier run.")
            return GroundTruth.from_coco(read_coco_json(str(cache)), source=str(cache))
        content = dataset_to_coco(self._dataset_name)
        self._output_dir.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache) as file:
            file.write(json.dumps(content))
        return GroundTruth.from_coco(content, source=str(cache))

    def _can_evaluate(self, truth: GroundTruth) -> bool:
        """Tells whether there are annotations, and logs it where there are none."""
        if not truth.annotated:
            where = (
                f"the predictions are in {self._output_dir}" if self._output_dir else "give an output_dir to keep them"
            )
            logger.warning(f"{truth.source} has no annotations, so the predictions are not evaluated; {where}.")
        return truth.annotated


def _in_category_ids(predictions: Iterable[dict[str, Any]], category_ids: list[int]) -> list[dict[str, Any]]:
    """Returns the predictions with the data set's category ids in place of the model's classes."""
    converted = []
    for result in predictions:
        if not 0 <= result["category_id"] < len(category_ids):
            raise ValueError(
                f"Class {result['category_id']} was predicted in image {result['image_id']!r}, but the data set has "
                f"the classes 0 .. {len(category_ids) - 1}. MODEL.ROI_HEADS.NUM_CLASSES must be {len(category_ids)}."
            )
        converted.append({**result, "category_id": category_ids[result["category_id"]]})
    return converted


def _report(task: str, scores: CocoScores, class_names: Mapping[int, str]) -> dict[str, float]:
    """Logs the tables and returns the numbers under Detectron2's names."""
    logger.info(f"Evaluation results for {task}:\n" + create_small_table(scores.metrics))
    if len(class_names) < 2:
        return scores.metrics
    per_class = {name: scores.per_category.get(key, float("nan")) for key, name in class_names.items()}
    cells = [[name, value] for name, value in per_class.items()]
    rows = [list(chain.from_iterable(cells[k : k + _TABLE_PAIRS])) for k in range(0, len(cells), _TABLE_PAIRS)]
    headers = ["category", "AP"] * min(_TABLE_PAIRS, len(cells))
    table = tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
    logger.info(f"Per-category {task} AP:\n" + table)
    return {**scores.metrics, **{f"AP-{name}": value for name, value in per_class.items()}}
