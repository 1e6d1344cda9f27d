"""A small Cityscapes tree, predictions made by spoiling its ground truth, and cityscapesscripts' own command line."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

from densekit.d2.data import MetadataCatalog
from densekit.d2.structures import Instances
from densekit.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesPanopticEvaluator,
    CityscapesSemSegEvaluator,
)
from densekit.streets import write_streets

THINGS = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
THING_IDS = [24, 25, 26, 27, 28, 31, 32, 33]
STUFF = ["road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"]
STUFF = [*STUFF, "terrain", "sky"]
STUFF_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23]
CLASSES, CLASS_IDS = STUFF + THINGS, STUFF_IDS + THING_IDS


def make_tree(folder, frames=8):
    """The root of a Cityscapes tree; some of its pixels are given to a group, some to labels that do not count."""
    root = write_streets(folder / "streets", train=1, val=frames, width=256, height=128, workers=1) / "cityscapes"
    for k, path in enumerate(sorted(root.glob("gtFine/val/*/*_instanceIds.png"))):
        instances = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        objects = [value for value in np.unique(instances).tolist() if value >= 1000]
        if k % 3 == 0 and len(objects) > 2:
            instances[instances == objects[0]] = objects[0] // 1000
        if k % 3 == 1:
            instances[40:60, 10:60], instances[100:, 200:] = 29001, 9
        cv2.imwrite(str(path), instances)
        labels = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
        cv2.imwrite(str(path).replace("instanceIds", "labelIds"), labels)
    with contextlib.redirect_stdout(io.StringIO()):
        convert2panoptic(str(root / "gtFine"), setNames=["val"])
    return root


def register(name, root, **metadata):
    """Enters metadata as a registration does."""
    files = {"gt_dir": str(root / "gtFine/val"), "image_dir": str(root / "leftImg8bit/val")}
    MetadataCatalog.get(name).set(**files, **metadata)


def semantic_evaluator(root, folder):
    register("city_sem", root, stuff_classes=CLASSES)
    return CityscapesSemSegEvaluator("city_sem", str(folder))


def instance_evaluator(root, folder):
    register("city_inst", root, thing_classes=THINGS)
    return CityscapesInstanceEvaluator("city_inst", str(folder))


def panoptic_evaluator(root, folder):
    register(
        "city_pan",
        root,
        panoptic_json=str(root / "gtFine/cityscapes_panoptic_val.json"),
        panoptic_root=str(root / "gtFine/cityscapes_panoptic_val"),
        thing_dataset_id_to_contiguous_id={key: k for k, key in enumerate(CLASS_IDS) if key in THING_IDS},
        stuff_dataset_id_to_contiguous_id={key: k for k, key in enumerate(CLASS_IDS) if key in STUFF_IDS},
        label_divisor=1000,
    )
    return CityscapesPanopticEvaluator("city_pan", str(folder))


def frame(image_file):
    return Path(image_file).name.removesuffix("_leftImg8bit.png")


def images(root):
    """The inputs of the evaluators, one per frame, with the ground truth that a test spoils."""
    found = []
    for path in sorted(root.glob("leftImg8bit/val/*/*_leftImg8bit.png")):
        truth = str(path).replace("/leftImg8bit/", "/gtFine/").replace("_leftImg8bit.png", "_gtFine_instanceIds.png")
        instances = cv2.imread(truth, cv2.IMREAD_UNCHANGED).astype(np.int64)
        found.append({"file_name": str(path), "truth": instances, "image_id": frame(path)})
    return found


def rng_of(item):
    return np.random.default_rng(list(item["image_id"].encode()))


def semantic_scores(item, perfect=False):
    """(19, H, W) scores whose best class is the true one, shifted and partly relabelled; void becomes some class."""
    rng = rng_of(item)
    labels = np.where(item["truth"] >= 1000, item["truth"] // 1000, item["truth"])
    table = rng.integers(0, len(CLASSES), 256)
    table[CLASS_IDS] = range(len(CLASSES))
    classes = table[labels]
    if not perfect:
        classes = np.roll(classes, rng.integers(-4, 5, 2), axis=(0, 1))
        for wrong in rng.integers(0, len(CLASSES), 3):
            y, x = rng.integers(0, 100), rng.integers(0, 200)
            classes[y : y + 25, x : x + 40] = wrong
    return torch.nn.functional.one_hot(torch.from_numpy(classes), len(CLASSES)).permute(2, 0, 1).float()


def instances(item, perfect=False):
    """Masks, scores and classes: each object as it is, or shifted, dropped, merged, relabelled and doubled."""
    rng, truth = rng_of(item), item["truth"]
    masks, classes, scores = [], [], []

    def add(mask, label, score):
        masks.append(mask)
        classes.append(THING_IDS.index(label))
        scores.append(score)

    objects = [value for value in np.unique(truth).tolist() if value >= 1000 and value // 1000 in THING_IDS]
    for k, value in enumerate(objects):
        mask, label, score = truth == value, value // 1000, round(rng.uniform(0.1, 1), 1)
        if perfect:
            add(mask, label, score)
            continue
        what = rng.integers(0, 7)
        if what == 0:
            continue
        if what == 1 and k:
            mask = mask | (truth == objects[k - 1])
        if what == 2:
            label = THING_IDS[rng.integers(0, len(THING_IDS))]
        if what == 3:
            add(np.roll(mask, 1, axis=0), label, score)
        add(np.roll(mask, rng.integers(-2, 3, 2), axis=(0, 1)) if what > 3 else mask, label, score)
    if not perfect:
        for label in rng.choice(THING_IDS, 3):
            mask = np.zeros(truth.shape, bool)
            y, x = rng.integers(0, 100), rng.integers(0, 200)
            mask[y : y + rng.integers(0, 25), x : x + 40] = True
            add(mask, label, 0.5)
        for label in THING_IDS:
            if (truth == label).any():  # a group
                add(truth == label, label, 0.9)
    found = Instances(truth.shape)
    found.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *truth.shape).astype(bool))
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    found.scores = torch.tensor(scores, dtype=torch.float32)
    return found


def panoptic(item, perfect=False):
    """A segment map with its segments: objects are shifted, dropped, merged and relabelled, stuff is relabelled."""
    rng, truth = rng_of(item), item["truth"]
    ids, segments = np.zeros(truth.shape, np.int32), []

    def add(mask, label):
        ids[mask] = len(segments) + 1
        is_thing = label in THING_IDS
        segments.append({"id": len(segments) + 1, "category_id": CLASS_IDS.index(label), "isthing": is_thing})

    values = [v for v in np.unique(truth).tolist() if (v // 1000 if v >= 1000 else v) in CLASS_IDS]
    for value in values:
        mask, label = truth == value, value // 1000 if value >= 1000 else value
        what = 6 if perfect else rng.integers(0, 9)
        if what == 0:
            continue
        if what == 1:
            mask = mask | (truth == rng.choice(values))
        if what == 2:
            label = rng.choice(CLASS_IDS)
        add(np.roll(mask, rng.integers(-3, 4, 2), axis=(0, 1)) if what in (3, 4) else mask, label)
    if not perfect:
        for label in rng.choice(CLASS_IDS, 2):
            y, x = rng.integers(0, 100), rng.integers(0, 200)
            mask = np.zeros(truth.shape, bool)
            mask[y : y + 20, x : x + 30] = True
            add(mask, label)
    return torch.from_numpy(ids), segments


def run_script(name, folder, root, results, *arguments):
    """Runs an evaluation script of cityscapesscripts in a process of its own and returns what it printed.

    The script is copied first, for it keeps a cache beside itself. What numpy 2.4 has changed is put back for it: in1d,
    and plain ints from count_nonzero, which it writes as JSON.
    """
    module = f"cityscapesscripts.evaluation.{name}"
    folder.mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(importlib.util.find_spec(module).origin, folder)
    start = (
        "import runpy, sys, numpy\n"
        "numpy.in1d = lambda a, b, **options: numpy.isin(numpy.ravel(a), b, **options)\n"
        "count = numpy.count_nonzero\n"
        "numpy.count_nonzero = lambda a: int(count(a))\n"
        f"sys.argv = {[copy, *map(str, arguments)]!r}\n"
        f"runpy.run_path({copy!r}, run_name='__main__')\n"
    )
    env = {**os.environ, "CITYSCAPES_DATASET": str(root), "CITYSCAPES_RESULTS": str(results)}
    done = subprocess.run([sys.executable, "-c", start], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


OUTPUTS = {"semantic": "sem_seg", "instances": "instances", "panoptic": "panoptic_seg"}
EVALUATORS = {
    "semantic": (semantic_evaluator, semantic_scores),
    "instances": (instance_evaluator, instances),
    "panoptic": (panoptic_evaluator, panoptic),
}


def exported(root, name):
    return json.loads((root / "evaluationResults" / f"{name}.json").read_text())
