"""Swin against outputs recorded from its authors' code: ``python -m tests.projects.swin.recorded FILE``."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densekit.projects.swin.backbone import NAMES, SwinTransformer
from densekit.projects.swin.blocks import PatchMerging, WindowAttention
from densekit.projects.swin.classifier import SwinClassifier
from densekit.projects.swin.resizing import resize_bias_table
from densekit.projects.swin.trunk import drop_path_rates
from densekit.projects.swin.windows import relative_position_index, shift_mask
from tests.recorded_cases import Cases, main

DERIVED = ("relative_position_index", "attn_mask")


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Runs every case of a file."""
    single = {
        "frozen_stages": _check_frozen,
        "rel_index": _check_indices,
        "window_attention": _check_attention,
        "load_window3_to_5": _check_load_classifier,
        "table_resize_w5": _check_tables,
        "ape_resize": _check_positions,
        "decay_groups_cls": _check_decay,
        "full": _check_full,
    }
    for name, case in recorded.items():
        if name in single:
            single[name](name, case, cases)
        elif isinstance(case, Mapping) and "logits" in case and "cfg" in case:
            _check_classifier(name, case, cases)
        elif isinstance(case, Mapping) and "out_eval" in case:
            _check_backbone(name, case, cases)
        elif name.startswith("rel_index_rect_"):
            height, width = map(int, name.removeprefix("rel_index_rect_").split("x"))
            cases.equal(name, relative_position_index(height, width), case)
        elif name.startswith("attn_mask_"):
            _check_mask(name, case, cases)
        elif name.startswith("patch_merging"):
            _check_merging(name, case, recorded, cases)
        elif name == "load_cls_into_det":
            _check_load_backbone(name, case, recorded, cases)
        elif name.startswith("manifest_"):
            _check_manifest(name, case, cases)
        elif name in ("about", "source"):
            cases.not_checked(name, "a description")
        elif name == "lr_cls":
            cases.not_checked(name, "the classifier's schedule by epochs belongs to the training of classifiers")
        else:
            cases.not_checked(name, "an unknown case")


def weights_of(case: Mapping[str, Any], key: str = "state_dict") -> dict[str, Tensor]:
    """Recorded weights in float32, without what a model makes itself."""
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in case[key].items()
        if not name.endswith(DERIVED)
    }


def build_backbone(options: Mapping[str, Any]) -> SwinTransformer:
    """A backbone from the options of the authors' detection code."""
    options = dict(options)
    indices = options.pop("out_indices", range(len(options["depths"])))
    if "pretrain_img_size" in options:
        options["pretrain_img_size"] = _pair(options["pretrain_img_size"])
    return SwinTransformer(out_features=[NAMES[index] for index in indices], **options)


def build_classifier(options: Mapping[str, Any]) -> SwinClassifier:
    """A classifier from the options of the authors' code."""
    return SwinClassifier(**{**options, "img_size": _pair(options["img_size"])})


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def probe_loss(outputs: list[Tensor]) -> Tensor:
    """A scalar of outputs without a loss, as recorded."""
    loss = torch.zeros(())
    for index, output in enumerate(outputs):
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(123 + index))
        loss = loss + (output * noise).mean()
    return loss


def check_gradients(name: str, model: nn.Module, expected: Mapping[str, Any], cases: Cases) -> None:
    """Compares sum and norm of each gradient, in units of its norm."""
    ours = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    cases.equal(
        f"{name}: which have gradients", set(ours), {key for key, value in expected.items() if value is not None}
    )
    rows = [(ours[key], value) for key, value in expected.items() if value is not None and key in ours]
    units = [max(value[1], 1e-2) for _, value in rows]
    mine = [(float(grad.sum()) / unit, float(grad.norm()) / unit) for (grad, _), unit in zip(rows, units)]
    cases.close(name, mine, [(value[0] / unit, value[1] / unit) for (_, value), unit in zip(rows, units)])


def check_fresh(name: str, model: nn.Module, expected: Mapping[str, Any], cases: Cases) -> None:
    """Compares the statistics of fresh weights with those of others, as far as chance allows."""
    tensors, wrong = model.state_dict(), []
    for key, (mean, std, low, high, count) in expected.items():
        if key.endswith(DERIVED):
            continue
        value = tensors[key].double()
        error = std / math.sqrt(count)
        right = value.numel() == count and abs(float(value.mean()) - mean) <= 8 * error + 1e-6
        right = right and abs((float(value.std()) if count > 1 else 0.0) - std) <= 6 * error + 1e-6
        if not right or float(value.abs().max()) > 2.5 * max(abs(low), abs(high)) + 1e-6:
            wrong.append(key)
    cases.equal(name, wrong, [])


def _rates(model: nn.Module) -> list[float]:
    return [block.drop_path.p for stage in model.layers for block in stage.blocks]


def _check_classifier(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    model = build_classifier(case["cfg"])
    check_fresh(f"{name}: fresh weights", model, case["init_stats"], cases)
    cases.close(f"{name}: drop path", _rates(model), case["drop_probs"])
    blocks = [block for stage in model.layers for block in stage.blocks]
    cases.equal(
        f"{name}: windows and shifts", [(b.window, b.shift) for b in blocks], list(map(tuple, case["window_shift"]))
    )
    model.load_state_dict(weights_of(case))
    model.eval()
    outputs: list[Tensor] = []
    for stage in model.layers:  # the recorded outputs are those behind the merging, where there is one
        last = stage if stage.downsample is None else stage.downsample
        last.register_forward_hook(lambda module, args, output: outputs.append(output.detach().flatten(1, 2)))
    logits = model(case["x"])
    cases.close(f"{name}: scores", logits, case["logits"])
    cases.close(f"{name}: stages", outputs, case["stage_out_after_merge"])
    label = case["ce_label"]
    cases.close(f"{name}: cross-entropy", F.cross_entropy(logits, label["label"]), label["ce"])
    probe_loss([logits]).backward()
    check_gradients(f"{name}: gradients", model, case["grads"], cases)


def _check_backbone(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    model = build_backbone(case["cfg"])
    check_fresh(f"{name}: fresh weights", model, case["init_stats"], cases)
    cases.close(f"{name}: drop path", _rates(model), case["drop_probs"])
    model.load_state_dict(weights_of(case))
    outputs = list(model.eval()(case["x"]).values())
    cases.close(f"{name}: maps", outputs, case["out_eval"])
    probe_loss(outputs).backward()
    check_gradients(f"{name}: gradients", model, case["grads"], cases)
    if "train_drop_path" in case:
        replay = Replay(case["train_drop_path"]["kept"])
        for block in (block for stage in model.layers for block in stage.blocks):
            if block.drop_path.p:
                block.drop_path = _Replayed(replay, block.drop_path.p)
        outputs = list(model.train()(case["x"]).values())
        cases.close(f"{name}: maps in training", outputs, case["train_drop_path"]["outs"])
        cases.equal(f"{name}: draws", replay.left(), 0)


class Replay:
    """Recorded draws in the order of the calls."""

    def __init__(self, draws: list[Any]) -> None:
        self._draws = list(draws)

    def next(self) -> Tensor:
        return torch.as_tensor(self._draws.pop(0))

    def left(self) -> int:
        return len(self._draws)


class _Replayed(nn.Module):
    def __init__(self, replay: Replay, p: float) -> None:
        super().__init__()
        self.replay, self.p = replay, p

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.replay.next() / (1 - self.p)).view(-1, *[1] * (x.dim() - 1))


def _check_frozen(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    """The recorded names are of a model with absolute positions; its depths follow from the names."""
    blocks = {tuple(key.split(".")[1:4:2]) for names in case.values() for key in names if ".blocks." in key}
    stages_named = {int(stage) for stage, _ in blocks}
    depths = [sum(int(stage) == index for stage, _ in blocks) for index in sorted(stages_named)] + [1]
    for stages, expected in case.items():
        model = SwinTransformer(
            embed_dim=8, depths=depths, num_heads=[1] * len(depths), out_features=["res2"], ape=True,
            pretrain_img_size=(32, 32), frozen_stages=stages,
        )  # fmt: skip
        frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
        cases.equal(f"{name}: {stages}", frozen, set(expected))
        norms = {key for key, module in model.train().named_modules() if isinstance(module, nn.LayerNorm)}
        still = {key for key in norms if not model.get_submodule(key).training}
        cases.equal(
            f"{name}: {stages}, norms in evaluation", still, {key for key in norms if f"{key}.weight" in frozen}
        )


def _check_indices(name: str, case: Mapping[int, Tensor], cases: Cases) -> None:
    for side, expected in case.items():
        cases.equal(f"{name}: window {side}", relative_position_index(side, side), expected)


def _check_mask(name: str, case: Tensor, cases: Cases) -> None:
    size, window, shift = name.removeprefix("attn_mask_").split("_")
    height, width = map(int, size.split("x"))
    cases.close(name, shift_mask(height, width, int(window[1:]), int(shift[1:]), like=case), case)


def _check_attention(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    weights = weights_of(case)
    model = WindowAttention(
        channels=case["dim"], window=tuple(case["window"]), heads=case["heads"], qkv_bias="qkv.bias" in weights
    )
    model.load_state_dict(weights)
    cases.close(f"{name}: plain", model(case["x"]), case["y"])
    cases.close(f"{name}: masked", model(case["x"], case["mask"]), case["y_masked"])


def _check_merging(name: str, case: Mapping[str, Any], recorded: Mapping[str, Any], cases: Cases) -> None:
    weights = weights_of(case if "state_dict" in case else recorded["patch_merging"])
    model = PatchMerging(weights["norm.weight"].numel() // 4)
    model.load_state_dict(weights)
    height, width = case["hw"] if "hw" in case else map(int, name.rpartition("_")[2].split("x"))
    y = model(case["x"].unflatten(1, (height, width)))
    cases.close(name, y.flatten(1, 2), case["y"])


def _check_load_classifier(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    model = build_classifier({**case["src_cfg"], **case["dst_cfg"]})
    weights = weights_of(case, "src_state_dict")
    model.fit_weights(weights)
    model.load_state_dict(weights)
    tensors = model.state_dict()
    cases.close(f"{name}: resized", {key: tensors[key] for key in case["dst_changed_f32"]}, case["dst_changed_f32"])
    model.eval()
    cases.close(f"{name}: scores", model(case["x"]), case["logits"])
    cases.close(f"{name}: features", model.forward_features(case["x"]), case["features"])


def _check_load_backbone(name: str, case: Mapping[str, Any], recorded: Mapping[str, Any], cases: Cases) -> None:
    source, _, key = case["src"].partition(".")
    model = build_backbone(case["dst_cfg"]).eval()
    weights = weights_of(recorded[source], key)
    model.fit_weights(weights)
    left = model.load_state_dict(weights, strict=False)
    new = {f"norm{NAMES.index(feature)}.{kind}" for feature in model.output_shape() for kind in ("weight", "bias")}
    cases.equal(f"{name}: new in the backbone", set(left.missing_keys), new)
    cases.equal(
        f"{name}: left over", set(left.unexpected_keys), {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    )
    for key in new:
        nn.init.constant_(model.get_parameter(key), 1.25 if key.endswith("weight") else -0.125)
    cases.close(f"{name}: positions", model.absolute_pos_embed, case["absolute_pos_embed"])
    cases.close(f"{name}: maps", list(model(case["x"]).values()), case["outs"])


def _check_tables(name: str, case: Mapping[str, Tensor], cases: Cases) -> None:
    for key, expected in case.items():
        if key != "src":
            cases.close(f"{name}: {key}", resize_bias_table(case["src"], len(expected)), expected)


def _check_positions(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    """The backbone adds its positions to tokens that are zero here."""
    source = case["src"]
    for key, expected in case.items():
        if not key.startswith("dst_"):
            continue
        height, width = expected.shape[2:]
        model = SwinTransformer(
            embed_dim=source.shape[1], depths=[1], num_heads=[1], out_features=["res2"], ape=True, patch_norm=False,
            pretrain_img_size=(4 * source.shape[2], 4 * source.shape[3]),
        )  # fmt: skip
        nn.init.zeros_(model.patch_embed.proj.bias)
        model.absolute_pos_embed.data.copy_(source)
        stage = _Keeping()
        model.layers[0] = stage
        model(torch.zeros(1, 3, 4 * height, 4 * width))
        cases.close(f"{name}: {key}", stage.seen.permute(0, 3, 1, 2), expected)


class _Keeping(nn.Module):
    """A stage that does nothing but remember what it got."""

    downsample = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach()
        return x


def _check_decay(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    stages = 1 + max(int(key.split(".")[1]) for key in case["decay"] if key.startswith("layers."))
    model = SwinClassifier(
        img_size=(32, 32), num_classes=3, embed_dim=8, depths=[1] * stages, num_heads=[1] * stages, ape=True
    )
    groups: dict[str, set[str]] = {"decay": set(), "no_decay": set()}
    for key, parameter in model.named_parameters():
        groups["no_decay" if model.parameter_options(key, parameter).get("weight_decay") == 0 else "decay"].add(key)
    for kind, ours in groups.items():
        cases.equal(f"{name}: {kind}", ours, set(case[kind]))


def _check_manifest(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    """Sizes follow from the shapes: depths from the names, heads and window from the tables."""
    tables = {key: shape for key, shape in case.items() if key.endswith("relative_position_bias_table")}
    stages = 1 + max(int(key.split(".")[1]) for key in tables)
    depths = [sum(key.startswith(f"layers.{stage}.") for key in tables) for stage in range(stages)]
    heads = [tables[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"][1] for stage in range(stages)]
    side = math.isqrt(tables["layers.0.blocks.0.attn.relative_position_bias_table"][0])
    options = {"embed_dim": case["patch_embed.proj.weight"][0], "depths": depths, "num_heads": heads}
    options["window_size"] = (side + 1) // 2
    with torch.device("meta"):
        if "head.weight" in case:
            model: nn.Module = SwinClassifier(num_classes=case["head.weight"][0], **options)
        else:
            model = SwinTransformer(**options)
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    theirs = {key: tuple(shape) for key, shape in case.items() if not key.endswith(DERIVED)}
    cases.equal(f"{name}: tensors", ours, theirs)
    cases.equal(f"{name}: order", list(ours), list(theirs))


def _check_full(name: str, case: Mapping[str, Any], cases: Cases) -> None:
    for size, expected in case.items():
        if size.startswith("drop_path_"):
            depths = case[f"swin_{size[-1].lower()}"]["depths"]
            ours = [rate for stage in drop_path_rates(expected[-1], depths) for rate in stage]
            cases.close(f"{name}: {size}", ours, expected)
            continue
        options = {key: expected[key] for key in ("embed_dim", "depths", "num_heads")}
        options["window_size"] = expected["window"]
        with torch.device("meta"):
            backbone = SwinTransformer(**options)
            model = SwinClassifier(img_size=_pair(expected["img"]), **options)
        ours = sum(p.numel() for p in backbone.parameters())
        cases.equal(f"{name}: {size}, backbone", ours, expected["det_backbone_nparams"])
        cases.equal(f"{name}: {size}, classifier", sum(p.numel() for p in model.parameters()), expected["nparams"])
        cases.close(f"{name}: {size}, FLOPs", flops(model, expected["img"]), expected["flops"], rtol=1e-6)


def flops(model: nn.Module, side: int) -> float:
    """Multiplications as the authors count them: of products, and one for each number that a norm reads.

    They let the last norm read the first map's tokens over 2 to the number of stages, which is more than it does.
    """
    count = 0

    def norm(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        count += args[0].numel()

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(norm)
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    channels, stages, patch = model.norm.weight.numel(), len(model.layers), model.patch_embed.patch_size
    shrunk = side // patch // 2 ** (stages - 1)
    count += channels * ((side // patch) ** 2 // 2**stages - shrunk**2)
    return counter.get_total_flops() / 2 + count


if __name__ == "__main__":
    main(check)
