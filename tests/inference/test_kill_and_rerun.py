"""A killed run goes on where it was: nothing lost, nothing twice, byte for byte what an uninterrupted run gives."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densekit.cli import main
from densekit.inference.journal import JoinedLines, Journal, Part

ROOT = Path(__file__).resolve().parents[2]
FILES = ("predictions.jsonl", "coco_instances_results.json", "coco_full.json")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    noise = np.random.default_rng(1)
    for number in range(60):
        pixels = noise.integers(0, 255, (9, 11 + number % 3, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((96 + 8 * (number % 4), 80), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03d}.png")
    return folder


def words(run, many, output, *more) -> list[str]:
    common = ["--score-threshold", "0", "--batch-size", "4", "--format", "coco", "coco_full"]
    return ["predict", str(run), "--input", str(many), "--output", str(output), *common, *more]


def contents(folder) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def finished(folder) -> int:
    parts = (folder / "parts").glob("*.jsonl") if (folder / "parts").is_dir() else ()
    return sum(path.read_bytes().count(b"\n") for path in parts)


def killed(arguments: list[str], output: Path, after: int, patience: float = 60) -> bool:
    """Starts a run, kills it once it has written so many more lines, and says whether it was still at work."""
    child = multiprocessing.get_context("fork").Process(target=main, args=(arguments,))
    before = finished(output)
    child.start()
    end = time.monotonic() + patience
    while child.is_alive() and finished(output) < before + after and time.monotonic() < end:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return not (output / FILES[0]).exists()


def test_killed_at_random_moments_and_rerun_is_as_if_nothing_had_been(make_run, many, tmp_path):
    run, out, moments = make_run("GeneralizedRCNN"), tmp_path / "killed", random.Random()
    main(words(run, many, tmp_path / "whole"))
    cut = [killed(words(run, many, out, "--num-workers", k), out, moments.randint(1, 18)) for k in ("0", "1", "0")]
    assert any(cut) and finished(out) < 60
    main(words(run, many, out))
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob(".*")) and not (out / "parts").exists()


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(make_run, many, tmp_path):
    run = make_run("GeneralizedRCNN")
    main(words(run, many, tmp_path / "one"))
    command = [sys.executable, "-W", "ignore", "-m", "densekit"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    two = words(run, many, tmp_path / "two", "--num-gpus", "2", "--format", "coco", "coco_full", "labelme")
    done = subprocess.run([*command, *two], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(list((tmp_path / "two" / "labelme").iterdir())) == 60


def test_torn_and_doubled_lines_are_dropped(tmp_path):
    for indices in ((4, 0, 2), (2, 1)):
        part = Part(tmp_path)
        for index in indices:
            part.append({"index": index, "from": indices[0]})
        part.close()
    (first, second) = sorted((tmp_path / "parts").iterdir())
    with open(first, "ab") as file:
        file.write(b'{"index": 3, "insta')
    (tmp_path / "parts" / "zeros.jsonl").write_bytes(
        b'{"index": 7}\n\0\0\0\n[5]\n{"index": 8, "problem": "is empty"}\n'
    )
    journal = Journal(tmp_path, lambda line: line["index"] != 7)
    assert journal.done == {0, 1, 2, 4} and journal.problems == {8: "is empty"}
    joined = JoinedLines(journal.join())
    assert [line["index"] for line in joined] == [0, 1, 2, 4]
    assert joined[3] == {"index": 4, "from": 4} and len(joined) == 4
    # The next run starts from the joined file, and adds to it.
    part = Part(tmp_path)
    part.append({"index": 3})
    part.close()
    path = Journal(tmp_path, lambda line: True).join()
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]
    assert second.exists() is False
