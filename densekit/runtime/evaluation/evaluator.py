"""The evaluation loop: what an evaluator is, and how a model is run over a test set.

The loop measures while it works. The first batches pay for caches, memory pools and kernel selection, so they are left
out of every speed it reports.
"""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from densekit.runtime.utils.comm import get_world_size, is_main_process
from densekit.runtime.utils.logger import log_every_n_seconds

_WARMUP_BATCHES = 5
_SECONDS_BETWEEN_LINES = 5

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Collects what a model says about a test set, and turns it into numbers at the end.

    :func:`inference_on_dataset` calls :meth:`reset` once, :meth:`process` for each batch and :meth:`evaluate` once.
    """

    def reset(self) -> None:
        """Forgets everything; called before a new round."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in one batch.

        Args:
            inputs: What the model was called with, one dict per image.
            outputs: What the model returned, in the same order.
        """

    def evaluate(self) -> Mapping[str, Any] | None:
        """Returns ``{task: {metric: score}}``, or None (or nothing) in processes that are not the main one."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators that see the same batches; their results are put into one dict."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> Mapping[str, Any]:
        """Returns the union of all results; empty in processes that are not the main one.

        Raises:
            ValueError: Two evaluators report the same task.
        """
        merged: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            # Every process has to enter evaluate(): it may gather from all of them.
            part = evaluator.evaluate()
            if part is None or not is_main_process():
                continue
            twice = sorted(merged.keys() & part.keys())
            if twice:
                raise ValueError(
                    f"{type(evaluator).__name__} reports {twice}, which an earlier evaluator reported too."
                )
            merged.update(part)
        return merged


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Puts the model into eval mode for a while; each of its modules then returns to the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        # train() first, for models that override it; then module by module, for those kept in eval mode on purpose.
        model.train(was_training)
        for module, training in before:
            module.training = training


class _Stopwatch:
    """Seconds spent per phase of the loop, counted from the last :meth:`restart`."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.started = self.last = time.perf_counter()
        self.batches = 0
        self.phases = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[phase] += now - self.last
        self.last = now

    def total(self) -> float:
        return self.last - self.started

    def per_batch(self, seconds: float) -> float:
        return seconds / max(self.batches, 1)

    def progress(self, done: int, total: int) -> str:
        speeds = " ".join(f"{name}: {self.per_batch(spent):.4f} s/iter." for name, spent in self.phases.items())
        pace = self.per_batch(self.total())
        eta = datetime.timedelta(seconds=int(pace * (total - done)))
        return f"Inference done {done}/{total}. {speeds} Total: {pace:.4f} s/iter. ETA={eta}"


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], Any]] | None = None,
) -> Mapping[str, Any]:
    """Runs the model over a test set, hands each batch to the evaluator and returns its results.

    Args:
        model: Any callable that takes a batch. A module is put into eval mode for the duration.
        data_loader: An iterable with a length; each element is one batch of inputs.
        evaluator: One evaluator, a list of them, or None to measure the speed alone.
        callbacks: Functions without arguments, called ``"on_start"``, ``"before_inference"``, ``"after_inference"`` and
            ``"on_end"`` of the loop; any of them may be left out.

    Returns:
        What ``evaluator.evaluate()`` returns; an empty dict where that is None.
    """
    if evaluator is None:
        evaluator = []
    if isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator)
    evaluator.reset()
    total = len(data_loader)
    logger.info(f"Start inference on {total} batches")

    mode: AbstractContextManager[None] = inference_context(model) if isinstance(model, nn.Module) else nullcontext()
    with mode, torch.no_grad():
        watch = _run_batches(model, data_loader, evaluator, dict(callbacks or {}))

    # This process's own time, taken before evaluate() waits for the others.
    for what, seconds in (("time", watch.total()), ("pure compute time", watch.phases["Inference"])):
        logger.info(
            f"Total inference {what}: {datetime.timedelta(seconds=int(seconds))} "
            f"({watch.per_batch(seconds):.6f} s / iter per device, on {get_world_size()} devices)"
        )
    return evaluator.evaluate() or {}


def _run_batches(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator,
    callbacks: dict[str, Callable[[], Any]],
) -> _Stopwatch:
    """The loop itself; returns the watch, which has seen the batches after the warm-up."""

    def call(name: str) -> None:
        if name in callbacks:
            callbacks[name]()

    total = len(data_loader)
    warmup = min(_WARMUP_BATCHES, max(total - 1, 0))
    watch = _Stopwatch()
    call("on_start")
    for index, inputs in enumerate(data_loader):
        watch.lap("Dataloading")
        call("before_inference")
        outputs = model(inputs)
        call("after_inference")
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # else the GPU's work would be charged to the evaluator
        watch.lap("Inference")
        evaluator.process(inputs, outputs)
        watch.lap("Eval")
        watch.batches += 1
        if index + 1 == warmup:
            watch.restart()
        if index >= 2 * warmup or watch.per_batch(watch.phases["Inference"]) > _SECONDS_BETWEEN_LINES:
            log_every_n_seconds(logging.INFO, watch.progress(index + 1, total), n=_SECONDS_BETWEEN_LINES)
    call("on_end")
    return watch
