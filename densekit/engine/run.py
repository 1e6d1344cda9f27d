"""One run of the launcher, in each of its processes: train, evaluate only, or run one step again."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from densekit.d2.config import CfgNode
from densekit.d2.evaluation import verify_results
from densekit.d2.utils import comm
from densekit.engine.disk import check_space, checkpoint_size
from densekit.engine.errors import DataError, user_errors
from densekit.engine.loading import build_with_weights, has_checkpoint
from densekit.engine.replay import replay
from densekit.engine.run_folder import release
from densekit.engine.schedule import priorities
from densekit.engine.setup import setup, write_config
from densekit.engine.trainer import Trainer
from densekit.run_options import RunOptions

_Shown = Callable[..., AbstractContextManager[None]]


def run(options: RunOptions) -> dict[str, Any] | None:
    """Does what the command line says; a mistake of the user ends the process with one line.

    Returns:
        The evaluation results, on the main process.
    """
    if not options.replay:
        return perform(options, user_errors)
    with user_errors():
        if not replay(options):
            raise SystemExit(1)
    return None


def perform(options: RunOptions, shown: _Shown = nullcontext) -> dict[str, Any] | None:
    """Trains, or evaluates only.

    Args:
        options: without ``replay``.
        shown: makes the context around set-up, and with the kinds of errors as argument that around the work; by
            default errors leave as they are.

    Returns:
        The evaluation results, on the main process.

    Raises:
        ValueError, FileNotFoundError, KeyError: set-up refuses the configuration, the data or the weights.
        DataError: an image cannot be used, a loss is not finite, or the disk is full.
    """
    try:
        with shown():
            cfg = setup(options)
            trainer = None if options.eval_only else _trainer(cfg, options)
            model = _model(cfg, options.resume != "never") if trainer is None else None
        with shown((DataError,)):
            return trainer.train() if trainer is not None else _evaluate(cfg, model)
    finally:
        release()


def _trainer(cfg: CfgNode, options: RunOptions) -> Trainer:
    """The trainer with its weights, which has room for its checkpoints."""
    trainer = Trainer(cfg, priorities(options.config_file, options.opts))
    if trainer.cfg is not cfg and comm.is_main_process():
        write_config(trainer.cfg)  # with the iterations of its epochs, or scaled to the processes
    trainer.resume_or_load(resume=options.resume != "never", must=options.resume == "must")
    size = checkpoint_size(trainer.cfg, trainer.model, *trainer.optimizers)
    check_space(trainer.cfg, size, trainer.start_iter)
    return trainer


def _model(cfg: CfgNode, resume: bool) -> nn.Module:
    """The model with the weights to evaluate."""
    if cfg.MODEL.EXPORTED:
        return build_with_weights(cfg)
    found = has_checkpoint(cfg)
    if not cfg.MODEL.WEIGHTS and not (resume and found):
        raise ValueError(
            "--eval-only needs weights: add MODEL.WEIGHTS FILE, or --resume to take the last checkpoint in OUTPUT_DIR "
            f"{cfg.OUTPUT_DIR!r} (there {'is one' if found else 'is none yet'})."
        )
    return build_with_weights(cfg, resume=resume)


def _evaluate(cfg: CfgNode, model: Any) -> dict[str, Any] | None:
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    if not comm.is_main_process():
        return None
    verify_results(cfg, results)
    return results
