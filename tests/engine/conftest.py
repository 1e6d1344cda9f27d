"""A data set of a few pictures and a detector of a few channels: whole runs in seconds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from densekit.run_options import RunOptions

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "_BASE_": str(ROOT / "configs/_base_/models/rcnn_tiny.yaml"),
    "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64, "MAX_SIZE_TRAIN": 96, "MAX_SIZE_TEST": 96},
    "DATASETS": {"TRAIN": ["tiny_train"], "TEST": ["tiny_val"]},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 4, "CHECKPOINT_PERIOD": 2, "BASE_LR": 0.001, "STEPS": []},
    "TEST": {"DETECTIONS_PER_IMAGE": 5},
    "SEED": 3,
}


def write_coco(root: Path, split: str, count: int) -> None:
    """Grey pictures with one bright rectangle each, which is a person (category 1)."""
    from densekit.d2.data import MetadataCatalog

    folder = root / "coco" / f"{split}2017"
    folder.mkdir(parents=True)
    (root / "coco" / "annotations").mkdir(exist_ok=True)
    random = np.random.default_rng(count)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels = random.integers(90, 110, (64, 80, 3), dtype=np.uint8)
        x, y = (int(v) for v in random.integers(4, 30, 2))
        pixels[y : y + 24, x : x + 30] = (220, 40, 40)
        Image.fromarray(pixels).save(folder / f"{number:012d}.jpg")
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": 64, "width": 80})
        box = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 720, "bbox": [x, y, 30, 24]}
        annotations.append(box | {"segmentation": [[x, y, x + 30, y, x + 30, y + 24, x, y + 24]]})
    meta = MetadataCatalog.get("coco_2017_val")
    ids = meta.thing_dataset_id_to_contiguous_id
    categories = [{"id": key, "name": meta.thing_classes[index]} for key, index in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco" / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory) -> Path:
    """The files of ``tiny_root``."""
    root = tmp_path_factory.mktemp("datasets")
    for split, count in (("train", 6), ("val", 5)):
        write_coco(root, split, count)
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return root


@pytest.fixture
def tiny_root(tiny_files) -> Path:
    """A folder for DETECTRON2_DATASETS with 6 training and 5 validation pictures, registered, and ``tiny.yaml``."""
    from densekit.data import register_coco_instances

    for split in ("train", "val"):
        annotations = tiny_files / "coco" / "annotations" / f"instances_{split}2017.json"
        register_coco_instances(f"tiny_{split}", {}, annotations, tiny_files / "coco" / f"{split}2017")
    return tiny_files


@pytest.fixture
def arguments(tiny_root, tmp_path) -> Callable[..., RunOptions]:
    """Makes the options of a run: ``arguments("KEY", value, ..., resume=True)``."""
    from densekit.cli.arguments import parse_arguments
    from densekit.cli.train import run_options

    def make(*opts: object, **flags: bool) -> RunOptions:
        words = ["--config-file", str(tiny_root / "tiny.yaml"), "OUTPUT_DIR", str(tmp_path / "out"), *map(str, opts)]
        flagged = [f"--{name.replace('_', '-')}" for name, on in flags.items() if on]
        return run_options(parse_arguments([*words, *flagged]))

    return make
