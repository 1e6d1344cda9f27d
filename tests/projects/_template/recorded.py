"""Checks recorded outputs of the template's layers: ``python -m tests.projects._template.recorded FILE``.

A file holds ``pooled_mlp``, a list of cases with ``state_dict``, ``input`` and ``output``; all sizes are read from it.
"""

from collections.abc import Mapping
from typing import Any

from densekit.projects._template.pooled_mlp import PooledMLP
from tests.recorded_cases import Cases, main


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    for number, case in enumerate(recorded["pooled_mlp"]):
        hidden, channels = case["state_dict"]["fc1.weight"].shape
        mlp = PooledMLP(in_channels=channels, hidden_dim=hidden)
        mlp.load_state_dict(case["state_dict"])
        cases.close(f"pooled_mlp {number}", mlp(case["input"]), case["output"])
    cases.not_checked(sorted(set(recorded) - {"pooled_mlp"}), "no part of the template")


if __name__ == "__main__":
    main(check)
