"""Flat-shaded polygon meshes: enough geometry to see a vehicle from any side.

Local frame, metres: (forward, left, up), origin on the ground below the middle. F faces of K corners (short faces
repeat their last corner). Faces are listed piece by piece; each piece is convex, so hiding its far faces is all the
hidden surface work it needs. Pieces are painted by layer, and far to near within one layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from densekit.streets.world import Canvas, Colour

_CORNERS = 12


def heading_axes(yaw: float) -> np.ndarray:
    """Rows: the world directions of local forward, left and up; yaw 0 looks away from the camera, along z."""
    sin, cos = np.sin(yaw), np.cos(yaw)
    return np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, 1.0, 0.0]])


@dataclass
class Mesh:
    """Faces in painting order within their piece; see the module's header for the frame."""

    corners: list[np.ndarray] = field(default_factory=list)  # each (_CORNERS, 3)
    colours: list[Colour] = field(default_factory=list)
    glow: list[bool] = field(default_factory=list)  # not shaded: lamps, glass
    pieces: list[int] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)  # of each piece
    centres: list[np.ndarray] = field(default_factory=list)  # of each piece

    def piece(self, layer: int, centre: Sequence[float]) -> None:
        """Starts a convex piece around ``centre``."""
        self.layers.append(layer)
        self.centres.append(np.asarray(centre, dtype=np.float64))

    def face(self, corners: Sequence[Sequence[float]] | np.ndarray, colour: Colour, glow: bool = False) -> None:
        """Adds a face (or a decal on the face before) to the current piece."""
        array = np.asarray(corners, dtype=np.float64)
        padding = np.repeat(array[-1:], _CORNERS - len(array), axis=0)
        self.corners.append(np.concatenate([array, padding]))
        self.colours.append(colour)
        self.glow.append(glow)
        self.pieces.append(len(self.layers) - 1)

    def disc(self, forward: float, left: float, up: float, radius: float, colour: Colour, glow: bool = False) -> None:
        """Adds a wheel-like disc that looks to the side."""
        angle = np.arange(_CORNERS) * 2 * np.pi / _CORNERS
        ring = [forward + radius * np.cos(angle), np.full(_CORNERS, left), up + radius * np.sin(angle)]
        self.face(np.stack(ring, axis=-1), colour, glow)

    def prism(
        self, profile: Sequence[tuple[float, float]], half_width: float, colour: Colour, middle: float = 0.0
    ) -> None:
        """Adds the faces of a convex side profile of (forward, up) points, extruded to both sides of ``middle``."""
        low, high = middle - half_width, middle + half_width
        for left in (low, high):
            self.face([(f, left, u) for f, u in profile], colour)
        for (f0, u0), (f1, u1) in zip(profile, [*profile[1:], profile[0]]):
            self.face([(f0, low, u0), (f1, low, u1), (f1, high, u1), (f0, high, u0)], colour)

    def draw(self, canvas: Canvas, position: np.ndarray, yaw: float, label: int) -> None:
        """Paints the faces that look at the camera; ``position`` is the world point of the local origin."""
        axes = heading_axes(yaw)
        corners = np.stack(self.corners) @ axes + position  # (F, K, 3)
        centres = np.stack(self.centres) @ axes + position  # (P, 3)
        pieces = np.asarray(self.pieces)
        middles = corners.mean(axis=1)  # (F, 3)
        turned = np.roll(corners, -1, axis=1)
        normals = np.cross(corners - middles[:, None], turned - middles[:, None]).sum(axis=1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-9)
        normals *= np.where(((middles - centres[pieces]) * normals).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
        eye = np.array([0.0, canvas.camera.eye, 0.0])
        visible = ((middles - eye) * normals).sum(axis=1) < 0
        shade = np.where(self.glow, 0.55 + 0.45 * canvas.light.level, canvas.light.shade(normals))
        colours = np.asarray(self.colours) * shade[:, None]
        order = np.lexsort(
            (np.arange(len(pieces)), -np.linalg.norm(centres - eye, axis=1)[pieces], np.asarray(self.layers)[pieces])
        )
        flat = canvas.camera.project(corners)
        depth = float(position[2])
        shown = order[visible[order]]
        canvas.convexes(flat[shown], colours[shown], label, depth)
