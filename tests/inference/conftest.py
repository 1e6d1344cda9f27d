"""Finished runs of tiny models of each kind, and pictures: whole predictions in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

BASE = Path(__file__).resolve().parents[2] / "configs/_base_/models/rcnn_tiny.yaml"
FPN = {
    "MODEL": {
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 4},
        "SEM_SEG_HEAD": {"IN_FEATURES": ["p2", "p3", "p4", "p5"], "CONVS_DIM": 8, "NORM": "", "NUM_CLASSES": 54},
        "PANOPTIC_FPN": {"COMBINE": {"STUFF_AREA_LIMIT": 20, "INSTANCES_CONFIDENCE_THRESH": 0.0}},
        "MASK_ON": True,
    },
    "INPUT": {"MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
    "DATASETS": {"TRAIN": ["coco_2017_train"], "TEST": ["coco_2017_val"]},
    "DATALOADER": {"NUM_WORKERS": 0},
    "TEST": {"DETECTIONS_PER_IMAGE": 5},
}


def options(tree: dict[str, Any], prefix: str = "") -> list[Any]:
    """A nested dict as KEY VALUE pairs."""
    pairs: list[Any] = []
    for key, value in tree.items():
        pairs += options(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}", value]
    return pairs


@pytest.fixture(scope="session")
def make_run(tmp_path_factory) -> Callable[..., Path]:
    """Makes the OUTPUT_DIR of a finished run: ``make_run("PanopticFPN", "KEY", value, ...)``; once for each."""
    made: dict[tuple, Path] = {}

    def make(architecture: str, *opts: Any) -> Path:
        from densekit.config import load_config
        from densekit.d2.modeling import build_model

        if (architecture, *opts) not in made:
            folder = tmp_path_factory.mktemp("run")
            cfg = load_config(str(BASE), [*options(FPN), "MODEL.META_ARCHITECTURE", architecture, *opts])
            torch.manual_seed(3)
            model = build_model(cfg)
            for name, parameter in model.named_parameters():
                if any(part in name for part in ("mask_head.predictor", "sem_seg_head.predictor", "cls_score")):
                    # Else all scores are nearly the same.
                    torch.nn.init.normal_(parameter, std=2.0 if name.endswith("weight") else 0.0)
            with torch.no_grad():  # running averages, without which all features are nearly the same
                for _ in range(30):
                    pictures = torch.nn.functional.interpolate(100 * torch.randn(4, 3, 8, 12), size=(64, 96))
                    model.backbone.train()(pictures)
                if hasattr(model, "sem_seg_head"):  # no class should win everywhere
                    logits, _ = model.sem_seg_head.eval()(model.backbone.eval()(pictures), None)
                    model.sem_seg_head.predictor.bias -= logits.mean(dim=(0, 2, 3))
            torch.save({"model": model.state_dict()}, folder / "model_0000009.pth")
            (folder / "last_checkpoint").write_text("model_0000009.pth")
            (folder / "config.yaml").write_text(f"# host: any\n{cfg.dump()}")
            made[(architecture, *opts)] = folder
        return made[(architecture, *opts)]

    return make


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 7 noisy pictures of three sizes, two of them in sub-folders under one name."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(5)
    names = ["a.png", "b.jpg", "c.png", "d.jpg", "e.png", "one/same.jpg", "two/same.jpg"]
    for number, name in enumerate(names):
        height, width = [(64, 80), (90, 70), (50, 120)][number % 3]
        pixels = random.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return folder
