"""Checks recorded outputs of MPViT: ``python -m tests.projects.mpvit.recorded FILE``."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from densekit.config import load_config
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import FPN, build_model
from densekit.d2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from densekit.projects.mpvit.attention import FactorisedAttention, PositionEncoding, RelativePositionEncoding
from densekit.projects.mpvit.backbone import MPViTBackbone
from densekit.projects.mpvit.network import LocalBranch, MPViT, MPViTClassifier, PatchEmbedding, Size
from densekit.projects.mpvit.weights import BACKBONE, CLASSIFIER
from densekit.weights.renaming import Rule, rename
from tests.recorded_cases import Cases, main

Record = Mapping[str, Any]
_SIZES = {"tiny": "T", "xsmall": "XS", "small": "S", "base": "B"}
_WRAPPER = r"(?:backbone\.)?"  # what the authors' Detectron2 version has before every name of the network


def check(recorded: Record, cases: Cases) -> None:
    """Compares every part of a file of this layout."""
    parts: dict[str, Callable[[], None]] = {
        "cls": lambda: _classifier(recorded["cls"], recorded.get("cls_train"), cases),
        "modules": lambda: _modules(recorded["modules"], cases),
        "d2": lambda: _backbone(recorded["d2"], cases),
        "d2_fpn": lambda: _pyramid(recorded["d2"], recorded["d2_fpn"], cases, retina=False),
        "d2_fpn_retinanet": lambda: _pyramid(recorded["d2"], recorded["d2_fpn_retinanet"], cases, retina=True),
        "param_counts": lambda: _counts(recorded["param_counts"], cases),
        "detection_drop_path": lambda: _detection_rates(recorded["detection_drop_path"], cases),
        "manifest_cls_small": lambda: _manifest(recorded["manifest_cls_small"], cases),
        "detectors": lambda: _detectors(recorded["detectors"], cases),
    }
    for name, part in parts.items():
        if name in recorded:
            part()
    known = {*parts, "cls_train", "alias_groups", "about", "source"}
    cases.not_checked(sorted(set(recorded) - known), "unknown part of the file")
    if "alias_groups" in recorded:
        _aliases(recorded["alias_groups"], cases)


def _ours(names: Record, rules: list[Rule] | None = None) -> dict[str, Any]:
    values = {name: value.float() if _is_float(value) else value for name, value in names.items()}
    return rename(values, rules or [*_network_rules("network."), *CLASSIFIER], "MPViT")


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _network_rules(prefix: str) -> list[Rule]:
    return [(_WRAPPER + pattern, None if new is None else prefix + new) for pattern, new in BACKBONE]


def _size(cfg: Record) -> Size:
    return Size(*(tuple(cfg[name]) for name in ("num_path", "num_layers", "embed_dims", "mlp_ratios", "num_heads")))


def _classifier(record: Record, train: Record | None, cases: Cases) -> None:
    network = MPViT(_size(record["cfg"]), drop_path=record["drop_path_rate"])
    model = MPViTClassifier(network, record["num_classes"])
    names = {id(value): name for name, value in model.named_parameters()}
    assert len(names) == len(list(model.parameters()))
    rules = [*_network_rules("backbone."), *CLASSIFIER]
    _initialisation("classifier", model, rename(record["init_stats"], rules, "MPViT"), cases)
    weights = _ours(record["state_dict"], rules)
    model.load_state_dict(weights)
    _rates("classifier, drop path", network, record["drop_probs"], cases)
    model.eval()
    cases.close("classifier, scores", model(record["x"]), record["out_eval"])
    cases.close("classifier, maps", list(network(record["x"])), record["stage_outs"])
    if "patch_embed_outs_stage2" in record:
        x = network.stages[0](network.stem(record["x"]))
        outs = []
        for patch in network.stages[1].patches:  # type: ignore[union-attr]
            x = patch(x)
            outs.append(x)
        cases.close("classifier, patches of the second stage", outs, record["patch_embed_outs_stage2"])
    _probe(model(record["x"])).backward()
    _gradients("classifier", model, rename(record["grads"], rules, "MPViT"), cases)
    if train is not None:
        model = MPViTClassifier(MPViT(_size(record["cfg"])), record["num_classes"]).train()
        model.load_state_dict(weights)
        scores = model(record["x"])
        cases.close("classifier in training, scores", scores, train["logits"])
        _probe(scores).backward()
        _gradients("classifier in training", model, rename(train["grads"], rules, "MPViT"), cases)
        after = rename(train["buffers_after"], rules, "MPViT")
        buffers = {name: value for name, value in model.named_buffers() if name in after}
        cases.close("classifier in training, running averages", buffers, after)


def _probe(*outputs: Tensor) -> Tensor:
    """The scalar whose gradients are recorded."""
    total: Any = 0
    for index, output in enumerate(outputs):
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(123 + index))
        total = total + (output * noise).mean()
    return total


def _gradients(name: str, model: nn.Module, recorded: Record, cases: Cases) -> None:
    ours = {key: value.grad for key, value in model.named_parameters()}
    cases.equal(f"{name}, parameters with a gradient", sorted(ours), sorted(recorded))
    ours_too = {key: (float(grad.sum()), float(grad.norm())) for key, grad in ours.items() if grad is not None}
    cases.close(f"{name}, sums and norms of the gradients", ours_too, dict(recorded), rtol=1e-3)


def _initialisation(name: str, model: nn.Module, recorded: Record, cases: Cases) -> None:
    """Standard deviations of a fresh model within what so many draws allow; constants and counts exactly."""
    wrong = []
    for key, value in model.state_dict().items():
        if key not in recorded:
            continue
        mean, deviation, _, _, count = recorded[key]
        if value.numel() != count:
            wrong.append(f"{key} has {value.numel()} values, not {count}")
        elif deviation == 0 and not bool((value == mean).all()):
            wrong.append(f"{key} is not {mean}")
        elif deviation and count > 50 and abs(float(value.std()) / deviation - 1) > 6 / count**0.5:
            wrong.append(f"{key} has the deviation {float(value.std()):.3g}, not {deviation:.3g}")
    cases.equal(f"{name}, initialisation of {len(recorded)} tensors", wrong, [])


def _rates(name: str, network: MPViT, recorded: list[list[float]], cases: Cases) -> None:
    paths = [path for stage in network.stages for path in stage.paths]  # type: ignore[union-attr]
    rates = [[layer.drop_path.p for layer in path.layers] for path in paths]  # type: ignore[union-attr]
    cases.close(name, rates, recorded, atol=1e-7)


def _modules(record: Record, cases: Cases) -> None:
    if case := record.get("conv_rel_pos"):
        relative = RelativePositionEncoding(case["ch"] * case["heads"], case["heads"])
        relative.load_state_dict(_ours(case["state_dict"], [(r"conv_list\.(\d+)\.(.+)", r"convs.\1.\2")]))
        ours = _as_map(_together(case["q"]), case) * relative(_as_map(_together(case["v"]), case))
        cases.close("relative position encoding", ours, _as_map(_together(case["y"]), case))
    if case := record.get("factor_attention"):
        weights = _ours(
            case["state_dict"], [(r"((?:qkv|proj)\..+)", r"\1"), (r"crpe\.conv_list\.(.+)", r"relative.\1")]
        )
        heads = round(case["x"].shape[-1] * case["scale"] ** 2)
        attention = FactorisedAttention(case["x"].shape[-1], heads)
        relative = RelativePositionEncoding(case["x"].shape[-1], heads)
        own = {name: value for name, value in weights.items() if not name.startswith("relative.")}
        attention.load_state_dict(own)
        rest = {name.replace("relative.", "convs."): weights[name] for name in weights.keys() - own.keys()}
        relative.load_state_dict(rest)
        cases.close("factorised attention", attention(_as_map(case["x"], case), relative), _as_map(case["y"], case))
    if case := record.get("conv_pos_enc"):
        position = PositionEncoding(case["x"].shape[-1])
        position.load_state_dict(_ours(case["state_dict"], [(r"proj\.(.+)", r"conv.\1")]))
        cases.close("position encoding", position(_as_map(case["x"], case)), _as_map(case["y"], case))
    if case := record.get("res_block"):
        local = LocalBranch(case["x"].shape[1], norm=nn.BatchNorm2d)
        rules = [
            (pattern[len(r"mhca_stages\.(\d+)\.InvRes\.") :], new) for pattern, new in BACKBONE if "InvRes" in pattern
        ]
        renumbered = [(pattern, _renumbered(new.split("local.", 1)[1])) for pattern, new in rules if new]
        _initialisation("local branch", local, rename(case["init_stats"], renumbered, "MPViT"), cases)
        local.load_state_dict(_ours(case["state_dict"], renumbered))
        cases.close("local branch", local.eval()(case["x"]), case["y"])
    if case := record.get("patch_embed_stage"):
        _patches(case, cases)
    known = {"conv_rel_pos", "factor_attention", "conv_pos_enc", "res_block", "patch_embed_stage"}
    cases.not_checked(sorted(set(record) - known), "unknown module")


def _renumbered(new: str) -> str:
    """Counts groups of a rule from 1 after its first group, the stage, has been cut off."""
    return re.sub(r"\\(\d)", lambda match: f"\\{int(match[1]) - 1}", new)


def _together(by_head: Tensor) -> Tensor:
    return by_head.transpose(1, 2).flatten(2)


def _as_map(tokens: Tensor, case: Record) -> Tensor:
    return tokens.unflatten(1, tuple(case["size"]))


def _patches(case: Record, cases: Cases) -> None:
    rules: list[Rule] = [
        (r"patch_embeds\.(\d+)\.patch_conv\.dwconv\.weight", r"\1.depthwise.weight"),
        (r"patch_embeds\.(\d+)\.patch_conv\.pwconv\.weight", r"\1.pointwise.weight"),
        (r"patch_embeds\.(\d+)\.patch_conv\.bn\.(.+)", r"\1.norm.\2"),
    ]
    weights = _ours(case["state_dict"], rules)
    count = len({name.split(".")[0] for name in weights})
    halves = case["y"][0].shape[-1] < case["x"].shape[-1]
    stack = nn.ModuleList(
        PatchEmbedding(case["x"].shape[1], stride=2 if halves and index == 0 else 1, norm=nn.BatchNorm2d)
        for index in range(count)
    ).eval()
    _initialisation("patch embeddings", stack, rename(case["init_stats"], rules, "MPViT"), cases)
    stack.load_state_dict(weights)
    x, outs = case["x"], []
    for patch in stack:
        x = patch(x)
        outs.append(x)
    cases.close("patch embeddings", outs, case["y"])


def _detection_network(record: Record) -> MPViTBackbone:
    rate = max(rate for path in record["drop_probs"] for rate in path)
    network = MPViT(_size(record["cfg"]), drop_path=rate)
    return MPViTBackbone(network=network, out_features=["stage2", "stage3", "stage4", "stage5"])


def _backbone(record: Record, cases: Cases) -> None:
    backbone = _detection_network(record).eval()
    _rates("backbone, drop path", backbone.network, record["drop_probs"], cases)
    rules = _network_rules("network.")
    _initialisation("backbone", backbone, rename(record["init_stats"], rules, "MPViT"), cases)
    backbone.load_state_dict(_ours(record["state_dict"], rules))
    outs = backbone(record["x"])
    cases.close("backbone, maps", outs, record["outs"])
    for name, shape in backbone.output_shape().items():
        cases.equal(f"backbone, channels of {name}", shape.channels, record["outs"][name].shape[1])
    _probe(*outs.values()).backward()
    _gradients("backbone", backbone, rename(record["grads"], rules, "MPViT"), cases)


def _pyramid(base: Record, record: Record, cases: Cases, *, retina: bool) -> None:
    bottom_up = _detection_network(base)
    weights = _ours(record["state_dict"], [*_below("bottom_up."), (r"((?:fpn_|top_block\.).+)", r"\1")])
    levels = sorted({int(name[len("fpn_lateral")]) for name in weights if name.startswith("fpn_lateral")})
    channels = weights[f"fpn_lateral{levels[0]}.weight"].shape[0]
    last = weights.get("top_block.p6.weight")
    top = LastLevelP6P7(last.shape[1], channels, "stage5") if last is not None else LastLevelMaxPool()
    pyramid = FPN(bottom_up, [f"stage{level}" for level in levels], channels, top_block=top).eval()
    pyramid.load_state_dict(weights)
    cases.close(f"{'RetinaNet pyramid' if retina else 'pyramid'}, maps", pyramid(record["x"]), record["outs"])
    if "size_divisibility" in record:
        cases.equal("pyramid, divisor of the sides", pyramid.size_divisibility, record["size_divisibility"])


def _below(prefix: str) -> list[Rule]:
    rules = _network_rules(f"{prefix}network.")
    return [(re.escape(prefix) + pattern, new) for pattern, new in rules]


def _named(name: str) -> MPViT:
    """The network of a shipped configuration."""
    return _published(name).network


def _published(name: str) -> MPViTBackbone:
    cfg = load_config(f"configs/mpvit/mask_rcnn_mpvit_{_SIZES[name]}_FPN_1x.yaml")
    return MPViTBackbone(cfg, ShapeSpec(channels=3))


def _counts(record: Record, cases: Cases) -> None:
    for name, expected in record.items():
        network = _named(name)
        own = sum(value.numel() for value in network.parameters())
        cases.equal(f"{name}, parameters", own, expected["detection_backbone"])
        cases.equal(f"{name}, parameters without classifier", own, expected["without_head"])
        total = sum(value.numel() for value in MPViTClassifier(network, 1000).parameters())
        cases.equal(f"{name}, parameters with classifier", total, expected["cls"])
        if "fvcore_flops_224" in expected:
            flops = FlopCountAnalysis(MPViTClassifier(network.eval(), 1000), torch.zeros(1, 3, 224, 224))
            flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            cases.close(f"{name}, FLOPs at 224", flops.total(), expected["fvcore_flops_224"], rtol=2e-3, atol=0)


def _detection_rates(record: Record, cases: Cases) -> None:
    for name, expected in record.items():
        network = _named(name)
        rates = [[layer.drop_path.p for layer in stage.paths[0].layers] for stage in network.stages]  # type: ignore[union-attr]
        cases.close(f"{name}, drop path of the detectors", rates, expected, atol=1e-7)


def _manifest(names: Record, cases: Cases) -> None:
    rules = [*_network_rules("backbone."), *CLASSIFIER]
    converted = rename({name: tuple(shape) for name, shape in names.items()}, rules, "MPViT")  # type: ignore[type-var]
    with torch.device("meta"):
        model = MPViTClassifier(_named("small"), 1000)
    cases.equal(
        "small, names and shapes", converted, {key: tuple(value.shape) for key, value in model.state_dict().items()}
    )


def _aliases(groups: list[list[str]], cases: Cases) -> None:
    """Of names of one tensor exactly one is taken."""
    values = {name: torch.tensor(0.0) for group in groups for name in group}
    taken = [len(rename({name: values[name] for name in group}, _network_rules(""), "MPViT")) for group in groups]
    cases.equal(f"{len(groups)} tensors with several names", taken, [1] * len(groups))


def _detectors(record: Record, cases: Cases) -> None:
    files = {
        "retinanet_tiny": "retinanet_mpvit_T_FPN_1x",
        "retinanet_small_ms3x": "retinanet_mpvit_S_FPN_ms3x",
        "mask_tiny": "mask_rcnn_mpvit_T_FPN_1x",
        "mask_small": "mask_rcnn_mpvit_S_FPN_1x",
        "cascade_small_ms3x": "cascade_mask_rcnn_mpvit_S_FPN_ms3x",
    }
    for name, expected in record.items():
        if name not in files:
            cases.not_checked(f"detector {name}", "no configuration of that name is known to the checker")
            continue
        cfg = load_config(f"configs/mpvit/{files[name]}.yaml", ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
        with torch.device("meta"):
            model = build_model(cfg)
        cases.equal(f"{name}, parameters", sum(value.numel() for value in model.parameters()), expected["nparams"])
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if ".bottom_up." not in key}
        theirs = {key: tuple(shape) for key, shape in expected["other_than_backbone"].items()}
        cases.equal(f"{name}, names outside the backbone", {key: shapes.get(key) for key in theirs}, theirs)
        solver, given = cfg.SOLVER, expected["solver"]
        ours = (solver.BASE_LR, solver.WEIGHT_DECAY, tuple(solver.STEPS), solver.MAX_ITER, solver.WARMUP_ITERS)
        wanted = (
            given["base_lr"],
            given["weight_decay"],
            tuple(given["steps"]),
            given["max_iter"],
            given["warmup_iters"],
        )
        cases.equal(f"{name}, schedule", (*ours, solver.WARMUP_FACTOR), (*wanted, given["warmup_factor"]))
        cases.equal(f"{name}, optimizer", solver.OPTIMIZER.upper(), given["optimizer"])
        cases.equal(f"{name}, batch", solver.IMS_PER_BATCH, given["ims"])
        clipping = "\n".join(f"{key}: {value}" for key, value in sorted(solver.CLIP_GRADIENTS.items()))
        cases.equal(f"{name}, clipping", clipping, str(given["clip"]))
        node, data = cfg.INPUT, expected["input"]
        cases.equal(
            f"{name}, input",
            (tuple(node.MIN_SIZE_TRAIN), node.MAX_SIZE_TRAIN, node.FORMAT, node.CROP.ENABLED),
            (tuple(data["min_train"]), data["max_train"], data["format"], data["detr_aug"]),
        )
        cases.close(f"{name}, pixels", [cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD], [data["mean"], data["std"]])
        cases.equal(f"{name}, drop path", cfg.MODEL.MPVIT.DROP_PATH, expected["drop_path"])
        if "manifest" in expected:
            names = {
                key: tuple(shape)
                for key, shape in expected["manifest"].items()
                if key.startswith("backbone.bottom_up.")
            }
            rules = [
                (r"backbone\." + pattern, None if new is None else f"backbone.{new}")
                for pattern, new in _below("bottom_up.")
            ]
            full = {key: tuple(value.shape) for key, value in model.state_dict().items() if ".bottom_up." in key}
            found = rename(names, rules, "MPViT")  # type: ignore[type-var]
            cases.equal(f"{name}, names of the backbone", found, full)


if __name__ == "__main__":
    main(check)
