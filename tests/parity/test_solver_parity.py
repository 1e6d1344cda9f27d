"""The solver against Detectron2's: equal groups, equal learning rates at every iteration, equal steps."""

import pytest
import torch
from torch import nn

from densekit.config_defaults import add_densekit_config
from densekit.runtime.config import get_cfg
from densekit.runtime.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from densekit.solver import build_lr_scheduler as densekit_build_lr_scheduler

pytest.importorskip("detectron2")
from detectron2.config import get_cfg as their_get_cfg
from detectron2.solver import build_lr_scheduler as their_build_lr_scheduler
from detectron2.solver import build_optimizer as their_build_optimizer
from detectron2.solver import get_default_optimizer_params as their_params

ITERATIONS = 120
SCHEDULES = {
    "steps": ["STEPS", (40, 80)],
    "steps_after_the_end": ["STEPS", (40, 500)],
    "constant_warmup": ["WARMUP_METHOD", "constant", "STEPS", (40,)],
    "warmup_across_a_step": ["STEPS", (10, 90)],
    "no_warmup": ["WARMUP_ITERS", 0, "STEPS", (40,)],
    "all_warmup": ["WARMUP_ITERS", 500],
    "rescaled": ["RESCALE_INTERVAL", True, "STEPS", (40, 80)],
    "cosine": ["LR_SCHEDULER_NAME", "WarmupCosineLR"],
    "cosine_to_an_end": ["LR_SCHEDULER_NAME", "WarmupCosineLR", "BASE_LR_END", 0.001],
    "fixed_gamma": ["LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "NUM_DECAYS", 4, "GAMMA", 0.5],
}
CLIPPING = [
    ["CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_VALUE", 0.05],
    ["CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", "norm", "CLIP_GRADIENTS.CLIP_VALUE", 0.05],
    [
        *("CLIP_GRADIENTS.ENABLED", True, "CLIP_GRADIENTS.CLIP_TYPE", "norm"),
        *("CLIP_GRADIENTS.CLIP_VALUE", 0.05, "CLIP_GRADIENTS.NORM_TYPE", 1.0),
    ],
]


def configs(options):
    options = [f"SOLVER.{value}" if i % 2 == 0 else value for i, value in enumerate(options)]
    base = ["SOLVER.MAX_ITER", ITERATIONS, "SOLVER.WARMUP_ITERS", 20, "SOLVER.BASE_LR", 0.02]
    pair = get_cfg(), their_get_cfg()
    for cfg in pair:
        cfg.merge_from_list([*base, *options])
    return pair


class Net(nn.Module):
    """Convolutions, every kind of norm, an embedding, a frozen and a shared parameter."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1))
        self.head = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.head.weight
        self.query = nn.Embedding(5, 4)
        self.backbone[0].bias.requires_grad = False

    def forward(self, x):
        x = self.backbone(x).mean((2, 3))
        return (self.tied(self.norm(self.head(x))) @ self.query.weight.T).square().sum()


def described(groups, model):
    names = {id(p): n for n, p in model.named_parameters()}
    return [{**g, "params": [names[id(p)] for p in g["params"]]} for g in groups]


@pytest.mark.parametrize("options", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_learning_rates_are_equal_at_every_iteration(options):
    curves = []
    for cfg, build in zip(configs(options), (build_lr_scheduler, their_build_lr_scheduler), strict=True):
        parameters = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.02, 0.004)]
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        scheduler = build(cfg, optimizer)
        curve = [[group["lr"] for group in optimizer.param_groups]]
        for _ in range(ITERATIONS - 1):
            optimizer.step()
            scheduler.step()
            curve.append([group["lr"] for group in optimizer.param_groups])
        curves.append(curve)
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"base_lr": 0.1, "weight_decay_norm": 0.0},
        {
            "base_lr": 0.1,
            "weight_decay": 1e-4,
            "weight_decay_norm": 0.0,
            "bias_lr_factor": 2.0,
            "weight_decay_bias": 0.0,
        },
        {"base_lr": 0.1, "lr_factor_func": lambda name: 0.1 if name.startswith("backbone.") else 1.0},
        {"weight_decay": 1e-4, "overrides": {"weight": {"weight_decay": 0.5}}},
    ],
)
def test_parameter_groups_are_equal(arguments):
    model = Net()
    ours, theirs = get_default_optimizer_params(model, **arguments), their_params(model, **arguments)
    assert described(ours, model) == described(theirs, model)


@pytest.mark.parametrize(
    "options", [[], ["NESTEROV", True], ["BIAS_LR_FACTOR", 2.0, "WEIGHT_DECAY_BIAS", 0.0], *CLIPPING]
)
def test_training_steps_are_equal(options):
    ends = []
    for cfg, build in zip(configs(options), (build_optimizer, their_build_optimizer), strict=True):
        torch.manual_seed(0)
        model = Net()
        optimizer = build(cfg, model)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 9, 9)).backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("ending", [0.0, 0.3])
@pytest.mark.parametrize("start", [0.001, 1.0])
def test_poly_equals_deeplabs(ending, start):
    deeplab = pytest.importorskip("detectron2.projects.deeplab.lr_scheduler")
    cfg, _ = configs(["WARMUP_FACTOR", start])
    add_densekit_config(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = ending
    ours, theirs = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2))
    schedules = (
        densekit_build_lr_scheduler(cfg, ours),
        deeplab.WarmupPolyLR(theirs, ITERATIONS, start, 20, power=0.9, constant_ending=ending),
    )
    for _ in range(ITERATIONS):
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-15)
        for optimizer, schedule in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            schedule.step()
