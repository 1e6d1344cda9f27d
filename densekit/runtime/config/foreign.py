"""Detectron2's keys for parts that the runtime does not have.

A config that Detectron2 saved holds all of its keys. These are taken in as long as they keep their default, and refused
otherwise: a run must not quietly leave out what its config asks for.
"""

from collections.abc import MutableMapping
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


def drop_foreign_keys(config: MutableMapping[str, Any], known: MutableMapping[str, Any], prefix: str = "") -> None:
    """Takes the keys above out of ``config``, where ``known`` does not have them (as a plug-in may add).

    Raises:
        ValueError: One of them is not at its default.
    """
    for key in list(config):
        value, full_key = config[key], prefix + key
        if isinstance(value, dict) and value:
            inner = known.get(key)
            drop_foreign_keys(value, inner if isinstance(inner, dict) else {}, full_key + ".")
            if not value and key not in known:
                del config[key]
        elif key not in known and full_key in FOREIGN_DEFAULTS:
            if _as_lists(value) != FOREIGN_DEFAULTS[full_key]:
                raise ValueError(
                    f"{full_key} is {value!r}, and densekit's own runtime does not have that part. Leave the key out, "
                    "or run on Detectron2 (DENSEKIT_HOST=detectron2)."
                )
            del config[key]


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value
