"""Labels of a street scene: Cityscapes' ids, names and colours, and the 17 keypoints of COCO persons.

Only the labels that the scenes contain are listed; the numbers and colours are those of the Cityscapes benchmark.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One class: Cityscapes' name, label id and RGB colour, and whether it is counted (thing) or not (stuff)."""

    name: str
    id: int
    colour: tuple[int, int, int]
    is_thing: bool


_TABLE = (
    Label("unlabeled", 0, (0, 0, 0), False),
    Label("road", 7, (128, 64, 128), False),
    Label("sidewalk", 8, (244, 35, 232), False),
    Label("building", 11, (70, 70, 70), False),
    Label("pole", 17, (153, 153, 153), False),
    Label("traffic light", 19, (250, 170, 30), False),
    Label("traffic sign", 20, (220, 220, 0), False),
    Label("vegetation", 21, (107, 142, 35), False),
    Label("terrain", 22, (152, 251, 152), False),
    Label("sky", 23, (70, 130, 180), False),
    Label("person", 24, (220, 20, 60), True),
    Label("rider", 25, (255, 0, 0), True),
    Label("car", 26, (0, 0, 142), True),
    Label("truck", 27, (0, 0, 70), True),
    Label("bus", 28, (0, 60, 100), True),
    Label("bicycle", 33, (119, 11, 32), True),
)
LABELS: dict[str, Label] = {label.name: label for label in _TABLE}
STUFF = tuple(label for label in _TABLE if not label.is_thing and label.id)
THINGS = tuple(label for label in _TABLE if label.is_thing)

KEYPOINT_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
KEYPOINT_FLIP_MAP = tuple((name, name.replace("left", "right")) for name in KEYPOINT_NAMES if name.startswith("left"))
# Limbs as pairs of names with the colour (RGB) in which a visualizer draws them.
_LIMB_COLOURS = {"left": (102, 204, 255), "right": (255, 128, 0), "middle": (51, 153, 255)}
_LIMBS = (
    ("nose", "left_eye", "left"),
    ("nose", "right_eye", "right"),
    ("left_eye", "left_ear", "left"),
    ("right_eye", "right_ear", "right"),
    ("left_shoulder", "right_shoulder", "middle"),
    ("left_shoulder", "left_elbow", "left"),
    ("left_elbow", "left_wrist", "left"),
    ("right_shoulder", "right_elbow", "right"),
    ("right_elbow", "right_wrist", "right"),
    ("left_shoulder", "left_hip", "middle"),
    ("right_shoulder", "right_hip", "middle"),
    ("left_hip", "right_hip", "middle"),
    ("left_hip", "left_knee", "left"),
    ("left_knee", "left_ankle", "left"),
    ("right_hip", "right_knee", "right"),
    ("right_knee", "right_ankle", "right"),
)
KEYPOINT_CONNECTION_RULES = tuple((a, b, _LIMB_COLOURS[side]) for a, b, side in _LIMBS)
# COCO writes limbs as 1-based index pairs.
SKELETON = tuple((KEYPOINT_NAMES.index(a) + 1, KEYPOINT_NAMES.index(b) + 1) for a, b, _ in _LIMBS)
