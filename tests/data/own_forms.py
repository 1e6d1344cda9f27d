"""One small data set written in each form, so that tests can compare what is read and break it in one place."""

import base64
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from densekit.d2.data import DatasetCatalog, MetadataCatalog
from densekit.data import register_from_yaml

SIZE = (40, 30)  # width, height
# Of each image: class and corners x0, y0, x1, y1 in pixels, exclusive.
OBJECTS = {"a": [("dog", (4, 6, 24, 16)), ("cat", (0, 0, 40, 30))], "deep/b": [("cat", (10, 10, 20, 28))], "c": []}
CLASSES = ("cat", "dog")


def picture(path: Path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path.name))).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_pictures(folder: Path):
    for name in OBJECTS:
        picture(folder / "images" / f"{name}.jpg")


def write_voc(folder: Path):
    for name, objects in OBJECTS.items():
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = "misleading.jpg"
        size = ElementTree.SubElement(root, "size")
        for key, value in zip(("width", "height", "depth"), (*SIZE, 3)):
            ElementTree.SubElement(size, key).text = str(value)
        for label, (x0, y0, x1, y1) in objects:
            element = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(element, "name").text = label
            box = ElementTree.SubElement(element, "bndbox")
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1)):
                ElementTree.SubElement(box, key).text = str(value)
        path = folder / "xml" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(path)
    return {"form": "voc", "images": "images", "annotations": "xml"}


def write_yolo(folder: Path, polygons: bool = False):
    for name, objects in OBJECTS.items():
        lines = []
        for label, (x0, y0, x1, y1) in objects:
            if polygons:
                values = [v for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)) for v in (x / SIZE[0], y / SIZE[1])]
            else:
                middle = ((x0 + x1) / 2 / SIZE[0], (y0 + y1) / 2 / SIZE[1])
                values = [*middle, (x1 - x0) / SIZE[0], (y1 - y0) / SIZE[1]]
            lines.append(" ".join([str(CLASSES.index(label)), *(f"{value:.8f}" for value in values)]))
        path = folder / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if lines:
            path.write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text(yaml.safe_dump({"nc": 2, "names": list(CLASSES), "train": "images"}))
    return {"form": "yolo", "images": "images", "classes": "data.yaml"}


def write_labelme(folder: Path):
    for name, objects in OBJECTS.items():
        shapes = []
        for number, (label, (x0, y0, x1, y1)) in enumerate(objects):
            corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
            kind, points = ("polygon", corners) if number % 2 else ("rectangle", [corners[2], corners[0]])
            shapes.append({"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}})
        content = {"shapes": shapes, "imagePath": "..\\elsewhere\\x.jpg", "imageData": None,
                   "imageWidth": SIZE[0], "imageHeight": SIZE[1]}  # fmt: skip
        path = folder / "json" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return {"form": "labelme", "images": "images", "annotations": "json"}


def write_semantic(folder: Path):
    """Values 0 cat, 1 dog, 7 void; an object is drawn over those before it."""
    for name, objects in OBJECTS.items():
        labels = np.full((SIZE[1], SIZE[0]), 7, dtype=np.uint8)
        for label, (x0, y0, x1, y1) in reversed(objects):
            labels[y0:y1, x0:x1] = CLASSES.index(label)
        path = folder / "maps" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
    return {"form": "semantic", "images": "images", "labels": "maps", "classes": list(CLASSES), "ignore": 7}


def mask_shape(x0, y0, x1, y1, label="dog"):
    """A LabelMe mask that fills a box but for its first column."""
    mask = np.ones((y1 - y0, x1 - x0), dtype=np.uint8) * 255
    mask[:, 0] = 0
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    png = base64.b64encode(stream.getvalue()).decode()
    return {"label": label, "points": [[x0, y0], [x1, y1]], "shape_type": "mask", "mask": png}


def write_catalog(folder: Path, **entries) -> Path:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return path


def load(folder: Path, **entry):
    """Registers an entry as ``mine``; returns its records and metadata."""
    register_from_yaml(write_catalog(folder, mine=entry))
    return DatasetCatalog.get("mine"), MetadataCatalog.get("mine")
