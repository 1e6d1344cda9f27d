"""The loop and its hooks: order, states, errors, what is stored and when."""

import copy
import logging
import math
import sys

import pytest
import torch
from torch import nn

from densekit.d2 import HOST
from densekit.d2.checkpoint import Checkpointer
from densekit.d2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase, hooks
from densekit.d2.solver import LRMultiplier
from densekit.d2.utils import comm
from densekit.d2.utils.events import EventWriter, get_event_storage

# Detectron2 evaluates after an error in the last iteration.
last_iteration = pytest.param(2, marks=pytest.mark.skipif(HOST != "builtin", reason="about the runtime's own hooks"))


class Model(nn.Module):
    """Two losses of one weight; ``poison`` is added to the second."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.poison = 0.0

    def forward(self, batch):
        return {"loss_a": (self.weight * batch).sum(), "loss_b": self.weight.square().sum() + self.poison}


class Numbers:
    """Batches 0.0, 1.0, 2.0, ..."""

    def __iter__(self):
        return (torch.tensor([float(i)]) for i in range(1000))


def trainer_of(model=None, lr=0.1, **kwargs) -> SimpleTrainer:
    model = model or Model()
    return SimpleTrainer(model, Numbers(), torch.optim.SGD(model.parameters(), lr=lr), **kwargs)


class Recorder(HookBase):
    def __init__(self, log, name):
        self.log, self.name = log, name

    def before_train(self):
        self.log.append((self.name, "before_train", self.trainer.iter))

    def after_train(self):
        self.log.append((self.name, "after_train", self.trainer.iter))

    def before_step(self):
        self.log.append((self.name, "before_step", self.trainer.storage.iter))

    def after_backward(self):
        self.log.append((self.name, "after_backward", float(self.trainer.model.weight.grad)))

    def after_step(self):
        self.log.append((self.name, "after_step", self.trainer.iter))


def test_hooks_run_in_order_around_the_step():
    log: list = []
    trainer = trainer_of(lr=0.0)
    trainer.register_hooks([Recorder(log, "x"), None, Recorder(log, "y")])
    trainer.train(3, 5)
    # d/dw (w * batch + w^2) = batch + 2 at w = 1; batches count from 0
    expected = [("before_train", 3)]
    for step, batch in ((3, 0.0), (4, 1.0)):
        expected += [("before_step", step), ("after_backward", batch + 2), ("after_step", step)]
    expected += [("after_train", 5)]
    assert log == [(name, *entry) for entry in expected for name in "xy"]


def test_steps_are_those_of_plain_sgd():
    trainer = trainer_of(lr=0.1)
    trainer.train(0, 3)
    weight = 1.0
    for batch in range(3):
        weight -= 0.1 * (batch + 2 * weight)
    assert trainer.model.weight.item() == pytest.approx(weight)


@pytest.mark.parametrize("max_iter", [5, last_iteration])
def test_an_error_ends_training_after_the_hooks(max_iter):
    log: list = []

    class Fail(HookBase):
        def after_step(self):
            if self.trainer.iter == 1:
                raise RuntimeError("planted")

    trainer = trainer_of()
    evaluations: list = []
    trainer.register_hooks([Recorder(log, "x"), Fail(), hooks.EvalHook(0, lambda: evaluations.append(1))])
    with pytest.raises(RuntimeError, match="planted"):
        trainer.train(0, max_iter)
    assert log[-1] == ("x", "after_train", 1)
    assert not evaluations


def test_losses_are_stored_for_every_step():
    trainer = trainer_of(lr=0.0)
    trainer.train(0, 4)
    history = trainer.storage.history("total_loss").values()
    assert [(value, step) for value, step in history] == [(1.0, 0), (2.0, 1), (3.0, 2), (4.0, 3)]
    assert trainer.storage.latest()["loss_a"] == (3.0, 3) and trainer.storage.latest()["loss_b"] == (1.0, 3)
    assert trainer.storage.latest()["data_time"][0] >= 0


def test_gather_metric_period_stores_every_nth_step():
    trainer = trainer_of(lr=0.0, gather_metric_period=2)
    trainer.train(0, 5)
    assert [step for _, step in trainer.storage.history("total_loss").values()] == [1, 3]


def test_async_writing_stores_the_same():
    trainer = trainer_of(lr=0.0, async_write_metrics=True)
    trainer.train(0, 4)
    assert [value for value, _ in trainer.storage.history("total_loss").values()] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_never_reaches_the_weights(poison):
    trainer = trainer_of()
    trainer.register_hooks(
        [hooks.CallbackHook(before_step=lambda t: setattr(t.model, "poison", poison if t.iter == 2 else 0.0))]
    )
    seen = []
    trainer.register_hooks([hooks.CallbackHook(after_step=lambda t: seen.append(t.model.weight.item()))])
    with pytest.raises(FloatingPointError, match=r"(?s)2.*loss_b"):
        trainer.train(0, 5)
    assert len(seen) == 2 and trainer.model.weight.item() == seen[-1]


def test_a_single_loss_is_the_total():
    model = Model()
    model.forward = lambda batch: model.weight.sum() * 2
    trainer = trainer_of(model, lr=0.0)
    trainer.train(0, 1)
    assert trainer.storage.latest()["total_loss"] == (2.0, 0)
    assert "loss_a" not in trainer.storage.latest()


def test_the_loader_can_be_replaced():
    trainer = trainer_of(lr=0.0)
    trainer.train(0, 3)
    trainer.reset_data_loader(lambda: [torch.tensor([41.0])])
    trainer.train(3, 4)
    assert trainer.storage.latest()["loss_a"][0] == 41.0


# States


class Counter(HookBase):
    def __init__(self):
        self.count = 0

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def test_state_of_trainer_and_hooks_comes_back(caplog):
    first = trainer_of()
    first.register_hooks([Counter(), hooks.IterationTimer()])
    first.train(0, 3)
    state = first.state_dict()
    assert state["iteration"] == 3 and state["hooks"] == {"Counter": {"count": 3}} and "optimizer" in state

    second = trainer_of()
    second.register_hooks([Counter()])
    second.load_state_dict(state)
    assert second.iter == 3 and second._hooks[0].count == 3
    third = trainer_of()
    with caplog.at_level(logging.WARNING):
        logging.getLogger("densekit").propagate = logging.getLogger("detectron2").propagate = True
        third.load_state_dict(state)
    assert "Counter" in caplog.text


def test_trainer_base_asks_for_a_step():
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.filterwarnings("ignore")
def test_mixed_precision_without_cuda_is_refused():
    model = Model()
    trainer = AMPTrainer(model, Numbers(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises((RuntimeError, AssertionError), match="CUDA"):
        trainer.run_step()


# Hooks


def test_the_schedule_steps_after_each_iteration():
    from fvcore.common.param_scheduler import MultiStepParamScheduler

    trainer = trainer_of(lr=1.0)
    schedule = MultiStepParamScheduler([1, 0.5, 0.25], milestones=[2, 4], num_updates=5)
    hook = hooks.LRScheduler(trainer.optimizer, schedule)
    trainer.register_hooks([hook])
    trainer.train(0, 5)
    assert [lr for lr, _ in trainer.storage.history("lr").values()] == [1, 1, 0.5, 0.5, 0.25]
    assert isinstance(hook.scheduler, LRMultiplier) and hook.state_dict()["last_epoch"] == 5


@pytest.mark.parametrize(
    ("sizes", "rates", "expected"), [((1, 3, 2), (0.1, 0.2, 0.3), 1), ((1, 1, 1), (0.1, 0.2, 0.2), 1)]
)
def test_the_shown_rate_stands_for_most_parameters(sizes, rates, expected):
    groups = [
        {"params": [nn.Parameter(torch.zeros(1)) for _ in range(size)], "lr": lr} for size, lr in zip(sizes, rates)
    ]
    assert hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(groups, lr=1)) == expected


def test_evaluations_come_on_time_and_once_at_the_end():
    trainer = trainer_of()
    seen: list = []

    def evaluate():
        seen.append(trainer.iter)
        return {"task": {"AP": float(trainer.iter)}}

    trainer.register_hooks([hooks.EvalHook(2, evaluate)])
    trainer.train(0, 6)
    assert seen == [1, 3, 6]
    assert trainer.storage.latest()["task/AP"] == (6.0, 6)


def test_results_that_are_no_numbers_are_named():
    trainer = trainer_of()
    trainer.register_hooks([hooks.EvalHook(0, lambda: {"AP": "high"})])
    with pytest.raises(ValueError, match="high"):
        trainer.train(0, 1)


class Lines(EventWriter):
    def __init__(self):
        self.lines, self.closed = [], False

    def write(self):
        self.lines.append(get_event_storage().iter)

    def close(self):
        self.closed = True


def test_writers_write_on_time_and_at_the_end():
    trainer, writer = trainer_of(), Lines()
    trainer.register_hooks([hooks.PeriodicWriter([writer], period=3)])
    trainer.train(0, 7)
    assert writer.lines == [2, 5, 6, 7] and writer.closed


def test_checkpoints_come_on_time(tmp_path):
    trainer = trainer_of()
    trainer.register_hooks([hooks.PeriodicCheckpointer(Checkpointer(trainer.model, str(tmp_path)), 2)])
    trainer.train(0, 5)
    assert {path.name for path in tmp_path.glob("*.pth")} == {
        "model_0000001.pth",
        "model_0000003.pth",
        "model_final.pth",
    }
    assert torch.load(tmp_path / "model_0000003.pth", weights_only=True)["iteration"] == 3


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 6)])
def test_the_best_checkpoint_is_kept(tmp_path, mode, best):
    values = {1: math.nan, 3: 0.9, 6: 0.5}
    trainer = trainer_of()
    trainer.register_hooks(
        [
            hooks.EvalHook(2, lambda: {"AP": values[trainer.iter]}),
            hooks.BestCheckpointer(2, Checkpointer(trainer.model, str(tmp_path)), "AP", mode, "best"),
        ]
    )
    trainer.train(0, 6)
    assert torch.load(tmp_path / "best.pth", weights_only=True)["iteration"] == best


def test_exact_statistics_are_those_of_the_batches():
    batches = [torch.randn(64, 2, generator=torch.Generator().manual_seed(i)) * 3 + 1 for i in range(20)]
    model = nn.Sequential(nn.BatchNorm1d(2)).train()
    trainer = trainer_of()
    trainer.register_hooks([hooks.PreciseBN(0, model, batches, 20)])
    trainer.train(0, 1)
    mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, mean, atol=1e-4, rtol=1e-4)


def test_hooks_that_are_no_hooks_are_refused():
    with pytest.raises((TypeError, AssertionError)):
        trainer_of().register_hooks([lambda: None])


def test_losses_are_means_over_the_processes(monkeypatch):
    def with_another(data):
        """What the main process gathers where another one has 2 more in loss_b and waited 9 seconds for its data."""
        other = copy.deepcopy(data)
        losses = other if isinstance(other, dict) else other[0]
        losses["loss_b"] += 2.0
        return [data, losses | {"data_time": 9.0}] if isinstance(other, dict) else [data, (losses, 9.0)]

    monkeypatch.setattr(sys.modules[comm.gather.__module__], "gather", with_another)
    trainer = trainer_of(lr=0.0)
    trainer.train(0, 1)
    latest = trainer.storage.latest()
    assert latest["loss_a"] == (0.0, 0) and latest["loss_b"] == (2.0, 0) and latest["total_loss"] == (2.0, 0)
    assert latest["data_time"] == (9.0, 0)
