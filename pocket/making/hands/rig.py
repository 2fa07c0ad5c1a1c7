"""A rigged hand: its mesh, its 25 joints, and linear blend skinning.

The hand is ``dist/profiles/generic-hand/right.glb`` of the npm package
``@webxr-input-profiles/assets`` 1.0.20 (MIT licence), right only; a left one is its mirror image.
Joints are those of the WebXR Hand Input specification. Their nodes are all children of one; which
follows which is told by their names.
"""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pygltflib

from ...hands.words import FINGERS

MEMBER = "package/dist/profiles/generic-hand/right.glb"
SHA256 = "291790c14f7f88a7f9bd35330c47392ed8e8d395ae6728f4bb7089f1bc1f2b96"
SEGMENTS = ("metacarpal", "phalanx-proximal", "phalanx-intermediate", "phalanx-distal", "tip")
# glTF 2.0, 3.6.2.2: component types and numbers of components.
COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def joint(finger: str, segment: str) -> str:
    """Name of a joint; the thumb has no intermediate phalanx."""
    return f"{finger if finger in ('thumb', 'wrist') else finger + '-finger'}-{segment}"


def unpack_mesh(tarball: Path, target: Path) -> None:
    """Take the hand out of the npm package's file, and see that it is the one meant.

    Raises:
        ValueError: it is another one.
    """
    with tarfile.open(tarball) as package:
        content = package.extractfile(MEMBER).read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{MEMBER} in {tarball} is not that of version 1.0.20.")
    target.write_bytes(content)


def read_accessor(file: pygltflib.GLTF2, index: int) -> np.ndarray:
    """The values [count, width] of an accessor of a binary glTF file."""
    accessor = file.accessors[index]
    view = file.bufferViews[accessor.bufferView]
    kind = np.dtype(COMPONENTS[accessor.componentType])
    width = WIDTHS[accessor.type]
    if view.byteStride not in (None, kind.itemsize * width):
        raise ValueError("Interleaved accessors are not read.")
    start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
    values = np.frombuffer(file.binary_blob(), kind, accessor.count * width, start)
    return values.reshape(-1, width)


class Rig:
    """The right hand, in meters: fingers along -y, thumb towards -z, palm towards -x.

    Attributes:
        vertices: float [V, 3], at rest.
        faces: int [F, 3].
        names: of the joints.
        finger: int [V], of which of `FINGERS` a vertex mostly is, -1: of the palm.
        segment: [V] names of the joint that a vertex follows most.
    """

    def __init__(self, path: Path):
        file = pygltflib.GLTF2().load(str(path))
        part = file.meshes[0].primitives[0]
        self.vertices = read_accessor(file, part.attributes.POSITION).astype(np.float64)
        self.faces = read_accessor(file, part.indices).astype(int).reshape(-1, 3)
        self.names = [file.nodes[node].name for node in file.skins[0].joints]
        joints = read_accessor(file, part.attributes.JOINTS_0).astype(int)
        weights = read_accessor(file, part.attributes.WEIGHTS_0).astype(np.float64)
        inverse = read_accessor(file, file.skins[0].inverseBindMatrices)
        self._inverse = inverse.reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64)
        self._weights = np.zeros((len(self.vertices), len(self.names)))
        np.add.at(self._weights, (np.arange(len(joints))[:, None], joints), weights)
        self.rest = np.linalg.inv(self._inverse)  # joint to hand
        self._link()
        mostly = self._weights.argmax(1)
        self.segment = np.array(self.names)[mostly]
        of_joint = [
            next((i for i, name in enumerate(FINGERS) if joint_name.startswith(name)), -1)
            for joint_name in self.names
        ]
        self.finger = np.array(of_joint)[mostly]
        corners = np.round(self.vertices, 6)
        _, seam = np.unique(corners, axis=0, return_inverse=True)
        self._seam = seam.ravel()

    def _link(self) -> None:
        """Order joints from the wrist outwards, each with its parent."""
        index = {name: i for i, name in enumerate(self.names)}
        self._order = [(index["wrist"], None)]
        for finger in FINGERS:
            parent = index["wrist"]
            for segment in SEGMENTS:
                own = index.get(joint(finger, segment))
                if own is not None:
                    self._order.append((own, parent))
                    parent = own

    def pose(self, turns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The hand with its joints moved.

        Args:
            turns: [3, 3] or [4, 4] by name of joint, in the joint's own axes: a turn about x bends,
                one about y spreads.

        Returns:
            vertices float [V, 3], joints float [J, 3].
        """
        moved = np.empty_like(self.rest)
        for own, parent in self._order:
            if parent is None:
                moved[own] = self.rest[own]
            else:
                moved[own] = moved[parent] @ self._inverse[parent] @ self.rest[own]
            if (turn := turns.get(self.names[own])) is not None:
                full = np.eye(4)
                full[: len(turn), : len(turn)] = turn
                moved[own] = moved[own] @ full
        blend = np.einsum("vj,jab->vab", self._weights, moved @ self._inverse)
        vertices = np.einsum("vab,vb->va", blend[:, :3, :3], self.vertices) + blend[:, :3, 3]
        return vertices, moved[:, :3, 3]

    def normals(self, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Unit normals float [N * V, 3], smooth also where the mesh is cut open for its texture.

        Args:
            vertices: float [N * V, 3], of one hand or of several poses of it.
            faces: int [F, 3].
        """
        count = self._seam.max() + 1
        poses = len(vertices) // len(self.vertices)
        seam = np.concatenate([self._seam + count * number for number in range(poses)])
        a, b, c = (vertices[faces[:, i]] for i in range(3))
        of_face = np.cross(b - a, c - a)
        total = np.zeros((count * poses, 3))
        for corner in range(3):
            np.add.at(total, seam[faces[:, corner]], of_face)
        normals = total[seam]
        return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)


def turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation [3, 3] about "x", "y" or "z", right-handed."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    angle = np.radians(degrees)
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j] = -np.sin(angle)
    matrix[j, i] = np.sin(angle)
    return matrix
