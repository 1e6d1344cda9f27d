"""Logging, seeding, paths, registries and the memory guard."""

import io
import logging
import random
import sys

import numpy as np
import pytest
import torch

from densekit.d2.utils.env import seed_all_rng
from densekit.d2.utils.logger import create_small_table, log_every_n, log_every_n_seconds, log_first_n
from densekit.d2.utils.memory import retry_if_cuda_oom
from densekit.d2.utils.registry import Registry
from densekit.runtime.utils import file_io
from densekit.runtime.utils import logger as runtime_logger
from densekit.runtime.utils.env import seed_all_rng as runtime_seed_all_rng
from densekit.runtime.utils.logger import setup_logger


@pytest.fixture
def name():
    """A logger of this test's own; its handlers are closed afterwards."""
    name = "densekit_test_logger"
    yield name
    for handler in list(logging.getLogger(name).handlers):
        logging.getLogger(name).removeHandler(handler)
        handler.close()


def test_log_goes_to_screen_and_file_once(tmp_path, capsys, name):
    for _ in range(3):
        setup_logger(str(tmp_path / "out"), name=name, abbrev_name="dk")
    logging.getLogger(name + ".engine").warning("be %s", "careful")
    logging.getLogger(name).info("plain")
    logging.getLogger(name).debug("a page of details")
    screen = capsys.readouterr().out.splitlines()
    assert len(screen) == 2
    assert screen[0].startswith("WARNING [") and screen[0].endswith(" dk.engine]: be careful")
    assert screen[1].endswith(" dk]: plain") and "\033" not in "".join(screen)
    written = (tmp_path / "out" / "log.txt").read_text().splitlines()
    assert len(written) == 3 and written[0].endswith(f"{name}.engine WARNING: be careful")
    assert written[2].endswith(f"{name} DEBUG: a page of details")


def test_other_ranks_write_their_own_file_only(tmp_path, capsys, name):
    setup_logger(str(tmp_path / "run.log"), 2, name=name).error("here")
    assert capsys.readouterr().out == ""
    assert "here" in (tmp_path / "run.log.rank2").read_text()
    assert not (tmp_path / "run.log").exists()


def test_colour_is_for_terminals(monkeypatch, name):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for color, expected in ((True, True), (False, False)):
        monkeypatch.setattr(sys, "stdout", screen := Terminal())
        setup_logger(name=name, color=color).info("x")
        assert ("\033" in screen.getvalue()) == expected
        assert screen.getvalue().count("x") == 1


def test_the_screen_is_followed_when_the_old_one_is_closed(monkeypatch, name):
    monkeypatch.setattr(sys, "stdout", old := io.StringIO())
    setup_logger(name=name)
    old.close()
    monkeypatch.setattr(sys, "stdout", new := io.StringIO())
    setup_logger(name=name).info("still here")
    assert "still here" in new.getvalue()


def test_traceback_is_shown(capsys, name):
    logger = setup_logger(name=name)
    try:
        raise KeyError("lost")
    except KeyError:
        logger.exception("failed")
    assert "KeyError: 'lost'" in capsys.readouterr().out


def test_log_first_n_counts_by_caller_or_message(caplog):
    with caplog.at_level(logging.INFO):
        for i in range(5):
            log_first_n(logging.INFO, f"caller {i}", n=2, name="a")
            log_first_n(logging.INFO, f"message {i % 2}", name="a", key="message")
            log_first_n(logging.INFO, f"both {i % 3}", name="a", key=("caller", "message"))
    texts = [record.getMessage() for record in caplog.records]
    assert [t for t in texts if t.startswith("caller")] == ["caller 0", "caller 1"]
    assert [t for t in texts if t.startswith("message")] == ["message 0", "message 1"]
    assert [t for t in texts if t.startswith("both")] == ["both 0", "both 1", "both 2"]


def test_log_every_n(caplog):
    with caplog.at_level(logging.INFO):
        for i in range(7):
            log_every_n(logging.INFO, str(i), n=3, name="a")
            log_every_n(logging.INFO, f"each {i}", name="a")
    texts = [record.getMessage() for record in caplog.records]
    assert [t for t in texts if t.isdigit()] == ["0", "3", "6"]
    assert sum(t.startswith("each") for t in texts) == 7


def test_log_every_n_seconds(caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        for i in range(20):
            log_every_n_seconds(logging.INFO, f"slow {i}", n=1000)
    assert [(r.name, r.getMessage()) for r in caplog.records] == [(__name__, "slow 0")]
    clock = iter([0.0, 0.4, 0.9, 1.0, 1.5, 2.1])
    monkeypatch.setattr(runtime_logger.time, "monotonic", lambda: next(clock))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for i in range(6):
            runtime_logger.log_every_n_seconds(logging.INFO, str(i), n=1)
    assert [r.getMessage() for r in caplog.records] == ["0", "3", "5"]


def test_small_table():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in create_small_table({"AP": 1.23456, "n": 3}).split("\n")
    ]
    assert rows[0] == ["AP", "n"] and rows[2] == ["1.235", "3"]


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_seed_fixes_every_generator():
    seed_all_rng(5)
    first = draw()
    seed_all_rng(5)
    assert draw() == first
    seed_all_rng(6)
    assert all(a != b for a, b in zip(draw(), first))


def test_seed_without_a_number_differs_each_time_and_is_logged(caplog):
    draws = set()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            runtime_seed_all_rng()
            draws.add(draw())
    assert len(draws) == 3
    runtime_seed_all_rng(int(caplog.records[-1].getMessage().rstrip(".").split()[-1]))
    assert draw() in draws


def test_registry_refuses_doubles_and_unknown_names():
    registry = Registry("TEST")

    @registry.register()
    class Part:
        pass

    assert registry.get("Part") is Part and "Part" in registry
    with pytest.raises(AssertionError, match="Part"):
        registry.register(Part)
    with pytest.raises(KeyError, match="Missing"):
        registry.get("Missing")


def test_published_weight_names_resolve_to_their_server(monkeypatch, tmp_path):
    weights = tmp_path / "w.pkl"
    weights.write_bytes(b"weights")
    asked = []

    def cached(self, path, **kwargs):
        asked.append(path)
        return str(weights)

    monkeypatch.setattr(file_io.HTTPURLHandler, "_get_local_path", cached)
    path = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert file_io.PathManager.get_local_path(path) == str(weights)
    with file_io.PathManager.open(path, "rb") as file:
        assert file.read() == b"weights"
    assert set(asked) == {"https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"}
    asked.clear()
    file_io.PathManager.get_local_path("catalog://ImageNetPretrained/FAIR/R-50-GN")
    assert asked == ["https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47261647/R-50-GN.pkl"]


def test_memory_guard_tries_three_times_and_passes_other_errors_on():
    class OnCuda:
        device = torch.device("cuda")

        def to(self, device):
            return f"on {device}"

    calls = []

    def hungry(*args, **kwargs):
        calls.append((args, kwargs))
        if len(calls) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return "done"

    assert retry_if_cuda_oom(hungry)(thing := OnCuda(), 3, other=thing) == "done"
    assert calls[0] == calls[1] == ((thing, 3), {"other": thing})
    assert calls[2] == (("on cpu", 3), {"other": "on cpu"})

    def wrong():
        raise RuntimeError("shape")

    with pytest.raises(RuntimeError, match="shape"):
        retry_if_cuda_oom(wrong)()
