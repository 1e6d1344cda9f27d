"""What a model asks for its parameters, optimizers that a system registers, and warm-ups by the group."""

import math

import pytest
import torch
from torch import nn

from densekit.config_defaults import add_densekit_config
from densekit.d2.config import get_cfg
from densekit.solver import OPTIMIZER_REGISTRY, build_lr_scheduler, build_optimizer


def config(**keys):
    cfg = get_cfg()
    add_densekit_config(cfg)
    base = {"BASE_LR": 0.5, "WEIGHT_DECAY": 0.2, "WEIGHT_DECAY_NORM": 0.2}
    cfg.SOLVER.merge_from_list([part for pair in (base | keys).items() for part in pair])
    return cfg


class Backbone(nn.Module):
    """Deeper layers learn faster, and a table is not decayed."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.table = nn.Parameter(torch.ones(3))

    def parameter_options(self, name, parameter):
        if name == "table":
            return {"weight_decay": 0.0}
        return {"lr_factor": 0.5 ** (2 - int(name.split(".")[1]))}


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Linear(2, 1)

    def parameter_options(self, name, parameter):
        return {"lr_factor": 0.1} if name.startswith("backbone.layers.0") else {}


def settings(optimizer, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def test_factors_multiply_and_other_entries_replace():
    model = Detector()
    found = settings(build_optimizer(config(BACKBONE_MULTIPLIER=0.1), model), model)
    rates = {name: group["lr"] for name, group in found.items()}
    assert rates["head.weight"] == 0.5 and rates["backbone.table"] == pytest.approx(0.05)
    assert [rates[f"backbone.layers.{depth}.weight"] for depth in range(3)] == pytest.approx([0.00125, 0.025, 0.05])
    decays = {name: group["weight_decay"] for name, group in found.items()}
    assert decays.pop("backbone.table") == 0.0 and set(decays.values()) == {0.2}


def test_of_several_modules_the_outermost_counts():
    model = Detector()
    model.parameter_options = lambda name, parameter: {"weight_decay": 0.7}
    found = settings(build_optimizer(config(), model), model)
    assert {group["weight_decay"] for group in found.values()} == {0.7}


def test_options_that_are_no_numbers_are_refused():
    model = Detector()
    model.parameter_options = lambda name, parameter: {"weight_decay": "none"}
    with pytest.raises(ValueError, match=r"parameter_options of the model: weight_decay of \S+ is 'none'"):
        build_optimizer(config(), model)


def test_a_system_registers_an_optimizer_that_rescales_gradients():
    class Rescaled(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.mul_(self.scales[parameter])
            return super().step(closure)

    def make(solver, groups, model, **common):
        optimizer = Rescaled(groups, momentum=solver.MOMENTUM, **common)
        optimizer.scales = dict.fromkeys(model.parameters(), model.scale)
        return optimizer

    OPTIMIZER_REGISTRY.register(make)
    model, plain = nn.Linear(2, 1), nn.Linear(2, 1)
    plain.load_state_dict(model.state_dict())
    model.scale = 3.0
    keys = {"WEIGHT_DECAY": 0.0, "WEIGHT_DECAY_NORM": 0.0}
    for net, more in ((model, {"OPTIMIZER": "make"}), (plain, {"BASE_LR": 1.5})):
        optimizer = build_optimizer(config(**keys | more), net)
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(dict(model.state_dict()), dict(plain.state_dict()))


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_warm_up_by_the_group_takes_biases_down_and_momentum_up(kind):
    model = nn.Linear(2, 1)
    keys = {"WARMUP_ITERS": 4, "WARMUP_FACTOR": 0.0, "WARMUP_BIAS_LR": 2.0, "WARMUP_MOMENTUM": 0.8, "MAX_ITER": 20}
    keys |= {"BASE_LR_END": 0.005, "LR_SCHEDULER_NAME": "GroupWarmupCosineLR", "OPTIMIZER": kind, "MOMENTUM": 0.9}
    cfg = config(**keys)
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_scheduler(cfg, optimizer)
    groups = settings(optimizer, model)
    for iteration in range(21):
        decay = 0.01 + 0.99 * (1 + math.cos(math.pi * iteration / 20)) / 2
        share = min(iteration / 4, 1)
        assert groups["weight"]["lr"] == pytest.approx(0.5 * decay * share)
        assert groups["bias"]["lr"] == pytest.approx(2.0 + (0.5 * decay - 2.0) * share)
        momentum = groups["bias"]["betas"][0] if kind == "Adam" else groups["bias"]["momentum"]
        assert momentum == pytest.approx(0.8 + 0.1 * share)
        if iteration == 2:
            saved = optimizer.state_dict(), schedule.state_dict()
            again = build_optimizer(cfg, model)
            schedule_again = build_lr_scheduler(cfg, again)
            again.load_state_dict(saved[0])
            schedule_again.load_state_dict(saved[1])
        optimizer.step()
        schedule.step()
    for _ in range(2, 21):
        again.step()
        schedule_again.step()
    keep = ("lr", "momentum", "betas")
    for one, other in zip(optimizer.param_groups, again.param_groups):
        assert {key: one.get(key) for key in keep} == {key: other.get(key) for key in keep}
