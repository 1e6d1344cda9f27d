"""Shared parts of benchmarks: the clocks, random weights that act like trained ones, and a row of the results."""

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

# Standard deviations of the weights of layers that predict, by the end of their names.
_SPREADS = {
    "cls_score.weight": 0.12,
    "bbox_pred.weight": 0.02,
    "objectness_logits.weight": 0.02,
    "anchor_deltas.weight": 0.02,
}


def spent(action: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall and of the processor; the second hardly feels what else the machine is doing."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def resident_peak() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def sharpen(model: nn.Module, gains: Mapping[str, float]) -> None:
    """Random weights that act like trained ones: activations stay small and many detections pass the threshold.

    Args:
        model: a detector.
        gains: of its norms, by the end of their names.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in sorted(model.state_dict().items()):
            for ending, gain in gains.items():
                if name.endswith(ending):
                    value.fill_(gain)
            for ending, spread in _SPREADS.items():
                if name.endswith(ending):
                    value.normal_(0, spread, generator=generator)


def print_row(label: str, pairs: list[tuple[float, float]], width: int = 12) -> None:
    """Medians of both sides, and of the ratios of each pair."""
    ratios = [mine / theirs for mine, theirs in pairs]
    mine, theirs = (statistics.median(side) for side in zip(*pairs))
    spread = f"   ({min(ratios):.3f} to {max(ratios):.3f})" if len(pairs) > 1 else ""
    print(f"{label:22}{mine:{width}.3f}{theirs:{width}.3f}{statistics.median(ratios):9.3f}{spread}", flush=True)
