"""Feeds damaged files to the readers, to ``check`` and to the loop of ``predict``.

    python benchmarks/fuzz_files.py

Files are cut off, have bits flipped, values of wrong types and huge numbers. Each has to be read or refused with one
sentence; what counts as a fault is another exception, a file that takes more than ten seconds, and a picture of which
``check --decode`` and the reader say different things. Exits with 1 where there are faults.
"""

import argparse
import copy
import io
import json
import logging
import random
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.data.coco import load_coco_json
from densekit.data.ground_truth import GroundTruth, read_coco_json
from densekit.data.inspect import Options, fix_coco, inspect_coco
from densekit.data.inspect.pictures import read_picture as check_picture
from densekit.data.labels import load_sem_seg
from densekit.data.mapper import inference_augmentations
from densekit.data.own.catalog import read_catalog
from densekit.data.own.classes import class_list
from densekit.data.own.labelme import load_labelme
from densekit.data.own.voc import load_voc
from densekit.data.own.yolo import load_yolo
from densekit.data.panoptic_json import read_panoptic_file
from densekit.data.pictures import image_size, read_picture
from densekit.data.training_images import read_training_image
from densekit.inference.inputs import Picture
from densekit.inference.predicting import predict_batches
from densekit.inference.reading import Views

W, H = 48, 36
SLOW = 10.0  # seconds
VALUES = [None, True, False, 0, -1, 1, 2, 1.5, 2**63, -(2**70), 10**400, float("nan"), float("inf"), -1e300]
VALUES += ["", "0", "x", "1e9", "nan", "é", [], [[]], [None], {}, {"size": [1, 1]}, [[0, 0, 1]]]
VALUES += [[[[0, 0], [1, 0], [1, 1]]]]
OPTIONS = Options(workers=1, progress=False)


def boxes(rng):
    return [[rng.randint(0, 30), rng.randint(0, 20), rng.randint(2, 16), rng.randint(2, 14)] for _ in range(3)]


def coco(rng):
    found = [
        {"id": k + 1, "image_id": 1, "category_id": 1 + k % 2, "bbox": b, "area": b[2] * b[3], "iscrowd": 0,
         "segmentation": [[b[0], b[1], b[0] + b[2], b[1], b[0] + b[2], b[1] + b[3], b[0], b[1] + b[3]]]}
        for k, b in enumerate(boxes(rng))
    ]  # fmt: skip
    return {"images": [{"id": 1, "file_name": "1.png", "width": W, "height": H}],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], "annotations": found}  # fmt: skip


def labelme(rng):
    shapes = [{"label": "a", "points": [[x, y], [x + w, y], [x + w, y + h]], "shape_type": "polygon", "group_id": None}
              for x, y, w, h in boxes(rng)]  # fmt: skip
    return {"shapes": shapes, "imageWidth": W, "imageHeight": H, "imagePath": "1.png"}


def panoptic(rng):
    segments = [{"id": k + 1, "category_id": 1, "area": 9, "bbox": b, "iscrowd": 0} for k, b in enumerate(boxes(rng))]
    return {"images": [{"id": 1, "file_name": "1.png", "width": W, "height": H}],
            "categories": [{"id": 1, "name": "a", "isthing": 1}],
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]}  # fmt: skip


def damaged_value(rng, value):
    """The same nested value with one entry exchanged, left out or doubled."""
    places = []

    def walk(node):
        for key in node.keys() if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    action = rng.random()
    if action < 0.15:
        del node[key]
    elif action < 0.2 and isinstance(node, list):
        node.append(node[key])
    else:
        node[key] = copy.deepcopy(rng.choice(VALUES))  # a later fault may change it
    return value


def damaged_bytes(rng, raw):
    """The bytes cut off, with some exchanged, or with some flipped bits."""
    action = rng.random()
    raw = bytearray(raw)
    if action < 0.35:
        return bytes(raw[: rng.randint(0, len(raw))])
    if action < 0.5:
        start = rng.randint(0, len(raw) - 1)
        raw[start : start + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        return bytes(raw)
    for _ in range(rng.choice([1, 1, 2, 8, 40])):
        raw[rng.randrange(min(len(raw), rng.choice([64, len(raw)])))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def json_bytes(rng, make):
    if rng.random() < 0.7:
        value = make(rng)
        for _ in range(rng.randint(1, 3)):
            value = damaged_value(rng, value)
        text = json.dumps(value)
        return text.encode("utf-8-sig" if rng.random() < 0.1 else "utf-8")
    return damaged_bytes(rng, json.dumps(make(rng)).encode())


def text_bytes(rng, text):
    if rng.random() < 0.5:
        return damaged_bytes(rng, text.encode())
    numbers = list(re.finditer(r"[\w.]+", text))
    chosen = rng.choice(numbers)
    value = str(rng.choice([*VALUES, rng.randint(-3, 99), rng.random()]))
    return (text[: chosen.start()] + value + text[chosen.end() :]).encode()


def yolo_text(rng):
    return "\n".join(
        f"{k % 2} {x / W + 0.1} {y / H + 0.1} {w / W / 2} {h / H / 2}" for k, (x, y, w, h) in enumerate(boxes(rng))
    )


def voc_text(rng):
    objects = "".join(
        f"<object><name>a</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h in boxes(rng)
    )
    return f"<annotation><size><width> {W} </width><height> {H} </height></size>{objects}</annotation>"


def picture_bytes(rng, numbers, formats):
    form = rng.choice(formats)
    pixels = numbers.integers(0, 255, (H, W, 3), dtype=np.uint8)
    if form == "deep":
        image, form = Image.fromarray(numbers.integers(0, 65535, (H, W), dtype=np.uint16)), rng.choice(["PNG", "TIFF"])
    else:
        image = Image.fromarray(pixels[:, :, 0] // 64 if form == "labels" else pixels)
    stream = io.BytesIO()
    image.save(stream, "PNG" if form == "labels" else form)
    return stream.getvalue()


class Fuzz:
    """Counts what became of the files of each kind."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng, self.numbers = folder, random.Random(seed), np.random.default_rng(seed)
        self.counts: dict[str, Counter[str]] = {}
        self.faults: list[str] = []
        (folder / "one/images").mkdir(parents=True)
        (folder / "one/labels").mkdir()
        Image.fromarray(self.numbers.integers(0, 255, (H, W, 3), dtype=np.uint8)).save(folder / "one/images/1.png")
        self.images = str(folder / "one/images")

    def attempt(self, kind: str, raw: bytes, *readers: Callable[[], object]) -> list[bool]:
        """Runs readers; returns which of them read the file."""
        count, done = self.counts.setdefault(kind, Counter()), []
        count["files"] += 1
        for reader in readers:
            start = time.perf_counter()
            try:
                reader()
                done.append(True)
            except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
                done.append(False)
                if (
                    "\n" in str(error)
                    and not isinstance(error, yaml.YAMLError)
                    and kind not in ("data.yaml", "data set file")
                ):
                    self.fault(kind, raw, f"a message of several lines: {str(error)[:100]!r}")
            except Exception as error:
                done.append(False)
                self.fault(kind, raw, f"{type(error).__name__}: {error}"[:200])
            if time.perf_counter() - start > SLOW:
                self.fault(kind, raw, f"took {time.perf_counter() - start:.0f} s")
        count["read" if all(done) else "refused"] += 1
        return done

    def fault(self, kind: str, raw: bytes, what: str) -> None:
        self.counts[kind]["faults"] += 1
        self.faults.append(f"{kind}: {what}; begins with {raw[:60]!r}")
        (self.folder / f"fault_{len(self.faults)}").write_bytes(raw)

    def coco(self) -> None:
        raw = json_bytes(self.rng, coco)
        path = self.folder / "one/coco.json"
        path.write_bytes(raw)

        def check() -> None:
            inspection = inspect_coco(str(path), self.images, "fuzz", OPTIONS)
            json.dumps(inspection.findings.to_json(), allow_nan=False)
            if inspection.content is not None and inspection.paths:
                fix_coco(inspection.content, inspection.paths, inspection.facts)
            self.clean = inspection.findings.clean

        self.clean = True
        check_ran, trained = self.attempt("COCO", raw, check, lambda: load_coco_json(str(path), self.images))
        if check_ran and self.clean and not trained:
            self.fault("COCO", raw, "check finds no error and training refuses it")
        if trained:
            read = lambda: GroundTruth.from_coco(read_coco_json(str(path)), str(path))  # noqa: E731
            if not self.attempt("COCO, evaluated", raw, read)[0]:
                self.fault("COCO, evaluated", raw, "training reads it and evaluation refuses it")

    def labelme(self) -> None:
        self._pair("LabelMe", "json", json_bytes(self.rng, labelme), load_labelme)

    def voc(self) -> None:
        self._pair("Pascal VOC", "xml", text_bytes(self.rng, voc_text(self.rng)), load_voc)

    def _pair(self, kind: str, ending: str, raw: bytes, load: Callable[..., object]) -> None:
        (self.folder / f"one/labels/1.{ending}").write_bytes(raw)
        name = f"fuzz_{kind}_{sum(c['files'] for c in self.counts.values())}"
        self.attempt(kind, raw, lambda: load(name, self.images, str(self.folder / "one/labels")))

    def yolo(self) -> None:
        raw = text_bytes(self.rng, yolo_text(self.rng))
        (self.folder / "one/labels/1.txt").write_bytes(raw)
        classes = class_list(["a", "b"], "here")
        self.attempt("YOLO", raw, lambda: load_yolo(self.images, str(self.folder / "one/labels"), classes))

    def panoptic(self) -> None:
        raw = json_bytes(self.rng, panoptic)
        path = self.folder / "one/panoptic.json"
        path.write_bytes(raw)
        self.attempt("panoptic JSON", raw, lambda: read_panoptic_file(str(path)))

    def catalog(self) -> None:
        text = "cells: {form: coco, json: a.json, images: images}\nnames: [a, b]\nnc: 2\ntrain: images\n"
        raw = text_bytes(self.rng, text)
        path = self.folder / "one/data.yaml"
        path.write_bytes(raw)
        self.attempt("data.yaml", raw, lambda: class_list(str(path)))
        self.attempt("data set file", raw, lambda: read_catalog(str(path)))

    def label_map(self) -> None:
        raw = damaged_bytes(self.rng, picture_bytes(self.rng, self.numbers, ["labels", "labels", "TIFF", "BMP"]))
        path = self.folder / "one/map.png"
        path.write_bytes(raw)
        record = {"sem_seg_file_name": str(path), "file_name": f"{self.images}/1.png", "height": H, "width": W}
        self.attempt("label map", raw, lambda: load_sem_seg(record))

    def picture(self) -> None:
        formats = ["JPEG", "JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "deep"]
        raw = damaged_bytes(self.rng, picture_bytes(self.rng, self.numbers, formats))
        path = str(self.folder / "one/picture")
        Path(path).write_bytes(raw)
        facts = check_picture(path, decode=True)
        read, _, _ = self.attempt(
            "picture", raw,
            lambda: read_picture(path, "BGR"), lambda: read_training_image(path, "BGR"), lambda: image_size(path),
        )  # fmt: skip
        sound = not facts.problem or facts.problem == "image-damaged"
        if sound and not read and facts.mode != "F":
            self.fault("picture", raw, "check --decode finds it sound and the reader refuses it")
        self.counts["picture"]["read though check names a fault"] += read and not sound


class Collected:
    """Takes what the loop of ``predict`` records."""

    def __init__(self) -> None:
        self.problems, self.done = 0, 0

    def __enter__(self) -> "Collected":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def put(self, loaded, kept) -> None:
        self.problems += bool(loaded.problem)
        self.done += not loaded.problem


def predict(fuzz: Fuzz, count: int) -> None:
    """Sends damaged, thin and small pictures through the loop of ``predict`` with a small Mask R-CNN."""
    cfg = load_config("configs/_base_/models/rcnn_tiny.yaml", ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "96"])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    folder = fuzz.folder / "predict"
    folder.mkdir()
    pictures = []
    for index in range(count):
        path = folder / f"{index}"
        if index % 10 == 0:
            size = (fuzz.rng.choice([1, 2, 3, 2000]), fuzz.rng.choice([1, 2, 5]))
            Image.new("RGB", size).save(path, "PNG")
        else:
            path.write_bytes(
                damaged_bytes(fuzz.rng, picture_bytes(fuzz.rng, fuzz.numbers, ["JPEG", "PNG", "TIFF", "deep"]))
            )
        pictures.append(Picture(index, index, str(path), path.name, path.name))
    recorder = Collected()
    views = Views(pictures, cfg.INPUT.FORMAT, inference_augmentations(cfg), None)
    try:
        predict_batches(
            model, views, [[k] for k in range(count)], recorder,
            products=["instances"], batch_size=1, num_workers=0, strict=False,
        )  # fmt: skip
    except Exception as error:
        fuzz.counts["predict"] = Counter()
        fuzz.fault("predict", b"", f"{type(error).__name__}: {error}")
    tally = {"files": count, "read": recorder.done, "refused": recorder.problems}
    fuzz.counts["predict"] = fuzz.counts.get("predict", Counter()) + Counter(tally)


def main() -> int:
    """Runs everything and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10000, help="how many in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=540, help="stop after so long (%(default)s)")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        fuzz = Fuzz(Path(place), args.seed)
        predict(fuzz, max(args.files // 50, 1))
        steps = [fuzz.coco, fuzz.picture, fuzz.coco, fuzz.picture, fuzz.label_map, fuzz.labelme, fuzz.voc, fuzz.yolo,
                 fuzz.panoptic, fuzz.catalog]  # fmt: skip
        number = 0
        while sum(c["files"] for c in fuzz.counts.values()) < args.files and time.perf_counter() - start < args.seconds:
            steps[number % len(steps)]()
            number += 1
    total = sum((count for count in fuzz.counts.values()), Counter())
    return show(fuzz.counts, fuzz.faults, f"{total['files']} files in {time.perf_counter() - start:.0f} s")


def show(counts: dict[str, Counter[str]], faults: list[str], all_in_all: str) -> int:
    """Prints a table and the most frequent faults, and returns the exit code."""
    for kind, count in sorted(counts.items()):
        print(f"{kind:18} " + ", ".join(f"{value} {name}" for name, value in sorted(count.items())))
    print(f"{all_in_all}, {len(faults)} faults")
    for line, times in Counter(faults).most_common(20):
        print(f"  {times} x {line}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
