"""From the command line to a configuration that can run: everything that can be refused is refused here."""

import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version

import torch

import densekit
from densekit.config import describe_config, explicit_keys, load_config
from densekit.d2 import HOST
from densekit.d2.config import CfgNode
from densekit.d2.engine import default_setup
from densekit.d2.modeling import (
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    GeneralizedRCNN,
    SemanticSegmentor,
)
from densekit.d2.utils import comm
from densekit.d2.utils.logger import setup_logger
from densekit.data import check_datasets
from densekit.data.checks import check_chosen
from densekit.data.class_counts import STUFF, count_keys, set_class_counts
from densekit.data.identity import check_classes_of_weights, write_classes
from densekit.data.own.runs import keep_root
from densekit.data.pixel_counts import class_weights, pixel_counts
from densekit.data.registry import load_and_keep
from densekit.engine.own_data import register_own_data
from densekit.engine.precision import why_not_mixed
from densekit.engine.run_folder import claim
from densekit.engine.schedule import priorities, scale_learning_rate
from densekit.evaluation import check_evaluation
from densekit.files.atomic import atomic_write
from densekit.modeling.semantic_inference import check_semantic_inference
from densekit.modeling.semantic_losses import BY_FREQUENCY
from densekit.run_options import RunOptions


def read_config(options: RunOptions) -> tuple[CfgNode, list[str]]:
    """The configuration of a run, on a device that exists.

    Returns:
        The configuration, not frozen, and lines for the log on what was changed in it.

    Raises:
        FileNotFoundError, ValueError: from the configuration; or a GPU was asked for by name and there is none.
    """
    cfg = load_config(options.cfg if options.cfg is not None else options.config_file, options.opts)
    cfg.defrost()
    notes = []
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        if "MODEL.DEVICE" in options.opts[::2]:
            raise ValueError(
                f"MODEL.DEVICE {cfg.MODEL.DEVICE}: torch {torch.__version__} sees no CUDA device. Set MODEL.DEVICE "
                "cpu, or install a torch for this machine's driver."
            )
        cfg.MODEL.DEVICE = "cpu"
        notes.append("There is no CUDA device here: MODEL.DEVICE is cpu instead of cuda.")
    if cfg.SOLVER.AMP.ENABLED and (reason := why_not_mixed(cfg)):
        cfg.SOLVER.AMP.ENABLED = False
        notes.append(f"SOLVER.AMP.ENABLED is False: {reason}.")
    return cfg, notes


def prepare(options: RunOptions, *, writes: bool = True) -> tuple[CfgNode, list[str], list[str]]:
    """The configuration as the run has it: after the machine, the options and the data have had their say.

    Args:
        options: of the run.
        writes: whether the run's folder is made and gets its description of own data.

    Returns:
        The configuration, not frozen, lines for the log with what was given up or left out, and such with what was
        taken from the data.

    Raises:
        ValueError, FileNotFoundError, KeyError: with what is wrong and where.
    """
    cfg, warnings = read_config(options)
    if cfg.MODEL.EXPORTED and not options.eval_only:
        raise ValueError(f"MODEL.EXPORTED {cfg.MODEL.EXPORTED} cannot be trained; add --eval-only, or leave it out.")
    _check_augmented_test(cfg)
    check_semantic_inference(cfg, META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE))
    if writes:
        check_output_dir(cfg.OUTPUT_DIR)
        if comm.is_main_process():
            claim(cfg.OUTPUT_DIR)
    warnings += register_own_data(cfg, options, writes=writes)
    notes = _count_classes(cfg, options) + _weigh_classes(cfg, options)
    if not options.eval_only and (note := scale_learning_rate(cfg, priorities(options.config_file, options.opts))):
        notes.append(note)
    return cfg, warnings, notes


def describe(options: RunOptions, *, changed_only: bool) -> str:
    """Returns the text of ``--print-config`` and, with ``changed_only``, of ``--diff``; nothing is written.

    Raises:
        ValueError, FileNotFoundError: from the configuration, not from the data, which may be on another machine.
    """
    problem = ""
    try:
        cfg, warnings, notes = prepare(options, writes=False)
        notes = [*warnings, *notes]
    except (ValueError, KeyError, OSError) as error:
        cfg, notes = read_config(options)  # what is wrong with the configuration itself ends here
        problem = f"\n# A run would end with: {error}"
    flags = (("DATASETS.TRAIN", "train_data"), ("DATASETS.TEST", "val_data"), ("DATASETS.CATALOG", "datasets"))
    notes += [f"{key} by --{name.replace('_', '-')}" for key, name in flags if getattr(options, name)]
    if cfg.SOLVER.MAX_EPOCHS:
        problem += (
            f"\n# SOLVER.MAX_EPOCHS {cfg.SOLVER.MAX_EPOCHS:g} sets SOLVER.MAX_ITER and what goes with it when a "
            "run has counted its images; --dry-run shows it."
        )
    return describe_config(cfg, options.config_file, options.opts, notes, changed_only=changed_only) + problem


def setup(options: RunOptions) -> CfgNode:
    """Checks the configuration, the output folder and the data, then starts the log of the run.

    Returns:
        The frozen configuration; ``OUTPUT_DIR/config.yaml`` holds it too.

    Raises:
        ValueError, FileNotFoundError, KeyError: with what is wrong and where; nothing heavy has run by then.
    """
    cfg, warnings, notes = prepare(options)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="densekit")
    logger.info(versions())
    for note in warnings:
        logger.warning(note)
    for note in notes:
        logger.info(note)
    cfg.freeze()
    if not options.eval_only:
        _check_batch_norm(cfg)
    if comm.is_main_process():
        check_data(cfg, options)
    default_setup(cfg, options)
    if comm.is_main_process():
        write_config(cfg)
        keep_root(cfg.OUTPUT_DIR)
        if not options.eval_only:
            write_classes(cfg.OUTPUT_DIR, cfg.DATASETS.TRAIN[0])
    return cfg


def write_config(cfg: CfgNode) -> None:
    """Writes ``OUTPUT_DIR/config.yaml``, headed by the versions of what runs."""
    with atomic_write(os.path.join(cfg.OUTPUT_DIR, "config.yaml")) as file:
        file.write(f"# {versions()}\n{cfg.dump()}")


def check_data(cfg: CfgNode, options: RunOptions) -> None:
    """Looks through the data sets of the run, and whether the weights are of the same classes.

    Raises:
        ValueError, FileNotFoundError, KeyError: with what is wrong and where.
    """
    check_datasets(cfg, train=not options.eval_only, files=True)
    check_evaluation(cfg.DATASETS.TEST, cfg)
    _check_identity(cfg, options)


def _count_classes(cfg: CfgNode, options: RunOptions) -> list[str]:
    """Makes the model tell apart as many classes as the data has, in every process; returns lines for the log."""
    names = cfg.DATASETS.TEST if options.eval_only else cfg.DATASETS.TRAIN
    if not names:
        return []
    check_chosen(names[0])
    return set_class_counts(cfg, names[0], explicit_keys(options.config_file, options.opts))


def _weigh_classes(cfg: CfgNode, options: RunOptions) -> list[str]:
    """Puts numbers in the place of ``SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS ["frequency"]``; the first process counts."""
    node = cfg.MODEL.SEM_SEG_HEAD
    if list(node.LOSS.CLASS_WEIGHTS) != [BY_FREQUENCY]:
        return []
    if options.eval_only or not cfg.DATASETS.TRAIN:
        node.LOSS.CLASS_WEIGHTS = []
        return []
    weights: list[float] = []
    if comm.is_main_process():
        records = [record for name in cfg.DATASETS.TRAIN for record in load_and_keep(name)]
        weights = class_weights(pixel_counts(records, node.NUM_CLASSES))
    node.LOSS.CLASS_WEIGHTS = comm.all_gather(weights)[0]
    return [f"MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS from the training data: {node.LOSS.CLASS_WEIGHTS}"]


def _check_identity(cfg: CfgNode, options: RunOptions) -> None:
    """Weights that were trained on other classes would be judged by the wrong names."""
    resumes = options.resume != "never"
    if options.eval_only or resumes:
        folder = cfg.OUTPUT_DIR if resumes else os.path.dirname(cfg.MODEL.WEIGHTS)
        lists = tuple(name for name in count_keys(cfg).values() if name != "keypoint_names")
        check_classes_of_weights(cfg, lists, folder)


def _check_augmented_test(cfg: CfgNode) -> None:
    """Refuses what the evaluation at the end of the training could not do."""
    if not cfg.TEST.AUG.ENABLED:
        return
    obstacles = [f"MODEL.{key} True" for key in ("KEYPOINT_ON", "LOAD_PROPOSALS") if cfg.MODEL[key]]
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if not issubclass(model, (GeneralizedRCNN, SemanticSegmentor)):
        obstacles.append(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}")
    if obstacles:
        raise ValueError(
            f"TEST.AUG.ENABLED: test-time augmentation does not work with {' and '.join(obstacles)}. Set "
            "TEST.AUG.ENABLED False."
        )


def _check_batch_norm(cfg: CfgNode) -> None:
    """Refuses batch norm over single values, which torch meets in the first step: it has no variance.

    Heads say of themselves which norms those are (``norms_of_single_values``).
    """
    if STUFF not in count_keys(cfg).values() or cfg.MODEL.SEM_SEG_HEAD.NAME not in SEM_SEG_HEADS_REGISTRY:
        return
    head = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)
    norms: dict[str, str] = getattr(head, "norms_of_single_values", lambda cfg: {})(cfg)
    images = cfg.SOLVER.IMS_PER_BATCH // max(1, comm.get_world_size() * cfg.SOLVER.ACCUMULATE)
    for key, norm in norms.items():
        together = comm.get_world_size() if "Sync" in norm else 1
        single = images * together <= 1
        if norm.endswith(("BN", "BN_N")) and norm != "FrozenBN" and (single or cfg.TEST.VALIDATION_LOSS):
            why = (
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} leaves one image to a pass"
                if single
                else "TEST.VALIDATION_LOSS takes one image at a time"
            )
            raise ValueError(
                f"{key} is {norm} behind a map of 1 x 1, and {why}: there is one value of each channel, and no mean of "
                f"several. Set {key} GN, or more images (SOLVER.IMS_PER_BATCH, fewer parts by SOLVER.ACCUMULATE; "
                "SyncBN counts those of all processes), or TEST.VALIDATION_LOSS False where that is the reason."
            )


def versions() -> str:
    """One line on what runs: host, densekit, torch, Python."""
    host = "densekit's built-in runtime"
    if HOST == "detectron2":
        try:
            host = f"Detectron2 {version('detectron2')}"
        except PackageNotFoundError:
            host = "Detectron2"
    return (
        f"host: {host}, densekit {densekit.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )


def check_output_dir(folder: str) -> None:
    """Makes the folder and tries to write into it.

    Raises:
        ValueError: ``OUTPUT_DIR`` is empty or cannot be written.
    """
    if not folder:
        raise ValueError("OUTPUT_DIR is empty; give the folder for checkpoints and results.")
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))  # a full disk has room for names
    except OSError as error:
        raise ValueError(
            f"OUTPUT_DIR {folder!r} cannot be written ({error.strerror}). Choose another one: OUTPUT_DIR runs/mine"
        ) from error
