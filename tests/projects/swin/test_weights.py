"""Names of Swin's weights elsewhere, and the other implementations as oracles: same random weights, same maps."""

import re

import pytest
import torch
from tolerances import PARITY
from torch import nn

from densekit.projects.swin.backbone import NAMES, SwinTransformer
from densekit.projects.swin.classifier import SwinClassifier
from densekit.projects.swin.weights import SIGNS, convert_backbone, merge_order

OPTIONS = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 4, "drop_path_rate": 0.0}


def scatter(model: nn.Module) -> nn.Module:
    """Weights with which every layer says something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.5 if "table" in name else 0.1))
    return model.eval()


def loaded(weights, vocabulary):
    """The backbone with converted weights, whose new norms pass everything on."""
    assert [name for name in SIGNS if any(re.fullmatch(SIGNS[name], key) for key in weights)] == [vocabulary]
    model = SwinTransformer(**OPTIONS).eval()
    missing, unexpected = model.load_state_dict(convert_backbone(weights, vocabulary), strict=False)
    assert not unexpected and set(missing) <= {f"norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    return model


def raw_maps(model, x):
    """The outputs of the stages before their norms, channels last."""
    for index in range(4):
        setattr(model, f"norm{index}", nn.Identity())
    with torch.no_grad():
        return [model(x)[name].permute(0, 2, 3, 1) for name in NAMES]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, **PARITY)


def test_the_authors_names_are_ours():
    source = scatter(SwinClassifier(img_size=(256, 256), num_classes=3, **OPTIONS))
    weights = source.state_dict() | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16)}
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 16, 16)
    model = loaded(weights, "authors")
    with torch.no_grad():
        x = torch.randn(2, 3, 256, 256)
        features = source.norm(raw_maps(model, x)[3]).mean(dim=(1, 2))
        torch.testing.assert_close(features, source.forward_features(x), **PARITY)


def test_torchvision():
    models = pytest.importorskip("torchvision.models.swin_transformer")
    source = scatter(
        models.SwinTransformer(
            patch_size=[4, 4], embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=[4, 4],
            stochastic_depth_prob=0.0, num_classes=3,
        )
    )  # fmt: skip
    x, maps = torch.randn(2, 3, 256, 256), []  # on maps not larger than a window torchvision shifts nothing
    with torch.no_grad():
        y = x
        for index, layer in enumerate(source.features):
            y = layer(y)
            if index % 2:
                maps.append(y)
    assert_same(raw_maps(loaded(source.state_dict(), "torchvision"), x), maps)


def test_timm():
    timm = pytest.importorskip("timm")
    source = scatter(
        timm.create_model(
            "swin_tiny_patch4_window7_224", pretrained=False, img_size=256, embed_dim=8, depths=(2, 2, 2, 2),
            num_heads=(1, 2, 4, 8), window_size=4, num_classes=3, drop_path_rate=0.0,
        )
    )  # fmt: skip
    x = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        maps, y = [], source.patch_embed(x)
        for layer in source.layers:
            y = layer(y)
            maps.append(y)
    assert_same(raw_maps(loaded(source.state_dict(), "timm"), x), maps)


def test_transformers_pads_and_masks_alike():
    """On images of no special size, where windows are padded."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4, drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    source = scatter(transformers.SwinBackbone(config))
    weights = from_transformers(source.state_dict())
    model = SwinTransformer(**OPTIONS).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected
    x = torch.randn(2, 3, 268, 180)  # its stages do not shift windows that are not smaller than their map
    with torch.no_grad():
        maps = source(x).feature_maps
        ours = [model(x)[name] for name in NAMES]
    assert_same(ours, list(maps))


def from_transformers(weights):
    """Its names, of release 4 and of release 5, and its separate queries, keys and values in one."""
    block = r".*layers\.(\d)\.blocks\.(\d)\."
    rules = (
        (r".*embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r".*embeddings\.norm\.", "patch_embed.norm."),
        (r".*layers\.(\d)\.downsample\.", r"layers.\1.downsample."),
        (block + r"layernorm_before\.", r"layers.\1.blocks.\2.norm1."),
        (block + r"layernorm_after\.", r"layers.\1.blocks.\2.norm2."),
        (block + r"(?:intermediate\.dense|mlp\.fc1)\.", r"layers.\1.blocks.\2.mlp.fc1."),
        (block + r"(?:output\.dense|mlp\.fc2)\.", r"layers.\1.blocks.\2.mlp.fc2."),
        (block + r"attention\.(?:output\.dense|o_proj)\.", r"layers.\1.blocks.\2.attn.proj."),
        (block + r"attention\.(?:self|relative_position_bias)\.(?=relative)", r"layers.\1.blocks.\2.attn."),
        (block + r"attention\.(?:self\.)?([qkv])(?:uery|ey|alue|_proj)\.", r"layers.\1.blocks.\2.attn.\3."),
        (r".*hidden_states_norms\.stage(\d)\.", lambda match: f"norm{int(match[1]) - 1}."),
    )
    renamed = {}
    for name, value in weights.items():
        if not name.endswith("relative_position_index") and not name.startswith("swin.layernorm"):
            pattern, new = next((rule for rule in rules if re.match(rule[0], name)), ("", ""))
            renamed[re.sub(pattern, new, name, count=1)] = value
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".q.", f".{kind}.")) for kind in "qkv"]
        renamed[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return renamed


def test_openmmlab_names_and_its_order_of_merging():
    """Its merging is an unfold; with the entries put in order a linear layer says the same of concatenated places."""
    channels = 3
    x = torch.randn(2, channels, 6, 4)
    reduction, norm = torch.randn(5, 4 * channels), torch.randn(4 * channels)
    patches = nn.Unfold(2, stride=2)(x).transpose(1, 2)  # (N, 6, C * 4)
    expected = (patches * norm) @ reduction.T
    maps = x.permute(0, 2, 3, 1)
    places = torch.cat([maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1).flatten(1, 2)
    ours, scale = (merge_order("layers.0.downsample.x", value) for value in (reduction, norm))
    torch.testing.assert_close((places * scale) @ ours.T, expected)

    model = SwinTransformer(**OPTIONS)
    names = {to_openmmlab(name): value for name, value in model.state_dict().items()}
    names["stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(16, 16)
    assert set(loaded(names, "OpenMMLab").state_dict()) == set(model.state_dict())


def to_openmmlab(name: str) -> str:
    for pattern, to in (
        (r"patch_embed\.proj\b", "patch_embed.projection"),
        (r"^layers", "stages"),
        (r"\.attn\.", ".attn.w_msa."),
        (r"mlp\.fc1", "ffn.layers.0.0"),
        (r"mlp\.fc2", "ffn.layers.1"),
    ):
        name = re.sub(pattern, to, name)
    return name


def test_a_name_that_nobody_knows_is_named():
    with pytest.raises(ValueError, match=r"layers\.9\.strange"):
        convert_backbone({"features.0.0.weight": torch.zeros(1), "layers.9.strange": torch.zeros(1)}, "torchvision")
