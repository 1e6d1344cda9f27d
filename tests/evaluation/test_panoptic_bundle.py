"""What a panoptic data set is evaluated with: classes, objects and segments at once, on generated scenes."""

import json
from functools import partial

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
from densekit.data.panoptic import contiguous_segments, separated_entry
from densekit.data.registry import Entry, register
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


def config(**keys):
    cfg = get_cfg()
    add_densekit_config(cfg)
    for key, value in keys.items():
        cfg.TEST[key] = value
    return cfg


def evaluator(folder, **keys):
    return build_evaluator(config(**keys), "scenes", str(folder))


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
    semantic = [("sem_seg", name) for name in ("mIoU", "pACC", "mBoundaryIoU", "mBoundaryF")]
    for task, name in (*semantic, ("panoptic_seg", "PQ")):
        assert results[task][name] == pytest.approx(100)
    for task in ("bbox", "segm", "boundary"):
        assert results[task]["AP"] == pytest.approx(100)
    assert results["panoptic_seg"]["PQ_th"] == results["panoptic_seg"]["PQ_st"] == 100
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        *("coco_instances_results.json", "sem_seg_predictions.json", "sem_seg_scores.json", "predictions.json"),
        *("sem_seg", "panoptic"),
    }
    pictures = [sorted(path.name for path in (tmp_path / part).iterdir()) for part in ("sem_seg", "panoptic")]
    assert pictures[0] == pictures[1] and len(pictures[0]) == len(scenes)


def test_what_a_model_does_not_say_is_left_out(scenes, tmp_path):
    loader = [[record] for record in with_segments(scenes)]

    def model(batch):
        return [{"panoptic_seg": oracle(record)["panoptic_seg"]} for record in batch]

    results = inference_on_dataset(model, loader, evaluator(tmp_path))
    assert list(results) == ["sem_seg", "panoptic_seg"]
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)  # all things are one class of these label maps


@pytest.mark.parametrize("form", ["scenes", "scenes_standard"])
def test_classes_of_segments_are_those_of_an_independent_confusion(scenes, form, tmp_path):
    """A model that lists segments alone: some are dropped to void, some have another class."""
    metadata = MetadataCatalog.get("scenes")
    things, stuff = metadata.thing_dataset_id_to_contiguous_id, metadata.stuff_dataset_id_to_contiguous_id
    keys = [*stuff.keys() - {0}, *things]
    if form == "scenes":
        names = metadata.stuff_classes
        number = {key: (things.get(key) is None and stuff[key]) or 0 for key in keys}
    else:
        names, number = [str(key) for key in keys], {key: k for k, key in enumerate(keys)}
        register_standard(scenes, metadata, names, number, things)
    counts = np.zeros((len(names), len(names) + 1), dtype=int)
    loader, outputs = [], {}
    for k, record in enumerate(with_segments(scenes)):
        ids = read_panoptic_png(record["pan"])
        listed = [{"id": s["id"], "category_id": s["category_id"]} for s in record["segments"]]
        truth = {s["id"]: number[s["category_id"]] for s in listed}
        listed[0]["category_id"] = keys[k]
        dropped, found = listed.pop(1), np.array(ids)
        found[found == dropped["id"]] = 0
        outputs[record["image_id"]] = {"panoptic_seg": (torch.from_numpy(found), listed)}
        says = {s["id"]: number[s["category_id"]] for s in listed}
        for value, guess in zip(ids.ravel().tolist(), found.ravel().tolist()):
            if value:
                counts[truth[value], says.get(guess, len(names))] += 1
        loader.append([{key: record[key] for key in ("file_name", "image_id")}])
    judge = build_evaluator(config(), form, str(tmp_path))
    results = inference_on_dataset(lambda batch: [outputs[item["image_id"]] for item in batch], loader, judge)
    right, total = counts.diagonal(), counts.sum(axis=1)
    occurs = total > 0
    ious = right[occurs] / (total + counts.sum(axis=0)[:-1] - right)[occurs]
    assert 0 < ious.mean() < 1 and counts[:, -1].sum() > 0
    assert results["sem_seg"]["mIoU"] == pytest.approx(100 * ious.mean(), abs=1e-9)
    assert results["sem_seg"]["pACC"] == pytest.approx(100 * right.sum() / counts.sum(), abs=1e-9)
    assert {"PQ", "PQ_th"} <= results["panoptic_seg"].keys()


def register_standard(scenes, metadata, names, number, things):
    """The same scenes with one numbering of all classes."""
    records = [
        {
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "pan_seg_file_name": record["pan"],
            "segments_info": contiguous_segments(record["segments"], number, {}),
        }
        for record in with_segments(scenes)
    ]
    known = {
        "thing_classes": names,
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {key: number[key] for key in things},
        "stuff_dataset_id_to_contiguous_id": {key: n for key, n in number.items() if key not in things},
        **{key: metadata.get(key) for key in ("panoptic_json", "panoptic_root")},
    }
    register(Entry("scenes_standard", partial(list, records), {**known, "evaluator_type": "coco_panoptic_seg"}))
