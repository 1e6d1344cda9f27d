"""SPNet: recorded numbers, slow references and bad keys."""

import pytest
import torch

from densekit.config import load_config
from densekit.d2.data.transforms import ResizeShortestEdge
from densekit.d2.modeling import build_backbone
from densekit.modeling.dilated_resnet import dilations_of_stage
from densekit.projects.spnet.head import enlarge_between_corners
from densekit.projects.spnet.pooling import MixedPooling, StripPooling
from tests.projects.spnet.recorded import check
from tests.recorded_cases import assert_agrees

CONFIG = "configs/spnet/spnet_R_50_camvid.yaml"


def test_recorded_outputs(reference_dir):
    assert_agrees(check, reference_dir / "spnet.pt")


def test_gate_is_the_mean_of_rows_and_columns():
    """Section 3.1, pixel by pixel: strips are means, convolved along themselves, and meet at every pixel."""
    gate = StripPooling(2).double().eval()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    rows = [[x[0, c, i].mean() for i in range(4)] for c in range(2)]
    columns = [[x[0, c, :, j].mean() for j in range(5)] for c in range(2)]

    def convolved(strip, weight, out, at):
        total = 0.0
        for c in range(2):
            for step in (-1, 0, 1):
                if 0 <= at + step < len(strip[c]):
                    total = total + weight[out, c].flatten()[step + 1] * strip[c][at + step]
        return total / (1 + 1e-5) ** 0.5  # the norm of a fresh module

    expected = torch.empty(2, 4, 5, dtype=torch.float64)
    for i in range(4):
        for j in range(5):
            met = torch.stack(
                [
                    (
                        convolved(rows, gate.rows.conv.weight, c, i)
                        + convolved(columns, gate.columns.conv.weight, c, j)
                    ).relu()
                    for c in range(2)
                ]
            )
            expected[:, i, j] = torch.sigmoid(gate.gate.weight[:, :, 0, 0] @ met + gate.gate.bias)
    torch.testing.assert_close(gate(x)[0], expected)


@pytest.mark.parametrize("module", [StripPooling(4), MixedPooling(4, (3, 2))], ids=["strips", "mixed"])
def test_gradients(module):
    x = torch.randn(2, 4, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module.double().eval(), x)


def test_transposed_kernels_see_the_transposed_map():
    module = MixedPooling(8, (3, 2)).eval()
    x = torch.randn(2, 8, 9, 6)
    expected = module(x).mT
    with torch.no_grad():
        module.rows, module.columns = module.columns, module.rows
        for parameter in module.parameters():
            if parameter.dim() == 4:
                parameter.set_(parameter.mT.contiguous())
        for conv in (module.rows.conv, module.columns.conv):
            conv.padding = conv.padding[::-1]
    torch.testing.assert_close(module(x.mT), expected, atol=1e-5, rtol=1e-5)


def test_scores_between_aligned_corners_hit_those_of_the_map():
    scores = torch.randn(1, 2, 3, 4)
    larger = enlarge_between_corners(scores, 8)
    assert larger.shape == (1, 2, 24, 32)
    torch.testing.assert_close(larger[..., ::8, ::8], scores)
    assert torch.equal(larger[..., -1, :], larger[..., 16, :])


@pytest.mark.parametrize(
    ("dilation", "grid", "half", "expected"),
    [
        (1, [1], True, [1, 1, 1]),
        (2, [1], True, [1, 2, 2]),
        (2, [1], False, [2, 2, 2]),
        (4, [1, 1, 1], True, [2, 4, 4]),
        (4, [1, 2, 4], True, [4, 8, 16]),
    ],
)
def test_dilations(dilation, grid, half, expected):
    assert dilations_of_stage(dilation, 3, grid, half) == expected


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.SPNET.STRIP_POOLING", ["last"]], r"STRIP_POOLING is \['last'\]; it needs four of none, last, all"),
        (["MODEL.RESNETS.DEPTH", 18], r"DEPTH 18: a dilated ResNet has 50, 101, 152"),
        (["MODEL.RESNETS.RES5_DILATION", 3], r"RES4_DILATION 2 and RES5_DILATION 3: they can be 1 and 1"),
        (["MODEL.RESNETS.RES5_MULTI_GRID", [1, 2]], r"RES5_MULTI_GRID \[1, 2\] must have 3 values"),
    ],
)
def test_keys_that_do_not_fit_are_named(opts, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(load_config(CONFIG, opts))


@pytest.mark.parametrize(("dilations", "stride"), [((1, 1), 32), ((1, 2), 16), ((2, 4), 8)])
def test_maps_have_the_declared_stride(dilations, stride):
    opts = ["MODEL.BACKBONE.NAME", "build_dilated_resnet_backbone", "MODEL.RESNETS.RES4_DILATION", dilations[0]]
    backbone = build_backbone(load_config(CONFIG, [*opts, "MODEL.RESNETS.RES5_DILATION", dilations[1]]))
    maps = backbone.eval()(torch.randn(1, 3, 64, 96))
    assert backbone.output_shape()["res5"].stride == stride
    assert maps["res5"].shape[-2:] == (64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ("name", "picture", "seen"),
    [
        ("spnet_R_50_ade20k", (512, 683), (384, 512)),
        ("spnet_R_101_ade20k", (683, 512), (512, 384)),
        ("spnet_R_101_ade20k", (300, 400), (384, 512)),  # small pictures are enlarged
        ("spnet_R_101_cityscapes", (1024, 2048), (1024, 2048)),
    ],
)
def test_recipes_see_test_pictures_as_published(name, picture, seen):
    """The authors resize the long side (512 on ADE20K) and slide a window of the training crop's size."""
    cfg = load_config(f"configs/spnet/{name}.yaml")
    size = ResizeShortestEdge.get_output_shape(*picture, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    assert size == seen
    views = cfg.TEST.SEMANTIC
    assert tuple(views.WINDOW) == tuple(cfg.INPUT.CROP.SIZE)
    assert views.PAD and views.FLIP and views.AVERAGE == "softmax" and not views.STRIDE
