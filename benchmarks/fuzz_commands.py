"""Gives COCO files with damaged fields to the commands themselves: check --fix, evaluation, report and prediction.

    python benchmarks/fuzz_commands.py --files 40

Each command has to end well or with one sentence, in less than half a minute. Exits with 1 where there are faults:
another exception, a message of several lines, an evaluation that refuses what check finds no error in, a report that
fails after an evaluation, and a corrected copy that has lost objects which training would have kept.
"""

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from fuzz_files import H, W, coco, damaged_value, json_bytes, show
from PIL import Image
from tqdm import tqdm

from densekit.cli import main as densekit
from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.data.coco import load_coco_json

_CONFIG = "configs/_base_/models/rcnn_tiny.yaml"
_SLOW = 30.0  # seconds


class Commands:
    """Runs commands on one file after the other, and counts how they end."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.counts: dict[str, Counter[str]] = {}
        self.faults: list[str] = []
        (folder / "images").mkdir()
        pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images/1.png")
        options = [
            "MODEL.DEVICE",
            "cpu",
            "MODEL.ROI_HEADS.NUM_CLASSES",
            "2",
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
            "0.0",
        ]
        torch.manual_seed(0)
        model = build_model(load_config(_CONFIG, options))
        torch.save({"model": model.state_dict()}, folder / "weights.pth")
        self.options = [*options, "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"]
        self.options += ["MODEL.WEIGHTS", str(folder / "weights.pth"), "TEST.DETECTIONS_PER_IMAGE", "5"]

    def run(self, name: str, *words: str) -> tuple[int, str]:
        """Runs a command, and returns its exit code and its last line."""
        said, began = io.StringIO(), time.perf_counter()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = densekit([*words])
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception:
            code = 99
            self.faults.append(f"{name}: {traceback.format_exc().splitlines()[-1][:300]}")
        text = said.getvalue()
        if code == 2 and text.partition("error: ")[2].count("\n") != 1:
            self.faults.append(f"{name}: a message of several lines: {text[-300:]!r}")
        if (took := time.perf_counter() - began) > _SLOW:
            self.faults.append(f"{name}: took {took:.0f} s")
        self.counts.setdefault(name, Counter())[f"code {code}"] += 1
        return code, text

    def one(self, number: int) -> None:
        """Makes a file and gives it to every command."""
        folder = self.folder / str(number)
        folder.mkdir()
        given, fixed, data, name = folder / "coco.json", folder / "fixed.json", folder / "data.yaml", f"fuzz_{number}"
        given.write_bytes(self.content())
        images = str(self.folder / "images")
        data.write_text(f"{name}: {{form: coco, json: {given}, images: {images}}}\n")
        before = len(self.faults)
        checked, _ = self.run("check", "check", "--coco", str(given), "--images", images, "--fix", str(fixed))
        words = ["--config-file", _CONFIG, "--datasets", str(data)]
        sets = ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)", "OUTPUT_DIR", str(folder / "out")]
        evaluated, said = self.run("evaluation", "train", "--eval-only", *words, *sets, *self.options)
        if checked == 0 and evaluated == 2:
            self.faults.append(f"evaluation: check finds nothing, and it ends with {said[-300:]!r}")
        if evaluated == 0 and (ended := self.run("report", "report", str(folder / "out")))[0]:
            self.faults.append(f"report: after an evaluation, {ended[1][-300:]!r}")
        weights = ["--weights", str(self.folder / "weights.pth"), "--score-threshold", "0"]
        predict = ["predict", *words, *weights, "--dataset", name, "--output", str(folder / "found")]
        self.run("predict", *predict, *sets[:4], *self.options)
        if fixed.is_file() and evaluated == 0:
            self.compare(given, fixed, images)
        if len(self.faults) > before:
            print(f"{given}: {given.read_bytes()[:900]!r}", file=sys.stderr)

    def content(self) -> bytes:
        """A file damaged anywhere, or in a few fields of its objects, which is more often read."""
        if self.rng.random() < 0.3:
            return json_bytes(self.rng, coco)
        value = coco(self.rng)
        for _ in range(self.rng.randint(1, 3)):
            annotation = self.rng.choice(value["annotations"])
            if annotation:
                damaged_value(self.rng, annotation)
        return json.dumps(value).encode()

    def compare(self, given: Path, fixed: Path, images: str) -> None:
        """Expects of a corrected copy all objects that a training on the file itself would have."""
        records = load_coco_json(str(given), images)
        try:
            kept = load_coco_json(str(fixed), images)
        except ValueError as error:
            self.faults.append(f"corrected copy: {error}")
            return
        counts = [sum(len(record["annotations"]) for record in found) for found in (records, kept)]
        self.counts.setdefault("corrected copy", Counter())["compared"] += 1
        if counts[1] < counts[0]:
            self.faults.append(f"corrected copy: {counts[1]} objects of {counts[0]} are left")


def main() -> int:
    """Runs everything and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.environ["DENSEKIT_CACHE"] = str(Path(place) / "cache")
        commands = Commands(Path(place), args.seed)
        for number in tqdm(range(args.files), unit="file"):
            commands.one(number)
    return show(commands.counts, commands.faults, f"{args.files} files")


if __name__ == "__main__":
    sys.exit(main())
