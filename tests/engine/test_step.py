"""The training step: what it learns from, what it refuses, and what it says of itself."""

import copy
import math
from itertools import cycle

import pytest
import torch
from torch import nn

from densekit.d2.config import get_cfg
from densekit.d2.utils.events import EventStorage
from densekit.engine.moving_buffers import MovingBuffers
from densekit.engine.step import SettleHook, TrainingStep
from densekit.solver import Clipping, build_optimizer

IMAGES, CHANNELS = 4, 3


class Net(nn.Module):
    """Two losses that are means over images, and running averages."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(CHANNELS, 5)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 1)

    def forward(self, batch):
        x = self.head(self.norm(self.body(torch.stack(list(batch)))))
        return {"loss_square": x.square().mean(), "loss_line": (x - 1).abs().mean()}


class NetWithoutNorm(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.Identity()


def batches(count, bad=()):
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(IMAGES, CHANNELS, generator=generator) for _ in range(count)]
    for index in bad:
        made[index][0, 0] = math.nan
    return [list(batch) for batch in made]


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **options)


def adamw(model, **options):
    return torch.optim.AdamW(model.parameters(), lr=0.1, **options)


def fresh(kind=Net):
    torch.manual_seed(5)
    return kind()


def train(step, count, start=0):
    """Runs iterations; returns the storage."""
    with EventStorage(start) as storage:
        for iteration in range(start, start + count):
            storage.iter = step.iter = iteration
            step.run_step()
        step.settle()
    return storage


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, other):
    assert all(torch.equal(value, other[name]) for name, value in one.items())


# What is learnt


def test_a_step_is_that_of_a_plain_loop():
    model, plain = fresh(), fresh()
    optimizer = sgd(plain)
    for batch in batches(3):
        optimizer.zero_grad()
        sum(plain(batch).values()).backward()
        optimizer.step()
    train(TrainingStep(model, batches(3), sgd(model)), 3)
    assert_same(weights(model), weights(plain))


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_make_the_step_of_the_whole_batch(parts):
    whole, cut = fresh(NetWithoutNorm), fresh(NetWithoutNorm)
    one = train(TrainingStep(whole, batches(3), sgd(whole)), 3)
    other = train(TrainingStep(cut, batches(3), sgd(cut), accumulate=parts), 3)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(cut)[name], rtol=1e-5, atol=1e-6)
    for name in ("total_loss", "loss_square", "grad_norm"):
        values, others = ([value for value, _ in run.history(name).values()] for run in (one, other))
        assert values == pytest.approx(others, rel=1e-4)


def test_a_batch_that_does_not_divide_is_refused():
    model = fresh()
    with pytest.raises(ValueError, match=r"4 images.*SOLVER\.ACCUMULATE 3"):
        train(TrainingStep(model, batches(1), sgd(model), accumulate=3), 1)


def test_the_norm_of_the_gradients_is_stored():
    model, plain = fresh(), fresh()
    seen = []
    step = TrainingStep(model, batches(1, bad=[0]), sgd(model), on_bad_step=lambda record, alone: seen.append(record))
    with pytest.raises(FloatingPointError):
        train(step, 1)
    assert set(seen[0].norms) == {"body", "norm", "head"}
    storage = train(TrainingStep(model, batches(1), sgd(model)), 1)
    sum(plain(batches(1)[0]).values()).backward()
    norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
    assert storage.history("grad_norm").latest() == pytest.approx(norm.item(), rel=1e-5)


def clipped(*options):
    from densekit.config_defaults import add_densekit_config

    cfg = get_cfg()
    add_densekit_config(cfg)
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.0, *options])
    clip = ("ENABLED", True, "CLIP_TYPE", "full_model", "CLIP_VALUE", 0.01)
    cfg.SOLVER.CLIP_GRADIENTS.merge_from_list(list(clip))
    return cfg


@pytest.mark.parametrize("precision", [None, torch.float16, torch.bfloat16])
def test_clipping_sees_the_gradients_of_the_losses_themselves(precision):
    model = fresh()
    before = weights(model)
    cfg = clipped()
    step = TrainingStep(
        model, batches(1), build_optimizer(cfg, model), precision=precision, clipping=Clipping.from_config(cfg)
    )
    assert (step.grad_scaler is not None) == (precision is torch.float16)
    if step.grad_scaler:
        step.grad_scaler.load_state_dict(step.grad_scaler.state_dict() | {"scale": 256.0})
    norm = train(step, 1).history("grad_norm").latest()
    changes = [value - before[name] for name, value in model.named_parameters()]
    assert 0.5 < norm < 20  # far above the limit, and not multiplied by the scale
    assert torch.cat([change.flatten() for change in changes]).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_an_overflow_is_how_the_scale_is_found():
    model = fresh()
    step = TrainingStep(model, cycle(batches(3)), sgd(model), precision=torch.float16)
    step.grad_scaler.load_state_dict(step.grad_scaler.state_dict() | {"scale": 2.0**40})
    before = weights(model)
    storage = train(step, 1)
    assert_same(weights(model), before)
    assert step.grad_scaler.get_scale() == 2.0**39
    assert storage.history("[metric]grad_scaler").latest() == 2.0**40
    assert "grad_norm" not in storage.histories() and "skipped_steps" not in storage.histories()
    train(step, 30, start=1)
    assert not torch.equal(before["head.weight"], model.head.weight)

    state = copy.deepcopy(step.state_dict())
    again = TrainingStep(model, batches(1), sgd(model), precision=torch.float16)
    again.load_state_dict(state)
    assert again.grad_scaler.state_dict() == step.grad_scaler.state_dict()
    without = TrainingStep(model, batches(1), sgd(model), precision=torch.bfloat16)
    without.load_state_dict(state)
    assert "grad_scaler" not in without.state_dict()
    again.load_state_dict(without.state_dict())  # keeps the scale it has


# What is refused


def test_a_scale_that_cannot_be_the_cause_is_no_excuse():
    model = fresh(Steep)
    step = TrainingStep(model, cycle(batches(1)), sgd(model), precision=torch.float16)
    step.grad_scaler.load_state_dict(step.grad_scaler.state_dict() | {"scale": 4.0})
    with pytest.raises(FloatingPointError, match="Iteration 3: The gradients of head"):
        train(step, 9)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("bad", [0, 1])
def test_a_skipped_step_leaves_no_trace(make, fused, bad):
    clean, guarded = fresh(), fresh()
    good = [batch for index, batch in enumerate(batches(4)) if index != bad]
    optimizers = [make(model, fused=fused) for model in (clean, guarded)]
    if make is sgd:
        from densekit.solver import complete_state

        for optimizer in optimizers:
            complete_state(optimizer)
    train(TrainingStep(clean, good, optimizers[0]), 3)
    storage = train(TrainingStep(guarded, batches(4, bad=[bad]), optimizers[1], nan_skip=1), 4)
    assert_same(weights(clean), weights(guarded))
    for one, other in zip(*(optimizer.state.values() for optimizer in optimizers), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one if one[name] is not None)
    assert storage.history("skipped_steps").values() == [(1, bad)]
    assert [iteration for _, iteration in storage.history("total_loss").values()] == [i for i in range(4) if i != bad]
    assert all(math.isfinite(value) for value, _ in storage.history("grad_norm").values())


@pytest.mark.parametrize("fused", [False, True])
def test_the_weights_are_those_before_the_step_that_ends_the_run(fused):
    model, clean = fresh(), fresh()
    train(TrainingStep(clean, batches(2), adamw(clean, fused=fused)), 1)
    seen = []

    def look(record, alone):
        assert_same(weights(model), weights(clean))
        seen.append((record.iteration, alone))
        return "There."

    step = TrainingStep(model, batches(4, bad=[1]), adamw(model, fused=fused), on_bad_step=look)
    with pytest.raises(FloatingPointError, match=r"(?s)Iteration 1: The loss is .*loss_square.*nan.*There\."):
        train(step, 4)
    assert seen == [(1, False)]


def test_only_so_many_steps_in_a_row_are_skipped():
    model, boxes = fresh(), []
    bad = [0, 1, 3, 4, 6, 7, 8]
    step = TrainingStep(
        model,
        batches(9, bad=bad),
        sgd(model),
        nan_skip=2,
        on_bad_step=lambda record, alone: boxes.append(record.iteration),
    )
    with pytest.raises(FloatingPointError, match="Iteration 8"):
        train(step, 9)
    assert boxes == [0, 3, 6]


@pytest.mark.parametrize("kind", [NetWithoutNorm, "Complaining"])
def test_a_schedule_goes_on_without_a_warning_where_the_first_step_is_skipped(kind, recwarn):
    model = fresh(Complaining if kind == "Complaining" else kind)
    step = TrainingStep(model, batches(1, bad=[0]), sgd(model), nan_skip=1)
    schedule = torch.optim.lr_scheduler.LinearLR(step.optimizer)
    train(step, 1)
    schedule.step()
    assert not [str(warning.message) for warning in recwarn if "lr_scheduler" in str(warning.message)]


class Endless(NetWithoutNorm):
    """A loss that is infinite and has ordinary gradients."""

    def forward(self, batch):
        return super().forward(batch) | {"loss_far": self.head.weight.sum() + math.inf}


class Steep(NetWithoutNorm):
    """A loss that is a number and has infinite gradients."""

    def forward(self, batch):
        return super().forward(batch) | {"loss_root": (self.head.weight * 0).sum().sqrt()}


class Complaining(NetWithoutNorm):
    """A model that looks at its outputs itself."""

    def forward(self, batch):
        self.body.weight.sum().backward()
        raise FloatingPointError("Boxes are not finite.")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Endless, "The loss is infinite or NaN"),
        (Steep, "The gradients of head are infinite or NaN"),
        (Complaining, "Iteration 0: Boxes are not finite"),
    ],
)
def test_what_is_not_finite_is_refused_wherever_it_shows(kind, message):
    model = fresh(kind)
    before = weights(model)
    with pytest.raises(FloatingPointError, match=message):
        train(TrainingStep(model, batches(1), adamw(model)), 1)
    train(TrainingStep(model, batches(1), adamw(model), nan_skip=1), 1)
    assert_same(weights(model), before)


# What is read when


def test_with_fused_kernels_the_losses_arrive_one_step_late_and_where_they_are_wanted():
    model = fresh()
    step = TrainingStep(model, cycle(batches(4)), adamw(model, fused=True))
    hook = SettleHook(0, 3)
    with EventStorage(0) as storage:
        hook.trainer = type("Loop", (), {"_trainer": step, "iter": 0, "max_iter": 100})()
        known = []
        for iteration in range(4):
            storage.iter = step.iter = hook.trainer.iter = iteration
            step.run_step()
            hook.after_step()
            known.append(storage.latest().get("total_loss", (0, -1))[1])
        assert known == [-1, 0, 2, 2]
        hook.after_train()
        assert storage.latest()["total_loss"][1] == 3


def test_a_checkpoint_of_another_machine_keeps_this_ones_kernels():
    model = fresh()
    fused = TrainingStep(model, batches(2), sgd(model, fused=True))
    plain = TrainingStep(model, batches(2), sgd(model, foreach=True))
    train(plain, 1)
    fused.load_state_dict(copy.deepcopy(plain.state_dict()))
    group = fused.optimizer.param_groups[0]
    assert group["fused"] and not group["foreach"]
    assert all("momentum_buffer" in state for state in fused.optimizer.state.values())
    train(fused, 1)


def test_only_buffers_that_moved_are_put_back():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval())
    buffers = MovingBuffers(model)
    for way in (buffers.undo, lambda: buffers.undo_where(torch.tensor(True))):
        model(torch.randn(4, 2))
        before = weights(model)
        buffers.remember()
        model(torch.randn(4, 2))
        buffers.undo_where(torch.tensor(False))
        assert not torch.equal(before["0.running_mean"], model[0].running_mean)
        way()
        assert_same(weights(model), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [None, torch.float16, torch.bfloat16])
def test_on_a_gpu_nothing_waits_for_the_device(precision):
    model = fresh().cuda()
    given = [[image.cuda() for image in batch] for batch in batches(8)]
    optimizer = adamw(model, fused=True)
    step = TrainingStep(model, given, optimizer, accumulate=2, precision=precision, nan_skip=1)
    with EventStorage(0) as storage:
        for step.iter in range(8):
            storage.iter = step.iter
            # The scaler of losses and the optimizer put their numbers on the device in their first steps.
            torch.cuda.set_sync_debug_mode("error" if step.iter > 1 else "default")
            try:
                step.run_step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        step.settle()
    assert len(storage.history("total_loss").values()) == 8
