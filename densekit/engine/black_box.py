"""Record of a step that was not finite, with all it takes to run that very step again.

``OUTPUT_DIR/black_box/iter_<iteration>/`` holds ``step.json`` (losses, gradient norms, learning rate, and for each
process the files of its images and the draws they came from), ``state.pth`` (the weights before the step and the random
states of all processes; of a step of several phases the optimizers of all but the last too) and ``replay.sh``. The
folder appears as a whole or not at all.
"""

import json
import logging
import math
import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densekit.d2 import HOST
from densekit.d2.utils import comm
from densekit.data.order import TrainingOrder
from densekit.engine.phases import LearningPhase
from densekit.engine.step_record import StepRecord
from densekit.ops.sharded import has_parts, whole
from densekit.weights import read_checkpoint

FOLDER, FACTS, STATE = "black_box", "step.json", "state.pth"
_MOST = 10  # folders; each holds a copy of the weights


class BlackBox:
    """Writes the folders of a run.

    Args:
        output_dir: of the run; ``config.yaml`` lies there.
        model: whose weights are kept; not wrapped.
        order: of the training images; None where the data set is a stream, whose images cannot be drawn again.
        micro_batches: into which a batch is cut.
        earlier: the phases of the step before its last one.
    """

    def __init__(
        self,
        output_dir: str,
        model: nn.Module,
        order: TrainingOrder | None,
        micro_batches: int,
        earlier: Sequence[LearningPhase] = (),
    ) -> None:
        self._output_dir, self._model, self._order = Path(output_dir), model, order
        self._micro_batches, self._earlier = micro_batches, earlier

    def __call__(self, record: StepRecord, alone: bool) -> str:
        """Leaves a folder for a step; to be called in all processes unless one is alone.

        Args:
            record: of the step.
            alone: whether this process is the only one that knows of it.

        Returns:
            What to tell the user.
        """
        draws = None if self._order is None else self._order.draws(record.iteration)
        mine = {"process": comm.get_rank(), "error": record.error, "files": record.files, "draws": draws}
        mine["state"] = record.random.state()
        processes = [mine] if alone else comm.gather(mine)
        if alone and has_parts(self._model):
            return ""  # the others, who hold the rest of the weights, will not send it
        writes = alone or comm.is_main_process()
        state = {"model": self._model.state_dict()}
        if self._earlier:
            state["phases"] = {phase.name: phase.state_dict() for phase in self._earlier}
        state = whole(state, keep=writes)
        if not writes:
            return ""
        several = comm.get_world_size() > 1
        name = f"iter_{record.iteration:07d}" + (f"_process_{comm.get_rank()}" if alone and several else "")
        errors = [f"Process {each['process']}: {each['error']}" for each in processes if each["error"]]
        said = [] if record.error else errors  # the step is told by the error of this process already
        return " ".join([*said, self._leave(self._output_dir / FOLDER / name, record, processes, state)])

    def _leave(self, folder: Path, record: StepRecord, processes: list[dict[str, Any]], state: dict) -> str:
        """Writes the folder if it can be; returns what to say of it."""
        try:
            if len(list(folder.parent.glob("iter_*"))) >= _MOST:
                return f"{folder.parent} holds {_MOST} such steps already, and this one is not added."
            self._write(folder, record, processes, state)
        except OSError as error:  # what is wrong with the disk must not hide what is wrong with the step
            logging.getLogger(__name__).warning(f"{folder} could not be written: {error}")
            return ""
        if self._order is None:
            return f"{folder} says what is known of it; the images of a stream cannot be drawn again."
        return f"To run the very step again and see where it goes wrong: sh {shlex.quote(str(folder / 'replay.sh'))}"

    def _write(self, folder: Path, record: StepRecord, processes: list[dict[str, Any]], state: dict) -> None:
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.part")
        partial.mkdir(parents=True)
        try:
            states = [process.pop("state") for process in processes]
            facts = asdict(record)
            for name in ("random", "files"):
                del facts[name]
            facts["error"] = next((process["error"] for process in processes if process["error"]), "")
            facts |= {"micro_batches": self._micro_batches, "processes": processes}
            text = json.dumps(_spelled(facts), indent=2, allow_nan=False)
            (partial / FACTS).write_text(text + "\n", encoding="utf-8")
            torch.save(state | {"random_states": states}, partial / STATE)
            (partial / "replay.sh").write_text(self._script(folder), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # of the same step in an earlier run
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _script(self, folder: Path) -> str:
        program = sys.argv[0] if os.path.basename(sys.argv[0]) == "train_net.py" else "train_net.py"
        environment = {"DENSEKIT_HOST": HOST}
        if "DETECTRON2_DATASETS" in os.environ:
            environment["DETECTRON2_DATASETS"] = os.environ["DETECTRON2_DATASETS"]
        config = os.path.abspath(self._output_dir / "config.yaml")
        command = [sys.executable, program, "--config-file", config, "--replay", os.path.abspath(folder)]
        lines = ["#!/bin/sh", "# Runs the step again and says where its first number is infinite or NaN."]
        lines += [f"cd {shlex.quote(os.getcwd())} || exit 2"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        return "\n".join([*lines, f'exec {shlex.join(command)} "$@"', ""])


def read_box(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what :class:`BlackBox` has written.

    Returns:
        The facts of ``step.json``, and of ``state.pth`` ``"model"``, ``"random_states"`` and, for several phases,
        ``"phases"``.

    Raises:
        ValueError: it is no such folder, or is damaged.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--replay {folder}: a folder OUTPUT_DIR/{FOLDER}/iter_<iteration> is needed ({error})."
        ) from error
    state = read_checkpoint(folder / STATE)
    if not isinstance(facts, dict) or len(state.get("random_states", ())) != len(facts.get("processes", ())):
        raise ValueError(f"--replay {folder}: {FACTS} and {STATE} do not belong together.")
    return facts, state


def _spelled(value: Any) -> Any:
    """The same nested value for strict JSON; numbers that are not finite become the words nan, inf and -inf."""
    if isinstance(value, dict):
        return {str(key): _spelled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
