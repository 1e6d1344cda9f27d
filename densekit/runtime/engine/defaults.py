"""The usual set-up of a run, its writers, and a predictor for single images."""

import os
import platform
import sys
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densekit.files.atomic import atomic_write
from densekit.runtime.checkpoint import DetectionCheckpointer
from densekit.runtime.config import CfgNode
from densekit.runtime.data import MetadataCatalog
from densekit.runtime.data import transforms as T
from densekit.runtime.modeling import build_model
from densekit.runtime.utils import comm
from densekit.runtime.utils.env import seed_all_rng
from densekit.runtime.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from densekit.runtime.utils.file_io import PathManager
from densekit.runtime.utils.logger import setup_logger


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wraps the model for training in several processes; with one process it is returned as it is.

    Args:
        model: on its device already.
        fp16_compression: whether gradients travel in half precision.
        kwargs: arguments of DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    kwargs.setdefault("device_ids", [comm.get_local_rank()] if on_gpu else None)
    replicas = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        replicas.register_comm_hook(state=None, hook=fp16_compress_hook)
    return replicas


def default_setup(cfg: CfgNode, args: Any) -> None:
    """Starts the log, writes down the environment and the configuration, and seeds this process.

    Args:
        cfg: the whole configuration; ``OUTPUT_DIR`` receives ``log.txt`` and ``config.yaml``.
        args: the command line; ``config_file`` and ``eval_only`` are looked at.
    """
    rank, output_dir = comm.get_rank(), cfg.OUTPUT_DIR
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    # Pages of text go to the log file alone: on the screen they would bury what a user has to see.
    logger.debug(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.debug("Environment info:\n" + _environment())
    logger.debug(f"Command line arguments: {args}")
    if config_file := getattr(args, "config_file", ""):
        with PathManager.open(config_file, "r") as file:
            logger.debug(f"Contents of {config_file}:\n{file.read()}")
    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        with atomic_write(path) as file:
            file.write(cfg.dump())
        logger.info(f"Full config saved to {path}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    # Searching for the fastest kernels pays off over many equal steps, not over one pass of mixed sizes.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"


def _environment() -> str:
    """Versions and devices, one per line."""
    cuda = torch.cuda.is_available()
    facts = {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "cpu threads": torch.get_num_threads(),
        "gpus": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) if cuda else "none",
        "cuda": torch.version.cuda if cuda else "not available",
    }
    return "\n".join(f"  {name:<12} {value}" for name, value in facts.items())


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """The terminal, ``metrics.json`` and TensorBoard."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultPredictor:
    """One image in, the predictions for it out: loads ``MODEL.WEIGHTS``, resizes, runs.

    Attributes:
        metadata: of the first data set in ``DATASETS.TEST``, if there is one.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        size = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        if self.input_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT {self.input_format!r} is neither RGB nor BGR.")

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Returns what the model says about one image.

        Args:
            original_image: (H, W, 3), BGR, 0 to 255, whatever order the model wants.
        """
        height, width = original_image.shape[:2]
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        resized = self.aug.get_transform(original_image).apply_image(original_image)
        image = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))  # (3, H', W')
        return self.model([{"image": image, "height": height, "width": width}])[0]
