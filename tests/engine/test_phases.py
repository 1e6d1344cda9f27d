"""Steps of several phases: each learns what a plain loop does, a refused one changes nothing, a run resumes exactly."""

import copy
import math

import pytest
import torch
from torch import nn

from densekit.d2.utils.events import EventStorage
from densekit.engine import Trainer
from densekit.engine.step import TrainingStep
from densekit.modeling.phases import Phase, phases_of
from tests.engine.toys import ToyAdversary, phases_config


def batches(count):
    generator = torch.Generator().manual_seed(1)
    shape = (3, 12, 12)
    pixels = [torch.randint(256, (4, *shape), generator=generator, dtype=torch.uint8) for _ in range(count)]
    return [[{"image": image} for image in batch] for batch in pixels]


def adversary(**attributes):
    torch.manual_seed(5)
    model = ToyAdversary()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def training(model, given, *options, **named):
    from densekit.data.progress import Progress

    cfg = phases_config(*options)
    phases = Trainer.build_phases(cfg, model)
    named.setdefault("plan", Progress(0, 6, 2.0))
    return TrainingStep(model, given, phases[0].optimizer, phases=phases, **named)


def run(step, count, start=0):
    with EventStorage(start) as storage:
        for iteration in range(start, start + count):
            storage.iter = step.iter = iteration
            step.run_step()
        step.settle()
    return storage


def everything(step):
    """Weights, buffers and states of the optimizers."""
    state = {"model": step.model.state_dict(), "step": step.state_dict()}
    return copy.deepcopy(state)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("period", [1, 2])
def test_phases_learn_as_in_a_plain_loop(joint, period):
    model, plain = adversary(joint=joint, period=period), adversary()
    storage_of = run(training(model, batches(4), "SOLVER.WEIGHT_DECAY", 0.0), 4)
    rate = phases_config().SOLVER.BASE_LR
    one = torch.optim.Adam(plain.discriminator.parameters(), lr=0.02, betas=(0.5, 0.9))
    groups = [{"params": plain.generator.parameters()}, {"params": plain.paint.parameters(), "lr": rate / 2}]
    other = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    torch.manual_seed(5), ToyAdversary()
    for iteration, batch in enumerate(batches(4)):
        plain.has_extra = iteration >= 4
        one.zero_grad()
        sum(plain(batch, "discriminator").values()).backward()
        if not joint:
            one.step()
        if iteration % period == 0:
            gradients = [parameter.grad.clone() for parameter in plain.discriminator.parameters()]
            other.zero_grad()
            sum(plain(batch, "generator").values()).backward()
            for parameter, gradient in zip(plain.discriminator.parameters(), gradients):
                parameter.grad = gradient
            if joint:
                one.step()
            other.step()
        elif joint:
            one.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-4, atol=1e-6, msg=name)
    named = {"loss_real", "loss_fake", "loss_adversarial", "loss_l1", "grad_norm/discriminator", "grad_norm/generator"}
    assert named <= storage_of.histories().keys()


@pytest.mark.parametrize("where", ["discriminator", "generator"])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_refused_step_changes_nothing_in_any_phase(where, joint, fused):
    model = adversary(joint=joint)
    step = training(model, batches(4), nan_skip=1)
    if fused:
        for phase in step.phases:
            for group in phase.optimizer.param_groups:
                group.update(fused=True, foreach=False)
            phase.decides_on_device = True
        step._decides_on_device = True
    for poisoned in (0, 2):
        model.poison = (poisoned, where)
        before = everything(step)
        run(step, 1, start=poisoned)
        assert bool(step.refused)
        after = everything(step)
        assert_same(before["model"], after["model"])
        for one, other in zip(_states(before), _states(after), strict=True):
            for key, slots in other.items():  # a state that begins with zeros is none
                assert_same(one.get(key, {name: torch.zeros_like(value) for name, value in slots.items()}), slots)
        run(step, 1, start=poisoned + 1)
        assert not bool(step.refused)
        with pytest.raises(AssertionError):
            assert_same(before["model"], everything(step)["model"])


def _states(everything):
    step = everything["step"]
    return [step["optimizer"]["state"], step["phases"]["generator"]["optimizer"]["state"]]


def test_a_forward_pass_that_fails_takes_the_phase_before_it_back():
    model = adversary()
    ordinary, step = model.forward, training(model, batches(2))

    def fail(batch, phase):
        if phase == "generator":
            raise FloatingPointError("Pictures are not finite.")
        return ordinary(batch, phase)

    before = everything(step)
    model.forward = fail
    with pytest.raises(FloatingPointError, match="Pictures are not finite"):
        run(step, 1)
    assert_same(before, everything(step))


def test_each_phase_finds_its_own_scale():
    model = adversary()
    step = training(model, batches(3) * 20, "SOLVER.AMP.ENABLED", True, nan_skip=0)
    discriminator, generator = (phase.grad_scaler for phase in step.phases)
    generator.load_state_dict(generator.state_dict() | {"scale": 2.0**40})
    scale = 64.0
    discriminator.load_state_dict(discriminator.state_dict() | {"scale": scale})
    before = everything(step)
    run(step, 1)
    assert_same(before["model"], everything(step)["model"])
    assert (discriminator.get_scale(), generator.get_scale()) == (scale, 2.0**39)
    storage = run(step, 40, start=1)
    assert not torch.equal(before["model"]["paint.weight"], model.paint.weight)
    again = training(adversary(), batches(1), "SOLVER.AMP.ENABLED", True)
    again.load_state_dict(copy.deepcopy(step.state_dict()))
    assert [phase.grad_scaler.state_dict() for phase in again.phases] == [
        phase.grad_scaler.state_dict() for phase in step.phases
    ]
    assert "[metric]grad_scaler/generator" in storage.histories()


def test_micro_batches_make_the_gradients_of_the_whole():
    norms = []
    for parts in (1, 2):
        model = adversary()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
                module.eval()
        model.train = lambda mode=True, model=model: model
        model.training = True
        storage = run(training(model, batches(2), accumulate=parts), 2)
        norms.append([storage.history(f"grad_norm/{name}").latest() for name in ("discriminator", "generator")])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert all(map(math.isfinite, norms[0]))


class Declares(nn.Module):
    def __init__(self, *phases):
        super().__init__()
        self.one, self.two = nn.Linear(1, 1), nn.Linear(1, 1)
        self.training_phases = lambda: [
            Phase(name, [getattr(self, part) for part in parts], **more) for name, parts, more in phases
        ]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([("a", ["one"], {})], r"two\.weight learns in no phase"),
        ([("a", ["one", "two"], {}), ("b", ["two"], {})], r"two\.weight learns in a and b"),
        ([("a", ["one"], {}), ("a", ["two"], {})], "a name of its own"),
        ([("a", ["one"], {"period": 2}), ("b", ["two"], {"period": 3})], "every iteration"),
        ([("a", ["one"], {"period": 0}), ("b", ["two"], {})], "a has the period 0"),
    ],
)
def test_phases_that_do_not_fit_are_refused(phases, message):
    with pytest.raises(ValueError, match=rf"Declares\.training_phases: .*{message}"):
        phases_of(Declares(*phases))


def test_keys_that_solver_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"The phase a of the training step: SOLVER cannot be changed.*BASE_RATE"):
        Trainer.build_phases(phases_config(), Declares(("a", ["one", "two"], {"solver": {"BASE_RATE": 1.0}})))
