"""A training whose parameters may be spread over processes, for tests of sharding."""

import copy

import pytest
import torch

from densekit.config import default_config
from densekit.d2.utils.events import EventStorage
from densekit.engine.sharding import prepare_optimizer, wrap_model
from densekit.engine.step import TrainingStep
from densekit.ops.sharded import whole

shards_on_the_cpu = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason=f"torch {torch.__version__} shards models on GPUs only"
)


class Training:
    """A model with its optimizer, which takes a step on each call."""

    def __init__(self, net, sharded, blocks=(), rate=0.05):
        cfg = default_config()
        cfg.MODEL.SHARDING.ENABLED, cfg.MODEL.SHARDING.BLOCKS = sharded, list(blocks)
        self.model = wrap_model(cfg, net)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate)
        prepare_optimizer(self.optimizer, self.model)

    def __call__(self, batches):
        step = TrainingStep(self.model, [list(batch) for batch in batches], self.optimizer)
        with EventStorage(0):
            for step.iter in range(len(batches)):
                step.run_step()
        return self

    def state(self):
        return copy.deepcopy(whole({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}))

    def load(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return self
