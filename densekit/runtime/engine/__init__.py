"""Training: the loop, its hooks, the usual set-up and the start of several processes."""

from densekit.runtime.engine import hooks
from densekit.runtime.engine.defaults import (
    DefaultPredictor,
    create_ddp_model,
    default_setup,
    default_writers,
)
from densekit.runtime.engine.launch import DEFAULT_TIMEOUT, launch
from densekit.runtime.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from densekit.runtime.engine.trainer import DefaultTrainer
