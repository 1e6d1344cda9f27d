"""What every checker of recorded outputs shares: a line for each case with its worst difference, and the exit code.

A system's checker, ``tests/projects/<system>/recorded.py``, has a function ``check(recorded, cases)`` and ends with
``main(check)``; the system's test calls :func:`assert_agrees` with the same function.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tolerances import PARITY

Check = Callable[[Mapping[str, Any], "Cases"], None]


class Cases:
    """Collects the cases of one file.

    Attributes:
        lines: one for each case, in the order of the checks.
        failures: those of them that are beyond their tolerance.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failures: list[str] = []

    def close(
        self, name: str, ours: Any, theirs: Any, *, atol: float = PARITY["atol"], rtol: float = PARITY["rtol"]
    ) -> None:
        """Compares numbers, tensors, or nested lists and dicts of them: |ours - theirs| <= atol + rtol |theirs|."""
        worst, excess = 0.0, 0.0
        for a, b in _pairs(name, ours, theirs):
            a, b = torch.as_tensor(a).detach().double(), torch.as_tensor(b).detach().double()
            if a.shape != b.shape:
                self._add(name, False, f"shape {tuple(a.shape)} instead of {tuple(b.shape)}")
                return
            if not a.numel():
                continue
            same = (a == b) | (a.isnan() & b.isnan())
            difference = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf)
            worst = max(worst, float(difference.max()))
            excess = max(excess, float((difference - torch.where(same, 0.0, atol + rtol * b.abs())).max()))
        self._add(name, excess <= 0, f"worst difference {worst:.3g}, tolerance {atol:g} + {rtol:g} |x|")

    def equal(self, name: str, ours: Any, theirs: Any) -> None:
        """Compares what has to be the same: numbers, shapes, names, indices."""
        same = torch.equal(ours, theirs) if isinstance(ours, Tensor) and isinstance(theirs, Tensor) else ours == theirs
        self._add(name, bool(same), "equal" if same else f"{_short(ours)} instead of {_short(theirs)}")

    def agreement(self, name: str, ours: Tensor, theirs: Tensor, least: float = 0.999) -> None:
        """Compares labels or masks by the fraction of equal entries."""
        if ours.shape != theirs.shape:
            self._add(name, False, f"shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
            return
        share = float((ours == theirs).double().mean()) if ours.numel() else 1.0
        self._add(name, share >= least, f"{share:.4%} equal, at least {least:.1%}")

    def not_checked(self, names: str | Iterable[str], reason: str) -> None:
        """Notes parts of a file that have no counterpart here, with the reason."""
        for name in [names] if isinstance(names, str) else names:
            self.lines.append(f"--    {name}: not checked, {reason}")

    def _add(self, name: str, passed: bool, detail: str) -> None:
        line = f"{'ok   ' if passed else 'FAIL '} {name}: {detail}"
        self.lines.append(line)
        if not passed:
            self.failures.append(line)


def assert_agrees(check: Check, path: Path) -> None:
    """Fails with the lines of the cases that are beyond their tolerance."""
    cases = run(check, path)
    assert not cases.failures, "\n".join(cases.failures)
    assert any(line.startswith("ok") for line in cases.lines), f"{path}: nothing was compared."


def run(check: Check, path: Path) -> Cases:
    """Checks one file."""
    cases = Cases()
    check(torch.load(path, map_location="cpu"), cases)
    return cases


def main(check: Check) -> None:
    """Checks the files of the command line, prints a line for each case, and exits with 1 if one has failed."""
    if len(sys.argv) < 2:
        sys.exit("Name the recorded files to check.")
    failed = False
    for path in map(Path, sys.argv[1:]):
        cases = run(check, path)
        print(f"{path}: {len(cases.lines)} cases, {len(cases.failures)} beyond their tolerance")
        print("\n".join(cases.lines))
        failed |= bool(cases.failures)
    sys.exit(int(failed))


def _pairs(name: str, ours: Any, theirs: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(theirs, Mapping):
        if set(ours) != set(theirs):
            raise KeyError(f"{name}: the names differ: {sorted(map(str, set(ours) ^ set(theirs)))[:10]}")
        for key, value in theirs.items():
            yield from _pairs(name, ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        if len(ours) != len(theirs):
            raise ValueError(f"{name}: {len(ours)} values instead of {len(theirs)}")
        for a, b in zip(ours, theirs):
            yield from _pairs(name, a, b)
    else:
        yield ours, theirs


def _short(value: Any) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= 200 else text[:200] + "..."
