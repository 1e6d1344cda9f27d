"""Metric storage and its writers."""

import json
import logging
import math
import re
import statistics

import numpy as np
import pytest
import torch

from densekit.d2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)
from densekit.runtime.utils import events as runtime_events


def test_current_storage_follows_the_with_statements():
    assert not has_event_storage()
    with EventStorage() as outer:
        with EventStorage(7) as inner:
            assert get_event_storage() is inner and inner.iter == 7
        assert get_event_storage() is outer
    assert not has_event_storage()
    with pytest.raises(RuntimeError, match="EventStorage"):
        runtime_events.get_event_storage()


def test_storage_is_left_on_errors():
    with pytest.raises(KeyError), EventStorage() as storage, storage.name_scope("a"):
        raise KeyError
    assert not has_event_storage()


def test_scalars_keep_history_and_latest():
    with EventStorage(10) as storage:
        for value in (3.0, 1.0, 2.0):
            storage.put_scalar("loss", torch.tensor(value))
            storage.put_scalars(lr=value / 10, smoothing_hint=False)
            storage.step()
        storage.put_scalar("late", 1, cur_iter=3)
    assert storage.iter == 13
    assert storage.history("loss").values() == [(3.0, 10), (1.0, 11), (2.0, 12)]
    assert storage.latest() == {"loss": (2.0, 12), "lr": (pytest.approx(0.2), 12), "late": (1.0, 3)}
    assert set(storage.histories()) == {"loss", "lr", "late"}
    assert storage.smoothing_hints() == {"loss": True, "lr": False, "late": True}
    with pytest.raises(KeyError):
        storage.history("nothing")


@pytest.mark.parametrize("window", [1, 4, 20])
def test_smoothing_takes_the_median_over_iterations_not_over_values(window):
    values = {i: float((7 * i) % 11) for i in range(0, 30, 3)}  # one value in three iterations
    with EventStorage() as storage:
        for iteration, value in values.items():
            storage.put_scalar("loss", value, cur_iter=iteration)
    recent = [value for iteration, value in values.items() if iteration > max(values) - window]
    assert storage.count_samples("loss", window) == len(recent)
    assert storage.latest_with_smoothing_hint(window)["loss"] == (statistics.median(recent), max(values))


def test_name_scope_prefixes_and_ends():
    with EventStorage() as storage:
        with storage.name_scope("rpn"):
            storage.put_scalar("loss", 1.0)
        storage.put_scalar("loss", 2.0)
    assert {name: value for name, (value, _) in storage.latest().items()} == {"rpn/loss": 1.0, "loss": 2.0}


def test_changed_smoothing_hint_is_refused():
    with EventStorage() as storage:
        storage.put_scalar("lr", 1.0, smoothing_hint=False)
        with pytest.raises((ValueError, AssertionError), match="lr"):
            storage.put_scalar("lr", 1.0)


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_json_has_one_line_for_each_iteration_and_appends(tmp_path):
    path = tmp_path / "metrics.json"
    for start in (0, 3):
        writer = JSONWriter(str(path))
        with EventStorage(start) as storage:
            for _ in range(3):
                storage.put_scalar("lr", storage.iter / 10, smoothing_hint=False)
                storage.put_scalar("bbox/AP", 1.5, smoothing_hint=False, cur_iter=start)
                writer.write()
                writer.write()  # nothing new
                storage.step()
        writer.close()
    lines = read(path)
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert [line["lr"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert [line.get("bbox/AP") for line in lines] == [1.5, None, None, 1.5, None, None]


def test_json_is_strict(tmp_path):
    path = tmp_path / "metrics.json"
    writer = runtime_events.JSONWriter(str(path))
    with runtime_events.EventStorage() as storage:
        storage.put_scalars(loss=math.nan, high=math.inf, low=-math.inf, good=1.0)
        writer.write()
    assert read(path) == [{"iteration": 0, "loss": None, "high": None, "low": None, "good": 1.0}]


def progress(caplog, storage, printer):
    logger = logging.getLogger(printer.logger.name)
    caplog.clear()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, logger=logger.name), storage:
            printer.write()
    finally:
        logger.removeHandler(caplog.handler)
    return [record.getMessage() for record in caplog.records]


def test_progress_line(caplog):
    storage, printer = EventStorage(9), CommonMetricPrinter(max_iter=110)
    storage.put_scalars(total_loss=1.23456, loss_cls=0.5, other=3.0, time=36.0, data_time=0.25)
    storage.put_scalar("[metric]iou", 0.75)
    storage.put_scalar("lr", 0.0123456, smoothing_hint=False)
    (line,) = set(progress(caplog, storage, printer))
    assert "eta: 1:00:00  iter: 9  total_loss: 1.235  loss_cls: 0.5" in line
    assert "[metric]iou: 0.75" in line and "other" not in line
    assert re.search(r"time: 36\.0000  last_time: 36\.0000  data_time: 0\.2500  last_data_time: 0\.2500", line)
    assert "lr: 0.012346" in line
    assert storage.latest()["eta_seconds"][0] == 3600


def test_progress_without_times_or_after_the_end(caplog):
    storage = EventStorage(5)
    storage.put_scalar("loss", 1.0)
    (line,) = set(progress(caplog, storage, CommonMetricPrinter(max_iter=10)))
    assert "eta" not in line and "lr: N/A" in line
    assert progress(caplog, storage, CommonMetricPrinter(max_iter=5)) == []


def test_tensorboard_gets_scalars_pictures_and_histograms_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorboardXWriter(str(tmp_path))
    values = torch.linspace(-1, 3, 50)
    with EventStorage(4) as storage:
        storage.put_scalar("loss", 2.0)
        storage.put_image("picture", np.zeros((3, 4, 5), dtype=np.uint8))
        storage.put_histogram("weights", values, bins=10)
        writer.write()
        writer.write()
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 2.0)]
    assert [(image.step, image.height, image.width) for image in events.Images("picture")] == [(4, 4, 5)]
    (histogram,) = events.Histograms("weights")
    shown = histogram.histogram_value
    assert (shown.num, shown.min, shown.max) == (50, -1, 3)
    assert sum(shown.bucket) == 50
    assert shown.sum == pytest.approx(float(values.sum()), rel=1e-4)


def test_tensorboard_file_is_made_at_the_first_write(tmp_path):
    TensorboardXWriter(str(tmp_path / "runs")).close()
    assert not (tmp_path / "runs").exists()
