"""The evaluator across two real processes on gloo."""

import json

import pytest
import torch

from densekit.d2.data import MetadataCatalog
from densekit.d2.structures import Boxes, Instances
from densekit.d2.utils import comm
from densekit.evaluation import COCOEvaluator

IMAGES = 5


def write_truth(path):
    annotations = [
        {
            "id": k + 1,
            "image_id": k,
            "category_id": 1,
            "bbox": [10.0, 10.0, 30.0, 30.0 + k],
            "area": 900.0,
            "iscrowd": 0,
        }
        for k in range(IMAGES)
    ]
    images = [{"id": k, "file_name": f"{k}.jpg", "height": 100, "width": 100} for k in range(IMAGES)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(content))


def evaluate(folder, image_ids, output):
    MetadataCatalog.get("shared").set(json_file=str(folder / "truth.json"), thing_classes=["a"])
    evaluator = COCOEvaluator("shared", output_dir=str(folder / output))
    for k in image_ids:
        found = Instances((100, 100))
        found.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 40.0, 40.0 + 3 * k], [60.0, 60.0, 80.0, 80.0]]))
        found.scores = torch.tensor([0.9 - 0.1 * k, 0.5])
        found.pred_classes = torch.tensor([0, 0])
        evaluator.process([{"image_id": k}], [{"instances": found}])
    results = evaluator.evaluate()
    MetadataCatalog.remove("shared")
    return results


def each(args):
    rank = comm.get_rank()
    # The last image goes to both, as from a sampler that pads.
    results = evaluate(args.folder, [0, 2, 4] if rank == 0 else [1, 3, 4], "two")
    (args.folder / f"rank{rank}.json").write_text(json.dumps(results))


@pytest.mark.slow
def test_two_processes_report_once_what_one_reports(tmp_path, in_processes):
    write_truth(tmp_path / "truth.json")
    alone = evaluate(tmp_path, range(IMAGES), "one")
    in_processes(each, 2, folder=tmp_path)
    together, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert other == {}
    assert together["bbox"] == pytest.approx(alone["bbox"], nan_ok=True)
    one, two = (tmp_path / name / "coco_instances_results.json" for name in ("one", "two"))
    assert two.read_text() == one.read_text()
    assert len(json.loads(two.read_text())) == 2 * IMAGES
