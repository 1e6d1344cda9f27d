"""Training loop and set-up: the names that densekit uses of ``detectron2.engine``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.engine as host
else:
    import detectron2.engine as host

AMPTrainer = host.AMPTrainer
DefaultPredictor = host.DefaultPredictor
DefaultTrainer = host.DefaultTrainer
HookBase = host.HookBase
SimpleTrainer = host.SimpleTrainer
TrainerBase = host.TrainerBase
create_ddp_model = host.create_ddp_model
default_setup = host.default_setup
default_writers = host.default_writers
launch = host.launch
