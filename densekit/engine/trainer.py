"""The trainer of every system: the host's loop with densekit's data, optimizers, evaluators and writers."""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from densekit.checkpoint import Checkpointer
from densekit.d2.config import CfgNode
from densekit.d2.data import MetadataCatalog, build_detection_test_loader
from densekit.d2.engine import (
    DefaultTrainer,
    HookBase,
    TrainerBase,
)
from densekit.d2.engine.hooks import EvalHook, PeriodicCheckpointer
from densekit.d2.evaluation import DatasetEvaluator
from densekit.d2.modeling import GeneralizedRCNNWithTTA, PanopticFPN, SemanticSegmentor
from densekit.d2.utils import comm
from densekit.d2.utils.events import EventWriter, TensorboardXWriter
from densekit.data.loader import SeededSamples, build_train_loader, prepare_worker
from densekit.data.mapper import build_mapper
from densekit.data.order import TrainingOrder
from densekit.data.proposals import load_test_records
from densekit.deploy import inference_form
from densekit.engine.batches import RememberedBatches, deaths_of_workers_explained
from densekit.engine.best import Scores
from densekit.engine.black_box import BlackBox
from densekit.engine.disk import full_disk_explained
from densekit.engine.ema import WeightAverage, averaged, note_on_start
from densekit.engine.hooks import AverageHook, CheckpointHook, EarlyStop, EvaluationHook, ScheduleHook
from densekit.engine.launch.elastic import refuse_ambiguous_restarts
from densekit.engine.loss_normalizer import LossNormalizer, has_loss_normalizer
from densekit.engine.phases import LearningPhase, config_of_phase
from densekit.engine.precision import precision
from densekit.engine.prediction_pictures import IMAGES, PredictionPicturesHook
from densekit.engine.preemption import STOP, AgreedStop
from densekit.engine.randomness import set_random_state, undisturbed
from densekit.engine.run_folder import METRICS, RunFolder
from densekit.engine.schedule import EpochHook, Priorities, ProgressPrinter, in_iterations, training_plan
from densekit.engine.sharding import evaluation_model, prepare_optimizer, replica_of_phase, wrap_model
from densekit.engine.step import SettleHook, TrainingStep, listeners, tell
from densekit.engine.teacher import Teacher
from densekit.engine.trackers import build_trackers
from densekit.engine.training_pictures import FirstBatchHook
from densekit.engine.validation import config_for_validation, untouched, validation_losses
from densekit.engine.writers import Lazily, MetricsWriter, write_results
from densekit.evaluation import build_evaluator
from densekit.modeling.phases import Phase, phases_of
from densekit.modeling.semantic_inference import augmented_semantic_inference, semantic_inference
from densekit.solver import Clipping, build_lr_scheduler, build_optimizer

_WRITE_PERIOD = 20  # iterations between two lines of metrics, on both hosts


class Trainer(DefaultTrainer):
    """Trains and evaluates what a configuration describes.

    Beside the host's trainer: the mapper and the evaluator come from tables, every test set has its own folder, several
    processes run on the CPU too, and a loss that is not finite is reported with the images that caused it.
    """

    def __init__(self, cfg: CfgNode, given: Priorities | None = None) -> None:
        """Builds everything; ``given`` says which keys the user gave, which MAX_EPOCHS then leaves as they are."""
        # Not the host's constructor: Detectron2's wraps models on the CPU for one GPU per process, which fails.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        for module in model.modules():
            if isinstance(teacher := getattr(module, "teacher", None), Teacher):
                teacher.load()
        replicas = wrap_model(cfg, model, precision(cfg))
        phases = self.build_phases(cfg, replicas)
        loader = self.build_train_loader(cfg)
        order = getattr(loader, "batch_sampler", None)
        self._order = order if isinstance(order, TrainingOrder) else None
        self._epoch_size = None if self._order is None else self._order.epoch_size
        cfg = in_iterations(cfg, self._epoch_size, given or {})
        self._plan = training_plan(cfg, self._epoch_size)
        if isinstance(samples := getattr(loader, "dataset", None), SeededSamples):
            samples.plan = self._plan
        self._batches = RememberedBatches(loader, device=cfg.MODEL.DEVICE)
        self._trainer: TrainingStep = TrainingStep(
            replicas,
            self._batches,
            phases[0].optimizer,
            phases=phases,
            accumulate=_micro_batches(cfg),
            nan_skip=cfg.SOLVER.NAN_SKIP,
            on_bad_step=BlackBox(cfg.OUTPUT_DIR, model, self._order, cfg.SOLVER.ACCUMULATE, phases[:-1]),
            plan=self._plan,
        )
        self.scheduler, *others = (
            self.build_lr_scheduler(config_of_phase(cfg, phase.part), phase.optimizer) for phase in phases
        )
        self._schedules = {phase.name: schedule for phase, schedule in zip(phases[1:], others)}
        self.average = None
        states: dict[str, Any] = {"trainer": weakref.proxy(self)}
        if cfg.MODEL_EMA.ENABLED:
            left_out = [module for part in phases_of(model) if not part.averaged for module in part.modules]
            states["ema"] = self.average = WeightAverage(model, cfg.MODEL_EMA.DECAY, left_out, ramp=cfg.MODEL_EMA.RAMP)
            if note := note_on_start(cfg.MODEL_EMA, cfg.SOLVER.MAX_ITER):
                logging.getLogger(__name__).warning(note)
        if has_loss_normalizer(model):
            states["loss_normalizer"] = LossNormalizer(model)
        self.checkpointer = Checkpointer(
            replicas, cfg.OUTPUT_DIR, min_coverage=cfg.MODEL.WEIGHTS_MIN_COVERAGE, **states
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._last_eval_results: dict[str, Any] | None = None
        self._folder = RunFolder(cfg.OUTPUT_DIR)
        self._scores = Scores.from_config(cfg)
        self._evaluation = EvaluationHook(cfg.TEST.EVAL_PERIOD, self._folder, self._scores, cfg.TEST.EARLY_STOPPING)
        self._resumed: dict[str, Any] | None = None
        self._writers: list[EventWriter] = []
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_phases(cls, cfg: CfgNode, model: nn.Module) -> list[LearningPhase]:
        """The phases of the step with their optimizers; one for an ordinary model.

        Args:
            cfg: the config.
            model: that is wrapped for its process, unless it has phases.
        """
        inner = getattr(model, "module", model)
        phases = []
        parts: list[Phase | None] = [*phases_of(inner)]
        for part in parts or [None]:
            own = config_of_phase(cfg, part)
            if part is None:
                optimizer, forward = cls.build_optimizer(own, inner), model
            else:
                optimizer = build_optimizer(own, inner, part.parameters())
                forward = replica_of_phase(cfg, inner, part)
            prepare_optimizer(optimizer, inner)
            phases.append(
                LearningPhase(
                    forward,
                    optimizer,
                    part,
                    precision=precision(cfg),
                    clipping=Clipping.from_config(own),
                    shares=cfg.SOLVER.NAN_SKIP > 0,
                )
            )
        return phases

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of all phases; the first is ``optimizer``."""
        return [phase.optimizer for phase in self._trainer.phases]

    def after_epoch(self, epoch: int) -> None:
        """Calls the method ``after_epoch(epoch)`` of those hooks that have one; epochs count from 0."""
        for hook in self._hooks:
            if after_epoch := getattr(hook, "after_epoch", None):
                after_epoch(epoch)

    def resume_or_load(self, resume: bool = True, *, must: bool = False) -> None:
        """Goes on from the last checkpoint in ``OUTPUT_DIR`` if asked to, else loads ``MODEL.WEIGHTS``; says which.

        A resumed run sees the images and draws the random numbers that the interrupted one would have.

        Args:
            resume: Whether to look for a checkpoint.
            must: Whether it is an error if there is none.

        Raises:
            ValueError: There is none, or all are damaged.
        """
        logger = logging.getLogger(__name__)
        found = self.checkpointer.has_checkpoint()
        if must and not found:
            raise ValueError(f"--resume must: there is no checkpoint in OUTPUT_DIR {self.cfg.OUTPUT_DIR!r}.")
        if resume and not found:
            logger.warning(f"--resume: there is no checkpoint in {self.cfg.OUTPUT_DIR}; training starts at 0.")
        if not resume and found:
            refuse_ambiguous_restarts(self.cfg.OUTPUT_DIR)
            logger.warning(f"{self.cfg.OUTPUT_DIR} holds a checkpoint; without --resume training starts anew over it.")
        kept = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if self.average is not None and not self.average.loaded:
            if resume and found:
                logger.warning(f"{self.checkpointer.source} has no average of the weights: it begins with them.")
            self.average.restart()
        if self.average is None and kept.get("ema"):
            which = "average" if kept["ema"]["exchanged"] else "weights"
            logger.warning(
                f"{self.checkpointer.source} holds weights and their average; with MODEL_EMA.ENABLED False the "
                f"training goes on with the {which} alone."
            )
        if not (resume and found):
            return
        self.start_iter = self.iter + 1
        logger.info(
            f"Resumed from {self.checkpointer.source}: {self.start_iter} of {self.max_iter} iterations are done."
        )
        self._evaluation.is_overdue = bool(kept.get("evaluation_due"))
        self._resumed = {"run_id": kept.get("run_id"), "evaluated": "model_final" in self.checkpointer.source}
        if self._order is not None:
            self._order.start = self.start_iter
            if kept.get("data_seed") is not None:  # checkpoints of other programs have none
                self._order.seed = kept["data_seed"]
        states = kept.get("random_states") or []
        if len(states) == comm.get_world_size():
            set_random_state(states[comm.get_rank()])
        else:
            logger.warning(
                f"The checkpoint holds the random states of {len(states)} processes, and this run has "
                f"{comm.get_world_size()}: it goes on with the next images, but with other random numbers."
            )

    def train(self) -> dict[str, Any] | None:  # type: ignore[override]
        """Trains to ``SOLVER.MAX_ITER``.

        Returns:
            The last evaluation results, on the main process.
        """
        with STOP, deaths_of_workers_explained(), full_disk_explained(self.cfg.OUTPUT_DIR):
            if comm.is_main_process():
                self._begin()
            try:
                super().train()
            except EarlyStop:
                comm.synchronize()
            except AgreedStop:
                comm.synchronize()  # whoever starts processes ends them all as soon as the first one ends
                raise
        return self._last_eval_results if comm.is_main_process() else None

    def _begin(self) -> None:
        """Takes the run's folder over from the run before, or from this run before it was interrupted."""
        if self._resumed is None:
            self._folder.begin()
            return
        self._folder.go_on(start=self.start_iter, **self._resumed)
        noted = self._folder.facts.get("scores") or {}
        if self._scores is not None and noted.get("metric") == self._scores.metric:
            self._scores.complete(noted["values"], self.start_iter - 1)

    def build_hooks(self) -> list[HookBase | None]:
        """The host's hooks with a checkpointer and evaluations that lose nothing when the run is stopped."""
        cfg = self.cfg
        ours = CheckpointHook(
            self.checkpointer,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            cfg.TEST.EVAL_PERIOD,
            self._order,
            cfg.SOLVER.CHECKPOINT_KEEP,
            folder=self._folder,
            average=self.average,
            scores=self._scores,
            keep_best=cfg.SOLVER.CHECKPOINT_KEEP_BEST,
        )
        self._evaluation.checkpoints = ours
        settle = SettleHook(_WRITE_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)
        hooks: list[HookBase | None] = [AverageHook(self.average)] if self.average is not None else []
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        hooks.append(FirstBatchHook(self._batches, metadata, cfg.INPUT.FORMAT, cfg.OUTPUT_DIR))
        if cfg.TEST.PICTURES_PERIOD and cfg.DATASETS.TEST:
            hooks.append(
                PredictionPicturesHook(
                    cfg.TEST.PICTURES_PERIOD,
                    self._watched_images,
                    self._model_as_evaluated,
                    MetadataCatalog.get(cfg.DATASETS.TEST[0]),
                    cfg.OUTPUT_DIR,
                )
            )
        if self._epoch_size:
            hooks.append(EpochHook(cfg.SOLVER.IMS_PER_BATCH, self._epoch_size))
        if self._schedules:
            hooks.append(ScheduleHook(self._schedules))
        for module in getattr(self.model, "module", self.model).modules():
            if training_hooks := getattr(module, "training_hooks", None):
                hooks += training_hooks()
        for hook in super().build_hooks():
            if isinstance(hook, EvalHook):
                hooks += [settle, ours, self._evaluation]
            elif not isinstance(hook, PeriodicCheckpointer):
                hooks.append(hook)
        return hooks

    def _watched_images(self) -> list[dict[str, Any]]:
        mapper = build_mapper(self.cfg, is_train=False)
        return [mapper(record) for record in load_test_records(self.cfg, self.cfg.DATASETS.TEST[0])[:IMAGES]]

    @contextmanager
    def _model_as_evaluated(self) -> Iterator[nn.Module]:
        """Gives the model of an evaluation, and leaves the training as it was."""
        with averaged(self.average), undisturbed():
            model = evaluation_model(self.cfg, getattr(self.model, "module", self.model))
            with untouched(model):
                yield model.eval()

    def evaluate(self) -> dict[str, Any]:
        """Returns the results on ``DATASETS.TEST``."""
        with averaged(self.average):
            self._last_eval_results = self.test(self.cfg, evaluation_model(self.cfg, self.model))
        return self._last_eval_results

    def evaluate_augmented(self) -> dict[str, Any]:
        """Returns those with test-time augmentation if ``TEST.AUG.ENABLED`` asks for them; once, as a training ends."""
        if not self.cfg.TEST.AUG.ENABLED:
            return {}
        with averaged(self.average):
            results = self.test_with_TTA(self.cfg, evaluation_model(self.cfg, self.model))
        self._last_eval_results = {**(self._last_eval_results or {}), **results}
        return results

    def validation_losses(self) -> dict[str, float]:
        """Returns the training losses on ``DATASETS.TEST`` if ``TEST.VALIDATION_LOSS`` asks for them."""
        if not self.cfg.TEST.VALIDATION_LOSS:
            return {}
        mapper = build_mapper(config_for_validation(self.cfg), is_train=True)
        with averaged(self.average):
            model = evaluation_model(self.cfg, getattr(self.model, "module", self.model))
            tell(listeners(model), self._plan.at(self.iter))
            return validation_losses(self.cfg, model, mapper, self.iter)

    def build_writers(self) -> list[EventWriter]:
        """A line of progress with the time that remains, ``metrics.json``, TensorBoard, and what ``WRITERS`` names."""
        folder = self.cfg.OUTPUT_DIR
        os.makedirs(folder, exist_ok=True)
        me = weakref.proxy(self)  # the writers outlive no trainer
        path = os.path.join(folder, METRICS)
        self._writers = [
            Lazily(lambda: MetricsWriter(path, me._folder.id)),
            # Hides what an earlier run in this folder, or this one before it was killed, had written from here on.
            Lazily(lambda: TensorboardXWriter(folder, purge_step=me.start_iter)),
        ]
        self._writers += build_trackers(self.cfg, self._folder)
        return [ProgressPrinter(self.max_iter), *self._writers]

    def write_metrics(self) -> None:
        """Writes what is new now, for an evaluation may be all that happens before the next one or a kill."""
        for writer in self._writers:
            writer.write()

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """The host's scaling to the processes, with REFERENCE_BATCH_SIZE, for the rate belongs to the new batch.

        A start from the configuration of such a run would scale the rate a second time otherwise.
        """
        scaled = DefaultTrainer.auto_scale_workers(cfg, num_workers)
        if scaled is not cfg and cfg.SOLVER.REFERENCE_BATCH_SIZE:
            scaled.defrost()
            scaled.SOLVER.REFERENCE_BATCH_SIZE = scaled.SOLVER.IMS_PER_BATCH
            if cfg.is_frozen():
                scaled.freeze()
        return scaled

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """The loader of ``DATASETS.TRAIN`` with the mapper that ``INPUT.MAPPER`` names."""
        return build_train_loader(cfg, build_mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        records, mapper = load_test_records(cfg, dataset_name), build_mapper(cfg, is_train=False)
        loader = build_detection_test_loader(records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
        loader.worker_init_fn = prepare_worker
        return RememberedBatches(loader, before_each=STOP.leave_if_received)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """The evaluator of the data set's type; its files go to ``OUTPUT_DIR/inference/<dataset_name>``."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Evaluates on every data set of ``DATASETS.TEST`` and writes ``OUTPUT_DIR/inference/results.json``.

        Returns:
            data set -> results, or the results alone where there is one data set.
        """
        _share_buffers(model)
        with undisturbed():
            results = super().test(cfg, semantic_inference(cfg, inference_form(cfg, model)), evaluators)
        if comm.is_main_process():
            named = results if len(cfg.DATASETS.TEST) > 1 else dict.fromkeys(cfg.DATASETS.TEST, results)
            write_results(os.path.join(cfg.OUTPUT_DIR, "inference", "results.json"), named)
        return results

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:  # noqa: N802 - the name users know
        """Evaluates with test-time augmentation, into ``OUTPUT_DIR/inference_TTA``; result names end in ``_TTA``."""
        logging.getLogger(__name__).info("Evaluating with test-time augmentation")
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, os.path.join(folder, name)) for name in cfg.DATASETS.TEST]
        inner = getattr(inference_form(cfg, model), "module", model)
        semantic = isinstance(inner, SemanticSegmentor | PanopticFPN)
        augmented = augmented_semantic_inference(cfg, inner) if semantic else GeneralizedRCNNWithTTA(cfg, inner)
        results = super().test(cfg, augmented, evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def _share_buffers(model: nn.Module) -> None:
    """Gives all processes the buffers of the first: each has its own running averages of BatchNorm.

    The checkpoint holds those of the first, and an evaluation is to judge one model, the one in the checkpoint.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _micro_batches(cfg: CfgNode) -> int:
    parts, images, processes = cfg.SOLVER.ACCUMULATE, cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if parts < 1 or images % (parts * processes):
        raise ValueError(
            f"SOLVER.ACCUMULATE {parts}: a step of SOLVER.IMS_PER_BATCH {images} images is cut into so many parts in "
            f"each of {processes} processes, and does not divide."
        )
    return parts
