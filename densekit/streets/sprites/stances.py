"""Positions of a body's joints: walking, standing and cycling.

Local frame as for meshes: (forward, left, up) in metres, origin on the ground below the body. Body proportions are
given as shares of the body height; angles are radians from hanging straight down, positive to the front.
"""

from dataclasses import dataclass

import numpy as np

from densekit.streets.labels import KEYPOINT_NAMES
from densekit.streets.sprites import bicycle

EXTRA_NAMES = ("neck", "crown", "left_toe", "right_toe")
JOINT = {name: i for i, name in enumerate((*KEYPOINT_NAMES, *EXTRA_NAMES))}

_HIP, _SHOULDER, _HEAD = 0.52, 0.81, 0.925  # heights
_THIGH, _SHANK, _FOOT, _UPPER_ARM, _FOREARM = 0.245, 0.235, 0.085, 0.165, 0.145  # lengths
_ANKLE = 0.045  # height of the ankle of a standing foot
HEAD_RADIUS = 0.066


@dataclass(frozen=True)
class Stance:
    """The parameters of a standing or walking pose."""

    stride: float  # swing of the thighs
    phase: float  # of the step
    elbows: tuple[float, float]  # bend of the left and right elbow
    lifts: tuple[float, float]  # raises the left and right upper arm to the front
    lean: float  # of the trunk
    build: float  # width of the body; 1 = average

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Stance":
        walking = rng.random() < 0.72
        elbows, lifts = rng.uniform(0.15, 0.7, 2), np.zeros(2)
        if rng.random() < 0.3:  # a telephone, a cup, a waving hand
            arm = int(rng.integers(2))
            elbows[arm], lifts[arm] = rng.uniform(1.5, 2.3), rng.uniform(0.1, 0.9)
        return cls(
            stride=float(rng.uniform(0.25, 0.55)) if walking else float(rng.uniform(0.0, 0.08)),
            phase=float(rng.uniform(0, 2 * np.pi)),
            elbows=(float(elbows[0]), float(elbows[1])),
            lifts=(float(lifts[0]), float(lifts[1])),
            lean=float(rng.normal(0.04, 0.03)),
            build=float(rng.uniform(0.9, 1.2)),
        )


def _hang(start: np.ndarray, length: float, angle: float) -> np.ndarray:
    return start + length * np.array([np.sin(angle), 0.0, -np.cos(angle)])


def _head(joints: np.ndarray, centre: np.ndarray, height: float) -> None:
    """Places the points of the head around its centre."""
    offsets = {
        "nose": (0.068, 0.0, -0.006),
        "left_eye": (0.056, 0.024, 0.014),
        "right_eye": (0.056, -0.024, 0.014),
        "left_ear": (0.0, 0.052, 0.0),
        "right_ear": (0.0, -0.052, 0.0),
        "crown": (0.0, 0.0, 0.0),
    }
    for name, offset in offsets.items():
        joints[JOINT[name]] = centre + np.array(offset) * height


def standing(stance: Stance, height: float) -> np.ndarray:
    """Joints (21, 3) of a person who walks or stands; the rows are named by ``JOINT``."""
    joints = np.zeros((len(JOINT), 3))
    lean = np.array([np.sin(stance.lean), 0.0, 0.0])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        arm = 0 if sign > 0 else 1
        swing = stance.stride * np.sin(stance.phase) * sign
        bend = 0.08 + 1.5 * stance.stride * max(0.0, float(np.cos(stance.phase)) * sign)
        hip = np.array([0.0, sign * 0.052 * stance.build, _HIP])
        knee = _hang(hip, _THIGH, swing)
        ankle = _hang(knee, _SHANK, swing - bend)
        shoulder = np.array([0.0, sign * 0.108 * stance.build, _SHOULDER]) + lean * (_SHOULDER - _HIP)
        raised = stance.lifts[arm] - 0.85 * swing
        elbow = _hang(shoulder, _UPPER_ARM, raised) + np.array([0.0, sign * 0.022, 0.0])
        wrist = _hang(elbow, _FOREARM, raised + stance.elbows[arm])
        toe = _hang(ankle, _FOOT, np.pi / 2 + 0.5 * (swing - bend) - 0.25)
        for name, joint in zip(
            ("hip", "knee", "ankle", "shoulder", "elbow", "wrist", "toe"),
            (hip, knee, ankle, shoulder, elbow, wrist, toe),
        ):
            joints[JOINT[f"{side}_{name}"]] = joint
    joints[JOINT["neck"]] = np.array([0.0, 0.0, _SHOULDER + 0.03]) + lean * (_SHOULDER - _HIP)
    joints *= height
    _head(joints, (np.array([0.012, 0.0, _HEAD]) + lean * (_HEAD - _HIP)) * height, height)
    feet = joints[[JOINT["left_ankle"], JOINT["right_ankle"]], 2].min()
    joints[:, 2] += _ANKLE * height - feet  # the lower foot stands on the ground
    return joints


def _reach(start: np.ndarray, end: np.ndarray, first: float, second: float, towards: np.ndarray) -> np.ndarray:
    """The middle joint of a two-part limb from ``start`` to ``end`` that bends ``towards`` a direction."""
    line = end - start
    distance = min(float(np.linalg.norm(line)), (first + second) * 0.999)
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    axis = line / np.linalg.norm(line)
    away = towards - axis * (towards @ axis)
    return start + axis * along + away / np.linalg.norm(away) * np.sqrt(max(first**2 - along**2, 0.0))


def cycling(phase: float, height: float) -> np.ndarray:
    """Joints (21, 3) of a person on a ``Bicycle``; ``phase`` turns the pedals."""
    joints = np.zeros((len(JOINT), 3))
    lean, hip_up = 0.42, bicycle.SADDLE[1] + 0.06
    trunk = (_SHOULDER - _HIP) * height
    chest = np.array([bicycle.SADDLE[0] + np.sin(lean) * trunk, 0.0, hip_up + np.cos(lean) * trunk])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        angle = phase if sign > 0 else phase + np.pi
        hip = np.array([bicycle.SADDLE[0], sign * 0.09, hip_up])
        pedal = np.array(
            [bicycle.CRANK[0] + 0.16 * np.cos(angle), sign * 0.11, bicycle.CRANK[1] + 0.16 * np.sin(angle)]
        )
        ankle = pedal + np.array([-0.05, 0.0, 0.08])
        shoulder = chest + np.array([0.0, sign * 0.108 * height, 0.0])
        wrist = np.array([bicycle.GRIP[0], sign * bicycle.GRIP_HALF_WIDTH * 0.9, bicycle.GRIP[1] + 0.02])
        joints[JOINT[f"{side}_hip"]] = hip
        joints[JOINT[f"{side}_knee"]] = _reach(
            hip, ankle, _THIGH * height, _SHANK * height, np.array([1.0, sign * 0.1, 0.4])
        )
        joints[JOINT[f"{side}_ankle"]] = ankle
        joints[JOINT[f"{side}_toe"]] = pedal + np.array([0.09, 0.0, 0.0])
        joints[JOINT[f"{side}_shoulder"]] = shoulder
        bent = np.array([-0.4, sign * 0.7, -0.6])
        joints[JOINT[f"{side}_elbow"]] = _reach(shoulder, wrist, _UPPER_ARM * height, _FOREARM * height * 1.15, bent)
        joints[JOINT[f"{side}_wrist"]] = wrist
    joints[JOINT["neck"]] = chest + np.array([0.02, 0.0, 0.03 * height])
    _head(joints, chest + np.array([0.05 * height, 0.0, 0.115 * height]), height)
    return joints
