"""Optimizers, parameter groups, clipping and schedules, of the host and of densekit."""

import math

import pytest
import torch
from torch import nn

from densekit.config_defaults import add_densekit_config
from densekit.d2 import HOST
from densekit.d2.config import get_cfg
from densekit.d2.solver import LRMultiplier, WarmupParamScheduler, get_default_optimizer_params
from densekit.d2.solver import build_optimizer as host_build_optimizer
from densekit.d2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from densekit.runtime.solver import build_lr_scheduler as runtime_build_lr_scheduler
from densekit.solver import Clipping, build_lr_scheduler, build_optimizer


def config(*options):
    cfg = get_cfg()
    add_densekit_config(cfg)
    cfg.merge_from_list([f"SOLVER.{value}" if i % 2 == 0 else value for i, value in enumerate(options)])
    return cfg


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)
        self.relative_position_bias_table = nn.Parameter(torch.ones(3))
        self.backbone_like = nn.Linear(2, 2)

    def forward(self, x):
        return self.backbone_like(self.head(self.backbone(x))).sum() * self.relative_position_bias_table.sum()


def settings(optimizer, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }


def curve(scheduler, optimizer, steps):
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def one_parameter(value=0.0, lr=1.0):
    return torch.optim.SGD([nn.Parameter(torch.tensor([value]))], lr=lr)


def test_groups_are_joined_by_hyperparameters():
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = reduce_param_groups(
        [
            {"params": [a, b], "lr": 1.0, "weight_decay": 0.1},
            {"params": [c], "lr": 1.0},
            {"params": [a], "weight_decay": 0.0},
        ]
    )
    found = {(g["lr"], g.get("weight_decay")): g["params"] for g in groups}
    assert len(groups) == 3 and found[1.0, 0.0] == [a] and found[1.0, 0.1] == [b] and found[1.0, None] == [c]
    groups = reduce_param_groups([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 2.0}, {"params": [c], "lr": 1.0}])
    assert [g["params"] for g in groups] == [[a, c], [b]]


def test_group_rules_that_contradict_are_refused():
    for arguments in (
        {"bias_lr_factor": 2.0},
        {"lr_factor_func": lambda name: 1.0},
        {"weight_decay_bias": 0.0, "overrides": {"bias": {"lr": 1.0}}},
    ):
        with pytest.raises(ValueError):
            get_default_optimizer_params(Net(), **arguments)


def test_overrides_are_not_changed():
    overrides = {}
    get_default_optimizer_params(Net(), base_lr=1.0, bias_lr_factor=2.0, overrides=overrides)
    if "bias" in overrides:
        pytest.skip("Detectron2 writes into its argument")
    assert overrides == {}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("multiplier", [1.0, 0.1])
def test_every_parameter_has_its_learning_rate_and_decay(optimizer, multiplier):
    model = Net()
    options = ("OPTIMIZER", optimizer, "BACKBONE_MULTIPLIER", multiplier, "BASE_LR", 0.5, "WEIGHT_DECAY", 0.2)
    built = build_optimizer(config(*options), model)
    assert type(built).__name__ == optimizer
    low = 0.5 * multiplier
    assert settings(built, model) == {
        "backbone.0.weight": (low, 0.2),
        "backbone.0.bias": (low, 0.2),
        "backbone.1.weight": (low, 0.0),  # WEIGHT_DECAY_NORM
        "backbone.1.bias": (low, 0.0),
        "head.weight": (0.5, 0.2),
        "head.bias": (0.5, 0.2),
        "backbone_like.weight": (0.5, 0.2),
        "backbone_like.bias": (0.5, 0.2),
        "relative_position_bias_table": (0.5, 0.2),
    }


def test_own_sgd_equals_the_hosts():
    cfg = config("NESTEROV", True, "BIAS_LR_FACTOR", 2.0)
    ends = []
    for build, multiplier in ((host_build_optimizer, 1.0), (build_optimizer, 1.0), (build_optimizer, 1.0 + 1e-12)):
        cfg.SOLVER.BACKBONE_MULTIPLIER = multiplier
        torch.manual_seed(0)
        model = Net()
        optimizer = build(cfg, model)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize(
    ("kind", "norm_type", "expected"),
    [
        ("value", 2.0, [[-1.0, 1.0], [0.5, 1.0]]),
        ("norm", 2.0, [[-0.6, 0.8], [0.25 / math.hypot(0.25, 3), 3 / math.hypot(0.25, 3)]]),
        ("norm", math.inf, [[-0.75, 1.0], [0.25 / 3, 1.0]]),
        (
            "full_model",
            2.0,
            [[-3 / math.sqrt(34.0625), 4 / math.sqrt(34.0625)], [0.25 / math.sqrt(34.0625), 3 / math.sqrt(34.0625)]],
        ),
        ("full_model", 1.0, [[-3 / 10.25, 4 / 10.25], [0.25 / 10.25, 3 / 10.25]]),
    ],
)
def test_clipping(optimizer, kind, norm_type, expected):
    unused = HOST == "builtin" or kind != "value"  # Detectron2's clipping by value fails on a missing gradient
    model = nn.ParameterList([torch.zeros(2) for _ in range(2 + unused)])
    cfg = config(
        *("OPTIMIZER", optimizer, "CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", kind),
        *("CLIP_GRADIENTS.NORM_TYPE", norm_type, "CLIP_GRADIENTS.CLIP_VALUE", 1.0),
    )
    built = build_optimizer(cfg, model)
    grads = [torch.tensor([-3.0, 4.0]), torch.tensor([0.25, 3.0])]
    if kind == "value":
        grads[1][0] = 0.5
    for parameter, grad in zip(model, grads):
        parameter.grad = grad.clone()
    if clipping := Clipping.from_config(cfg):
        clipping(model.parameters())
    built.step()
    for parameter, values in zip(model, expected):
        torch.testing.assert_close(parameter.grad, torch.tensor(values), atol=1e-5, rtol=1e-5)
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED


def test_small_gradients_are_left_alone():
    for kind in ("value", "norm", "full_model"):
        model = nn.Linear(2, 1)
        cfg = config("CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", kind)
        optimizer = build_optimizer(cfg, model)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.01)
        if clipping := Clipping.from_config(cfg):
            clipping(model.parameters())
        optimizer.step()
        assert all((parameter.grad == 0.01).all() for parameter in model.parameters())


def test_clipping_works_on_a_class_and_with_a_closure():
    cfg = config("CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_VALUE", 0.5)
    parameter = nn.Parameter(torch.tensor([2.0]))
    optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)([parameter], lr=1.0)
    assert isinstance(optimizer, torch.optim.SGD)
    parameter.grad = torch.tensor([9.0])
    optimizer.step()
    assert parameter.item() == 1.5
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    assert maybe_add_gradient_clipping(cfg, torch.optim.SGD) is torch.optim.SGD


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("OPTIMIZER", "LION"), "SGD"),
        (("CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", "all"), "all"),
    ],
)
def test_unknown_names_are_refused(options, part):
    with pytest.raises(ValueError, match=part):
        build_optimizer(config(*options), nn.Linear(1, 1))


def test_unknown_schedules_are_refused():
    with pytest.raises(ValueError, match="Missing"):
        build_lr_scheduler(config("LR_SCHEDULER_NAME", "Missing"), one_parameter())
    for name in ("WarmupMultiStepLR", "WarmupPolyLR"):
        with pytest.raises(ValueError, match="quadratic"):
            build_lr_scheduler(config("LR_SCHEDULER_NAME", name, "WARMUP_METHOD", "quadratic"), one_parameter())
    with pytest.raises(ValueError, match="BASE_LR_END"):
        runtime_build_lr_scheduler(config("LR_SCHEDULER_NAME", "WarmupCosineLR", "BASE_LR_END", 1.0), one_parameter())


def test_multi_step_with_warmup_at_known_values():
    optimizer = one_parameter()
    cfg = config("MAX_ITER", 10, "STEPS", (6, 8), "WARMUP_ITERS", 4, "WARMUP_FACTOR", 0.2)
    rates = curve(build_lr_scheduler(cfg, optimizer), optimizer, 9)
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
@pytest.mark.parametrize("ending", [0.0, 0.3])
@pytest.mark.parametrize("method", ["linear", "constant"])
def test_poly_is_the_formula(power, ending, method):
    optimizer, steps, warmup, start = one_parameter(lr=2.0), 50, 10, 0.1
    cfg = config(
        *("LR_SCHEDULER_NAME", "WarmupPolyLR", "MAX_ITER", steps, "POLY_LR_POWER", power),
        *("POLY_LR_CONSTANT_ENDING", ending, "WARMUP_ITERS", warmup, "WARMUP_FACTOR", start, "WARMUP_METHOD", method),
    )
    expected = []
    for i in range(steps + 1):
        factor = (1 - i / steps) ** power
        if i < warmup:
            factor *= start if method == "constant" else start + (1 - start) * i / warmup
        else:
            factor = max(factor, ending)
        expected.append(2.0 * factor)
    assert curve(build_lr_scheduler(cfg, optimizer), optimizer, steps) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"])
def test_schedules_have_a_value_after_the_last_step(name):
    optimizer = one_parameter()
    cfg = config("LR_SCHEDULER_NAME", name, "MAX_ITER", 30, "STEPS", (10, 20), "WARMUP_ITERS", 3)
    rates = curve(runtime_build_lr_scheduler(cfg, optimizer), optimizer, 30)
    assert all(math.isfinite(rate) and 0 <= rate <= 1 for rate in rates)
    assert rates[-1] <= rates[-2]


def test_schedule_continues_from_a_checkpoint():
    cfg = config("MAX_ITER", 20, "STEPS", (8, 15), "WARMUP_ITERS", 5)
    optimizer = one_parameter()
    whole = curve(build_lr_scheduler(cfg, optimizer), optimizer, 19)
    optimizer = one_parameter()
    scheduler = build_lr_scheduler(cfg, optimizer)
    curve(scheduler, optimizer, 7)
    states = scheduler.state_dict(), optimizer.state_dict()
    assert set(states[0]) == {"base_lrs", "last_epoch"}
    optimizer = one_parameter()
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.load_state_dict(states[1])
    scheduler.load_state_dict(states[0])
    assert curve(scheduler, optimizer, 12) == pytest.approx(whole[7:])


def test_groups_keep_their_ratio():
    parameters = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(parameters, lr=5.0)
    scheduler = build_lr_scheduler(config("MAX_ITER", 20, "STEPS", (10,), "WARMUP_ITERS", 5), optimizer)
    for _ in range(20):
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.1 * optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_multiplier_must_be_a_schedule():
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(one_parameter(), lambda where: 1.0, 10)
    with pytest.raises(ValueError, match="odd"):
        from fvcore.common.param_scheduler import ConstantParamScheduler

        WarmupParamScheduler(ConstantParamScheduler(1.0), 0.1, 0.1, "odd")
