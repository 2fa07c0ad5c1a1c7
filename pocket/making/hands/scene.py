"""One hand before a camera: pose, orientation, place, light and skin, all of them drawn from seeds.

A pose is what a gesture has many of: angles of the joints, and how the hand is turned to the
camera. Side, view, skin, ground, light and place are drawn for each picture anew, as the colors and
the places of letters are.
"""

from dataclasses import dataclass

import numpy as np

from ...hands.words import GESTURES, SIDES, TONES, VIEWS, extended
from .poses import gesture_turns
from .rig import Rig, turn

# The poses of a split are other draws, and no pose is of two splits.
SPLITS = ("train", "unseen")
MAX_ROLL = 35  # degrees about the axis of sight
MAX_TILT = 20  # degrees about the two others; 0.6 of it towards or away from the camera
# From the mesh's axes to the camera's: fingers up, palm to the camera, thumb to the right.
UPRIGHT = np.array([[0.0, 0, -1], [0, -1, 0], [-1, 0, 0]])
CENTER = np.array([0, 0.035, 0])  # meters, of an upright hand: the point it is turned about
# The mesh ends behind the wrist. What is beyond is drawn out, so that every arm leaves the picture.
WRIST = 0.05
ARM = 0.055
ARM_LENGTHENED = 9
# A fist is drawn at most as large as 1.2 open hands would let it be: its width at that size.
WIDEST = 0.088


@dataclass(frozen=True)
class Mesh:
    """Vertices and normals float [V, 3], faces int [F, 3], joints [J, 3], and what is arm [V]."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    joints: np.ndarray
    is_arm: np.ndarray


@dataclass(frozen=True)
class Shot:
    """What the renderer draws: a mesh in the camera's axes, and its light.

    Attributes:
        projection: [4, 4], of OpenGL.
        joints: float [J, 2], in 0..1 of the picture, from its upper left corner.
        skin: sRGB.
        light: unit vector towards the light.
        ambient: strength of the light from everywhere.
        key: color of the light.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    projection: np.ndarray
    joints: np.ndarray
    skin: np.ndarray
    light: np.ndarray
    ambient: float
    key: np.ndarray


@dataclass(frozen=True)
class Orientation:
    """How a hand is turned to the camera, in degrees, and how far it is away, in meters."""

    roll: float
    nod: float
    shake: float
    distance: float


def posed(rig: Rig, turns: dict[str, np.ndarray]) -> Mesh:
    vertices, joints = rig.pose(turns)
    return finished(rig, vertices, rig.faces, joints)


def finished(rig: Rig, vertices: np.ndarray, faces: np.ndarray, joints: np.ndarray) -> Mesh:
    """The mesh with its arm drawn out. No vertex that the rig does not have is of the arm."""
    vertices = vertices.copy()
    own = vertices[: len(rig.vertices)]
    is_arm = np.zeros(len(vertices), bool)
    is_arm[: len(own)] = own[:, 1] >= WRIST
    beyond = own[:, 1] > ARM
    own[beyond, 1] = ARM + (own[beyond, 1] - ARM) * ARM_LENGTHENED
    return Mesh(vertices, rig.normals(vertices, faces), faces, joints, is_arm)


def pose(gesture: str, number: int, split: str) -> tuple[dict[str, np.ndarray], Orientation]:
    """Turns of the joints in pose ``number`` of a gesture, and how the hand is turned in it."""
    rng = np.random.default_rng([SPLITS.index(split), GESTURES.index(gesture), number])
    return gesture_turns(extended(gesture), rng), orientation(rng)


def orientation(rng: np.random.Generator) -> Orientation:
    return Orientation(
        rng.uniform(-MAX_ROLL, MAX_ROLL),
        0.6 * rng.uniform(-MAX_TILT, MAX_TILT),
        rng.uniform(-MAX_TILT, MAX_TILT),
        rng.uniform(0.45, 0.65),
    )


def projection(focal: float, near: float = 0.05, far: float = 5.0) -> np.ndarray:
    """Perspective [4, 4] of a square picture, the camera looking along -z."""
    depth = (far + near) / (near - far)
    matrix = np.diag([focal, focal, depth, 0])
    matrix[2, 3] = 2 * far * near / (near - far)
    matrix[3, 2] = -1
    return matrix


def facing(mesh: Mesh, turned: Orientation, side: str, view: str) -> Mesh:
    """The mesh in the camera's axes, its center in the origin."""
    about = turn("z", turned.roll) @ turn("x", turned.nod)
    about = about @ turn("y", turned.shake + 180 * VIEWS.index(view))
    mirror = np.array([-1.0 if side == SIDES[0] else 1.0, 1, 1])
    vertices = (mesh.vertices @ UPRIGHT.T - CENTER) @ about.T * mirror
    joints = (mesh.joints @ UPRIGHT.T - CENTER) @ about.T * mirror
    normals = mesh.normals @ UPRIGHT.T @ about.T * mirror
    return Mesh(vertices, normals, mesh.faces, joints, mesh.is_arm)


def framed(mesh: Mesh, distance: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Projection [4, 4] and shift [3] that put the whole hand into the picture, somewhere."""
    hand = mesh.vertices[~mesh.is_arm]
    seen = hand[:, :2] / (distance - hand[:, 2:])
    low, high = seen.min(0), seen.max(0)
    widest = max((high - low).max(), 1e-6)
    focal = rng.uniform(0.84, 1.0) * min(1.88 / widest, distance / WIDEST)
    room = np.maximum(0.98 - focal * (high - low) / 2, 0) * distance / focal
    aside = rng.uniform(-1, 1, 2) * np.minimum(room, 0.012) - (high + low) / 2 * distance
    return projection(focal), np.array([*aside, -distance])


def shoot(
    mesh: Mesh, turned: Orientation, side: str, view: str, tone: int, rng: np.random.Generator
) -> Shot:
    """A picture's place, skin and light, drawn from ``rng``."""
    mesh = facing(mesh, turned, side, view)
    project, shift = framed(mesh, turned.distance, rng)
    skin = np.clip(np.array(TONES[tone]) * rng.uniform(0.93, 1.05, 3), 0, 1)
    light = rng.uniform((-0.8, 0.1, 0.6), (0.8, 0.9, 1.0))
    joints = mesh.joints + shift
    seen = np.c_[joints, np.ones(len(joints))] @ project.T
    seen = seen[:, :2] / seen[:, 3:]
    return Shot(
        mesh.vertices + shift,
        mesh.normals,
        mesh.faces,
        project,
        (seen * (1, -1) + 1) / 2,
        skin,
        light / np.linalg.norm(light),
        rng.uniform(0.28, 0.42),
        np.array([1, 0.97, 0.93]) * rng.uniform(0.65, 0.85),
    )
