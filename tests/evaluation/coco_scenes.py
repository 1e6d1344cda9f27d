"""Random scenes with ground truth and detections, and what pycocotools says about them."""

import contextlib
import copy
import io
import json

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densekit.d2.data import MetadataCatalog
from densekit.d2.structures import Boxes, Instances
from densekit.evaluation.predictions import instances_to_coco_json

HEIGHT, WIDTH, KEYPOINTS = 120, 160, 5
SIGMAS = [0.05, 0.07, 0.08, 0.1, 0.03]
CATEGORIES = {2: "cell", 3: "car", 17: "cat", 40: "never annotated"}
EXACT = {"rel": 0, "abs": 1e-6, "nan_ok": True}


def disc(x, y, w, h) -> np.ndarray:
    """An ellipse, so that a mask's area is not its box's."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1


def random_object(rng, identity, image_id) -> dict:
    w, h = rng.uniform(3, 110, 2)  # areas on both sides of 32^2 and 96^2
    x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
    mask = disc(x, y, w, h)
    crowd = rng.random() < 0.15
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0)), prepend=0).tolist()
    runs.append(mask.size - sum(runs))
    points = np.c_[rng.uniform(x, x + w, KEYPOINTS), rng.uniform(y, y + h, KEYPOINTS), rng.integers(0, 3, KEYPOINTS)]
    points *= rng.random() < 0.8  # some persons without any keypoint
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": int(rng.choice([2, 3, 17])),
        "bbox": [x, y, w, h],
        "area": float(rng.choice([mask.sum(), 32**2, 96**2])),  # also right on the borders
        "iscrowd": int(crowd),
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}
        if crowd
        else [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }


def random_detection(rng, target) -> dict:
    x, y, w, h = target["bbox"] + rng.normal(size=4) * rng.uniform(0, 8)
    x, y, w, h = (np.float32(max(value, 1.0)) for value in (x, y, w, h))
    points = np.asarray(target["keypoints"]).reshape(-1, 3) + rng.normal(size=(KEYPOINTS, 3)) * rng.uniform(0, 4)
    same = rng.random() < 0.8
    return {
        "image_id": target["image_id"],
        "category_id": target["category_id"] if same else int(rng.choice(list(CATEGORIES))),
        "box": [x, y, x + w, y + h],
        "score": round(rng.random(), 1),  # many ties
        "mask": disc(x, y, w, h),
        "keypoints": points,
    }


def random_scene(seed: int, images: int = 8) -> tuple[dict, list[dict]]:
    """Returns a COCO file's content and detections; one image has more than 100 of one class."""
    rng = np.random.default_rng(seed)
    ids = [int(value) for value in rng.permutation(500)[:images]]
    annotations = []
    for image_id in ids[1:]:  # and one image without objects
        for _ in range(rng.integers(1, 9)):
            annotations.append(random_object(rng, len(annotations) + 1, image_id))
    detections = [random_detection(rng, target) for target in annotations for _ in range(rng.integers(0, 4))]
    detections += [random_detection(rng, annotations[-1]) for _ in range(120)]
    detections += [random_detection(rng, {**annotations[0], "image_id": ids[0]}) for _ in range(2)]
    if seed % 2:  # a class that is annotated and never predicted
        detections = [detection for detection in detections if detection["category_id"] != 3]
    content = {
        "images": [{"id": key, "file_name": f"{key}.jpg", "height": HEIGHT, "width": WIDTH} for key in ids],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }
    return content, detections


def register(tmp_path, content, name="tiny") -> str:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    ids = sorted(category["id"] for category in content["categories"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    MetadataCatalog.get(name).set(
        json_file=str(path),
        evaluator_type="coco",
        thing_classes=[names[key] for key in ids],
        thing_dataset_id_to_contiguous_id={key: k for k, key in enumerate(ids)},
    )
    return name


def as_model_output(detections, fields=("masks", "keypoints"), size=(HEIGHT, WIDTH)) -> Instances:
    """Returns what a model says about one image; its classes are 0, 1 ... in the order of the category ids."""
    classes = {key: k for k, key in enumerate(sorted(CATEGORIES))}
    result = Instances(size)
    result.pred_boxes = Boxes(torch.tensor(np.array([d["box"] for d in detections]).reshape(-1, 4)).float())
    result.scores = torch.tensor([d["score"] for d in detections], dtype=torch.float64)
    result.pred_classes = torch.tensor([classes[d["category_id"]] for d in detections], dtype=torch.int64)
    if "masks" in fields:
        result.pred_masks = torch.tensor(np.array([d["mask"] for d in detections]).reshape(-1, *size)).bool()
    if "keypoints" in fields:
        points = torch.tensor(np.array([d["keypoints"] for d in detections]).reshape(-1, KEYPOINTS, 3)).float()
        result.pred_keypoints = points + torch.tensor([0.5, 0.5, 0.0])
    return result


def run(evaluator, content, detections, **options):
    """Shows every image to the evaluator, three at a time."""
    evaluator.reset()
    ids = [image["id"] for image in content["images"]]
    for start in range(0, len(ids), 3):
        batch = ids[start : start + 3]
        outputs = [as_model_output([d for d in detections if d["image_id"] == key], **options) for key in batch]
        evaluator.process([{"image_id": key} for key in batch], [{"instances": output} for output in outputs])
    return evaluator.evaluate()


def official(content, results, task, max_dets=None, sigmas=SIGMAS) -> dict[str, float]:
    """What pycocotools says about a results file, named as Detectron2 names it."""
    kept = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("bbox", "keypoints")}[task]
    results = [{key: copy.deepcopy(r[key]) for key in ("image_id", "category_id", "score", *kept)} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        if task == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        elif max_dets:
            evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]

    def mean(part):
        return 100 * np.mean(part[part > -1]) if (part > -1).any() else float("nan")

    areas = ["APm", "APl"] if task == "keypoints" else ["APs", "APm", "APl"]
    expected = {"AP": mean(precision[..., 0]), "AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0])}
    expected |= {name: mean(precision[..., k]) for k, name in enumerate(areas, start=1)}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return expected | {f"AP-{names[key]}": mean(precision[:, :, k, 0]) for k, key in enumerate(sorted(names))}


def to_results(detections) -> list[dict]:
    results = instances_to_coco_json(as_model_output(detections), detections[0]["image_id"])
    return [{**r, "category_id": d["category_id"]} for r, d in zip(results, detections)]
