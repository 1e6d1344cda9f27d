"""What the checkers of recorded networks on HRNet share."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.layers.pixel_losses import PixelLoss
from densekit.projects.hrnet.network import HRNet, Stage
from densekit.weights.renaming import Rule
from tests.recorded_cases import Cases

IGNORE = 255
WIDTHS = {"w18": 18, "w30": 30, "w32": 32, "w40": 40, "w44": 44, "w48": 48, "w64": 64}


def network_of(cfg: Mapping[str, Any], **options: Any) -> HRNet:
    """The network of a recorded configuration; ``options`` as of :class:`HRNet`."""
    stages = [
        Stage(node["NUM_MODULES"], tuple(node["NUM_BLOCKS"]), tuple(node["NUM_CHANNELS"]))
        for node in (cfg[f"STAGE{k}"] for k in (2, 3, 4))
    ]
    (bottlenecks,), (channels,) = cfg["STAGE1"]["NUM_BLOCKS"], cfg["STAGE1"]["NUM_CHANNELS"]
    return HRNet(bottlenecks=bottlenecks, bottleneck_channels=channels, stages=stages, **options)


def published(
    width: int,
    modules: Sequence[int] = (1, 4, 3),
    blocks: int = 4,
    bottlenecks: int = 4,
    channels: int = 64,
    outputs: int | None = None,
) -> HRNet:
    """A network of the paper on the meta device, of which only names and shapes exist."""
    stages = [
        Stage(count, (blocks,) * k, tuple(width * 2**j for j in range(k))) for k, count in enumerate(modules, start=2)
    ]
    with torch.device("meta"):
        return HRNet(
            bottlenecks=bottlenecks,
            bottleneck_channels=channels,
            stages=stages,
            norm=nn.BatchNorm2d,
            outputs=outputs,
        )


def renamed(weights: Mapping[str, Any], *slots: tuple[str, str, Sequence[Rule]]) -> dict[str, Any]:
    """Renames entries by the rules of slots: (what old names begin with, what new ones begin with, rules)."""
    rules = [(old + pattern, None if to is None else new + to) for old, new, part in slots for pattern, to in part]
    result = {}
    for name, value in weights.items():
        match, to = next(((m, to) for pattern, to in rules if (m := re.fullmatch(pattern, name))), (None, None))
        if match is None:
            raise ValueError(f"{name} is of no part that is known.")
        if to is not None:
            result[match.expand(to)] = value
    return result


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """The shape of every entry that the authors' files have too, which do not say their align_corners."""
    return {key: x.shape for key, x in model.state_dict().items() if not key.endswith("flavour.value")}


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads converted weights, all of them into all of the model."""
    model.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in weights.items()})


def train_pass(
    cases: Cases, name: str, recorded: Mapping[str, Any], model: nn.Module, forward: Any, convert: Any, loss: Any
) -> None:
    """One forward and backward pass in train mode: outputs, gradients, statistics."""
    model.train()
    outputs = forward(recorded["x"])
    cases.close(f"{name}: outputs in train mode", outputs, recorded["out_train"])
    loss(outputs).backward()
    renamed = convert({key: torch.tensor(value) for key, value in recorded["grads"].items()})
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    ours = {key: torch.stack([gradients[key].sum(), gradients[key].norm()]) for key in renamed}
    cases.equal(f"{name}: parameters with a gradient", sorted(renamed), sorted(gradients))
    cases.close(f"{name}: gradients", ours, renamed, rtol=1e-3)
    buffers = convert(recorded["buffers_after_train_fwd"])
    state = model.state_dict()
    cases.close(f"{name}: statistics after a step", {key: state[key] for key in buffers}, buffers)


def probe(outputs: Any) -> Tensor:
    """The scalar of recorded outputs without a loss: their means, weighed by seeded noise."""
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    parts = []
    for index, output in enumerate(outputs):
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(123 + index))
        parts.append((output * noise).mean())
    return sum(parts, torch.zeros(()))


def starts_alike(cases: Cases, name: str, model: nn.Module, stats: Mapping[str, Sequence[float]], convert: Any) -> None:
    """Compares fresh weights with the recorded mean, deviation and number of values, as far as chance allows."""
    state = model.state_dict()
    renamed = convert({key: torch.tensor(value, dtype=torch.float64) for key, value in stats.items()})
    wrong = []
    for key, (mean, std, _, _, count) in ((key, value.tolist()) for key, value in renamed.items()):
        ours = state[key].double()
        spread = float(ours.std(correction=0)) if ours.numel() > 1 else 0.0
        allowed = 6 / max(count, 1) ** 0.5
        close = abs(float(ours.mean()) - mean) <= allowed * 1.5 * max(std, 1e-12) and ours.numel() == count
        if count >= 64:
            close &= abs(spread - std) <= allowed * max(std, 1e-12)
        if not close:
            wrong.append(f"{key}: mean {float(ours.mean()):.3g}, deviation {spread:.3g}, not {mean:.3g}, {std:.3g}")
    cases.equal(f"{name}: fresh weights like the authors'", wrong, [])


def seg_loss(recorded_name: str, scores: Tensor, label: Tensor, weights: Tensor | None, align: bool = False) -> Tensor:
    """The loss that a key such as ``ohem_t0.9_k1000_weighted`` names, of scores enlarged to the labels."""
    options: dict[str, Any] = {}
    parts = recorded_name.split("_")
    if parts[0] == "ohem":
        options = {"ohem_threshold": float(parts[1][1:]), "ohem_min_kept": int(parts[2][1:])}
    term = {"ce": "cross_entropy"}.get(parts[0], parts[0])
    used = weights.tolist() if weights is not None and parts[-1] == "weighted" else ()
    criterion = PixelLoss(ignore_value=IGNORE, terms={term: 1.0}, class_weights=used, **options)
    scores = F.interpolate(scores, size=label.shape[-2:], mode="bilinear", align_corners=align)
    return criterion(scores, label)
