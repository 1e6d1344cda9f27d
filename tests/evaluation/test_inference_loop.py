import logging
import time

import pytest
import torch
from torch import nn

from densekit.d2._host import HOST
from densekit.d2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset


class Recorder(DatasetEvaluator):
    def __init__(self, task="sum"):
        self.task = task
        self.calls = []

    def reset(self):
        self.calls = ["reset"]

    def process(self, inputs, outputs):
        self.calls.append((inputs, outputs, torch.is_grad_enabled()))

    def evaluate(self):
        return {self.task: {"value": sum(output for _, output, _ in self.calls[1:])}}


class Silent(DatasetEvaluator):
    """What an evaluator looks like in a process that is not the main one."""


def tripled(batch: int) -> int:
    return 3 * batch


def test_every_batch_reaches_the_evaluator_in_order_and_without_gradients():
    evaluator = Recorder()
    results = inference_on_dataset(tripled, [1, 2, 3], evaluator)
    assert evaluator.calls == ["reset", (1, 3, False), (2, 6, False), (3, 9, False)]
    assert results == {"sum": {"value": 18}}
    assert torch.is_grad_enabled()


def test_list_none_and_empty_results():
    assert inference_on_dataset(tripled, [1, 2], [Recorder("a"), Silent(), Recorder("b")]) == {
        "a": {"value": 9},
        "b": {"value": 9},
    }
    assert inference_on_dataset(tripled, [1, 2], None) == {}
    assert inference_on_dataset(tripled, [1, 2], Silent()) == {}


def test_loader_without_batches():
    assert inference_on_dataset(tripled, [], Recorder()) == {"sum": {"value": 0}}


def test_one_task_from_two_evaluators_is_refused():
    with pytest.raises((ValueError, AssertionError), match="sum"):
        inference_on_dataset(tripled, [1], [Recorder(), Recorder()])


def test_callbacks_frame_the_loop_and_each_call_of_the_model():
    seen = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    inference_on_dataset(seen.append, [10, 20], None, {name: lambda name=name: seen.append(name) for name in names})
    around = lambda batch: ["before_inference", batch, "after_inference"]  # noqa: E731
    assert seen == ["on_start", *around(10), *around(20), "on_end"]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, batch):
        return int(self.training) + int(self.norm.training)


def test_module_runs_in_eval_mode_and_returns_to_training_mode():
    model = Network().train()
    assert inference_on_dataset(model, [0, 0], Recorder()) == {"sum": {"value": 0}}
    assert model.training and model.norm.training


@pytest.mark.skipif(HOST != "builtin", reason="Detectron2 puts all modules into the mode of the outermost one")
def test_module_kept_in_eval_mode_stays_there():
    model = Network().train()
    model.norm.eval()
    with inference_context(model):
        assert not model.training
    assert model.training and not model.norm.training


@pytest.mark.skipif(HOST != "builtin", reason="Detectron2 leaves the model in eval mode")
def test_mode_returns_after_a_failure():
    model = Network().train()
    with pytest.raises(RuntimeError, match="broken"), inference_context(model):
        raise RuntimeError("broken")
    assert model.training


def test_warm_up_is_left_out_of_the_speed(caplog):
    """Five slow batches, then ten fast ones: the reported time per batch is the fast one."""
    first = iter([0.04] * 5)
    with caplog.at_level(logging.INFO):
        inference_on_dataset(lambda batch: time.sleep(next(first, 0.002)), range(15), None)
    [line] = [message for message in caplog.messages if message.startswith("Total inference pure compute time")]
    assert 0.002 <= float(line.split("(")[1].split(" s / iter")[0]) < 0.015


def test_progress_line_has_speed_and_eta(caplog, monkeypatch):
    for clock in ("time", "monotonic"):  # the line is written every few seconds, and an earlier test had one
        later = getattr(time, clock)() + 1e6
        monkeypatch.setattr(time, clock, lambda later=later: later)
    with caplog.at_level(logging.INFO):
        inference_on_dataset(tripled, list(range(40)), Recorder())
    assert caplog.messages[0] == "Start inference on 40 batches"
    line = next(message for message in caplog.messages if message.startswith("Inference done"))
    assert "/40. Dataloading: " in line and "Inference: " in line and "Eval: " in line and "ETA=" in line
