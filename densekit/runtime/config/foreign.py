"""Detectron2's keys for parts that the runtime does not have.

They are in every config, so that users' code may read them, and keep their default: a run must not quietly leave out
what its config asks for.
"""

from collections.abc import Mapping
from typing import Any

FOREIGN_DEFAULTS: dict[str, Any] = {
    "GLOBAL.HACK": 1.0,
    "MODEL.ANCHOR_GENERATOR.ANGLES": [[-90, 0, 90]],  # rotated boxes
    # Federated loss and sigmoid classification, for LVIS
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 50,
}


def check_foreign_keys(config: Mapping[str, Any]) -> None:
    """Refuses what the runtime cannot do; keys that are not there are no matter.

    Raises:
        ValueError: One of the keys above is not at its default.
    """
    for full_key, default in FOREIGN_DEFAULTS.items():
        value: Any = config
        for part in full_key.split("."):
            value = value.get(part, default) if isinstance(value, Mapping) else default
        if _as_lists(value) not in (default, _as_lists(default)):
            raise ValueError(
                f"{full_key} is {value!r}, and densekit's own runtime does not have that part. Leave the key out, "
                "or run on Detectron2 (DENSEKIT_HOST=detectron2)."
            )


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value
