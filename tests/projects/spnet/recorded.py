"""Checks recorded outputs of SPNet: ``python -m tests.projects.spnet.recorded FILE``."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.config import load_config
from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_backbone, build_model, build_sem_seg_head
from densekit.modeling.semantic_inference import SemanticInference
from densekit.projects.spnet.backbone import StripBottleneck
from densekit.projects.spnet.pooling import MixedPooling, StripPooling
from densekit.projects.spnet.weights import AUXILIARY, BACKBONE, HEAD, MIXED_POOLING, STRIP_POOLING
from densekit.solver import build_lr_scheduler
from densekit.weights.parts import find_layout
from densekit.weights.renaming import Rule, rename
from tests.recorded_cases import Cases, main

Record = Mapping[str, Any]


def check(recorded: Record, cases: Cases) -> None:
    """Compares every part of a file of this layout."""
    for name, record in recorded.items():
        if name.startswith("mpm"):
            _mixed_pooling(name, record, cases)
        elif name.startswith("spm_") and isinstance(record, Mapping):
            _strip_pooling(name, record, cases)
        elif name.startswith("bottleneck"):
            _bottleneck(name, record, cases)
        elif name == "net":
            _net(record, cases)
        elif name == "param_counts":
            _counts(record, cases)
        elif name.startswith("manifest_spnet"):
            _manifest(name, record, cases)
        elif name.startswith("spm_positions_resnet"):
            _positions(int(name.removeprefix("spm_positions_resnet")), record, cases)
        elif name == "sliding_test":
            _sliding(record, cases)
        elif name == "poly_lr":
            _schedule(record, cases)
        elif name not in ("about", "source"):
            cases.not_checked(name, "unknown part of the file")


def _load(module: nn.Module, weights: Record, rules: Sequence[Rule]) -> None:
    floats = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    module.load_state_dict(rename(floats, rules, "SPNet"))


def _probe(output: Tensor) -> Tensor:
    """The scalar whose gradients are recorded."""
    return (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(123))).mean()


def _gradients(
    name: str, module: nn.Module, recorded: Record, rules: Sequence[Rule], cases: Cases, rtol: float = 1e-3
) -> None:
    ours = {key: value.grad for key, value in module.named_parameters()}
    theirs = rename(dict(recorded), rules, "SPNet")
    cases.equal(f"{name}, parameters with a gradient", sorted(ours), sorted(theirs))
    norms = {key: float(grad.norm()) for key, grad in ours.items() if grad is not None}
    cases.close(f"{name}, norms of the gradients", norms, {key: norm for key, (_, norm) in theirs.items()}, rtol=rtol)
    # A sum cancels: its error is that of the values, whose size is the norm over the root of their number.
    scales = {key: norms[key] * ours[key].numel() ** 0.5 for key in norms}
    sums = {key: float(ours[key].sum()) / max(scales[key], 1e-6) for key in norms}
    expected = {key: total / max(scales[key], 1e-6) for key, (total, _) in theirs.items()}
    cases.close(f"{name}, sums of the gradients over what they can be", sums, expected, atol=rtol)


def _mixed_pooling(name: str, record: Record, cases: Cases) -> None:
    module = MixedPooling(record["x"].shape[1])
    _load(module, record["state_dict"], MIXED_POOLING)
    output = module.eval()(record["x"])
    cases.close(name, output, record["out_eval"])
    _probe(output).backward()
    _gradients(name, module, record["grads"], MIXED_POOLING, cases)
    cases.close(f"{name} in training", module.train()(record["x"]), record["out_train"])
    after = rename(record["buffers_after_train"], MIXED_POOLING, "SPNet")
    buffers = {key: value for key, value in module.named_buffers() if key in after}
    cases.close(f"{name} in training, running averages", buffers, after)


def _strip_pooling(name: str, record: Record, cases: Cases) -> None:
    module = StripPooling(record["x"].shape[1]).eval()
    _load(module, record["state_dict"], STRIP_POOLING)
    x = record["x"].clone().requires_grad_()
    gate = module(x)
    cases.close(name, gate, record["out_eval"])
    _probe(gate).backward()
    cases.close(f"{name}, gradient of the input", x.grad, record["gx"])


def _bottleneck(name: str, record: Record, cases: Cases) -> None:
    weights, x = record["state_dict"], record["x"]
    dilation = int(record["note"].split("dilation ")[1].split(",")[0])
    block = StripBottleneck(
        x.shape[1],
        weights["conv3.weight"].shape[0],
        bottleneck_channels=weights["conv1.weight"].shape[0],
        stride_in_1x1=False,
        dilation=dilation,
        strip=any(key.startswith("spm") for key in weights),
        norm="BN",
    ).eval()
    nested = [
        (pattern.removeprefix(r"layer1\.(\d+)\."), new) for pattern, new in BACKBONE if pattern.startswith("layer1")
    ]
    _load(block, weights, [(pattern, _without_block(new)) for pattern, new in nested])
    cases.close(name, block(x), record["out_eval"])


def _without_block(new: str | None) -> str:
    """Counts groups of a rule from 1 after its first group, the block, has been cut off."""
    name = str(new).replace(r"res2.\1.", "")
    return name.replace(r"\2", r"\1").replace(r"\3", r"\2")


def _rules() -> list[Rule]:
    parts = (("pretrained.", "backbone.", BACKBONE), ("head.", "sem_seg_head.", HEAD))
    parts += (("auxlayer.", "sem_seg_head.auxiliary.", AUXILIARY),)
    return [
        (theirs.replace(".", r"\.") + pattern, ours + str(new))
        for theirs, ours, rules in parts
        for pattern, new in rules
    ]


class Net(nn.Module):
    """Backbone and head with the names that they have in the whole model."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.sem_seg_head = build_sem_seg_head(cfg, self.backbone.output_shape())


def _config_of(weights: Record, blocks: Sequence[int] = ()) -> CfgNode:
    """The shipped recipe with the widths of recorded weights."""
    cfg = load_config("configs/spnet/spnet_R_50_ade20k.yaml")
    layer, head = weights["pretrained.layer1.0.conv3.weight"], weights["head.score_layer.0.weight"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = weights["pretrained.conv1.6.weight"].shape[0]
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = layer.shape[0], layer.shape[1]
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = head.shape[0]
    cfg.MODEL.SEM_SEG_HEAD.AUXILIARY.CONVS_DIM = weights["auxlayer.conv5.0.weight"].shape[0]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = weights["head.score_layer.4.weight"].shape[0]
    cfg.MODEL.SEM_SEG_HEAD.DROPOUT = 0.0
    return cfg


def _net(record: Record, cases: Cases) -> None:
    from densekit.modeling import dilated_resnet

    full = dilated_resnet._BLOCKS
    dilated_resnet._BLOCKS = {**full, 50: tuple(record["blocks"])}  # the recorded net is shorter than any published one
    try:
        net = Net(_config_of(record["state_dict"]))
    finally:
        dilated_resnet._BLOCKS = full
    rules = _rules()
    _load(net, record["state_dict"], rules)
    for name, (dilation, _) in record["dilations"].items():
        layer, block = name.removeprefix("layer").split(".")
        ours = getattr(net.backbone, f"res{int(layer) + 1}")[int(block)].conv2.dilation[0]
        cases.equal(f"net, dilation of {name}", ours, dilation)
    x, head = record["x"], net.sem_seg_head
    features = net.eval().backbone(x)
    scores = head.layers(features)
    cases.close("net, scores", scores, record["logits_stride8"])
    cases.close("net, auxiliary scores", head.auxiliary.layers(features), record["aux_logits_stride8"])
    height, width = x.shape[-2:]
    cases.close("net, scores at the pixels", head(features)[0][..., :height, :width], record["out_eval"])
    net.train()
    features = net.backbone(x)
    losses = head(features, record["label"])[1]
    cases.close("net, loss", losses["loss_sem_seg"], record["main_loss"])
    cases.close(
        "net, auxiliary loss", losses["loss_sem_seg_auxiliary"] / head.auxiliary.loss_weight, record["aux_loss"]
    )
    sum(losses.values()).backward()
    # Two small images in batch norms of training mode: rounding turns a ReLU or the winner of a max pool, and with it
    # a few percent of the gradients in front of it; in float64 they lie between those of one and of two threads.
    _gradients("net", net, record["grads"], rules, cases, rtol=5e-2)
    after = rename(record["buffers_after_train"], rules, "SPNet")
    # The authors' code runs the auxiliary head twice in a step; its statistics after one pass are recorded apart.
    once = rename(
        {f"auxlayer.{key}": value for key, value in record["aux_buffers_after_one_forward"].items()}, rules, "SPNet"
    )
    theirs = {**after, **once}
    buffers = {key: value for key, value in net.named_buffers() if key in theirs}
    cases.close("net in training, running averages", buffers, theirs)
    cases.not_checked(["net.c3_std", "net.c4_std", "net.pred_train"], "follow from the scores, which agree")


def _whole(depth: int, classes: int, strips: bool) -> nn.Module:
    opts = ["MODEL.DEVICE", "meta", "MODEL.RESNETS.DEPTH", depth, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes]
    opts += ["MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.WEIGHTS", ""]
    opts += [] if strips else ["MODEL.SPNET.STRIP_POOLING", ["none"] * 4]
    with torch.device("meta"):
        return build_model(load_config("configs/spnet/spnet_R_50_ade20k.yaml", opts))


def _counts(record: Record, cases: Cases) -> None:
    for (backbone, classes, *without), expected in record.items():
        model = _whole(int(backbone.removeprefix("resnet")), classes, not without)
        ours = sum(value.numel() for value in model.parameters())
        cases.equal(
            f"parameters of {backbone}, {classes} classes{', no strip pooling' if without else ''}", ours, expected
        )


def _schedule(record: Record, cases: Cases) -> None:
    """Rates of the backbone; "of 12000" is said in the note of the recorded file."""
    total = next(int(word) for word in record["note"].replace(",", " ").split() if word.isdigit() and int(word) > 100)
    rates = {key: value for key, value in record.items() if isinstance(key, tuple)}
    ours = {}
    for base in {base for base, _ in rates}:
        cfg = load_config("configs/spnet/spnet_R_50_ade20k.yaml", ["SOLVER.MAX_ITER", total])
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
        schedule = build_lr_scheduler(cfg, optimizer)
        for iteration in range(total):
            ours[base, iteration] = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
    cases.close("schedule", {key: ours[key] for key in rates}, rates, atol=1e-12, rtol=1e-6)


class _Scorer(nn.Module):
    """The recorded stand-in for a net: normalised colours through one convolution."""

    def __init__(self, weights: Record, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.weight, self.bias = weights["c.weight"].float(), weights["c.bias"].float()
        self.pixel_mean, self.pixel_std = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))

    def forward(self, batched_inputs: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        images = torch.stack([(item["image"] - self.pixel_mean) / self.pixel_std for item in batched_inputs])
        padding = self.weight.shape[-1] // 2
        return [{"sem_seg": scores} for scores in F.conv2d(images, self.weight, self.bias, padding=padding)]


def _sliding(record: Record, cases: Cases) -> None:
    net = _Scorer(record["state_dict"], record["mean"], record["std"]).eval()
    image = record["image_hwc"].permute(2, 0, 1)
    for (crop_height, crop_width, height, width), expected in record["cases"].items():
        model = SemanticInference(net, window=(crop_height, crop_width), pad=True, flip=True)
        scores = model([{"image": image, "height": height, "width": width}])[0]["sem_seg"]
        name = f"sliding_test, windows of {crop_height} x {crop_width}, result of {height} x {width}"
        cases.close(name, scores.permute(1, 2, 0), expected)


def _manifest(name: str, names: Record, cases: Cases) -> None:
    shapes = {key: tuple(shape) for key, shape in names.items()}
    depth = int(name.removeprefix("manifest_spnet").split("_")[0])
    model = _whole(depth, shapes["head.score_layer.4.weight"][0], True)
    layout = find_layout(shapes)
    cases.equal(f"{name}, layout", layout.name if layout else None, "the authors of SPNet")
    theirs: dict[str, Any] = rename(shapes, _rules(), "SPNet")  # type: ignore[arg-type]
    if layout is not None:
        found = layout.convert({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
        cases.equal(f"{name}, names by layout", {key: tuple(value.shape) for key, value in found.items()}, theirs)
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items() if "num_batches" not in key}
    theirs = {key: value for key, value in theirs.items() if "num_batches" not in key}
    cases.equal(f"{name}, names and shapes", theirs, {k: v for k, v in ours.items() if not k.startswith("pixel_")})


def _positions(depth: int, recorded: Sequence[str], cases: Cases) -> None:
    model = _whole(depth, 19, True)
    places = [name for name, module in model.named_modules() if isinstance(module, StripPooling)]
    ours = [f"pretrained.layer{int(name.split('.')[1][3:]) - 1}.{name.split('.')[2]}" for name in places]
    cases.equal(f"blocks of ResNet-{depth} with strip pooling", ours, list(recorded))


if __name__ == "__main__":
    main(check)
