"""Evaluations of a run by the metric that decides: the best one, the best few, and the number since the best."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from densekit.d2.config import CfgNode
from densekit.engine.errors import DataError

__all__ = ["Scores"]

LOSS = "validation_loss"


class Scores:
    """The values of one metric, by the iteration whose weights were evaluated.

    Args:
        metric: the name of a result, as ``metrics.json`` has it.
        mode: whether the ``"max"`` or the ``"min"`` is best; ``""``: the smallest of losses, the largest of others.

    Attributes:
        values: iteration -> value, in the order of the evaluations; None where it was not finite.
    """

    def __init__(self, metric: str, mode: str = "") -> None:
        if mode not in ("", "max", "min"):
            raise ValueError(f"TEST.BEST_MODE is {mode!r}; it can be 'max', 'min', or '' to go by the metric's name.")
        self.metric = metric
        self._sign = 1 if (mode or _natural_mode(metric)) == "max" else -1
        self.values: dict[int, float | None] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Scores | None":
        """Reads ``TEST.BEST_METRIC`` and ``BEST_MODE``; None where no metric is named.

        Raises:
            ValueError: No evaluation can give this metric, or a key needs one.
        """
        test, names = cfg.TEST, tuple(cfg.DATASETS.TEST)
        if test.EARLY_STOPPING < 0:
            raise ValueError(f"TEST.EARLY_STOPPING is {test.EARLY_STOPPING}; it counts evaluations, 0 being off.")
        if not test.BEST_METRIC:
            if test.EARLY_STOPPING:
                raise ValueError("TEST.EARLY_STOPPING needs a metric: set TEST.BEST_METRIC, such as bbox/AP.")
            return None
        if test.EARLY_STOPPING and not test.EVAL_PERIOD:
            raise ValueError("TEST.EARLY_STOPPING needs evaluations during the training: set TEST.EVAL_PERIOD.")
        metric = _short(test.BEST_METRIC, names)
        if not names:
            raise ValueError(f"TEST.BEST_METRIC {metric}: there is nothing to evaluate on; DATASETS.TEST is empty.")
        if not test.VALIDATION_LOSS and (metric.endswith(LOSS) or "validation/" in metric):
            raise ValueError(f"TEST.BEST_METRIC {metric} needs TEST.VALIDATION_LOSS True.")
        if len(names) > 1 and not metric.startswith(tuple(f"{name}/" for name in names)):
            raise ValueError(
                f"TEST.BEST_METRIC {metric}: with several data sets in DATASETS.TEST it begins with one of them, such "
                f"as {names[0]}/{metric}."
            )
        return cls(metric, test.BEST_MODE)

    def add(self, iteration: int, results: Mapping[str, float]) -> bool:
        """Notes an evaluation; those of later iterations, which a resumed run repeats, are forgotten.

        Args:
            iteration: whose weights were evaluated.
            results: name -> value; empty where there was nothing to judge.

        Returns:
            Whether it is the best so far. Of equal ones the first is.

        Raises:
            DataError: There is no result of that name.
        """
        if results and self.metric not in results:
            raise DataError(_unknown(self.metric, results))
        value = float(results.get(self.metric, math.nan))
        self.values = {key: old for key, old in self.values.items() if key < iteration}
        self.values[iteration] = value if math.isfinite(value) else None
        return self.best is not None and self.best[0] == iteration

    @property
    def best(self) -> tuple[int, float] | None:
        """(iteration, value) of the best one."""
        return next(iter(self._ranked()), None)

    def top(self, count: int) -> list[int]:
        """The iterations of the best ones, best first."""
        return [iteration for iteration, _ in self._ranked()[:count]]

    @property
    def since_best(self) -> int:
        """Number of evaluations since the best one."""
        best = self.best
        return sum(1 for iteration in self.values if best is None or iteration > best[0])

    def _ranked(self) -> list[tuple[int, float]]:
        finite = [(iteration, value) for iteration, value in self.values.items() if value is not None]
        return sorted(finite, key=lambda pair: (-self._sign * pair[1], pair[0]))

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "values": [[key, value] for key, value in self.values.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the values, unless they are of another metric."""
        if state.get("metric") == self.metric:
            self.values = {int(key): value for key, value in state["values"]}

    def complete(self, pairs: Iterable[Sequence[Any]], last: int) -> None:
        """Adds evaluations that ended after the checkpoint was written, as that at the end of a training.

        Args:
            pairs: iteration and value.
            last: the iteration of the checkpoint; what is later will be evaluated again.
        """
        self.values |= {int(key): value for key, value in pairs if key <= last and key not in self.values}
        self.values = dict(sorted(self.values.items()))


def _natural_mode(metric: str) -> str:
    words = metric.lower().rpartition("/")[2]
    return "min" if any(word in words for word in ("loss", "error")) else "max"


def _short(metric: str, names: Sequence[str]) -> str:
    """The name as results have it: they name the data set only where there are several."""
    return metric.removeprefix(f"{names[0]}/") if len(names) == 1 else metric


def _unknown(metric: str, results: Iterable[str]) -> str:
    return (
        f"TEST.BEST_METRIC {metric!r}: the evaluation gave no such result. There are: {', '.join(sorted(results))}. "
        "Set one of them and go on with --resume."
    )
