"""One run of the launcher, in each of its processes: train, or evaluate only."""

from argparse import Namespace
from typing import Any

from densekit.checkpoint import Checkpointer
from densekit.d2.config import CfgNode
from densekit.d2.evaluation import verify_results
from densekit.d2.utils import comm
from densekit.engine.errors import DataError, user_errors
from densekit.engine.setup import setup
from densekit.engine.trainer import Trainer


def run(args: Namespace) -> dict[str, Any] | None:
    """Does what the command line says.

    Returns:
        The evaluation results, on the main process.
    """
    with user_errors():
        cfg = setup(args)
        trainer = None if args.eval_only else Trainer(cfg)
        if trainer is None:
            model = _load(cfg, args.resume != "never")
        else:
            trainer.resume_or_load(resume=args.resume != "never", must=args.resume == "must")
    with user_errors((DataError,)):
        return _evaluate(cfg, model) if trainer is None else trainer.train()


def _load(cfg: CfgNode, resume: bool) -> Any:
    """The model with the weights to evaluate."""
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, min_coverage=cfg.MODEL.WEIGHTS_MIN_COVERAGE)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ValueError(
            "--eval-only needs weights: add MODEL.WEIGHTS FILE, or --resume to take the last checkpoint in OUTPUT_DIR "
            f"{cfg.OUTPUT_DIR!r} (there {'is one' if checkpointer.has_checkpoint() else 'is none yet'})."
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model


def _evaluate(cfg: CfgNode, model: Any) -> dict[str, Any] | None:
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_TTA(cfg, model))
    if not comm.is_main_process():
        return None
    verify_results(cfg, results)
    return results
