"""Our COCOEvaluator and Detectron2's, shown the same outputs, report the same results under the same names."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")
from detectron2.data import MetadataCatalog as UpstreamCatalog
from detectron2.evaluation import COCOEvaluator as UpstreamEvaluator
from detectron2.evaluation import print_csv_format as upstream_print
from detectron2.evaluation.testing import flatten_results_dict as upstream_flatten
from detectron2.structures import Boxes as UpstreamBoxes
from detectron2.structures import Instances as UpstreamInstances

from densekit.d2.data import MetadataCatalog
from densekit.d2.structures import Boxes, Instances
from densekit.evaluation import COCOEvaluator
from densekit.runtime.evaluation.testing import flatten_results_dict, print_csv_format

SIZE = (90, 120)
NAMES = {3: "cup", 8: "fork", 21: "plate"}


def boxes_of(rng, count) -> np.ndarray:
    corner, extent = rng.uniform(0, 50, (count, 2)), rng.uniform(5, 40, (count, 2))
    return np.c_[corner, corner + extent]


def mask_of(box) -> np.ndarray:
    x0, y0, x1, y1 = box.round().astype(int)
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def images(tmp_path):
    """Registers a data set with both hosts and returns, per image, what a model says about it."""
    rng = np.random.default_rng(3)
    annotations, images, seen = [], [], []
    for image_id in (5, 2, 9, 4):
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "height": SIZE[0], "width": SIZE[1]})
        truth = boxes_of(rng, 5)
        for x0, y0, x1, y1 in truth:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice([3, 8])),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                    "keypoints": [x0, y0, 2, x1, y1, 1, x0, y1, 0],
                    "num_keypoints": 2,
                }
            )
        found = np.concatenate([truth + rng.normal(size=(5, 4)) * 2, truth + rng.normal(size=(5, 4)) * 4])
        points = np.stack([found[:, :2], found[:, 2:], found[:, [0, 3]]], axis=1) + 0.5
        seen.append(
            {
                "image_id": image_id,
                "boxes": torch.tensor(found).float(),
                "scores": torch.tensor(rng.random(10).round(1)).float(),
                "classes": torch.tensor(rng.integers(0, 3, 10)),
                "masks": torch.tensor(np.stack([mask_of(box) for box in found])),
                "keypoints": torch.tensor(np.concatenate([points, np.ones((10, 3, 1))], axis=2)).float(),
            }
        )
    categories = [{"id": key, "name": name} for key, name in NAMES.items()]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    catalogs = {id(catalog): catalog for catalog in (MetadataCatalog, UpstreamCatalog)}  # one and the same on that host
    for catalog in catalogs.values():
        catalog.get("both").set(
            json_file=str(path),
            thing_classes=list(NAMES.values()),
            thing_dataset_id_to_contiguous_id={key: k for k, key in enumerate(NAMES)},
        )
    yield seen
    for catalog in catalogs.values():
        catalog.remove("both")


def detections(seen, instances_type, boxes_type):
    found = instances_type(SIZE)
    found.pred_boxes = boxes_type(seen["boxes"].clone())
    found.scores, found.pred_classes = seen["scores"], seen["classes"]
    found.pred_masks, found.pred_keypoints = seen["masks"], seen["keypoints"].clone()
    return {"instances": found}


def proposals(seen, instances_type, boxes_type):
    found = instances_type(SIZE)
    found.proposal_boxes = boxes_type(seen["boxes"].clone())
    found.objectness_logits = seen["scores"] + torch.arange(10) * 1e-3
    return {"proposals": found}


def both_results(images, output) -> tuple[dict, dict]:
    results = []
    sigmas = [0.05, 0.1, 0.08]
    for evaluator, types in (
        (COCOEvaluator("both", kpt_oks_sigmas=sigmas), (Instances, Boxes)),
        (UpstreamEvaluator("both", kpt_oks_sigmas=sigmas), (UpstreamInstances, UpstreamBoxes)),
    ):
        evaluator.reset()
        for seen in images:
            evaluator.process([{"image_id": seen["image_id"]}], [output(seen, *types)])
        results.append(evaluator.evaluate())
    return results[0], results[1]


@pytest.mark.parametrize(
    ("output", "tasks"), [(detections, ["bbox", "keypoints", "segm"]), (proposals, ["box_proposals"])]
)
def test_same_names_and_numbers(images, output, tasks, caplog):
    ours, theirs = both_results(images, output)
    assert list(ours) == list(theirs) == tasks
    for task in tasks:
        assert list(ours[task]) == list(theirs[task])
        assert ours[task] == pytest.approx(theirs[task], rel=0, abs=1e-6, nan_ok=True)
    assert flatten_results_dict(ours).keys() == upstream_flatten(theirs).keys()
    lines = []
    for show in (print_csv_format, upstream_print):
        caplog.clear()
        with caplog.at_level("INFO"):
            show(theirs)
        lines.append(list(caplog.messages))
    assert lines[0] == lines[1]
