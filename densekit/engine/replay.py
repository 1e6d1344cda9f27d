"""Running one step of a training again from its black box, to see where its first number is infinite or NaN."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densekit.d2.config import CfgNode
from densekit.d2.utils.events import EventStorage
from densekit.d2.utils.logger import setup_logger
from densekit.data.loader import SeededSamples
from densekit.engine.black_box import read_box
from densekit.engine.phases import LearningPhase
from densekit.engine.precision import precision
from densekit.engine.randomness import random_state, set_random_state
from densekit.engine.schedule import training_plan
from densekit.engine.setup import prepare, versions
from densekit.engine.step import cut, listeners, tell
from densekit.engine.trainer import Trainer
from densekit.modeling.phases import phases_of
from densekit.run_options import RunOptions


def replay(options: RunOptions) -> bool:
    """Runs the forward and backward passes of the step in ``--replay`` and logs what they give; nothing is written.

    The processes of the run follow one another in this one, which is the same for them but for synchronized BatchNorm.

    Returns:
        Whether a loss or a gradient was infinite or NaN again.

    Raises:
        ValueError: the folder is none, or does not fit the configuration.
    """
    cfg, notes, _ = prepare(options, writes=False)
    logger = setup_logger(name="densekit")
    for line in (versions(), *notes):
        logger.info(line)
    facts, state = read_box(options.replay)
    model = _model(cfg, state["model"], options.replay)
    loader = Trainer.build_train_loader(cfg)
    samples = getattr(loader, "dataset", None)
    if not isinstance(samples, SeededSamples) or any(process["draws"] is None for process in facts["processes"]):
        raise ValueError(f"--replay {options.replay}: the images came from a stream and cannot be drawn again.")
    order = getattr(loader, "batch_sampler", None)
    samples.plan = training_plan(cfg, getattr(order, "epoch_size", None))
    tell(listeners(model), samples.plan.at(facts["iteration"]))
    logger.info(f"Iteration {facts['iteration']} again, {len(facts['processes'])} process(es)")
    _name_bad("Weight", model.state_dict().items())
    step = _Step(cfg, model, facts, samples, list(state["random_states"]))
    phases = Trainer.build_phases(cfg, model) if phases_of(model) else []
    is_bad = False if phases else step.run()
    for phase in phases:
        if not phase.takes_part(facts["iteration"]):
            continue
        is_bad = step.run(phase)
        if is_bad or phase.name not in state.get("phases", {}):
            break
        phase.load_state_dict(state["phases"][phase.name])
        phase.update(None)  # the next one starts from these weights
    logger.info("The step is not finite again." if is_bad else "All losses and gradients are finite this time.")
    return is_bad


class _Step:
    """The step of all processes, one after another.

    Args:
        cfg: of the run.
        model: with the weights before the step.
        facts: of the step.
        samples: that its images are drawn from.
        random_states: of each process.
    """

    def __init__(
        self, cfg: CfgNode, model: nn.Module, facts: dict[str, Any], samples: SeededSamples, random_states: list[Any]
    ) -> None:
        self._cfg, self._model, self._facts, self._samples = cfg, model, facts, samples
        self._random_states = random_states

    def run(self, phase: LearningPhase | None = None) -> bool:
        """Runs the forward and backward passes of the ordinary step or of a phase.

        Returns:
            Whether a loss or a gradient was not finite.
        """
        logger, facts, is_bad = logging.getLogger(__name__), self._facts, False
        processes, parts = facts["processes"], facts["micro_batches"]
        parameters = phase.part.parameters() if phase and phase.part else None
        self._model.zero_grad()
        for place, process in enumerate(processes):
            batch = [self._samples[(index, seed, facts["iteration"])] for index, seed, *_ in process["draws"]]
            set_random_state(self._random_states[place])
            for number, part in enumerate(cut(batch, parts)):
                where = f", phase {phase.name}" if phase else ""
                logger.info(f"Process {process['process']}, part {number}{where}: {', '.join(map(_file, part))}")
                _name_bad("Image", ((_file(record), record.get("image")) for record in part))
                losses, failed = _forward(self._cfg, self._model, part, facts["iteration"], phase.name if phase else "")
                if losses:
                    (sum(losses.values()) / (len(processes) * parts)).backward(inputs=parameters)
                is_bad |= failed
            self._random_states[place] = random_state()
            if process["process"] < len(facts["losses"]):
                said = facts["losses"][process["process"]]
                logger.info(f"Losses of the process in the run, means of its parts: {said}")
        return is_bad | _name_bad("Gradient", ((name, value.grad) for name, value in self._model.named_parameters()))


def _model(cfg: CfgNode, weights: dict[str, Tensor], box: str) -> nn.Module:
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
    model = Trainer.build_model(cfg)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"--replay {box}: the weights are of another configuration ({error}).") from error
    return model.train()


def _forward(
    cfg: CfgNode, model: nn.Module, batch: list[Any], iteration: int, phase: str
) -> tuple[dict[str, Tensor], bool]:
    """Runs one micro-batch; returns its losses and whether one was not finite."""
    logger, dtype = logging.getLogger(__name__), precision(cfg)
    with EventStorage(iteration), FirstBad(model) as first:
        try:
            with torch.autocast(cfg.MODEL.DEVICE.split(":")[0], dtype=dtype, enabled=dtype is not None):
                losses = model(batch, phase) if phase else model(batch)
        except FloatingPointError as error:
            losses = {}
            logger.info(f"The forward pass ended with: {error}")
    losses = {"total_loss": losses} if isinstance(losses, Tensor) else losses
    for name, loss in losses.items():
        logger.info(f"{name}: {loss.item():.6g}")
    is_bad = not losses or not all(torch.isfinite(loss).item() for loss in losses.values())
    if first.found:
        logger.info(f"The first module whose output is not finite: {first.found}")
    elif is_bad:
        logger.info("The outputs of all modules are finite: the loss goes wrong outside of them.")
    return losses, is_bad


class FirstBad:
    """Watches the modules of a model during a forward pass.

    Attributes:
        found: the first one to return numbers that are not finite, in words; empty if there is none.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self.found = model, ""
        self._handles: list[Any] = []

    def __enter__(self) -> "FirstBad":
        # Inner modules return before those around them, so the first one is as deep as can be.
        self._handles = [
            module.register_forward_hook(partial(self._look, name))
            for name, module in self._model.named_modules()
            if name
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _look(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.found:
            return
        counts = [_bad_values(tensor) for tensor in _tensors(output)]
        if any(counts):
            total = sum(tensor.numel() for tensor in _tensors(output))
            given = any(_bad_values(tensor) for tensor in _tensors(inputs))
            self.found = (
                f"{name} ({type(module).__name__}), {sum(counts)} of {total} values; its inputs "
                f"{'hold such values too' if given else 'are finite'}"
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a module's output: in containers, and in the host's structures."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "get_fields"):
        yield from _tensors(value.get_fields())
    elif hasattr(value, "tensor"):
        yield from _tensors(value.tensor)


def _bad_values(tensor: Tensor) -> int:
    return int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0


def _name_bad(what: str, tensors: Any) -> bool:
    """Logs which tensors hold values that are not finite; returns whether any does."""
    bad = [name for name, tensor in tensors if isinstance(tensor, Tensor) and _bad_values(tensor)]
    if bad:
        shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        logging.getLogger(__name__).info(f"{what} with values that are not finite: {shown}")
    return bool(bad)


def _file(record: Any) -> str:
    return str(record.get("file_name", "?"))
