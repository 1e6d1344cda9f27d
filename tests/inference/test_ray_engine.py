"""Predictions on a Ray cluster of this machine are those of one process, also where a process dies on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densekit.cli import main

pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]
FILES = ("predictions.jsonl", "coco_instances_results.json", "unreadable.txt")


@pytest.fixture(scope="module")
def some(tmp_path_factory) -> Path:
    """A folder of 24 pictures of two sizes, one of them cut off."""
    folder = tmp_path_factory.mktemp("some")
    noise = np.random.default_rng(1)
    for number in range(24):
        pixels = noise.integers(0, 255, (9, 11, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((96 + 8 * (number % 2), 80), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03d}.png")
    whole = (folder / "007.png").read_bytes()
    (folder / "007.png").write_bytes(whole[: len(whole) // 2])
    return folder


def words(run, some, output, *more) -> list[str]:
    common = ["--score-threshold", "0", "--batch-size", "4", "--format", "coco", "--num-workers", "0"]
    return ["predict", str(run), "--input", str(some), "--output", str(output), *common, *more]


def start(arguments) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", "densekit", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def contents(folder) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.mark.slow
def test_two_actors_and_a_killed_driver_give_the_bytes_of_one_process(make_run, some, tmp_path):
    run, out = make_run("GeneralizedRCNN"), tmp_path / "ray"
    with pytest.raises(SystemExit) as stop:
        main(words(run, some, tmp_path / "plain"))
    assert stop.value.code == 1
    cluster = words(run, some, out, "--engine", "ray", "--shard-size", "8", "--num-gpus", "2")
    driver, end = start(cluster), time.monotonic() + 200
    while not list(out.glob("manifest/*.json")) and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert list(out.glob("manifest/*.json"))
    assert start(cluster).wait(timeout=240) == 1
    assert contents(out) == contents(tmp_path / "plain")
    marks = [json.loads(path.read_text()) for path in sorted(out.glob("manifest/*.json"))]
    assert [list(mark["unreadable"]) for mark in marks] == [["7"], [], []]
    assert not list(out.rglob(".*"))
