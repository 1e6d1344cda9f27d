"""OCR: its equations against slow references, its place on any backbone, its losses and weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from densekit.d2.modeling import build_model
from densekit.d2.utils.events import EventStorage
from densekit.projects.hrnet.backbone import norm_maker
from densekit.projects.hrnet.network import HRNet, Stage
from densekit.projects.ocr.context import ObjectAttention, ObjectContext, region_representations
from densekit.weights import adapt_names
from tests.contract.shrinking import shrunken
from tests.contract.test_configs import sample
from tests.projects.ocr.recorded import segmenter

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_a_region_is_the_weighted_mean_of_its_pixels():
    features, scores = torch.randn(2, 5, 3, 4).double(), torch.randn(2, 6, 3, 4).double()
    regions = region_representations(features, scores)
    for n in range(2):
        for k in range(6):
            weights = torch.exp(scores[n, k]) / torch.exp(scores[n, k]).sum()
            expected = sum(weights[y, x] * features[n, :, y, x] for y in range(3) for x in range(4))
            torch.testing.assert_close(regions[n, :, k], expected)


def test_a_region_of_one_pixel_is_that_pixel():
    features, scores = torch.randn(1, 5, 3, 4), torch.zeros(1, 2, 3, 4)
    scores[0, 1, 2, 3] = 1000.0
    torch.testing.assert_close(region_representations(features, scores)[0, :, 1], features[0, :, 2, 3])


def test_attention_is_that_of_a_loop():
    block = ObjectAttention(channels=5, key_channels=4, norm=nn.BatchNorm2d).double().eval()
    features, regions = torch.randn(1, 5, 3, 2).double(), torch.randn(1, 5, 7).double()
    query = block.query(features)
    keys, values = block.key(regions[..., None]), block.value(regions[..., None])
    context = torch.zeros(1, 4, 3, 2).double()
    for y in range(3):
        for x in range(2):
            alike = torch.stack([query[0, :, y, x] @ keys[0, :, k, 0] / 2 for k in range(7)])  # 4 ** -0.5
            weights = alike.exp() / alike.exp().sum()
            context[0, :, y, x] = sum(weights[k] * values[0, :, k, 0] for k in range(7))
    torch.testing.assert_close(block(features, regions), block.out(context))


def test_the_order_of_the_classes_does_not_matter():
    block = ObjectContext(channels=6, key_channels=4, dropout=0.5, norm=nn.BatchNorm2d).eval()
    features, scores = torch.randn(2, 6, 4, 4), torch.randn(2, 5, 4, 4)
    order = torch.randperm(5)
    with torch.no_grad():
        torch.testing.assert_close(block(features, scores), block(features, scores[:, order]))


def test_pixels_that_change_places_take_their_context_along():
    block = ObjectContext(channels=6, key_channels=4, dropout=0.0, norm=nn.BatchNorm2d).eval()
    features, scores = torch.randn(1, 6, 4, 5), torch.randn(1, 3, 4, 5)
    with torch.no_grad():
        turned = block(features.flip(3), scores.flip(3))
        torch.testing.assert_close(turned.flip(3), block(features, scores), atol=1e-5, rtol=1e-5)


def test_gradients():
    block = ObjectContext(channels=3, key_channels=2, dropout=0.0, norm=nn.BatchNorm2d).double().eval()
    inputs = [torch.randn(1, c, 2, 3, dtype=torch.float64, requires_grad=True) for c in (3, 2)]
    assert torch.autograd.gradcheck(block, inputs)


@pytest.mark.parametrize(
    "file", ["upernet/upernet_R_18_streets", "ocr/ocr_R_50_dilated_cityscapes", "ocr/hrnet_ocr_w48_cityscapes"]
)
def test_any_backbone_takes_it(file):
    cfg = shrunken(CONFIGS / f"{file}.yaml")
    cfg.MODEL.SEM_SEG_HEAD.NAME, cfg.MODEL.SEM_SEG_HEAD.NORM, cfg.MODEL.OCR.DROPOUT = "OCRHead", "BN", 0.0
    cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.IN_FEATURE = ""
    batch = [sample(cfg), sample(cfg)]
    model = build_model(cfg)
    with EventStorage():
        losses = model(batch)
        cfg.MODEL.OCR.REGION_LOSS_WEIGHT *= 2
        heavier = build_model(cfg)
        heavier.load_state_dict(model.state_dict())
        doubled = heavier(batch)
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_regions"}
    torch.testing.assert_close(doubled["loss_sem_seg"], losses["loss_sem_seg"])
    torch.testing.assert_close(doubled["loss_sem_seg_regions"], 2 * losses["loss_sem_seg_regions"])


def test_an_auxiliary_head_beside_it_is_refused():
    cfg = shrunken(CONFIGS / "upernet/upernet_R_18_streets.yaml")
    cfg.MODEL.SEM_SEG_HEAD.NAME = "OCRHead"
    with pytest.raises(ValueError, match=r"AUXILIARY\.IN_FEATURE"):
        build_model(cfg)


def names_of_the_authors(name: str) -> str:
    """The reverse of the room's rules, written down once more."""
    name = name.replace("backbone.network.", "").replace("sem_seg_head.", "")
    name = (
        name.replace("regions.0.", "aux_head.").replace("regions.1.", "aux_head.3.").replace("pixels.", "conv3x3_ocr.")
    )
    block = "ocr_distri_head.object_context_block."
    for new, old in (("query", "f_pixel"), ("key", "f_object")):
        for step in (0, 1):
            name = name.replace(f"context.attention.{new}.{step}.0.", f"{block}{old}.{2 * step}.")
            name = name.replace(f"context.attention.{new}.{step}.1.", f"{block}{old}.{2 * step + 1}.0.")
    for new, old in (("value", "f_down"), ("out", "f_up")):
        name = name.replace(f"context.attention.{new}.0.", f"{block}{old}.0.")
        name = name.replace(f"context.attention.{new}.1.", f"{block}{old}.1.0.")
    name = name.replace("context.mix.0.", "ocr_distri_head.conv_bn_dropout.0.")
    name = name.replace("context.mix.1.", "ocr_distri_head.conv_bn_dropout.1.0.")
    return name.replace("predictor.", "cls_head.")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_authors_weights_fill_the_model(prefix):
    stages = [Stage(1, (1,) * k, (4, 8, 16, 32)[:k]) for k in (2, 3, 4)]
    network = HRNet(bottlenecks=1, bottleneck_channels=4, stages=stages, norm=norm_maker("BN", 0.1), fuse="bilinear")
    model = segmenter(network, 5, 16, 8, 0.1)
    state = {k: v + 1 for k, v in model.state_dict().items() if not k.endswith("flavour.value")}
    file = {prefix + names_of_the_authors(k): v for k, v in state.items()}
    if prefix:
        file["loss.criterion.weight"] = torch.ones(5)
    model.load_state_dict(adapt_names({"model": file}, model.state_dict()))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
