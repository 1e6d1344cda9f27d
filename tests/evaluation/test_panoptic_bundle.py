"""What a panoptic data set is evaluated with: classes, objects and segments at once, on generated scenes."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch

from densekit.config_defaults import add_densekit_config
from densekit.d2.config import get_cfg
from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.d2.evaluation import inference_on_dataset
from densekit.d2.structures import Boxes, BoxMode, Instances
from densekit.data.labels import load_sem_seg
from densekit.data.panoptic import separated_entry
from densekit.data.registry import register
from densekit.evaluation import build_evaluator
from densekit.files.panoptic_png import read_panoptic_png
from densekit.streets import write_streets


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "streets"
    return write_streets(folder, train=1, val=3, width=192, height=96, seed=3, workers=1)


@pytest.fixture
def scenes(streets):
    panoptic, objects = streets / "annotations" / "panoptic_val", streets / "annotations" / "instances_val.json"
    files = (str(streets / "val"), str(panoptic), f"{panoptic}.json", str(objects), None)
    register(separated_entry("scenes", *files, {}))
    return DatasetCatalog.get("scenes")


def oracle(record):
    """What a model that knows the annotation says."""
    labels = torch.from_numpy(load_sem_seg(record)).long()
    classes = len(MetadataCatalog.get("scenes").stuff_classes)
    sem_seg = torch.nn.functional.one_hot(labels.where(labels < classes, 0), classes).permute(2, 0, 1)
    height, width = labels.shape
    objects = [a for a in record["annotations"] if not a["iscrowd"]]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    runs = [mask_utils.merge(mask_utils.frPyObjects(a["segmentation"], height, width)) for a in objects]
    instances = Instances(
        (height, width),
        pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4).float()),
        pred_masks=torch.from_numpy(np.array([mask_utils.decode(r) for r in runs]).reshape(-1, height, width)),
        pred_classes=torch.tensor([a["category_id"] for a in objects], dtype=torch.int64),
        scores=torch.ones(len(objects)),
    )
    ids = read_panoptic_png(record["pan"])
    segments = [{"id": s["id"], "category_id": s["category_id"]} for s in record["segments"]]
    return {"sem_seg": sem_seg, "instances": instances, "panoptic_seg": (torch.from_numpy(ids), segments)}


def evaluator(folder, **keys):
    cfg = get_cfg()
    add_densekit_config(cfg)
    for key, value in keys.items():
        cfg.TEST[key] = value
    return build_evaluator(cfg, "scenes", str(folder))


def with_segments(records):
    metadata = MetadataCatalog.get("scenes")
    with open(metadata.panoptic_json) as file:
        segments = {a["image_id"]: a for a in json.load(file)["annotations"]}
    return [
        record
        | {
            "segments": segments[record["image_id"]]["segments_info"],
            "pan": f"{metadata.panoptic_root}/{segments[record['image_id']]['file_name']}",
        }
        for record in records
    ]


def test_the_annotation_itself_is_perfect(scenes, tmp_path):
    loader = [[record] for record in with_segments(scenes)]
    results = inference_on_dataset(
        lambda batch: [oracle(record) for record in batch], loader, evaluator(tmp_path, BOUNDARY=True)
    )
    assert set(results) == {"sem_seg", "bbox", "segm", "boundary", "panoptic_seg"}
    for task, name in (("sem_seg", "mIoU"), ("sem_seg", "pACC"), ("sem_seg", "mBoundaryIoU"), ("panoptic_seg", "PQ")):
        assert results[task][name] == pytest.approx(100)
    for task in ("bbox", "segm", "boundary"):
        assert results[task]["AP"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ_th"] == results["panoptic_seg"]["PQ_st"] == 100
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        *("coco_instances_results.json", "sem_seg_predictions.json", "predictions.json"),
        *("sem_seg", "panoptic"),
    }
    pictures = [sorted(path.name for path in (tmp_path / part).iterdir()) for part in ("sem_seg", "panoptic")]
    assert pictures[0] == pictures[1] and len(pictures[0]) == len(scenes)


def test_what_a_model_does_not_say_is_left_out(scenes, tmp_path):
    loader = [[record] for record in with_segments(scenes)]

    def model(batch):
        return [{"panoptic_seg": oracle(record)["panoptic_seg"]} for record in batch]

    assert list(inference_on_dataset(model, loader, evaluator(tmp_path))) == ["panoptic_seg"]
