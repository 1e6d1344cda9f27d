"""Recorded training: RepOptimizer, groups of parameters, schedule, average of the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from densekit.projects.yolov6.rep_optimizer import MaskedSGD, gradient_mask, start_from_branches
from densekit.projects.yolov6.training import Recipe, average_decay, parameter_kinds
from densekit.projects.yolov6.units import ConvNorm, ScaledSumUnit
from densekit.projects.yolov6.weights import UNIT, at
from tests.projects.yolov6.recorded_networks import network_of, rename, renamed
from tests.recorded_cases import Cases

Recorded = Mapping[str, Any]
# Units wherever they are, and what stands beside them.
_LEAVES = [*at(r"(.+?\.)", r"\1", UNIT), (r"(.+)", r"\1")]
_SEED = 60  # of the tables that the outputs are multiplied with in the steps, plus the number of the step


def _chain(state: Recorded, strides: Mapping[str, int], made: type[nn.Module]) -> nn.ModuleDict:
    """The units a, b, c ... of a recorded chain with their weights."""
    shapes = {key[0]: value.shape for key, value in state.items() if key.endswith(".conv.weight")}
    chain = nn.ModuleDict({key: made(shape[1], shape[0], stride=strides[key]) for key, shape in shapes.items()})
    chain.load_state_dict(rename({key: value.float() for key, value in state.items()}, _LEAVES))
    return chain


def _run(chain: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    for unit in chain.values():
        x = unit(x)
    return x


def _check_rep_optimizer(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    search = case["hyper_search"]
    names = sorted({key[0] for key in search["state_dict"]})
    # Where a unit keeps the number of channels it has an identity, and so no stride.
    strides = {name: 1 if f"{name}.scale_identity.weight" in search["state_dict"] else 2 for name in names}
    chain = _chain(search["state_dict"], strides, ScaledSumUnit)
    cases.close("units with scaled branches", _run(chain.eval(), search["x"]), search["y"])
    scales = [chain[name].scales() for name in names]
    cases.close(
        "scales of the branches",
        [[x for x in reversed(unit) if x is not None] for unit in scales],
        [list(unit) for unit in case["scales"]],
    )
    for key, steps in case.items():
        if key.startswith("train_"):
            _check_steps(key, steps, strides, scales, search["x"], cases)


def _check_steps(key: str, case: Recorded, strides: Any, scales: Any, x: torch.Tensor, cases: Cases) -> None:
    chain = _chain(case["w_before_f32"], strides, ConvNorm)
    convs = [unit.conv for unit in chain.values()]
    if case["imaginary_1x1"] is not None:
        for conv, unit, point in zip(convs, scales, case["imaginary_1x1"]):
            start_from_branches(conv, unit, point)
        theirs = rename(case["w_after_reinit_f32"], _LEAVES)
        cases.close(f"{key}: weights at the start", {k: chain.state_dict()[k] for k in theirs}, theirs)
    masks = {conv.weight: gradient_mask(unit, conv.weight.shape) for conv, unit in zip(convs, scales)}
    cases.close(f"{key}: factors of the gradients", list(masks.values()), case["grad_masks"])
    kinds, parameters = parameter_kinds(chain), dict(chain.named_parameters())
    groups = [
        {"params": [parameters[name] for name in kinds[kind]], "weight_decay": decay}
        for kind, (_, decay) in zip(("norms", "weights", "biases"), case["groups"])
    ]
    cases.equal(
        f"{key}: sizes of the groups", [len(group["params"]) for group in groups], [n for n, _ in case["groups"]]
    )
    optimizer = MaskedSGD(groups, masks, lr=case["lr"], momentum=case["momentum"], nesterov=case["nesterov"])
    chain.train()
    for number, (loss, weights) in enumerate(case["steps"]):
        y = _run(chain, x)
        table = torch.randn(y.shape, generator=torch.Generator().manual_seed(_SEED + number))
        ours = (y * table).sum(1).mean()
        optimizer.zero_grad()
        ours.backward()
        optimizer.step()
        cases.close(f"{key}: loss of step {number}", ours, loss)
        if weights is not None:
            theirs = rename(weights, _LEAVES)
            cases.close(f"{key}: weights after step {number}", {k: chain.state_dict()[k] for k in theirs}, theirs)


def _check_groups(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    """The reduced S is built from the names that its groups have."""
    every = [name for key in ("bn_weights", "weights", "biases") for name in case[key]]
    if len(every) < sum(case["n"]):
        cases.not_checked("names of the groups", "the file has the first of each; their numbers are compared")
    names = {name: torch.zeros(8, 8, 1, 1) for name in every}
    names |= {
        "neck.Bifusion0.cv1.block.conv.weight": torch.zeros(1),
        "backbone.ERBlock_5.2.cspsppf.cv1.block.conv.weight": torch.zeros(1),
    }
    network = network_of(names, {"mode": "repvgg", "reg_max": 0, "use_dfl": False, "width": 0.03, "depth": 0.1}, 80)
    kinds = parameter_kinds(network)
    sizes = [len(kinds[key]) for key in ("norms", "weights", "biases")]
    sizes[1] += 1  # the authors' fixed convolution with the numbers of the bins, which has no gradient
    cases.equal("groups: sizes", sizes, list(case["n"]))
    for ours, theirs in (("norms", "bn_weights"), ("weights", "weights"), ("biases", "biases")):
        missing = set(renamed(dict.fromkeys(case[theirs], 0))) - set(kinds[ours])
        cases.equal(f"groups: {theirs} that are not ours", missing, set())
    cases.equal("groups: only weights are decayed", [decay > 0 for decay in case["decay"]], [False, True, False])


def _check_schedule(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    for (steps, epochs, images), expected in case["cases"].items():
        recipe = Recipe(epochs=epochs)
        label = f"schedule of {steps} steps, {epochs} epochs, {images} images"
        cases.equal(f"{label}: warm-up", recipe.warmup(steps), expected["warmup_steps"])
        ours = {epoch: recipe.share(epoch) for epoch in expected["cosine"]}
        cases.close(f"{label}: cosine", ours, expected["cosine"], atol=1e-10, rtol=0)
        for sample in expected["samples"]:
            rates = recipe.rates(sample["epoch"], sample["step"], steps, images)
            cases.close(
                f"{label}: epoch {sample['epoch']}, step {sample['step']}",
                [rates.weights, rates.biases, rates.momentum, rates.accumulate],
                [sample[key] for key in ("lr_weights", "lr_bias", "momentum", "accumulate")],
                atol=1e-10,
                rtol=0,
            )


def _check_average(case: Recorded, cases: Cases, recorded: Recorded) -> None:
    """Each step adds .5 to the weights, which are the first state to begin with."""
    states = case["states"]
    live = {key: value.clone() for key, value in states[0].items()}
    mean, ours = dict(live), []
    for number in range(1, len(states)):
        live = {key: value + 0.5 for key, value in live.items()}
        decay = average_decay(number)
        mean = {key: decay * mean[key] + (1 - decay) * live[key] for key in live}
        ours.append(mean)
    cases.close("average: states", ours, states[1:])
    cases.close("average: decay", [average_decay(n) for n in (1, 2, 3)], case["decays"][:3], atol=1e-10, rtol=0)
    late = [average_decay(n) for n in (2000, 10**6)]
    cases.close("average: decay after 2000 and many updates", late, case["decays"][3:], atol=1e-10, rtol=0)


CHECKS = {
    "repopt": _check_rep_optimizer,
    "optim": _check_groups,
    "lr": _check_schedule,
    "ema": _check_average,
}
