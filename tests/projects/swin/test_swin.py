"""Swin: properties of its layers and of the backbone, on either host."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.config import load_config
from densekit.d2.modeling import build_backbone, build_model
from densekit.projects.swin.backbone import SwinTransformer
from densekit.projects.swin.blocks import PatchMerging, SwinBlock, WindowAttention
from densekit.projects.swin.classifier import SwinClassifier
from densekit.projects.swin.resizing import resize_bias_table
from densekit.projects.swin.windows import cut, join, shift_mask
from densekit.solver import build_optimizer
from tests.tolerances import close

ROOT = Path(__file__).resolve().parents[3] / "configs/swin"
TINY = {"embed_dim": 8, "depths": [2, 2, 2], "num_heads": [1, 2, 4], "window_size": 3, "out_features": ["res2", "res4"]}


def tiny(**options) -> SwinTransformer:
    torch.manual_seed(0)
    model = SwinTransformer(**{**TINY, "drop_path_rate": 0.0, **options})
    with torch.no_grad():  # the start is too near to zero to tell one thing from another
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.5 if "table" in name else 0.1))
    return model.eval()


def slow_attention(layer: WindowAttention, x, mask):
    """Every window, head and pair of tokens by itself."""
    windows, tokens, channels = x.shape
    heads = layer.heads
    dim = channels // heads
    qkv = layer.qkv(x).view(windows, tokens, 3, heads, dim)
    out = torch.zeros(windows, tokens, channels, dtype=x.dtype)
    for w in range(windows):
        for h in range(heads):
            q, k, v = (qkv[w, :, i, h] for i in range(3))
            scores = q @ k.T / dim**0.5
            for i in range(tokens):
                for j in range(tokens):
                    scores[i, j] += layer.relative_position_bias_table[layer.relative_position_index[i, j], h]
                    if mask is not None:
                        scores[i, j] += mask[w % len(mask), i, j]
            out[w, :, h * dim : (h + 1) * dim] = scores.softmax(dim=1) @ v
    return layer.proj(out)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_every_pair(masked):
    layer = WindowAttention(channels=8, window=(2, 3), heads=2).double()
    x = torch.randn(6, 6, 8, dtype=torch.float64)
    mask = torch.randn(3, 6, 6, dtype=torch.float64) if masked else None
    with torch.no_grad():
        torch.testing.assert_close(layer(x, mask), slow_attention(layer, x, mask), **close(torch.float64))


def test_gradients_of_a_shifted_block():
    block = SwinBlock(channels=4, heads=2, window=2, shift=1).double()
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    mask = shift_mask(4, 6, 2, 1, like=x)
    assert torch.autograd.gradcheck(lambda x: block(x, mask), (x,))


def test_cutting_and_joining_undo_each_other():
    x = torch.randn(2, 6, 9, 5)
    windows = cut(x, 3)
    assert torch.equal(join(windows, 3, 6, 9), x)
    assert torch.equal(windows[1].view(3, 3, 5), x[0, :3, 3:6])  # the second window is to the right of the first


def test_shifted_windows_join_only_neighbours():
    """What a pixel of a shifted block depends on lies in its window of the unrolled map, not beyond the map's edge."""
    block = SwinBlock(channels=4, heads=1, window=4, shift=2).eval()
    x = torch.randn(1, 8, 8, 4, requires_grad=True)
    out = block(x, shift_mask(8, 8, 4, 2, like=x))
    (grad,) = torch.autograd.grad(out[0, 0, 0].sum(), x)
    reached = grad[0].abs().sum(dim=-1) > 1e-12
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(reached, expected)


def test_merging_reads_the_four_neighbours_of_each_place():
    layer = PatchMerging(1)
    layer.norm, layer.reduction = nn.Identity(), nn.Identity()
    x = torch.arange(12.0).view(1, 3, 4, 1)
    assert layer(x)[0, 0, 1].tolist() == [2, 6, 3, 7]  # down the first column, then down the second
    assert layer(x)[0, 1, 0].tolist() == [8, 0, 9, 0]  # below the map there are zeros


@torch.no_grad()
def test_a_batch_gives_what_single_images_give():
    model, x = tiny(), torch.randn(3, 3, 45, 70)
    for name, value in model(x).items():
        single = torch.cat([model(image[None])[name] for image in x])
        torch.testing.assert_close(single, value, **close(torch.float32))


def test_recomputing_changes_nothing_but_the_memory():
    results = []
    for recompute in (False, True):
        model = tiny(recompute=recompute).train()
        loss = sum(value.square().mean() for value in model(torch.ones(1, 3, 40, 40)).values())
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters()]))
    assert results[0][0] == results[1][0]
    for plain, recomputed in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(plain, recomputed, **close(torch.float32))


def test_paths_are_dropped_by_sample_and_kept_ones_scaled():
    model = tiny(drop_path_rate=0.5).train()
    branch = model.layers[2].blocks[1].drop_path
    kept = branch(torch.ones(4000, 2, 2, 1))
    assert set(kept.unique().tolist()) == {0.0, 2.0} and abs(kept.mean() - 1) < 0.1
    assert torch.equal(kept.amax(dim=(1, 2, 3)), kept.amin(dim=(1, 2, 3)))
    assert model.layers[0].blocks[0].drop_path.p == 0


def test_frozen_stages_neither_learn_nor_drop_paths():
    model = tiny(frozen_stages=2, drop_path_rate=0.5).train()
    assert not model.layers[0].blocks[1].drop_path.training and model.layers[1].blocks[1].drop_path.training
    sum(value.mean() for value in model(torch.randn(1, 3, 30, 30)).values()).backward()
    learns = {name for name, p in model.named_parameters() if p.grad is not None}
    assert not [name for name in learns if name.startswith(("patch_embed", "layers.0"))]
    assert [name for name in learns if name.startswith("layers.1")]


def test_a_table_resized_and_back_says_nearly_the_same():
    table = torch.linspace(-1, 1, 49)[:, None] * torch.tensor([1.0, -2.0])
    there = resize_bias_table(table, 169)
    assert there.shape == (169, 2) and (resize_bias_table(there, 49) - table).abs().max() < 0.05
    with pytest.raises(ValueError, match="48 rows"):
        resize_bias_table(table[:48], 169)


def config(name="mask_rcnn_swin_T_FPN_1x", *opts):
    small = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.SWIN.EMBED_DIM": "8",
        "MODEL.SWIN.NUM_HEADS": "[1, 2, 2, 4]",
        "MODEL.SWIN.DEPTHS": "[1, 2, 1, 1]",
        "MODEL.SWIN.WINDOW_SIZE": "3",
        "MODEL.FPN.OUT_CHANNELS": "16",
    }
    return load_config(str(ROOT / f"{name}.yaml"), [word for item in small.items() for word in item] + list(opts))


def test_the_config_reaches_every_option():
    opts = ["MODEL.SWIN.APE", "True", "MODEL.SWIN.PRETRAIN_IMG_SIZE", "64", "MODEL.SWIN.FROZEN_STAGES", "1"]
    opts += ["MODEL.SWIN.QKV_BIAS", "False", "MODEL.SWIN.PATCH_NORM", "False", "MODEL.SWIN.MLP_RATIO", "2.0"]
    opts += ["MODEL.SWIN.USE_CHECKPOINT", "True", "MODEL.SWIN.DROP_PATH_RATE", "0.4"]
    opts += ["MODEL.SWIN.OUT_FEATURES", "['res3', 'res5']", "MODEL.BACKBONE.NAME", "build_swin_backbone"]
    model = build_backbone(config("mask_rcnn_swin_T_FPN_1x", *opts))
    assert model.absolute_pos_embed.shape == (1, 8, 16, 16) and not model.absolute_pos_embed.requires_grad
    assert model.patch_embed.norm is None and model.layers[0].recompute
    block = model.layers[3].blocks[0]
    assert block.attn.qkv.bias is None and block.mlp.fc1.out_features == 128 and block.drop_path.p == 0.4
    assert list(model.output_shape()) == ["res3", "res5"] == list(model(torch.zeros(1, 3, 33, 65)))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.SWIN.OUT_FEATURES", "['res6']"], "res6"),
        (["MODEL.SWIN.FROZEN_STAGES", "7"], "FROZEN_STAGES 7"),
        (["MODEL.SWIN.NUM_HEADS", "[1, 2]"], "NUM_HEADS"),
        (["MODEL.SWIN.NUM_HEADS", "[3, 3, 3, 3]"], "3 heads"),
    ],
)
def test_what_cannot_be_built_is_named(opts, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config("mask_rcnn_swin_T_FPN_1x", "MODEL.BACKBONE.NAME", "build_swin_backbone", *opts))


def test_norms_and_positions_do_not_decay_and_other_biases_do():
    cfg = config("mask_rcnn_swin_T_FPN_1x", "MODEL.SWIN.APE", "True")
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.backbone.bottom_up.named_parameters():
        free = "norm" in name or name.endswith("relative_position_bias_table") or name == "absolute_pos_embed"
        assert decay[id(parameter)] == (0.0 if free else 0.05), name
        asked = model.backbone.bottom_up.parameter_options(name, parameter)
        assert asked.get("weight_decay", 0.05) == decay[id(parameter)] and asked["lr_factor"] == 1


def test_layer_decay_falls_from_the_outputs_to_the_patches():
    model = SwinTransformer(**TINY, layer_decay=0.5)
    factor = {name: model.parameter_options(name, p)["lr_factor"] for name, p in model.named_parameters()}
    assert factor["norm2.weight"] == 1 and factor["layers.2.blocks.1.mlp.fc1.weight"] == 0.5
    assert factor["layers.2.blocks.0.norm1.bias"] == factor["layers.1.downsample.norm.weight"] / 0.5 == 0.25
    assert factor["layers.0.blocks.0.attn.qkv.weight"] == 0.5**6 and factor["patch_embed.proj.weight"] == 0.5**7


def test_weights_of_another_window_are_fitted_as_they_are_loaded(tmp_path, caplog):
    """A checkpoint of a detector with windows of 2 for one with windows of 3; derived buffers are no news."""
    source = build_model(config("mask_rcnn_swin_T_FPN_1x", "MODEL.SWIN.WINDOW_SIZE", "2"))
    weights = source.state_dict()
    prefix = "backbone.bottom_up.layers.0.blocks.0.attn."
    weights[prefix + "relative_position_index"] = torch.zeros(4, 4, dtype=torch.int64)
    torch.save({"model": weights}, tmp_path / "source.pth")
    model = build_model(config())
    with caplog.at_level("INFO"):
        Checkpointer(model).load(str(tmp_path / "source.pth"))
    table = weights[prefix + "relative_position_bias_table"]
    expected = resize_bias_table(table, 25)
    torch.testing.assert_close(model.state_dict()[prefix + "relative_position_bias_table"], expected)
    assert "positions were resized" in caplog.text and "relative_position_index" not in caplog.text


def test_the_classifier_takes_heads_of_its_classes_only():
    source, options = SwinClassifier(img_size=(32, 32), num_classes=3, **_few()), {"img_size": (32, 32), **_few()}
    for classes, kept in ((3, True), (5, False)):
        model, weights = SwinClassifier(num_classes=classes, **options), copy.deepcopy(source.state_dict())
        model.fit_weights(weights)
        model.load_state_dict(weights)
        assert torch.equal(model.head.weight, source.head.weight) if kept else not model.head.weight.any()
    assert SwinClassifier(num_classes=0, **options)(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


def _few():
    return {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}


def test_half_precision_stays_finite():
    model = tiny().bfloat16()
    outputs = model(torch.randn(1, 3, 50, 38).bfloat16())
    assert all(value.dtype == torch.bfloat16 and value.isfinite().all() for value in outputs.values())
