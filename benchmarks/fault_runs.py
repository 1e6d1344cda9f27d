"""Small runs for ``faults.py`` and ``starts.py``: a data set and a small detector, started, watched and compared."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
STEPS, PERIOD, EVALUATION = 40, 4, 20  # iterations of a run, between its checkpoints, between its evaluations
TRAINING, TEST = 24, 24  # images
_PATIENCE = 240.0  # seconds; a run takes a few, on a busy machine many

CONFIG = {
    "_BASE_": str(ROOT / "configs/_base_/models/rcnn_tiny.yaml"),
    "MODEL": {
        "MASK_ON": True,
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 7},
    },
    "INPUT": {"MIN_SIZE_TRAIN": [64, 80], "MIN_SIZE_TEST": 64, "MAX_SIZE_TRAIN": 128, "MAX_SIZE_TEST": 128},
    "DATASETS": {"TRAIN": ["faults_train"], "TEST": ["faults_val"]},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 2,
        "MAX_ITER": STEPS,
        "CHECKPOINT_PERIOD": PERIOD,
        "BASE_LR": 0.002,
        "STEPS": [30],
        "WARMUP_ITERS": 5,
    },
    "TEST": {"EVAL_PERIOD": EVALUATION, "DETECTIONS_PER_IMAGE": 10},
    "SEED": 11,
    "VERSION": 2,
}


class Run:
    """One OUTPUT_DIR and the processes that are started for it.

    Args:
        folder: OUTPUT_DIR.
        data: the folder of :func:`write_data`.
        console: file for what the processes print.
        options: KEY, VALUE, ... of the configuration.
        flags: of the command line.
    """

    def __init__(
        self,
        folder: Path,
        data: Path,
        console: Path,
        options: tuple[object, ...] = (),
        flags: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.console = folder, console
        self._data, self._options, self._flags = data, options, flags
        self._process: subprocess.Popen | None = None

    def start(self, **popen: object) -> "Run":
        """Starts ``train_net.py --resume`` in a process group of its own."""
        command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py"), "--resume", *self._flags]
        command += ["--config-file", str(self._data / "tiny.yaml"), "--datasets", str(self._data / "own.yaml")]
        command += ["OUTPUT_DIR", str(self.folder), *map(str, self._options)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.console.open("w") as shown:
            self._process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdout=shown, stderr=subprocess.STDOUT, **popen
            )  # type: ignore[call-overload]
        return self

    @property
    def process(self) -> subprocess.Popen:
        assert self._process is not None
        return self._process

    def finish(self, patience: float = _PATIENCE) -> int | None:
        """The exit code; None for a run that hangs, which is killed."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        return code

    def go_on(self) -> int | None:
        """Starts the run again and waits for its end."""
        return self.start().finish()

    def kill(self) -> None:
        """SIGKILL for all processes that are left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for(self, moment: Callable[[], bool], patience: float = _PATIENCE) -> bool:
        """Waits for a moment; False if the run ends or hangs before it comes."""
        deadline = time.monotonic() + patience
        while not moment():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.003)
        return True

    def children(self) -> list[int]:
        """The processes that the first one has started, oldest first, without Python's resource tracker."""
        own = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        pids = [int(word) for word in Path(own).read_text().split()]
        return [pid for pid in pids if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def members(self) -> list[int]:
        """All processes of the group that are not zombies."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[2]) == self.process.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def saved(self) -> int:
        """Iterations in the newest checkpoint."""
        try:
            name = (self.folder / "last_checkpoint").read_text().strip()
        except OSError:
            return 0
        return STEPS if name == "model_final.pth" else int(name[len("model_") : -len(".pth")]) + 1

    def log(self) -> str:
        try:
            return (self.folder / "log.txt").read_text()
        except OSError:
            return ""

    def shown(self) -> str:
        return self.console.read_text(errors="replace")

    def error(self) -> str:
        """The line that says why the run ended."""
        lines = [line for line in self.shown().splitlines() if line.startswith("error: ")]
        return lines[0] if len(lines) == 1 else ""

    def evaluations(self) -> list[tuple[int, float | None]]:
        """(iteration, box AP) of all in metrics.json."""
        lines = [json.loads(line) for line in (self.folder / "metrics.json").read_text().splitlines()]
        return [(line["iteration"], line["bbox/AP"]) for line in lines if "bbox/AP" in line]

    def differences(self, whole: "Run") -> list[str]:
        """Lists the differences to an uninterrupted run, bit for bit: weights, optimizer, evaluations."""
        found = []
        if not (self.folder / "model_final.pth").is_file():
            return ["not finished"]
        one, other = (torch.load(run.folder / "model_final.pth", weights_only=True) for run in (self, whole))
        if not _equal(one["model"], other["model"]):
            found.append("weights differ")
        if not _equal(_optimizer(one), _optimizer(other)):
            found.append("optimizer differs")
        if self.evaluations() != whole.evaluations():
            found.append(f"evaluations {self.evaluations()} instead of {whole.evaluations()}")
        return found


def _optimizer(checkpoint: dict) -> object:
    return checkpoint["trainer"]["_trainer"]["optimizer"]


def _equal(one: object, other: object) -> bool:
    """Bit-equality of nested values."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def write_data(folder: Path) -> None:
    """Noise with bright rectangles in COCO form, ``own.yaml`` that describes it, and the configuration."""
    sets = {}
    for split, count in (("train", TRAINING), ("val", TEST)):
        images, objects = [], []
        (folder / split).mkdir(parents=True)
        random = np.random.default_rng(count + len(split))
        for number in range(1, count + 1):
            pixels = random.integers(90, 110, (64, 96, 3), dtype=np.uint8)
            x, y = (int(value) for value in random.integers(4, 30, 2))
            pixels[y : y + 24, x : x + 40] = (220, 40, 40)
            Image.fromarray(pixels).save(folder / split / f"{number:03d}.jpg")
            images.append({"id": number, "file_name": f"{number:03d}.jpg", "height": 64, "width": 96})
            outline = [x, y, x + 40, y, x + 40, y + 24, x, y + 24]
            box = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 960}
            objects.append(box | {"bbox": [x, y, 40, 24], "segmentation": [outline]})
        content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "rectangle"}]}
        (folder / f"{split}.json").write_text(json.dumps(content))
        sets[f"faults_{split}"] = {"form": "coco", "json": f"{split}.json", "images": split}
    (folder / "own.yaml").write_text(yaml.safe_dump(sets))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
