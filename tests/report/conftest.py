"""Tiny finished runs: instances with masks and keypoints, semantic, panoptic."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from tests import cityscapes_scenes as scenes

W, H = 160, 120
HOSTILE = "</script><script>document.title='caught'</script><img src=x onerror=alert(1)>"
NAMES = ["person", HOSTILE, "absent"]
POINTS = ["nose", "left_hand", "right_hand"]


def ellipse_rle(x, y, w, h):
    rows, columns = np.mgrid[:H, :W]
    mask = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
    encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [H, W], "counts": encoded["counts"].decode()}


def write_images(folder, count):
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(1, count + 1)]
    for name in names:
        coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((W, H), Image.Resampling.BILINEAR).save(folder / name)
    return names


def coco_scene(folder, count=8):
    """Returns the content of a COCO file and results near it: shifted, dropped, of another class, invented, a crowd."""
    generator = np.random.default_rng(1)
    content = {
        "images": [], "annotations": [],
        "categories": [
            {"id": 3, "name": NAMES[0], "keypoints": POINTS, "skeleton": [[1, 2], [1, 3]]},
            {"id": 5, "name": NAMES[1]}, {"id": 9, "name": NAMES[2]},
        ],
    }  # fmt: skip
    results = []
    for number, name in enumerate(write_images(folder / "images", count), start=1):
        content["images"].append({"id": number, "file_name": name, "width": W, "height": H})
        for k in range(5):
            x, y = (float(v) for v in generator.integers(0, 90, 2))
            w, h = (float(v) for v in generator.integers(12, 30, 2))
            category = 3 if k % 2 else 5
            rle = ellipse_rle(x, y, w, h)
            annotation = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": category,
                          "bbox": [x, y, w, h], "area": float(mask_util.area(rle)), "segmentation": rle,
                          "iscrowd": int(k == 4 and number < 5)}  # fmt: skip
            if category == 3:
                annotation |= {"keypoints": [x, y, 2, x + w / 2, y + h / 2, 1, 0, 0, 0], "num_keypoints": 2}
            content["annotations"].append(annotation)
            if annotation["iscrowd"] or generator.random() < 0.25 + 0.05 * number:
                dx, dy = (float(v) for v in generator.normal(0, 0.1 if annotation["iscrowd"] else number / 2, 2))
                label = category if generator.random() < 0.8 else 8 - category
                results.append(
                    {
                        "image_id": number,
                        "category_id": label,
                        "bbox": [x + dx, y + dy, w, h],
                        "score": float(generator.random()),
                        "segmentation": ellipse_rle(x + dx, y + dy, w, h),
                    }
                )
        results.append({"image_id": number, "category_id": 3, "bbox": [100.0, 80.0, 30.0, 30.0],
                        "score": float(generator.random()), "segmentation": ellipse_rle(100, 80, 30, 30)})  # fmt: skip
    return content, results


def write_run(folder, name, results):
    from densekit.engine.writers import write_results

    (folder / "inference" / name).mkdir(parents=True, exist_ok=True)
    write_results(folder / "inference" / "results.json", {name: results})
    (folder / "config.yaml").write_text(
        "# host: a test\nMODEL: {META_ARCHITECTURE: GeneralizedRCNN, WEIGHTS: /home/me/a.pth}\n"
    )
    lines = [{"iteration": 20 * k, "total_loss": 3 / (k + 1), "loss_cls": 1 / (k + 1), "lr": 0.01} for k in range(30)]
    lines += [{"iteration": 300, "bbox/AP": 10.0, "bbox/AP-absent": None}, {"iteration": 599, "bbox/AP": 20.0}]
    (folder / "metrics.json").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"iteration": 600, "tot')
    return folder


@pytest.fixture(scope="session")
def city_tree(tmp_path_factory):
    return scenes.make_tree(tmp_path_factory.mktemp("tree"), frames=6)


@pytest.fixture
def city_run(city_tree, tmp_path):
    """OUTPUT_DIR of an evaluation of spoiled instances and panoptic segments in Cityscapes' form."""
    from densekit.data.cityscapes_panoptic import cityscapes_panoptic_entries
    from densekit.data.registry import register
    from densekit.engine.writers import write_results

    name = "tree_fine_panoptic_val"
    for entry in cityscapes_panoptic_entries("tree_fine_panoptic", str(city_tree), ["val"]):
        register(entry)
    folder, results = tmp_path / "run/inference" / name, {}
    for kind in ("instances", "panoptic"):
        make, spoil = scenes.EVALUATORS[kind]
        evaluator = make(city_tree, folder)
        for item in scenes.images(city_tree):
            evaluator.process([item], [{scenes.OUTPUTS[kind]: spoil(item)}])
        results |= evaluator.evaluate()
    write_results(tmp_path / "run/inference/results.json", {name: results})
    return tmp_path / "run"


@pytest.fixture
def instance_run(tmp_path):
    """Returns OUTPUT_DIR, the annotation file and the results file of an evaluation of boxes and masks."""
    from densekit.data.coco import register_coco_instances
    from densekit.data.ground_truth import GroundTruth
    from densekit.evaluation.coco_metrics import evaluate_coco

    content, results = coco_scene(tmp_path)
    json_file = tmp_path / "val.json"
    json_file.write_text(json.dumps(content))
    register_coco_instances("scene", {}, str(json_file), str(tmp_path / "images"))
    truth = GroundTruth.of("scene")
    numbers = {}
    for task in ("bbox", "segm"):
        scores = evaluate_coco(truth, results, task)
        numbers[task] = {**scores.metrics, **{f"AP-{n}": scores.per_category[k] for k, n in truth.categories.items()}}
    run = write_run(tmp_path / "run", "scene", numbers)
    found = run / "inference" / "scene" / "coco_instances_results.json"
    found.write_text(json.dumps(results))
    return run, json_file, found


MANY = [f"class {number}" for number in range(40)]


@pytest.fixture
def many_run(tmp_path):
    """Returns OUTPUT_DIR of an evaluation of 40 classes, of which one is never annotated, and the maps of its images.

    Some pixels have no predicted class, as where a panoptic map is void, and half of class 7 is taken for class 30.
    """
    from densekit.d2.data import DatasetCatalog, MetadataCatalog
    from densekit.evaluation.sem_seg import SemSegEvaluator

    generator = np.random.default_rng(3)
    records, maps = [], []
    for name in write_images(tmp_path / "images", 4):
        labels = np.kron(generator.integers(0, 39, (6, 8)), np.ones((20, 20), int))
        labels[:20, :20] = 7
        found = np.roll(labels, generator.integers(1, 4), axis=1)
        found[:10, :20] = 30
        labels[100:, 140:] = 255
        found[60:64] = 39
        void = generator.random((H, W)) < 0.02
        maps.append((labels, np.where(void, -1, found)))
        png = tmp_path / Path(name).with_suffix(".png").name
        Image.fromarray(labels.astype(np.uint8)).save(png)
        records.append({"file_name": str(tmp_path / "images" / name), "height": H, "width": W,
                        "sem_seg_file_name": str(png)})  # fmt: skip
    DatasetCatalog.register("many", lambda: records)
    MetadataCatalog.get("many").set(
        stuff_classes=MANY, ignore_label=255, evaluator_type="sem_seg", label_divisor=1000,
        stuff_dataset_id_to_contiguous_id={k: k for k in range(40)},
    )  # fmt: skip
    evaluator = SemSegEvaluator("many", str(tmp_path / "run" / "inference" / "many"), boundary=True)
    for record, (_, found) in zip(records, maps):
        segments = [{"id": k + 1, "category_id": k, "isthing": False} for k in range(40)]
        evaluator.process([record], [{"panoptic_seg": (torch.from_numpy(found) + 1, segments)}])
    return write_run(tmp_path / "run", "many", evaluator.evaluate()), maps


@pytest.fixture
def map_run(tmp_path):
    """Returns OUTPUT_DIR of an evaluation of semantic and panoptic maps, and the evaluators' own numbers."""
    from densekit.d2.data import DatasetCatalog, MetadataCatalog
    from densekit.evaluation.panoptic_evaluator import COCOPanopticEvaluator
    from densekit.evaluation.sem_seg import SemSegEvaluator
    from densekit.files.panoptic_png import write_panoptic_png

    classes, generator = ["sky", "road", "car"], np.random.default_rng(2)
    names = write_images(tmp_path / "images", 5)
    for part in ("labels", "segments"):
        (tmp_path / part).mkdir()
    records, annotations, outputs = [], [], []
    for number, name in enumerate(names):
        labels = np.zeros((H, W), dtype=np.uint8)
        labels[60:] = 1
        labels[50:80, 20 : 60 + number] = 2
        labels[:5] = 255
        png = Path(name).with_suffix(".png").name
        Image.fromarray(labels).save(tmp_path / "labels" / png)
        ids = np.where(labels == 255, 0, labels.astype(np.int32) + 1)
        write_panoptic_png(tmp_path / "segments" / png, ids)
        segments = [
            {"id": k + 1, "category_id": 10 + k, "area": int((labels == k).sum()), "iscrowd": 0} for k in range(3)
        ]
        annotations.append({"image_id": number, "file_name": png, "segments_info": segments})
        records.append({"file_name": str(tmp_path / "images" / name), "image_id": number, "height": H, "width": W,
                        "sem_seg_file_name": str(tmp_path / "labels" / png)})  # fmt: skip
        wrong = np.roll(labels, 3 * number, axis=1)
        wrong[wrong == 255] = generator.integers(0, 3)
        scores = torch.nn.functional.one_hot(torch.from_numpy(wrong).long(), 3).permute(2, 0, 1).float()
        found = [{"id": k + 1, "category_id": k if k < 2 else 0, "isthing": k == 2} for k in range(3)]
        outputs.append({"sem_seg": scores, "panoptic_seg": (torch.from_numpy(wrong).long() + 1, found)})
    document = tmp_path / "panoptic.json"
    categories = [{"id": 10 + k, "name": name, "isthing": int(k == 2)} for k, name in enumerate(classes)]
    images = [{"id": r["image_id"], "file_name": names[r["image_id"]], "height": H, "width": W} for r in records]
    document.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    DatasetCatalog.register("maps", lambda: records)
    MetadataCatalog.get("maps").set(
        stuff_classes=classes, ignore_label=255, panoptic_json=str(document), panoptic_root=str(tmp_path / "segments"),
        stuff_dataset_id_to_contiguous_id={10: 0, 11: 1}, thing_dataset_id_to_contiguous_id={12: 0}, label_divisor=1000,
        thing_classes=["car"], evaluator_type="coco_panoptic_seg",
    )  # fmt: skip
    folder = tmp_path / "run" / "inference" / "maps"
    MetadataCatalog.get("maps").stuff_dataset_id_to_contiguous_id[12] = 2
    numbers = {}
    for kind in (SemSegEvaluator, COCOPanopticEvaluator):
        evaluator = kind("maps", str(folder))
        for record, output in zip(records, outputs):
            evaluator.process([record], [output])
        numbers |= evaluator.evaluate()
    return write_run(tmp_path / "run", "maps", numbers), numbers
