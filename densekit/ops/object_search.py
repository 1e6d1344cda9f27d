"""Boxes that may hold an object, found in the picture alone, by OpenCV's contributed modules.

- Selective search (Uijlings et al., IJCV 2013): a picture's segments are merged step by step; each is a box.
- Edge boxes (Zitnick and Dollar, ECCV 2014): a box is good where edges lie in it and do not leave it. The paper learns
  its edges; here they are the ridges of the colour gradient.

P: boxes. Boxes are xyxy in pixels of the picture.
"""

from typing import Any

import cv2
import numpy as np

from densekit.ops.packages import MissingPackageError

__all__ = ["METHODS", "search_objects"]

METHODS = ("selective-search", "edge-boxes")
# Both packages install the folder cv2, and the one that was installed last is what is imported.
_MISSING = (
    "needs cv2.ximgproc, which this OpenCV lacks: pip install 'densekit[proposals]', and, since plain opencv-python "
    "shadows it, afterwards pip install --force-reinstall --no-deps opencv-contrib-python-headless"
)


def search_objects(
    picture: np.ndarray, method: str, *, count: int, width: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Searches one picture; the result depends on nothing but the arguments.

    Args:
        picture: (H, W, 3) uint8, BGR.
        method: one of :data:`METHODS`.
        count: boxes that are kept at most.
        width: wider pictures are searched at this width, as R-CNN did; in pixels.
        least: narrower or lower boxes are dropped; in pixels of the picture that is searched.

    Returns:
        Boxes (P, 4) and scores (P,), both float32, best first. Selective search has no scores of its own: the score is
        the place, 0, -1, -2 ..., in the order of its paper's section 3.4.

    Raises:
        MissingPackageError: OpenCV lacks its contributed modules; the message says what to install.
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"The method {method!r} is not one of {', '.join(METHODS)}.")
    if not hasattr(cv2, "ximgproc"):
        raise MissingPackageError(f"{method} {_MISSING}.")
    height, wide = picture.shape[:2]
    scale = min(1.0, width / wide)
    small = picture
    if scale < 1:
        small = cv2.resize(picture, (width, max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    found, scores = (_selective_search if method == METHODS[0] else _edge_boxes)(small)
    wanted = (found[:, 2:] - found[:, :2] >= least).all(axis=1)
    found, scores = found[wanted], scores[wanted]
    # Equal scores are told apart by the box: the order in which the search found them differs from run to run.
    order = np.lexsort((*found.T, -scores))[:count]
    found, scores = found[order], scores[order]
    if method == METHODS[0]:
        scores = -np.arange(len(found))
    factor = np.array([wide / small.shape[1], height / small.shape[0]] * 2)
    return (found * factor).astype(np.float32), scores.astype(np.float32)


def _corners(boxes: Any) -> np.ndarray:
    """From x, y, width, height to corners (P, 4)."""
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)


def _selective_search(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    module: Any = vars(cv2)["ximgproc"]
    search = module.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(picture)
    search.switchToSelectiveSearchFast()
    found = np.unique(_corners(search.process()), axis=0)
    # The paper multiplies the place in the hierarchy, here that among all sizes, by a random number: large boxes alone
    # would come first otherwise. The boxes are in a fixed order, and so are the numbers.
    place = (-(found[:, 2:] - found[:, :2]).prod(axis=1)).argsort(kind="stable").argsort() + 1
    return found, -place * np.random.default_rng(0).random(len(found))


def _edge_boxes(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    module: Any = vars(cv2)["ximgproc"]
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float32)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    strongest = (across**2 + down**2).argmax(axis=2)[..., None]  # colour of each pixel
    across, down = (np.take_along_axis(change, strongest, axis=2)[..., 0] for change in (across, down))
    strength = np.hypot(across, down)
    edges = _thinned(strength, across, down) / max(float(strength.max()), 1e-6)
    along = np.mod(np.arctan2(down, across) + np.pi / 2, np.pi).astype(np.float32)
    search = module.createEdgeBoxes()
    boxes, scores = search.getBoundingBoxes(edges.astype(np.float32), along)
    return _corners(boxes), np.asarray(scores, dtype=np.float64).reshape(-1)


def _thinned(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Keeps of an edge its middle: the pixels that are no weaker than both neighbours across it."""
    length = np.maximum(strength, 1e-6)
    rows, columns = np.indices(strength.shape, dtype=np.float32)
    step_x, step_y = across / length, down / length
    sides = [
        cv2.remap(strength, columns + sign * step_x, rows + sign * step_y, cv2.INTER_LINEAR) for sign in (-1.0, 1.0)
    ]
    return np.where(strength >= np.maximum(*sides), strength, 0.0)
