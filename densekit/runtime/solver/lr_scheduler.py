"""Learning-rate schedules by iteration.

A schedule is one function of the progress ``where`` in [0, 1] (fvcore's ``ParamScheduler``) whose value multiplies the
initial learning rate of every parameter group, so that the ratios between the groups never change.
"""

from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler


class WarmupParamScheduler(CompositeParamScheduler):
    """Another schedule, with a warm-up (arXiv 1706.02677) in place of its beginning."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """Composes the two.

        Args:
            scheduler: What follows the warm-up.
            warmup_factor: Where the warm-up starts, as a fraction of the schedule's first value.
            warmup_length: Its share of the whole run, in [0, 1].
            warmup_method: ``"linear"`` climbs to the schedule's value, ``"constant"`` stays at the start.
            rescale_interval: Squeeze the whole schedule into the rest of the run, instead of cutting off its beginning.

        Raises:
            ValueError: ``warmup_method`` is neither.
        """
        start = warmup_factor * scheduler(0.0)
        warmup: ParamScheduler
        if warmup_method == "linear":
            warmup = LinearParamScheduler(start, scheduler(0.0 if rescale_interval else warmup_length))
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"SOLVER.WARMUP_METHOD is {warmup_method!r}; it can be 'linear' or 'constant'.")
        rest = "rescaled" if rescale_interval else "fixed"
        super().__init__([warmup, scheduler], [warmup_length, 1.0 - warmup_length], ["rescaled", rest])


class LRMultiplier(LRScheduler):
    """Multiplies the initial learning rate of each parameter group by a schedule; ``step()`` once an iteration."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        """Sets the learning rates of the first iteration.

        Args:
            optimizer: Its groups' ``lr`` are the values that are multiplied.
            multiplier: The schedule.
            max_iter: Iterations of the whole run.
            last_iter: The last finished iteration; -1 for a new run.

        Raises:
            ValueError: ``multiplier`` is not an fvcore ``ParamScheduler``.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be an fvcore ParamScheduler, not {multiplier!r}.")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def get_lr(self) -> list[Any]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The place in the schedule; the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}
