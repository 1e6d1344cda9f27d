"""Checkpoints on either host: the same files, names, refusals and tables with Detectron2 and without it."""

import logging
import os
from typing import Any

from densekit.d2.checkpoint import DetectionCheckpointer
from densekit.ops.weights import LoadReport, adapt_names, read_checkpoint, write_checkpoint

# Below this share of the model, a weight file is taken for another architecture's. A backbone alone is well above it.
_MIN_COVERAGE = 0.1


class Checkpointer(DetectionCheckpointer):
    """The host's checkpointer, which refuses weights that hardly fit and writes files atomically.

    Training from scratch because a weight file did not fit, with no more than a warning in a long log, costs days;
    therefore it is an error here.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a weight file; an empty path loads nothing.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, needs code to load, or belongs to another architecture.
        """
        if path and not os.path.isfile(self.path_manager.get_local_path(path)):
            raise FileNotFoundError(
                f"MODEL.WEIGHTS {path!r} does not exist. Give the path of a .pth, .pkl or .safetensors file, or "
                "MODEL.WEIGHTS '' to start from random weights."
            )
        self._source = path
        return super().load(path, *args, **kwargs)

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``<save_dir>/<name>.pth``, then names it in ``last_checkpoint``."""
        if self.save_dir and self.save_to_disk:
            path = write_checkpoint(self.save_dir, name, self.model, self.checkpointables, kwargs)
            logging.getLogger(__name__).info(f"Saved checkpoint {path}")

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(f)
        weights = adapt_names(checkpoint, self.model.state_dict())
        # Names fit from here on; the host must not guess once more.
        rest = {key: value for key, value in checkpoint.items() if key not in ("matching_heuristics", "__author__")}
        return rest | {"model": weights}

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        report = self._report(incompatible)
        if report.coverage < _MIN_COVERAGE:
            raise ValueError(
                f"The weights in {self._source} belong to another architecture.\n{report.table()}\n"
                "Choose the configuration that they were trained with, or other MODEL.WEIGHTS; MODEL.WEIGHTS '' starts "
                "from random weights."
            )
        return incompatible

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        report = self._report(incompatible)
        logger = logging.getLogger(__name__)
        if report.clean:
            logger.info(f"All {report.total} entries of the model were loaded from {self._source}")
        else:
            logger.warning(f"{self._source}: {report.table()}")

    def _report(self, incompatible: Any) -> LoadReport:
        return LoadReport.of(
            self.model, incompatible.missing_keys, incompatible.unexpected_keys, incompatible.incorrect_shapes
        )
