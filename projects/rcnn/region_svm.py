"""Linear support vector machines of R-CNN (arXiv 1311.2524, section 2.3 and appendix B), with hard negatives.

P, N: positive and negative regions, D: features. scikit-learn's LinearSVC has no warm start, so that each refit begins
anew; the problem is convex, and the solution the same.
"""

import logging
import warnings
from dataclasses import dataclass

import numpy as np

from densekit.ops.packages import MissingPackageError

__all__ = ["HardNegativeMiner", "SVMSettings", "check_scikit_learn", "fit_svm"]

logger = logging.getLogger(__name__)

_HARD, _EASY = -1.0001, -1.2  # scores above which a negative is taken, and below which it is dropped again


@dataclass(frozen=True)
class SVMSettings:
    """The objective and the rhythm of the mining.

    Attributes:
        cost: C, the weight of the hinge losses.
        positive_weight: what a positive's loss counts, a negative's being 1.
        bias_multiplier: B; the bias is that of a constant feature B, so that the penalty on it is small.
        refit_after: new hard negatives after which the machine is fitted again.
    """

    cost: float = 1e-3
    positive_weight: float = 2.0
    bias_multiplier: float = 10.0
    refit_after: int = 2000


def check_scikit_learn() -> None:
    """Tells what to install, before a training that would want it at its end.

    Raises:
        MissingPackageError: scikit-learn is missing.
    """
    try:
        import sklearn.svm  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"R-CNN's SVMs are scikit-learn's: pip install 'densekit[rcnn]' ({error})."
        ) from error


def fit_svm(positives: np.ndarray, negatives: np.ndarray, settings: SVMSettings) -> tuple[np.ndarray, float]:
    """Minimises |w|^2 / 2 + (b / B)^2 / 2 + C (positive_weight sum_P hinge + sum_N hinge).

    Args:
        positives: (P, D).
        negatives: (N, D).
        settings: C, B and the weight of positives.

    Returns:
        w (D,) and b; a region is of the class where x w + b is large.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    machine = LinearSVC(
        C=settings.cost,
        loss="hinge",
        dual=True,
        intercept_scaling=settings.bias_multiplier,
        class_weight={1: settings.positive_weight, 0: 1.0},
        max_iter=20_000,
        random_state=0,
    )
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", ConvergenceWarning)
        machine.fit(np.concatenate([positives, negatives]).astype(np.float64), labels)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in heard):
        logger.warning(f"An SVM of {len(labels)} regions has not converged; it is taken as it is.")
    return machine.coef_[0], float(machine.intercept_[0])


class HardNegativeMiner:
    """Collects what a class's machine takes for the class, one picture after the other, and fits it again.

    All negatives are taken until the first fit. At each fit those are dropped that have become easy, so that no more
    than the hard ones are held.

    Args:
        positives: (P, D), at least one.
        settings: of the machine.
    """

    def __init__(self, positives: np.ndarray, settings: SVMSettings) -> None:
        self._positives, self._settings = positives, settings
        self._negatives: list[np.ndarray] = []
        self._new = 0
        self.machine: tuple[np.ndarray, float] | None = None

    def visit(self, negatives: np.ndarray) -> None:
        """Takes the hard ones of a picture's negatives (N, D)."""
        hard = negatives if self.machine is None else negatives[_scores(self.machine, negatives) > _HARD]
        if len(hard):
            self._negatives.append(hard)
            self._new += len(hard)
        if self._new >= self._settings.refit_after:
            self._fit()

    def finish(self) -> tuple[np.ndarray, float] | None:
        """Returns w (D,) and b; None where there was no negative."""
        if self._new:
            self._fit()
        return self.machine

    def _fit(self) -> None:
        negatives = np.concatenate(self._negatives)
        self.machine = fit_svm(self._positives, negatives, self._settings)
        self._negatives, self._new = [negatives[_scores(self.machine, negatives) >= _EASY]], 0


def _scores(machine: tuple[np.ndarray, float], features: np.ndarray) -> np.ndarray:
    weight, bias = machine
    return features @ weight + bias
