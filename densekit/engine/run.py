"""One run of the launcher, in each of its processes: train, evaluate only, or run one step again."""

import logging
from argparse import Namespace
from typing import Any

from densekit.checkpoint import Checkpointer
from densekit.d2.config import CfgNode
from densekit.d2.evaluation import verify_results
from densekit.d2.utils import comm
from densekit.engine.disk import check_space, checkpoint_size
from densekit.engine.ema import use_average
from densekit.engine.errors import DataError, user_errors
from densekit.engine.replay import replay
from densekit.engine.run_folder import release
from densekit.engine.schedule import nearness
from densekit.engine.setup import setup, write_config
from densekit.engine.trainer import Trainer


def run(args: Namespace) -> dict[str, Any] | None:
    """Does what the command line says.

    Returns:
        The evaluation results, on the main process.
    """
    if args.replay:
        with user_errors():
            if not replay(args):
                raise SystemExit(1)
        return None
    try:
        with user_errors():
            cfg = setup(args)
            trainer = None if args.eval_only else Trainer(cfg, nearness(args.config_file, args.opts))
            if trainer is None:
                model = _load(cfg, args.resume != "never")
            else:
                if trainer.cfg is not cfg and comm.is_main_process():
                    write_config(trainer.cfg)  # with the iterations of its epochs, or scaled to the processes
                trainer.resume_or_load(resume=args.resume != "never", must=args.resume == "must")
                size = checkpoint_size(trainer.cfg, trainer.model, *trainer.optimizers)
                check_space(trainer.cfg, size, trainer.start_iter)
        with user_errors((DataError,)):
            return _evaluate(cfg, model) if trainer is None else trainer.train()
    finally:
        release()


def _load(cfg: CfgNode, resume: bool) -> Any:
    """The model with the weights to evaluate."""
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, min_coverage=cfg.MODEL.WEIGHTS_MIN_COVERAGE)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ValueError(
            "--eval-only needs weights: add MODEL.WEIGHTS FILE, or --resume to take the last checkpoint in OUTPUT_DIR "
            f"{cfg.OUTPUT_DIR!r} (there {'is one' if checkpointer.has_checkpoint() else 'is none yet'})."
        )
    kept = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if cfg.MODEL_EMA.ENABLED:
        found = use_average(model, kept)
        what = "the average of the weights" if found else "the weights as they are, for it has no average of them,"
        logging.getLogger(__name__).info(f"MODEL_EMA.ENABLED: {what} in {checkpointer.source} is evaluated.")
    return model


def _evaluate(cfg: CfgNode, model: Any) -> dict[str, Any] | None:
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    if not comm.is_main_process():
        return None
    verify_results(cfg, results)
    return results
