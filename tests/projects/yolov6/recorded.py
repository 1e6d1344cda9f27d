"""Checks recorded outputs of the authors' YOLOv6: ``python -m tests.projects.yolov6.recorded FILE``.

Files of six layouts are told apart by their keys; sizes, widths and options are read from the file.
"""

from collections.abc import Mapping
from typing import Any

from tests.projects.yolov6 import (
    recorded_data,
    recorded_networks,
    recorded_ops,
    recorded_quantisation,
    recorded_training,
)
from tests.recorded_cases import Cases, main


def check(recorded: Mapping[str, Any], cases: Cases) -> None:
    """Checks one file of any layout."""
    for key, value in recorded.items():
        if key in ("about", "source", "nc"):
            continue
        for checkers in (
            recorded_networks.CHECKS,
            recorded_ops.CHECKS,
            recorded_data.CHECKS,
            recorded_training.CHECKS,
            recorded_quantisation.CHECKS,
        ):
            if key in checkers:
                checkers[key](value, cases, recorded)
                break
        else:
            if isinstance(value, Mapping) and "state_dict" in value and "cfg" in value:
                recorded_networks.check_network(key, value, cases, recorded)
            else:
                cases.not_checked(key, "there is no such part here")


if __name__ == "__main__":
    main(check)
