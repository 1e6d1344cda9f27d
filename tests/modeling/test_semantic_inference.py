"""Windows, scales and mirror images of semantic models against a slow reference, and through the trainer."""

import math
from itertools import product
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import densekit
from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.engine.setup import prepare
from densekit.engine.trainer import Trainer
from densekit.modeling.semantic_inference import (
    Scales,
    SemanticInference,
    ShortSides,
    augmented_semantic_inference,
    semantic_inference,
)
from densekit.run_options import RunOptions

CLASSES = 4


class Scorer(nn.Module):
    """A convolution whose scores at the border differ from those inside, in float64; remembers what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 5, padding=2).double()
        self.pixel_mean = torch.tensor([100.0, 110.0, 120.0]).reshape(3, 1, 1)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.seen += [tuple(item["image"].shape[-2:]) for item in batched_inputs]
        return [
            {"sem_seg": self.conv((item["image"] - self.pixel_mean)[None].double() / 50)[0]} for item in batched_inputs
        ]


@pytest.fixture
def scorer() -> Scorer:
    torch.manual_seed(0)
    return Scorer().eval().requires_grad_(False)


def picture(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def slow(net: Scorer, image: Tensor, window, stride, *, flip: bool, softmax: bool) -> np.ndarray:
    """Scores (h, w, C): for each pixel the average of those of every window that holds it, one pixel at a time."""
    height, width = image.shape[-2:]
    sums, counts = np.zeros((height, width, CLASSES)), np.zeros((height, width))
    y0 = 0
    while True:
        top = min(y0, max(height - window[0], 0))
        x0 = 0
        while True:
            left = min(x0, max(width - window[1], 0))
            crop = image[:, top : top + window[0], left : left + window[1]]
            views = [net([{"image": crop}])[0]["sem_seg"]]
            if flip:
                views.append(net([{"image": torch.flip(crop, [2])}])[0]["sem_seg"].flip(2))
            scores = sum(view.softmax(0) if softmax else view for view in views) / len(views)
            for y in range(crop.shape[1]):
                for x in range(crop.shape[2]):
                    sums[top + y, left + x] += scores[:, y, x].numpy()
                    counts[top + y, left + x] += 1
            if left + window[1] >= width:
                break
            x0 += stride[1]
        if top + window[0] >= height:
            break
        y0 += stride[0]
    return sums / counts[..., None]


@pytest.mark.parametrize("size", [(20, 31), (9, 31), (14, 10), (12, 15)])
@pytest.mark.parametrize(("stride", "flip", "average"), [(None, True, "softmax"), ((5, 11), False, "logits")])
def test_windows_are_those_of_a_slow_reference(scorer, size, stride, flip, average):
    window, image = (12, 15), picture(*size)
    model = SemanticInference(scorer, window=window, stride=stride, flip=flip, average=average)
    ours = model([{"image": image}])[0]["sem_seg"]
    expected = slow(scorer, image, window, stride or (8, 10), flip=flip, softmax=average == "softmax")
    np.testing.assert_allclose(ours.permute(1, 2, 0), expected, atol=1e-6)


def test_scales_and_the_frame_of_the_result(scorer):
    image, frame, window = picture(24, 30), (37, 41), (16, 16)
    model = SemanticInference(scorer, sizes=Scales([0.5, 1.0, 1.75]), window=window, flip=True)
    ours = model([{"image": image, "height": frame[0], "width": frame[1]}])[0]["sem_seg"]
    expected = np.zeros((*frame, CLASSES))
    for size in ((12, 15), (24, 30), (42, 52)):
        scaled = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
        scores = slow(scorer, scaled, window, (11, 11), flip=True, softmax=True)
        expected += cv2.resize(scores, frame[::-1], interpolation=cv2.INTER_LINEAR) / 3
    np.testing.assert_allclose(ours.permute(1, 2, 0), expected, atol=1e-6)
    backwards = SemanticInference(scorer, sizes=Scales([1.75, 0.5, 1.0]), window=window, flip=True)
    torch.testing.assert_close(
        backwards([{"image": image, "height": frame[0], "width": frame[1]}])[0]["sem_seg"], ours, atol=1e-6, rtol=0
    )


def test_a_batch_is_its_pictures(scorer):
    inputs = [{"image": picture(*size), "height": 25, "width": 33} for size in ((20, 31), (40, 13), (11, 9))]
    model = SemanticInference(scorer, sizes=Scales([0.75, 1.0]), window=(12, 15), flip=True)
    together = model(inputs)
    for item, output in zip(inputs, together, strict=True):
        assert torch.equal(model([item])[0]["sem_seg"], output["sem_seg"])


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_the_order_of_windows_does_not_matter(scorer, monkeypatch, average):
    image = picture(40, 50)
    model = SemanticInference(scorer, sizes=Scales([0.75, 1.0]), window=(12, 15), flip=True, average=average)
    scorer.seen = []
    ours = model([{"image": image}])[0]["sem_seg"]
    assert len(scorer.seen) > 20
    for order in (lambda windows: windows[::-1], lambda windows: windows[1::2] + windows[::2]):
        monkeypatch.setattr(
            "densekit.modeling.semantic_inference.product", lambda *sides, order=order: order([*product(*sides)])
        )
        torch.testing.assert_close(model([{"image": image}])[0]["sem_seg"], ours, atol=1e-6, rtol=0)


def test_a_larger_window_is_the_whole_picture(scorer):
    image = picture(20, 31)
    whole = scorer([{"image": image}])[0]["sem_seg"].float()
    for window in ((20, 31), (64, 64)):
        ours = SemanticInference(scorer, window=window, average="logits")([{"image": image}])[0]["sem_seg"]
        assert torch.equal(ours, whole)


def test_padding_puts_the_picture_in_the_middle_of_the_mean(scorer):
    image, scorer.seen = picture(9, 31), []
    padded = scorer.pixel_mean.repeat(1, 12, 31)
    padded[:, 1:10] = image
    ours = SemanticInference(scorer, window=(12, 15), pad=True)([{"image": image}])[0]["sem_seg"]
    assert set(scorer.seen) == {(12, 15)}
    expected = slow(scorer, padded, (12, 15), (8, 10), flip=False, softmax=True)[1:10]
    np.testing.assert_allclose(ours.permute(1, 2, 0), expected, atol=1e-6)


def test_a_mirrored_picture_has_mirrored_scores(scorer):
    image = picture(12, 25)  # windows lie symmetrically: 0 and 10 of 15 in 25
    model = SemanticInference(scorer, window=(12, 15), flip=True)
    ours, mirrored = (model([{"image": view}])[0]["sem_seg"] for view in (image, image.flip(-1)))
    torch.testing.assert_close(mirrored.flip(-1), ours, atol=1e-6, rtol=0)


def test_short_sides_stop_at_the_longest():
    assert ShortSides([50, 100, 200], 300)((60, 120)) == [(50, 100), (100, 200), (150, 300)]
    assert math.isclose(max(ShortSides([10], 20)((7, 70))[0]), 20)


CONFIG, SMALL = "configs/quickstart/semantic_R_18_FPN_camvid.yaml", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]


def test_a_model_of_the_host_follows_the_keys():
    torch.manual_seed(1)
    keys = ["TEST.SEMANTIC.WINDOW", [64, 64], "TEST.SEMANTIC.SCALES", [0.5, 1.0], "TEST.SEMANTIC.FLIP", True]
    cfg = load_config(CONFIG, [*SMALL, *keys])
    model = build_model(cfg).eval()
    views = semantic_inference(cfg, model)
    item = {"image": picture(70, 100), "height": 90, "width": 120}
    with torch.no_grad():
        scores = views([item])[0]["sem_seg"]
    assert scores.shape[1:] == (90, 120)
    torch.testing.assert_close(scores.sum(dim=0), torch.ones(90, 120))  # averages of probabilities
    plain = load_config(CONFIG, SMALL)
    assert semantic_inference(plain, model) is model
    plain.TEST.AUG.MIN_SIZES, plain.TEST.AUG.MAX_SIZE = (70,), 400  # the picture's own size, and its mirror image
    plain.TEST.AUG.FLIP = True
    with torch.no_grad():
        ours = augmented_semantic_inference(plain, model)([{"image": item["image"]}])[0]["sem_seg"]
        one, other = (model([{"image": x}])[0]["sem_seg"].softmax(0) for x in (item["image"], item["image"].flip(-1)))
    torch.testing.assert_close(ours, (one + other.flip(-1)) / 2)


def test_evaluations_see_the_views(tmp_path):
    """Labels are what the model gives with its views; so are all pixels right, and without the views they are not."""
    torch.manual_seed(1)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.yaml").write_text("".join(f"{number}: class{number}\n" for number in range(CLASSES)))
    keys = ["TEST.SEMANTIC.WINDOW", [32, 48], "TEST.SEMANTIC.FLIP", True, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", CLASSES]
    keys += ["INPUT.MIN_SIZE_TEST", 64, "DATASETS.TEST", ("seen_in_windows",), "DATALOADER.NUM_WORKERS", 0]
    keys += ["TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.MAX_SIZE", 400, "TEST.AUG.FLIP", True]
    cfg = load_config(CONFIG, [*SMALL, *keys, "OUTPUT_DIR", str(tmp_path / "out")])
    model = build_model(cfg).eval()
    views = semantic_inference(cfg, model)
    for number in range(2):
        image = picture(64, 96)
        with torch.no_grad():
            labels = views([{"image": image}])[0]["sem_seg"].argmax(dim=0).numpy()
        assert len(np.unique(labels)) > 1
        bgr = image.permute(1, 2, 0).numpy() if cfg.INPUT.FORMAT == "BGR" else image.flip(0).permute(1, 2, 0).numpy()
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.ascontiguousarray(bgr))
        cv2.imwrite(str(tmp_path / "labels" / f"{number}.png"), labels.astype(np.uint8))
    places = {key: str(tmp_path / key) for key in ("images", "labels")} | {"classes": str(tmp_path / "classes.yaml")}
    densekit.register_dataset("seen_in_windows", "semantic", **places)
    assert Trainer.test(cfg, model)["sem_seg"]["pACC"] == 100
    assert Trainer.test_with_TTA(cfg, model)["sem_seg_TTA"]["pACC"] == 100  # in the same windows, at the same size
    cfg.TEST.SEMANTIC.WINDOW, cfg.TEST.SEMANTIC.FLIP = [], False
    assert Trainer.test(cfg, model)["sem_seg"]["pACC"] < 100


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["WINDOW", [64]], r"WINDOW is \[64\]"),
        (["WINDOW", [64, 0]], r"WINDOW is \[64, 0\]"),
        (["STRIDE", [64, 64]], "needs TEST.SEMANTIC.WINDOW"),
        (["WINDOW", [64, 64], "STRIDE", [64, 65]], "leaves gaps"),
        (["FLIP", True, "AVERAGE", "max"], "AVERAGE is 'max'"),
        (["SCALES", []], "SCALES"),
        (["SCALES", [1.0, -0.5]], "SCALES"),
    ],
)
def test_mistakes_are_named_before_a_training(keys, message, tmp_path):
    opts = [f"TEST.SEMANTIC.{word}" if isinstance(word, str) and word.isupper() else word for word in keys]
    with pytest.raises(ValueError, match=message):
        prepare(RunOptions(config_file=CONFIG, opts=[*SMALL, *opts, "OUTPUT_DIR", str(tmp_path)]), writes=False)


def test_models_of_another_kind_are_refused():
    cfg = load_config(CONFIG, [*SMALL, "TEST.SEMANTIC.FLIP", True])
    with pytest.raises(ValueError, match="Scorer is no SemanticSegmentor or PanopticFPN"):
        semantic_inference(cfg, Scorer())
