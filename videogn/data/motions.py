"""The pictures of the demo data set: moving, textured shapes; the class is the motion they share.

One frame alone, of a moment that nobody tells, says nothing about the class: place, size and angle of each shape have
the same distribution in all classes. Places are uniform on a world larger than the picture, so that shapes come into
view and leave it in every class; the four translations move each shape at a speed of its own, and turning turns the
world about the middle of the picture. A growing shape is a shrinking one backwards in time; in the other classes a
shape keeps the size of a random moment of such a sweep. Colours, texture, outline and background are drawn alike.

Imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from videogn.data.demo import DemoSpec

# Direction along (x, y, angle, log size). y and angles grow downwards and clockwise, as picture rows do.
MOTIONS: dict[str, tuple[int, int, int, int]] = {
    "clockwise": (0, 0, 1, 0),
    "counter-clockwise": (0, 0, -1, 0),
    "down": (0, 1, 0, 0),
    "grow": (0, 0, 0, 1),
    "left": (-1, 0, 0, 0),
    "right": (1, 0, 0, 0),
    "shrink": (0, 0, 0, -1),
    "up": (0, -1, 0, 0),
}
_SIZES = (0.16, 0.38)  # smallest and largest outer radius of a shape, as a share of the picture's side
_SWEEP = (0.7, 1.0)  # share of the logarithm of that range which a growing shape passes in a video
_MOVE = (0.025, 0.045)  # speed of the translations, in picture sides per frame
_TURN = (0.010, 0.018)  # speed of turning, in turns per frame
_WORLD = 2.2  # side of the world, in picture sides: what may turn into view, the size of a shape included, is inside
_SHAPES = 14  # in the world; about three of them have their middle in the picture


def render_motion(motion: str, spec: DemoSpec, rng: np.random.Generator) -> np.ndarray:
    """One video of a motion.

    Args:
        motion: a name in ``MOTIONS``.
        spec: size and number of frames.
        rng: source of all randomness; the same numbers are drawn whatever the motion.

    Returns:
        uint8 (frames, size, size, 3), RGB.
    """
    side = spec.size
    place = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    slope = rng.uniform(-15, 15, size=2).astype(np.float32)
    background = rng.uniform(20, 60) + _tint(rng) + (slope[0] * place + slope[1] * place[:, None])[..., None]
    scene = np.tile(background.astype(np.float32), (spec.frames, 1, 1, 1))
    turn = np.arange(spec.frames) * rng.uniform(*_TURN) * MOTIONS[motion][2]
    for _ in range(_SHAPES):
        _draw_shape(scene, MOTIONS[motion], turn, rng)
    return scene.clip(0, 255).round().astype(np.uint8)


def _draw_shape(
    scene: np.ndarray, motion: tuple[int, int, int, int], turn: np.ndarray, rng: np.random.Generator
) -> None:
    """Draws a random shape into the frames of a scene in which it is seen.

    Args:
        scene: float32 (frames, side, side, 3), changed in place.
        motion: a value of ``MOTIONS``.
        turn: (frames,), how far the world has turned, in turns.
        rng: source of the shape's randomness.
    """
    frames, side = scene.shape[:2]
    travelled = rng.uniform(*_MOVE) * np.arange(frames)
    # From the middle of the picture, in picture sides; what leaves the world on one side comes in on the other.
    east, south = (
        (start + travelled * direction) % _WORLD - _WORLD / 2
        for start, direction in zip(rng.uniform(0, _WORLD, 2), motion[:2], strict=True)
    )
    cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    x, y = east * cos - south * sin + 0.5, east * sin + south * cos + 0.5
    angle, growth = turn + rng.random(), _sizes_of(motion[3], frames, rng)
    outline, texture, colours = (np.random.default_rng(rng.integers(2**32)) for _ in range(3))
    seen = np.nonzero(np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) < 0.5 + _SIZES[1])[0]
    if not len(seen):
        return
    x, y, angle, growth = np.stack([x, y, angle, growth])[:, seen].astype(np.float32)[..., None, None]
    low, high = _SIZES
    radius = side * low * (high / low) ** growth

    # Only the square that holds the largest shape is computed, around the middle of the shape.
    reach = int(side * high) + 2
    offsets = np.arange(-reach, reach + 1)
    grid = offsets.astype(np.float32) + 0.5
    corner_x, corner_y = np.floor(x * side), np.floor(y * side)
    dx = grid + (corner_x - x * side)  # (frames, 1, square)
    dy = grid[:, None] + (corner_y - y * side)  # (frames, square, 1)
    cos, sin = np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
    u = (dx * cos + dy * sin) / radius  # coordinates that move with the shape; it fills the unit circle
    v = (dy * cos - dx * sin) / radius
    # Distances times the radius are pixels: every edge is blended over one pixel.
    mask = np.clip(0.5 - _outline(u, v, outline) * radius, 0, 1)
    frame, row, column = np.nonzero(mask)
    scale = radius[frame, 0, 0]
    pattern = np.clip(0.5 + _texture(u[frame, row, column], v[frame, row, column], texture) * scale, 0, 1)[:, None]
    # Brighter than the background: 4:2:0 video keeps little of a difference in hue alone.
    first, second = (level + _tint(colours).astype(np.float32) for level in colours.permutation([150.0, 225.0]))
    y_pixel, x_pixel = (c[frame, 0, 0].astype(np.int64) + offsets[k] for c, k in ((corner_y, row), (corner_x, column)))
    inside = (y_pixel >= 0) & (y_pixel < side) & (x_pixel >= 0) & (x_pixel < side)
    where = ((seen[frame] * side + y_pixel) * side + x_pixel)[inside]
    pixels, cover = scene.reshape(-1, 3), mask[frame, row, column][inside, None]
    pixels[where] += (first + (second - first) * pattern[inside] - pixels[where]) * cover


def _sizes_of(direction: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Logarithm of the size in each frame, 0 for the smallest and 1 for the largest: a sweep, or one moment of it."""
    share, moment = rng.uniform(*_SWEEP), rng.random()
    lowest = rng.uniform(0, 1 - share)
    progress = np.linspace(0, 1, frames) if direction else np.full(frames, moment)
    return lowest + share * (progress if direction >= 0 else 1 - progress)


def _outline(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Distance to the outline, negative inside: a rectangle, a triangle, an ellipse, or an L."""
    kind, ratio = rng.integers(4), rng.uniform(0.3, 0.5)
    if kind == 0:
        return np.maximum(np.abs(u) - (1 - ratio**2) ** 0.5, np.abs(v) - ratio)
    if kind == 1:
        slope = (4 * ratio**2 + 9) ** 0.5 / 2
        return np.maximum(-u - 0.5, (ratio * (u - 1) + 1.5 * np.abs(v)) / slope)
    if kind == 2:
        return (np.hypot(u, v / ratio) - 1) * ratio
    box = np.maximum(np.abs(u), np.abs(v)) - 0.7
    return np.maximum(box, np.minimum(0.7 - ratio - u, 0.7 - ratio - v))


def _texture(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Signed distance to the border of two colours: stripes, a chess board or dots, off the centre."""
    kind, width = rng.integers(3), rng.uniform(0.5, 0.8)
    a = np.abs((u / width + rng.uniform(0, 2)) % 2 - 1) - 0.5
    b = np.abs((v / width + rng.uniform(0, 2)) % 2 - 1) - 0.5
    if kind == 0:
        return a * width
    if kind == 1:
        return np.sign(a * b) * np.minimum(np.abs(a), np.abs(b)) * width
    return (0.45 - np.hypot(a + 0.5, b + 0.5)) * width


def _tint(rng: np.random.Generator) -> np.ndarray:
    """What a colour adds to its brightness, RGB, (3,), sum 0."""
    tint = rng.uniform(-30, 30, size=3)
    return tint - tint.mean()
