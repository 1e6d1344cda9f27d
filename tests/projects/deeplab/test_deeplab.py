"""DeepLabV3+'s head: against a plain forward of the same weights, and under PointRend; whole models learn a picture."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from densekit.config import load_config
from densekit.config_defaults import default_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from densekit.d2.utils.events import EventStorage
from densekit.projects.deeplab.head import DeepLabV3PlusSemanticHead
from tests.tolerances import close

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "pointrend"
SHAPES = {"res2": ShapeSpec(channels=6, stride=4), "res5": ShapeSpec(channels=10, stride=16)}


def head(**options) -> DeepLabV3PlusSemanticHead:
    sizes = {"channels": 8, "project_channels": [3], "aspp_channels": 4, "aspp_dilations": [1, 2, 3]}
    model = DeepLabV3PlusSemanticHead(SHAPES, num_classes=5, **sizes, **options)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    torch.nn.init.normal_(model.predictor.weight)
    return model


def maps(n: int = 2) -> dict[str, torch.Tensor]:
    return {"res2": torch.randn(n, 6, 17, 21), "res5": torch.randn(n, 10, 5, 6)}


def plain_scores(weights: dict[str, torch.Tensor], features: dict[str, torch.Tensor]) -> torch.Tensor:
    def block(name: str, x: torch.Tensor, dilation: int = 1) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2 * dilation, dilation=dilation)
        stats = [weights[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *stats).relu()

    low, high = features["res2"], features["res5"]
    mean = high.mean((2, 3), keepdim=True)
    pooling = "decoder.res5.project_conv"
    image = F.conv2d(mean, weights[f"{pooling}.convs.4.1.weight"], weights[f"{pooling}.convs.4.1.bias"]).relu()
    parts = [block(f"{pooling}.convs.0", high)]
    parts += [block(f"{pooling}.convs.{k}", high, dilation=k) for k in (1, 2, 3)]
    x = block(f"{pooling}.project", torch.cat([*parts, image.expand(-1, -1, *high.shape[2:])], 1))
    x = F.interpolate(x, low.shape[2:], mode="bilinear", align_corners=False)
    x = torch.cat([block("decoder.res2.project_conv", low), x], 1)
    x = block("decoder.res2.fuse_conv.1", block("decoder.res2.fuse_conv.0", x))
    return F.conv2d(x, weights["predictor.weight"], weights["predictor.bias"])


def test_scores_are_those_of_a_plain_forward():
    model, features = head(aspp_dropout=0.0).eval(), maps()
    torch.testing.assert_close(
        model.layers(features), plain_scores(model.state_dict(), features), **close(torch.float32)
    )
    results, losses = model(features)
    assert not losses and results.shape == (2, 5, 68, 84)


@pytest.mark.parametrize("separable", [False, True])
def test_every_parameter_learns(separable):
    model = head(separable=separable)
    _, losses = model(maps(), torch.randint(0, 5, (2, 68, 84)))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert any("depthwise" in name for name, _ in model.named_parameters()) == separable


def test_points_find_labels_in_images_that_the_stride_does_not_divide():
    """A class per column: with labels stretched to the scores, points near the right edge would get a wrong one."""
    refined = build_model(load_config(str(CONFIGS / "pointrend_semantic_R_18_upernet_streets.yaml"))).sem_seg_head
    seen = []

    def predict(features, coarse, points):
        seen.append(points)
        return torch.zeros(1, 19, points.shape[1]).requires_grad_()

    refined._predict = predict
    labels = torch.arange(17).expand(1, 13, 17)  # scores are 4 x 5, so they cover 16 x 20 pixels
    asked = []

    def record(scores, labels, ignore_value):
        asked.append(labels)
        return scores.sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densekit.projects.pointrend.point_semantic_head.mean_cross_entropy", record)
        refined._point_loss({}, torch.randn(1, 19, 4, 5), labels)
    x, y = (seen[0][0] * torch.tensor([20, 16])).unbind(1)
    expected = torch.where((x < 17) & (y < 13), x.floor().long(), 255)
    inside = (x - x.round()).abs() > 1e-3  # on the border of two pixels either will do
    assert torch.equal(asked[0][0][inside & (y < 12.999)], expected[inside & (y < 12.999)])


def test_maps_without_a_projection_are_refused():
    cfg = default_config()
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, cfg.MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS = ["res5", "res2"], [48, 48]
    with pytest.raises(ValueError, match="PROJECT_CHANNELS"):
        SEM_SEG_HEADS_REGISTRY.get("DeepLabV3PlusSemanticHead")(cfg, SHAPES)


@pytest.mark.parametrize(
    ("name", "coarse"),
    [
        ("pointrend_semantic_R_18_upernet_streets", "UPerHead"),
        ("pointrend_semantic_R_18_deeplab_streets", "DeepLabV3PlusSemanticHead"),
        ("pointrend_semantic_R_18_FPN_streets", "SemanticFPNHead"),
    ],
)
def test_pointrend_refines_the_scores_of_the_head(name, coarse):
    model = build_model(load_config(str(CONFIGS / f"{name}.yaml")))
    refined = model.sem_seg_head
    assert type(refined.coarse_sem_seg_head).__name__ == coarse
    image, labels = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), torch.randint(0, 19, (64, 96))
    with EventStorage():
        losses = model([{"image": image, "sem_seg": labels}] * 2)
    expected = {"loss_sem_seg", "loss_sem_seg_point"} | ({"loss_sem_seg_auxiliary"} if coarse == "UPerHead" else set())
    assert set(losses) == expected
    with EventStorage():
        losses = model([{"image": image[:, :61, :90], "sem_seg": torch.full((61, 90), 255)}])
    assert losses["loss_sem_seg_point"].item() == 0
    model.eval()
    refined.subdivision_num_points = 10
    with torch.no_grad():
        fine = model([{"image": image}])[0]["sem_seg"]
        features = model.backbone(((image - model.pixel_mean) / model.pixel_std)[None])
        before = refined.coarse_sem_seg_head(features)[0][0]
    changed = (fine - before).abs().amax(0) > 1e-4
    assert 0 < int(changed.sum()) < changed.numel()  # 10 points in each step, and what was interpolated from the first


@pytest.mark.parametrize(
    "name",
    ["upernet/upernet_R_18_carafe_streets", "pointrend/pointrend_semantic_R_18_deeplab_streets"],
)
def test_model_learns_a_picture(name):
    """Two squares on a ground that only their colours tell apart, in 20 steps from random weights."""
    model = build_model(load_config(str(ROOT / "configs" / f"{name}.yaml")))
    labels = torch.zeros(64, 96, dtype=torch.int64)
    labels[8:40, 8:40], labels[24:56, 56:88] = 3, 7
    colours = torch.zeros(19, 3, dtype=torch.uint8)
    colours[3], colours[7] = torch.tensor([200, 40, 40]), torch.tensor([40, 40, 200])
    picture = {"image": colours[labels].permute(2, 0, 1), "sem_seg": labels}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(20):
        with EventStorage():
            loss = sum(model([picture]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model([picture])[0]["sem_seg"].argmax(0)
    assert (found == labels).float().mean() > 0.8  # the ground alone is two thirds
