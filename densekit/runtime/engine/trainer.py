"""The trainer that a configuration describes in full."""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from densekit.ops.replicas import own_buffers
from densekit.runtime.checkpoint import DetectionCheckpointer
from densekit.runtime.config import CfgNode
from densekit.runtime.data import build_detection_test_loader, build_detection_train_loader
from densekit.runtime.engine import hooks
from densekit.runtime.engine.defaults import create_ddp_model, default_writers
from densekit.runtime.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from densekit.runtime.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from densekit.runtime.modeling import build_model
from densekit.runtime.solver import build_lr_scheduler, build_optimizer
from densekit.runtime.utils import comm
from densekit.runtime.utils.events import EventWriter
from densekit.runtime.utils.logger import setup_logger


class DefaultTrainer(TrainerBase):
    """Builds model, optimizer, data, schedule and hooks from a configuration; each by a method to override.

    Attributes:
        cfg: the configuration, scaled to the number of processes if it asks for that.
        scheduler: the learning rate schedule.
        checkpointer: saves and restores model and trainer.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        if not logging.getLogger("densekit").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        # The model draws its initial weights before the data loader draws its seed: this order is part of a run's seed.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, **own_buffers())
        loop = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer: SimpleTrainer = loop(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._last_eval_results: dict[str, Any] | None = None
        self.register_hooks(self.build_hooks())

    @property
    def model(self) -> nn.Module:
        return self._trainer.model

    @model.setter
    def model(self, value: nn.Module) -> None:
        self._trainer.model = value

    @property
    def data_loader(self) -> Iterable[Any]:
        return self._trainer.data_loader

    @data_loader.setter
    def data_loader(self, value: Iterable[Any]) -> None:
        self._trainer.data_loader = value

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._trainer.optimizer

    @optimizer.setter
    def optimizer(self, value: torch.optim.Optimizer) -> None:
        self._trainer.optimizer = value

    def resume_or_load(self, resume: bool = True) -> None:
        """Goes on from ``OUTPUT_DIR/last_checkpoint`` if asked to and it exists; else loads ``MODEL.WEIGHTS``.

        Resuming restores optimizer, schedule and hooks and starts after the iteration that was saved. Otherwise only
        weights are loaded and training starts at iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1

    def build_hooks(self) -> list[HookBase | None]:
        """Timer, schedule, exact batch statistics, checkpoints, evaluation, writers.

        Statistics come before the checkpoint that should hold them, the checkpoint before an evaluation that may fail,
        and the writers last, to write its results.
        """
        cfg = self.cfg
        main = comm.is_main_process()
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            self._precise_bn(),
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._test_and_remember),
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
        ]

    def _precise_bn(self) -> HookBase | None:
        if not (self.cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model)):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # a second set of loader processes is not worth its memory
        return hooks.PreciseBN(
            cfg.TEST.EVAL_PERIOD, self.model, self.build_train_loader(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
        )

    def _test_and_remember(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> dict[str, Any] | None:  # type: ignore[override]
        """Trains to ``SOLVER.MAX_ITER``.

        Returns:
            The last evaluation results, on the main process and if ``TEST.EXPECTED_RESULTS`` asks for a check of them.
        """
        super().train(self.start_iter, self.max_iter)
        if not (len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process()):
            return None
        if self._last_eval_results is None:
            raise RuntimeError("TEST.EXPECTED_RESULTS is set and training ended without an evaluation.")
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        logging.getLogger(__name__).debug(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Builds the evaluator of a data set; subclasses define it."""
        raise NotImplementedError(f"{cls.__name__} has no build_evaluator(cfg, dataset_name); define it to evaluate.")

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """Evaluates on every data set of ``DATASETS.TEST``.

        Args:
            cfg: the configuration.
            model: with the weights to evaluate.
            evaluators: one for each data set; by default :meth:`build_evaluator` makes them.

        Returns:
            data set -> results, or the results alone where there is one data set.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators is not None and len(evaluators) != len(names):
            raise ValueError(f"{len(evaluators)} evaluators for the {len(names)} data sets of DATASETS.TEST {names}.")
        results: OrderedDict[str, Any] = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = evaluators[index] if evaluators is not None else cls.build_evaluator(cfg, name)
            except NotImplementedError as error:
                logging.getLogger(__name__).warning(f"No evaluation on {name}: {error}")
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                logging.getLogger(__name__).info(f"Evaluation results for {name} in csv format:")
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """The configuration for another number of processes than ``SOLVER.REFERENCE_WORLD_SIZE``.

        Each process keeps its batch, so the whole batch and the learning rate grow with their number (Goyal et al.,
        "Accurate, Large Minibatch SGD", arXiv 1706.02677) and everything counted in iterations shrinks.

        Returns:
            A scaled copy, or ``cfg`` itself if the reference is 0 or equal.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if cfg.SOLVER.IMS_PER_BATCH % reference:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is not divisible by SOLVER.REFERENCE_WORLD_SIZE "
                f"{reference}."
            )
        factor = num_workers / reference
        scaled = cfg.clone()
        scaled.defrost()
        solver = scaled.SOLVER
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
        solver.BASE_LR = solver.BASE_LR * factor
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = round(solver[key] / factor)
        solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
        scaled.TEST.EVAL_PERIOD = round(scaled.TEST.EVAL_PERIOD / factor)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logging.getLogger(__name__).info(
            f"Scaled from {reference} to {num_workers} processes: IMS_PER_BATCH {solver.IMS_PER_BATCH}, BASE_LR "
            f"{solver.BASE_LR}, MAX_ITER {solver.MAX_ITER}, WARMUP_ITERS {solver.WARMUP_ITERS}"
        )
        if cfg.is_frozen():
            scaled.freeze()
        return scaled
