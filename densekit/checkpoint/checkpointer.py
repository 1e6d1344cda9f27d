"""Checkpoints on either host: the same files, names, refusals and tables with Detectron2 and without it."""

import logging
import os
from typing import Any

from torch import nn

from densekit.checkpoint.folder import CheckpointFolder
from densekit.checkpoint.sources import local_weights
from densekit.d2.checkpoint import DetectionCheckpointer
from densekit.d2.utils import comm
from densekit.ops.sharded import has_parts, whole
from densekit.weights import LoadReport, adapt_names, pixels_of, read_checkpoint, write_checkpoint
from densekit.weights.pixels import Pixels


class Checkpointer(DetectionCheckpointer):
    """The host's checkpointer, which refuses weights that hardly fit, writes atomically and checks what it resumes.

    Training from scratch because a weight file did not fit, with no more than a warning in a long log, costs days;
    therefore it is an error here.

    Args:
        model: the model.
        save_dir: the folder for checkpoints.
        min_coverage: ``MODEL.WEIGHTS_MIN_COVERAGE``, the least share of its entries that a weight file must fill.
        others: the host's ``save_to_disk``, and objects with a state by the names that they have in the files.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, min_coverage: float = 0.1, **others: Any) -> None:
        super().__init__(model, save_dir, **others)
        self._min_coverage = min_coverage
        self.pixels: set[Pixels] = set()  # that the loaded weights were trained on, where their names tell

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Loads the newest checkpoint of the folder that is whole, if asked to resume and there is any; else ``path``.

        Returns:
            What the file holds beside the states of the model and of the checkpointables.

        Raises:
            ValueError: all checkpoints of the folder are damaged.
        """
        if resume and self.has_checkpoint():
            return self.load(self._newest_whole())
        return self.load(path, checkpointables=[])

    def has_checkpoint(self) -> bool:
        """Tells whether rank 0 sees anything to resume, whole or not; to be called in all processes."""
        found = comm.is_main_process() and bool(CheckpointFolder(self.save_dir).newest_first())
        return comm.all_gather(found)[0]

    def _newest_whole(self) -> str:
        """The same file in all processes, chosen by the first one."""
        chosen, problems = "", []
        if comm.is_main_process():
            folder = CheckpointFolder(self.save_dir)
            for file in folder.newest_first():
                if (problem := folder.problem(file)) is None:
                    chosen = str(file)
                    break
                problems.append(f"{file}: {problem}")
        chosen, problems = comm.all_gather((chosen, problems))[0]
        if not chosen:
            raise ValueError(
                f"No checkpoint in {self.save_dir} can be resumed: {'; '.join(problems) or 'there is none'}. Restore "
                "one of them, or start anew without --resume."
            )
        for problem in problems:
            logging.getLogger(__name__).warning(f"The checkpoint {problem}; an older one is taken.")
        return chosen

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a weight file; an empty path loads nothing. To be called in all processes.

        Raises:
            FileNotFoundError: there is no such file, or not every process sees it.
            ValueError: the file is damaged, needs code to load, or belongs to another architecture.
        """
        self.source, path = path, local_weights(path) if path else ""
        sees_it = comm.all_gather(not path or os.path.isfile(path))
        if any(sees_it) and not all(sees_it):
            blind = ", ".join(str(rank) for rank, sees in enumerate(sees_it) if not sees)
            raise FileNotFoundError(
                f"{path} does not exist for the processes {blind}: every machine needs the file under this path, and "
                "one that resumes an OUTPUT_DIR that all of them share."
            )
        if not all(sees_it):
            raise FileNotFoundError(
                f"MODEL.WEIGHTS {path!r} does not exist. Give the path of a .pth, .pkl or .safetensors file, or "
                "MODEL.WEIGHTS '' to start from random weights."
            )
        return super().load(path, *args, **kwargs)

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``<save_dir>/<name>.pth`` and its sum, then names it in ``last_checkpoint``.

        The first process writes; where the model is sharded, all have to call this, for the file holds whole tensors.
        """
        if path := self._write(name, {"model": self.model, **self.checkpointables}, kwargs):
            # Last: what it names has a sum, whenever the process is killed.
            CheckpointFolder(self.save_dir).name_newest(f"{name}.pth")
            logging.getLogger(__name__).info(f"Saved checkpoint {path}")

    def save_weights(self, name: str, **facts: Any) -> None:
        """Writes the model alone, with some facts, as ``<save_dir>/<name>.pth``; it is not what a run resumes from.

        To be called like :meth:`save`.
        """
        self._write(name, {"model": self.model}, facts)

    def _write(self, name: str, parts: dict[str, Any], extra: dict[str, Any]) -> str:
        writes, is_sharded = bool(self.save_dir and self.save_to_disk), has_parts(self.model)
        if not (writes or is_sharded):
            return ""
        states = {key: part.state_dict() for key, part in parts.items()}
        if is_sharded:
            states = whole(states, keep=writes)
        if not writes:
            return ""
        folder = CheckpointFolder(self.save_dir)
        folder.begin(f"{name}.pth")
        path = write_checkpoint(self.save_dir, name, states | extra, newest=False)
        folder.finish(f"{name}.pth")
        return path

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(f)
        self.pixels = pixels_of(checkpoint)
        weights = adapt_names(checkpoint, self.model.state_dict())
        for name, module in self.model.named_modules():
            if fit := getattr(module, "fit_weights", None):  # tables of another window, positions of another image
                fit(weights, f"{name}." if name else "")
        # Names fit from here on; the host must not guess once more.
        rest = {key: value for key, value in checkpoint.items() if key not in ("matching_heuristics", "__author__")}
        return rest | {"model": weights}

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        report = self._report(incompatible)
        if report.coverage < self._min_coverage:
            raise ValueError(
                f"The weights in {self.source} belong to another architecture: they fill {report.coverage:.1%} of the "
                f"model, and MODEL.WEIGHTS_MIN_COVERAGE is {self._min_coverage:.1%}.\n{report.table()}\n"
                "Choose the configuration that they were trained with, or other MODEL.WEIGHTS; MODEL.WEIGHTS '' starts "
                "from random weights, and MODEL.WEIGHTS_MIN_COVERAGE 0.0 takes what fits, however little."
            )
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        report = self._report(incompatible)
        logger = logging.getLogger(__name__)
        if report.clean:
            logger.info(f"All {report.total} entries of the model were loaded from {self.source}")
        else:
            logger.warning(f"{self.source}: {report.table()}")

    def _report(self, incompatible: Any) -> LoadReport:
        return LoadReport.of(
            self.model, incompatible.missing_keys, incompatible.unexpected_keys, incompatible.incorrect_shapes
        )
