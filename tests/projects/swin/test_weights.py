"""Names of Swin's weights elsewhere, and the other implementations as oracles: same random weights, same maps."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.projects.swin.backbone import NAMES, SwinTransformer
from densekit.projects.swin.classifier import SwinClassifier
from densekit.projects.swin.weights import SIGNS, merge_order
from densekit.weights.parts import find_layout, layouts_of
from tests.tolerances import PARITY

CONFIGS = str(Path(__file__).resolve().parents[3] / "configs/swin")
OPTIONS = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 4, "drop_path_rate": 0.0}


def scatter(model: nn.Module) -> nn.Module:
    """Weights with which every layer says something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.5 if "table" in name else 0.1))
    return model.eval()


def loaded(weights, kind):
    """The backbone with the weights of a file of this kind, which is told by its names."""
    assert [name for name in SIGNS if any(re.fullmatch(SIGNS[name], key) for key in weights)] == [kind]
    (layout,) = layouts_of(weights)
    model = SwinTransformer(**OPTIONS).eval()
    missing, unexpected = model.load_state_dict(layout.convert(weights, model.state_dict()), strict=False)
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
    model = loaded(weights, "Swin")
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
    assert_same(raw_maps(loaded(source.state_dict(), "torchvision's Swin"), x), maps)


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
    assert_same(raw_maps(loaded(source.state_dict(), "timm's Swin"), x), maps)


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
    assert set(loaded(names, "OpenMMLab's Swin").state_dict()) == set(model.state_dict())


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
    weights = SwinTransformer(**OPTIONS).state_dict() | {"layers9.strange": torch.zeros(1)}
    (layout,) = layouts_of(weights)
    with pytest.raises(ValueError, match=r"layers9\.strange"):
        layout.convert(weights)


def test_a_whole_segmentation_model_of_mmsegmentation(reference_dir):
    """Swin, UPerNet's head and the auxiliary head of one recorded file, by its names alone; scores as recorded."""
    case = torch.load(reference_dir / "upernet.pt")["mmseg_swin_upernet"]
    options = case["swin"]
    keys = {
        "MODEL.DEVICE": "cpu",
        "MODEL.SWIN.EMBED_DIM": options["embed_dim"],
        "MODEL.SWIN.DEPTHS": options["depths"],
        "MODEL.SWIN.NUM_HEADS": options["num_heads"],
        "MODEL.SWIN.WINDOW_SIZE": options["window_size"],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": case["logits"].shape[1],
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": case["channels"],
        "MODEL.SEM_SEG_HEAD.AUXILIARY.CONVS_DIM": case["aux_channels"],
    }
    words = [str(word) for item in keys.items() for word in item]
    model = build_model(load_config(CONFIGS + "/upernet_swin_T_ade20k.yaml", words)).eval()
    weights = {
        name: value.float() if value.is_floating_point() else value for name, value in case["state_dict"].items()
    }
    layout = find_layout(weights)
    left = model.load_state_dict(layout.convert(weights, model.state_dict()), strict=False)
    assert not left.unexpected_keys and all("num_batches" in name or "pixel" in name for name in left.missing_keys)
    with torch.no_grad():
        features = model.backbone(case["x"])
        for ours, theirs in zip(features.values(), case["feats"]):
            torch.testing.assert_close(ours, theirs, **PARITY)
        torch.testing.assert_close(model.sem_seg_head.layers(features), case["logits"], **PARITY)


def test_a_whole_cascade_of_mmdetection():
    """Every entry of the published kind of cascade has its place; of three mask heads the last one."""
    path = CONFIGS + "/cascade_mask_rcnn_swin_T_FPN_3x.yaml"
    with torch.device("meta"):
        model = build_model(load_config(path, ["MODEL.DEVICE", "meta"]))
    theirs = {name: value for ours, value in model.state_dict().items() for name in as_mmdetection(ours)}
    converted = find_layout(theirs).convert(theirs, model.state_dict())
    assert {name: value.shape for name, value in converted.items()} == {
        name: value.shape for name, value in model.state_dict().items() if not name.startswith("pixel_")
    }


def as_mmdetection(name: str) -> list[str]:
    def level(match: re.Match) -> str:
        kind = {"lateral": "lateral_convs", "output": "fpn_convs"}[match[1]]
        return f"neck.{kind}.{int(match[2]) - 2}.conv."

    if name.startswith("roi_heads.mask_head."):
        inner = (
            name.removeprefix("roi_heads.mask_head.").replace("deconv", "upsample").replace("predictor", "conv_logits")
        )
        inner = re.sub(r"mask_fcn(\d)", lambda m: f"convs.{int(m[1]) - 1}.conv", inner)
        return [f"roi_head.mask_head.{stage}.{inner}" for stage in range(3)]
    for pattern, new in (
        (r"backbone\.bottom_up\.", "backbone."),
        (r"backbone\.fpn_(lateral|output)(\d)\.", level),
        (r"proposal_generator\.rpn_head\.conv\.", "rpn_head.rpn_conv."),
        (r"proposal_generator\.rpn_head\.objectness_logits\.", "rpn_head.rpn_cls."),
        (r"proposal_generator\.rpn_head\.anchor_deltas\.", "rpn_head.rpn_reg."),
        (r"roi_heads\.box_predictor\.(\d)\.cls_score\.", r"roi_head.bbox_head.\1.fc_cls."),
        (r"roi_heads\.box_predictor\.(\d)\.bbox_pred\.", r"roi_head.bbox_head.\1.fc_reg."),
        (r"roi_heads\.box_head\.(\d)\.fc1\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
        (r"roi_heads\.box_head\.(\d)\.conv(\d)\.norm\.", lambda m: _conv(m) + "bn."),
        (r"roi_heads\.box_head\.(\d)\.conv(\d)\.", lambda m: _conv(m) + "conv."),
    ):
        name = re.sub(pattern, new, name)
    return [] if name.startswith("pixel_") else [name]


def _conv(match: re.Match) -> str:
    return f"roi_head.bbox_head.{match[1]}.shared_convs.{int(match[2]) - 1}."
