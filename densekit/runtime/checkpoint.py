"""Checkpoints: fvcore's checkpointer with the weight files and the parameter names that detection models come in."""

import logging
import os
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as PeriodicCheckpointer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densekit.runtime.utils import comm
from densekit.runtime.utils.file_io import PathManager
from densekit.weights import LoadReport, adapt_names, read_checkpoint, write_checkpoint


class DetectionCheckpointer(Checkpointer):
    """Loads and saves a model with what belongs to its training.

    Reads ``.pth``, ``.pkl`` (model zoos), ``.pyth`` and ``.safetensors``, with names of Detectron2, Caffe2 or
    torchvision; a file is read as data and never run. Files are written atomically, ``last_checkpoint`` last.

    Args:
        model: the model; a DistributedDataParallel wrapper is taken off for names and kept for synchronising.
        save_dir: the folder for checkpoints and ``last_checkpoint``.
        save_to_disk: whether this process writes; by default the main process does.
        checkpointables: objects with ``state_dict()`` and ``load_state_dict()``, saved under their keyword.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        writes = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=writes, **checkpointables)
        self.path_manager = PathManager
        self._replicas = model if isinstance(model, DistributedDataParallel) else None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads ``path`` and returns what in it belongs to no checkpointable; an empty path loads nothing.

        With several processes only the first needs to see the file: it then sends the weights to the others.

        Raises:
            FileNotFoundError: the (first) process does not see the file.
            ValueError: the file is damaged or is no weight file.
        """
        everywhere = True
        if path:
            path = self.path_manager.get_local_path(path)
            seen = comm.all_gather(os.path.isfile(path)) if self._replicas is not None else [os.path.isfile(path)]
            if not seen[0]:
                raise FileNotFoundError(f"Weight file {path} does not exist.")
            everywhere = all(seen)
            if not everywhere:
                self.logger.warning(f"Not every process sees {path}; weights are sent, the training state is not.")
                path = path if os.path.isfile(path) else ""
        extra = super().load(path, *args, **kwargs)
        if not everywhere:
            for tensor in self.model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)
        return extra

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``<save_dir>/<name>.pth``, then names it in ``last_checkpoint``."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in {"model": self.model, **self.checkpointables}.items()}
        path = write_checkpoint(self.save_dir, name, states | kwargs)
        self.logger.info(f"Saved checkpoint {path}")

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(f)
        return {**checkpoint, "model": adapt_names(checkpoint, self.model.state_dict())}

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        report = LoadReport.of(
            self.model, incompatible.missing_keys, incompatible.unexpected_keys, incompatible.incorrect_shapes
        )
        if not report.clean:
            logging.getLogger(__name__).warning(report.table())
