"""MPViT: recorded numbers, slow references, and what must hold for images of any size."""

import pytest
import torch
from torch import nn

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import build_model
from densekit.projects.mpvit.attention import FactorisedAttention, RelativePositionEncoding, TransformerPath
from densekit.projects.mpvit.backbone import MPViTBackbone
from densekit.projects.mpvit.network import MPViT, Size
from densekit.projects.mpvit.weights import BACKBONE
from densekit.weights.parts import find_layout
from densekit.weights.renaming import rename
from tests.projects.mpvit.recorded import check
from tests.recorded_cases import assert_agrees

TINY = Size((2, 3, 3, 3), (1, 1, 1, 1), (8, 16, 16, 24), (1.0, 1.0, 1.0, 1.0), (8, 8, 8, 8))


def tiny_backbone() -> MPViTBackbone:
    backbone = MPViTBackbone(network=MPViT(TINY), out_features=["stage2", "stage3", "stage4", "stage5"])
    return backbone.eval()


def test_recorded_outputs(reference_dir):
    assert_agrees(check, reference_dir / "mpvit.pt")


def slow_attention(attention: FactorisedAttention, relative: RelativePositionEncoding, x):
    """Equation 4 of CoaT, position by position, for one image (H, W, C)."""
    height, width, channels = x.shape
    heads, c = attention.num_heads, channels // attention.num_heads
    query, key, value = (part.reshape(-1, heads, c) for part in attention.qkv(x).chunk(3, dim=-1))
    kernels = [(conv.weight[i, 0], conv.bias[i]) for conv in relative.convs for i in range(conv.out_channels)]
    out = torch.zeros(height * width, channels, dtype=x.dtype)
    for head in range(heads):
        weights = torch.exp(key[:, head]) / torch.exp(key[:, head]).sum(dim=0)  # over positions
        for position in range(height * width):
            row, column = divmod(position, width)
            for i in range(c):
                content = sum(
                    query[position, head, j] * c**-0.5 * (weights[:, j] * value[:, head, i]).sum() for j in range(c)
                )
                kernel, bias = kernels[head * c + i]
                reach = len(kernel) // 2
                near = bias.clone()
                for dy in range(-reach, reach + 1):
                    for dx in range(-reach, reach + 1):
                        if 0 <= row + dy < height and 0 <= column + dx < width:
                            neighbour = (row + dy) * width + column + dx
                            near = near + kernel[dy + reach, dx + reach] * value[neighbour, head, i]
                out[position, head * c + i] = content + query[position, head, i] * near
    return attention.proj(out).reshape(height, width, channels)


def test_attention_is_the_equation():
    attention, relative = FactorisedAttention(16, 8).double(), RelativePositionEncoding(16, 8).double()
    x = torch.randn(2, 3, 4, 16, dtype=torch.float64)
    expected = torch.stack([slow_attention(attention, relative, image) for image in x])
    torch.testing.assert_close(attention(x, relative), expected)


def test_gradients_of_a_path():
    path = TransformerPath(8, 8, 1.0, [0.0]).double()
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(path, x)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (61, 85), (1, 70)])
def test_maps_have_the_declared_channels_and_strides(size):
    backbone = tiny_backbone()
    for name, value in backbone(torch.randn(1, 3, *size)).items():
        shape = backbone.output_shape()[name]
        assert value.shape[1:] == (shape.channels, *(-(-side // shape.stride) for side in size))


def test_batches_equal_single_images():
    backbone, images = tiny_backbone(), torch.randn(3, 3, 41, 37)
    together = backbone(images)
    for index, image in enumerate(images):
        for name, value in backbone(image[None]).items():
            torch.testing.assert_close(value[0], together[name][index], atol=1e-5, rtol=1e-5)


def test_paths_left_out_of_a_sample_leave_it_as_it_was():
    path = TransformerPath(8, 8, 1.0, [1.0]).train()  # every branch of every sample is left out
    x = torch.randn(2, 8, 5, 4)
    encoded = path.position(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(path(x), encoded)


def test_unknown_feature_is_named():
    with pytest.raises(ValueError, match=r"OUT_FEATURES is \['res2'\]; it can name stage2"):
        MPViTBackbone(network=MPViT(TINY), out_features=["res2"])


def test_heads_that_the_windows_do_not_share_out_are_refused():
    with pytest.raises(ValueError, match=r"windows .* are for 8 heads"):
        RelativePositionEncoding(16, 4)


def test_unknown_weights_are_named():
    with pytest.raises(ValueError, match=r"mhca_stages\.0\.surprise"):
        rename({"mhca_stages.0.surprise": torch.zeros(1)}, BACKBONE, "MPViT")


def test_checkpoints_of_the_authors_fill_the_model(reference_dir):
    """A classifier's backbone goes below the pyramid, and a detector's names become those of the model, all of them."""
    recorded = torch.load(reference_dir / "mpvit.pt")
    cfg = load_config("configs/mpvit/mask_rcnn_mpvit_T_FPN_1x.yaml", ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    with torch.device("meta"):
        model = build_model(cfg).state_dict()
        detector = {name: torch.empty(shape) for name, shape in recorded["detectors"]["mask_tiny"]["manifest"].items()}
        classifier = {
            name.removeprefix("backbone.bottom_up.backbone."): value
            for name, value in detector.items()
            if "bottom_up" in name
        }
        classifier |= {"cls_head.cls.weight": torch.empty(1000, 216), "cls_head.cls.bias": torch.empty(1000)}
    found = find_layout(detector).convert(detector, model)
    derived = {name for name in model if name.startswith("pixel_") or "cell_anchors" in name}
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in model.items() if name not in derived
    }
    backbone = find_layout(classifier).convert(classifier, model)
    counters = {name for name in model if name.endswith("num_batches_tracked")}  # a classifier's are left out
    assert backbone.keys() == {name for name in model if ".bottom_up." in name} - counters


def test_every_norm_is_the_one_asked_for():
    cfg = load_config("configs/mpvit/mask_rcnn_mpvit_T_FPN_1x.yaml", ["MODEL.MPVIT.NORM", "FrozenBN"])
    backbone = MPViTBackbone(cfg, ShapeSpec(channels=3))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


@pytest.mark.filterwarnings("ignore")
def test_exported_backbone_agrees_at_other_sizes(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    # A stage with one path has every kind of layer; an export takes seconds for each path.
    backbone = MPViTBackbone(network=MPViT(Size((1,), (1,), (8,), (1.0,), (8,))), out_features=["stage2"]).eval()

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, image):
            return tuple(self.backbone(image).values())

    file = tmp_path / "backbone.onnx"
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        Maps(),
        (torch.randn(1, 3, 64, 96),),
        file,
        dynamo=True,
        dynamic_shapes={"image": sides},
        opset_version=20,
        optimize=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file)
    for size in ((96, 64), (52, 90)):
        image = torch.randn(1, 3, *size)
        outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        for ours, exported in zip(backbone(image).values(), outputs):
            torch.testing.assert_close(torch.from_numpy(exported), ours, atol=1e-4, rtol=1e-4)
