"""Phases whose replicas or shards lie in two processes, against the same training in one."""

import copy
import math

import pytest
import torch
from torch import nn

from densekit.config import default_config
from densekit.d2.utils import comm
from densekit.d2.utils.events import EventStorage
from densekit.engine import Trainer
from densekit.engine.ema import WeightAverage
from densekit.engine.sharding import wrap_model
from densekit.engine.step import TrainingStep
from densekit.modeling.phases import Phase, phases_of
from densekit.ops.sharded import has_parts, whole

STEPS = 4


class Adversary(nn.Module):
    """Means over pictures without BatchNorm, so that halves of a batch make its gradients."""

    joint = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.backbone = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))
        self.critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def training_phases(self):
        adam = {"OPTIMIZER": "Adam", "BASE_LR": 0.02}
        return [
            Phase("critic", [self.critic], adam, joint=self.joint, averaged=False),
            Phase("painter", [self.backbone]),
        ]

    def forward(self, batch, phase):
        real = torch.stack(batch)
        fake = self.backbone(real)
        if phase == "critic":
            return {
                "loss_critic": (self.critic(fake.detach()) - self.critic(real)).mean()
                + self.critic(real).square().mean()
            }
        return {"loss_fooling": -self.critic(fake).mean(), "loss_l1": (fake - real).abs().mean()}


class Training:
    """Steps of the model in this job; ``sharded`` spreads it over the processes."""

    def __init__(self, sharded=False, accumulate=1, joint=False, **more):
        cfg = default_config()
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", 0.05, "MODEL.SHARDING.ENABLED", sharded])
        cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"])
        cfg.SOLVER.NAN_SKIP = more.get("nan_skip", 0)
        model = Adversary()
        model.joint = joint
        self.model = wrap_model(cfg, model)
        self.phases = Trainer.build_phases(cfg, self.model)
        left_out = [module for part in phases_of(self.model) if not part.averaged for module in part.modules]
        self.average = WeightAverage(self.model, 0.5, left_out)
        self._more = {"phases": self.phases, "accumulate": accumulate, **more}

    def __call__(self, batches):
        self.step = TrainingStep(self.model, batches, self.phases[0].optimizer, **self._more)
        with EventStorage(0):
            for self.step.iter in range(len(batches)):
                self.step.run_step()
                self.average.update(self.step.refused)
            self.step.settle()
        return self

    def state(self):
        state = {"model": self.model.state_dict(), "average": self.average.state_dict()["tensors"]}
        return copy.deepcopy(whole(state | {"phases": {phase.name: phase.state_dict() for phase in self.phases}}))

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict({"tensors": state["average"], "exchanged": False})
        for phase in self.phases:
            phase.load_state_dict(state["phases"][phase.name])
        return self


def images():
    return torch.randn(STEPS, 8, 3, generator=torch.Generator().manual_seed(1))


def each(args):
    share = slice(4 * comm.get_rank(), 4 * comm.get_rank() + 4)
    mine = [list(batch) for batch in images()[:, share]]
    bad = copy.deepcopy(mine)
    if comm.get_rank() == 1:
        bad[1][2] = torch.full((3,), math.nan)
    states = {}
    for kind, *how in args.kinds:
        training = Training(*how)(mine[:2])
        assert has_parts(training.model) == how[0]
        middle = training.state()
        states[kind] = training(mine[2:]).state()
        states[f"{kind}_again"] = Training(*how).load(middle)(mine[2:]).state()
        states[f"{kind}_skipped"] = Training(*how, nan_skip=1)(bad).state()
        states[f"{kind}_without"] = Training(*how)([mine[0], *mine[2:]]).state()
    torch.save(states, args.folder / f"{comm.get_rank()}.pth")


# name; sharded, micro-batches, joint
KINDS = [("replicas", False, 1, False), ("replicas_in_parts", False, 2, True)]
if hasattr(torch.cpu.Stream, "record_event"):
    KINDS += [("shards", True, 1, False), ("shards_in_parts", True, 2, True)]


def test_two_processes_make_the_phases_of_one_and_refuse_together(tmp_path, in_processes):
    in_processes(each, 2, folder=tmp_path, kinds=KINDS)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    for kind, sharded, _, joint in KINDS:
        alone = Training(joint=joint)([list(batch) for batch in images()]).state()
        assert not any("critic" in name for name in alone["average"])
        for part in ("model", "average", "phases"):
            one, other = first[kind][part], alone[part]
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, check_dtype=False)
        torch.testing.assert_close(first[f"{kind}_again"], first[kind], rtol=0, atol=0)
        torch.testing.assert_close(first[f"{kind}_skipped"], first[f"{kind}_without"], rtol=0, atol=0)
        if not sharded:  # whose whole tensors the first process keeps in full
            torch.testing.assert_close(first[kind]["model"], second[kind]["model"], rtol=0, atol=0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_in_parts_is_that_of_the_whole(accumulate):
    given = [list(batch) for batch in images()]
    one, other = Training()(given).state(), Training(accumulate=accumulate)(given).state()
    torch.testing.assert_close(one["model"], other["model"], rtol=1e-4, atol=1e-6)
