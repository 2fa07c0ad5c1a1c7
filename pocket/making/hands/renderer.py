"""Draws shots with OpenGL through EGL, without a screen; Mesa's llvmpipe needs no graphics card.

Debian: ``apt-get install libegl1 libgl1-mesa-dri``. Pictures repeat to the byte on one machine.
"""

import moderngl
import numpy as np

from .scene import Shot

# A multiple of 64 and of 96, so that both are plain means of pixels.
DRAWN_SIZE = 192
SAMPLES = 4
# Twice what the hand has: nothing that is drawn has more than two of it.
MOST_VERTICES = 4096
MOST_FACES = 8192

VERTEX = """
#version 330
uniform mat4 projection;
in vec3 vertex;
in vec3 normal;
out vec3 seen_normal;
out vec3 place;
void main() {
    seen_normal = normal;
    place = vertex;
    gl_Position = projection * vec4(vertex, 1.0);
}
"""
# Light that wraps around the form and bleeds reddish into the shadow, as in skin; both sides of the
# mesh are lit. The edge is a little darker, and the light mirrored a little.
FRAGMENT = """
#version 330
uniform vec3 light;
uniform vec3 key;
uniform vec3 skin;
uniform float ambient;
in vec3 seen_normal;
in vec3 place;
out vec4 color;
void main() {
    vec3 normal = normalize(seen_normal);
    vec3 sight = normalize(-place);
    if (dot(normal, sight) < 0.0) normal = -normal;
    float facing = max(dot(normal, sight), 0.0);
    float wrapped = clamp((dot(normal, light) + 0.35) / 1.35, 0.0, 1.0);
    vec3 diffuse = wrapped * mix(vec3(1.0, 0.5, 0.4), vec3(1.0), wrapped);
    vec3 around = vec3(ambient) * mix(0.7, 1.0, 0.5 + 0.5 * normal.y);
    float mirrored = 0.1 * pow(max(dot(normal, normalize(light + sight)), 0.0), 24.0);
    vec3 surface = skin * (1.0 - 0.45 * pow(1.0 - facing, 2.0));
    vec3 linear = surface * (around + key * diffuse) + mirrored * key;
    color = vec4(pow(clamp(linear, 0.0, 1.0), vec3(1.0 / 2.2)), 1.0);
}
"""


class Renderer:
    """One OpenGL context with a square frame."""

    def __init__(self, size: int = DRAWN_SIZE):
        self._context = moderngl.create_context(standalone=True, backend="egl")
        self._context.enable(moderngl.DEPTH_TEST)
        self._program = self._context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        shape = (size, size)
        self._size = size
        self._samples = self._context.framebuffer(
            [self._context.renderbuffer(shape, 4, samples=SAMPLES)],
            self._context.depth_renderbuffer(shape, samples=SAMPLES),
        )
        self._frame = self._context.framebuffer([self._context.renderbuffer(shape, 4)])
        self._vertices = self._context.buffer(reserve=MOST_VERTICES * 6 * 4)
        self._faces = self._context.buffer(reserve=MOST_FACES * 3 * 4)
        contents = [(self._vertices, "3f 3f", "vertex", "normal")]
        self._mesh = self._context.vertex_array(self._program, contents, self._faces)

    def draw(self, shot: Shot) -> np.ndarray:
        """The hand alone, uint8 [H, W, 4]: sRGB times coverage, and coverage."""
        attributes = np.hstack([shot.vertices, shot.normals]).astype("f4")
        self._vertices.write(attributes.tobytes())
        self._faces.write(shot.faces.astype("i4").tobytes())
        self._program["projection"].write(shot.projection.T.astype("f4").tobytes())
        self._program["light"].value = tuple(shot.light)
        self._program["key"].value = tuple(shot.key)
        self._program["skin"].value = tuple(shot.skin**2.2)
        self._program["ambient"].value = shot.ambient
        self._samples.use()
        self._samples.clear(0, 0, 0, 0)
        self._mesh.render(vertices=shot.faces.size)
        self._context.copy_framebuffer(self._frame, self._samples)
        pixels = np.frombuffer(self._frame.read(components=4), np.uint8)
        return pixels.reshape(self._size, self._size, 4)[::-1]


def reduced(pixels: np.ndarray, size: int) -> np.ndarray:
    """Mean of the pixels, uint8 [size, size, C], of uint8 [H, H, C] with H a multiple of size."""
    step = len(pixels) // size
    blocks = pixels.reshape(size, step, size, step, -1).astype(np.float32)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def on_ground(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Pictures uint8 [..., H, W, 3] of what `Renderer.draw` gives, on grounds [..., 3] in 0..1."""
    coverage = pixels[..., 3:].astype(np.float32) / 255
    ground = np.asarray(ground, np.float32)[..., None, None, :] * 255
    return (pixels[..., :3] + (1 - coverage) * ground).round().clip(0, 255).astype(np.uint8)
