"""Label maps and panoptic maps as small pictures to lay over an image."""

import base64
import io

import numpy as np
from PIL import Image

__all__ = ["map_picture", "shrink_map"]

_MOST = 255  # colours of a palette, the last one for what is transparent
_VOID = 255


def shrink_map(ids: np.ndarray, longest: int) -> np.ndarray:
    """Returns (h, w) with a longer side of at most ``longest``, of the nearest pixels of (H, W)."""
    height, width = ids.shape
    scale = min(1.0, longest / max(height, width))
    rows = ((np.arange(round(height * scale)) + 0.5) / scale).astype(np.int64).clip(0, height - 1)
    columns = ((np.arange(round(width * scale)) + 0.5) / scale).astype(np.int64).clip(0, width - 1)
    return ids[rows][:, columns]


def map_picture(ids: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> str:
    """Draws a map as a PNG with a palette, with dark borders; what has no colour is transparent.

    Args:
        ids: (h, w) integers.
        colours: id -> RGB, 0 to 255.

    Returns:
        A data URI.
    """
    shown = sorted(set(np.unique(ids).tolist()) & colours.keys())[: _MOST - 1]
    indices = np.full(ids.shape, _VOID, dtype=np.uint8)
    palette = [(0, 0, 0)]
    for number, key in enumerate(shown, start=1):
        indices[ids == key] = number
        palette.append(colours[key])
    border = np.zeros(ids.shape, dtype=bool)
    border[:-1] |= ids[:-1] != ids[1:]
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    indices[border & (indices != _VOID)] = 0
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([channel for colour in palette for channel in colour] + [0] * 3 * (256 - len(palette)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=_VOID, optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
