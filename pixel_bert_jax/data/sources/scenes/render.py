"""Draws a scene: muted background, textured objects, lighting, noise.

An image takes about a millisecond: each object changes only the pixels around it, and
its edges are antialiased by the distance from the pixel's centre to the outline instead
of by supersampling.
"""

from __future__ import annotations

import math

import numpy as np

from pixel_bert_jax.data.sources.scenes import shapes
from pixel_bert_jax.data.sources.scenes.world import Scene, SceneObject

PALETTE = {
    "red": (215, 35, 35),
    "pink": (250, 135, 190),
    "yellow": (240, 215, 45),
    "green": (45, 160, 55),
    "cyan": (60, 210, 220),
    "blue": (45, 80, 225),
    "purple": (140, 55, 190),
    "white": (245, 245, 245),
}
_DARK = 0.28  # brightness of stripes and dots relative to the object's colour
_RIM = 0.2  # width in pixels of an untextured rim, which keeps the shape recognisable

# Period of a texture as a fraction of the diameter, and the least period in pixels at
# which it can still be recognised.
_STRIPE_PERIOD, _MIN_STRIPE_PERIOD = 0.30, 4.6
_DOT_PERIOD, _MIN_DOT_PERIOD = 0.30, 5.0
_DOT_RADIUS = 0.31  # as a fraction of the period


def render(scene: Scene, generator: np.random.Generator) -> np.ndarray:
    """Returns the image of a scene, uint8 RGB [height, width, 3]."""
    drawn = generator.random(16 + 3 * len(scene.objects)).tolist()
    image = _background(scene.height, scene.width, drawn[:9])
    for index, thing in enumerate(scene.objects):
        start = 16 + 3 * index
        _paint(image, thing, drawn[start : start + 3])
    image *= _light(scene.height, scene.width, drawn[9:13])
    image += _noise(generator, image.shape, 4 + 8 * drawn[13])
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _ramp(height: int, width: int, angle: float) -> np.ndarray:
    """Returns a ramp [height, width] along a direction in radians, 0 at the centre."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return math.cos(angle) * x + math.sin(angle) * y


def _muted(drawn: list[float]) -> np.ndarray:
    """Returns a colour of low saturation, float32 [3]."""
    value = 70 + 75 * drawn[0]
    hue = 2 * math.pi * drawn[1]
    tint = [math.cos(hue + shift) for shift in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    return value * (1 + 0.11 * np.array(tint, np.float32))


def _background(height: int, width: int, drawn: list[float]) -> np.ndarray:
    """Returns waves between two muted colours, float32 [height, width, 3]."""
    first, second = _muted(drawn[0:2]), _muted(drawn[2:4])
    second *= first.mean() / second.mean() * (0.8 + 0.4 * drawn[4])
    wave = _ramp(height, width, 2 * math.pi * drawn[5]) * (1 + 6 * drawn[6])
    share = 0.5 + 0.5 * np.sin(wave + 2 * math.pi * drawn[7])
    return first + (share * (0.3 + 0.7 * drawn[8]))[..., None] * (second - first)


def _light(height: int, width: int, drawn: list[float]) -> np.ndarray:
    """Returns a gain with a gradient and a tint, float32 [height, width, 3]."""
    gain = 0.75 + 0.35 * drawn[0]
    slope = 0.15 * drawn[1]
    warmth = np.array([1, 0, -1], np.float32) * 0.06 * (2 * drawn[3] - 1)
    light = gain * (1 + slope * _ramp(height, width, 2 * math.pi * drawn[2]))
    return light[..., None] * (1 + warmth)


def _noise(
    generator: np.random.Generator, shape: tuple[int, ...], deviation: float
) -> np.ndarray:
    """Returns noise of a triangular distribution, much faster than a normal one."""
    raw = generator.integers(0, 256, size=(2, *shape), dtype=np.uint8)
    total = raw.sum(0, dtype=np.int16).astype(np.float32)
    # The sum has mean 255 and standard deviation sqrt(2 (256^2 - 1) / 12) = 104.5.
    return (total - 255) * np.float32(deviation / 104.5)


def _paint(image: np.ndarray, thing: SceneObject, drawn: list[float]) -> None:
    """Draws an object over the image, in place."""
    height, width, _ = image.shape
    top = max(0, math.floor(thing.y - thing.radius - 1))
    left = max(0, math.floor(thing.x - thing.radius - 1))
    bottom = min(height, math.ceil(thing.y + thing.radius + 1))
    right = min(width, math.ceil(thing.x + thing.radius + 1))
    # The centre of pixel n is at n + 0.5.
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - thing.y)
    dx = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - thing.x)
    x, y = shapes.to_unit(dx, dy, thing.radius, thing.angle)
    outline = shapes.distance(thing.shape, x, y) * thing.radius
    cover = np.clip(0.5 - outline, 0, 1)[..., None]
    shade = 0.92 + 0.16 * drawn[0]
    colour = np.array(PALETTE[thing.colour], np.float32) * shade
    if thing.texture != "plain":
        dark = _texture(thing, dx, dy, drawn[1:3]) * np.clip(-_RIM - outline, 0, 1)
        colour = colour * (1 - (1 - _DARK) * dark[..., None])
    patch = image[top:bottom, left:right]
    patch += cover * (colour - patch)


def _texture(
    thing: SceneObject, dx: np.ndarray, dy: np.ndarray, drawn: list[float]
) -> np.ndarray:
    """Returns how dark a striped or dotted object is, [h, w] from 0 to 1."""
    angle = math.pi * drawn[0]
    u, v = shapes.to_unit(dx, dy, 1.0, angle)
    if thing.texture == "striped":
        period = max(_STRIPE_PERIOD * 2 * thing.radius, _MIN_STRIPE_PERIOD)
        wave = np.abs((u / period + drawn[1]) % 1 - 0.5)
        return np.clip((wave - 0.25) * period + 0.5, 0, 1)
    period = max(_DOT_PERIOD * 2 * thing.radius, _MIN_DOT_PERIOD)
    u, v = u / period + drawn[1], v / period
    off_centre = np.hypot(u - np.rint(u), v - np.rint(v))
    return np.clip((_DOT_RADIUS - off_centre) * period + 0.5, 0, 1)
