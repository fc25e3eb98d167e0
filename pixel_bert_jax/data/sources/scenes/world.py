"""The contents of a rendered scene and how they are sampled.

A scene has two to five objects with independent, uniform attributes. With any seed,
training never shows 24 of the 144 (colour, shape, texture) triples, nor one in eight of
all collections of objects. An evaluation split shows only those collections.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math

import numpy as np

from pixel_bert_jax.data.sources.scenes import shapes

COLOURS = ("red", "pink", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "medium", "large")
TEXTURES = ("plain", "striped", "dotted")

# Diameter of the bounding circle as a fraction of the image's shorter side. The gaps
# between the ranges make the size decidable from the pixels.
DIAMETERS = {"small": (0.15, 0.20), "medium": (0.24, 0.29), "large": (0.33, 0.40)}

# (height, width): landscape, portrait, square.
FRAMES = ((96, 112), (112, 96), (96, 96))

MIN_OBJECTS, MAX_OBJECTS = 2, 5
MIN_VISIBLE = 0.5  # fraction of each object's area that is not covered
MAX_ROTATION = math.radians(15)

# Two objects have no relation along an axis (left or right, above or below) if their
# centres are closer than this fraction of the shorter side.
RELATION_MARGIN = 0.12

# Least distance of two centres as a fraction of the sum of their radii; MIN_VISIBLE is
# checked on the shapes.
_SEPARATION = 0.8
_LAYOUTS_PER_BLOCK = 32  # sampled in one vectorised draw
_EVALUATION_SHARE = 32 / 256  # of the values of the hash's byte

SPLITS = ("train", "evaluate")


@dataclasses.dataclass(frozen=True, slots=True)
class SceneObject:
    """An object: bounding circle (x, y, radius) in pixels, rotation in radians."""

    colour: str
    shape: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float

    def attributes(self) -> tuple[str, str, str, str]:
        """Returns (colour, shape, size, texture)."""
        return self.colour, self.shape, self.size, self.texture


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """Objects, from back to front, in an image of height x width pixels."""

    height: int
    width: int
    objects: tuple[SceneObject, ...]


def is_held_out(colour: str, shape: str, texture: str) -> bool:
    """Returns whether training never shows this triple.

    A Latin design, unlike a hash, keeps every single attribute exactly uniform in
    training and leaves every pair of attributes in it: half of the (colour, shape)
    pairs lose one of their three textures, and every colour loses each texture once.
    """
    c, s = COLOURS.index(colour), SHAPES.index(shape)
    return (c + s) % 2 == 0 and TEXTURES.index(texture) == (c + s // 2) % 3


_ALL = list(itertools.product(COLOURS, SHAPES, SIZES, TEXTURES))
_KINDS = {
    "train": [i for i, (c, s, _, t) in enumerate(_ALL) if not is_held_out(c, s, t)],
    "evaluate": list(range(len(_ALL))),
}


def belongs_to_evaluation(kinds: list[int]) -> bool:
    """Returns whether only evaluation shows a collection of objects.

    The result depends on neither the seed nor the order of the objects, so the splits
    share no collection, whatever their seeds.

    Args:
      kinds: index of each object's (colour, shape, size, texture) among all 432.
    """
    data = np.sort(np.asarray(kinds, "<u2")).tobytes()
    return hashlib.blake2b(data, digest_size=1).digest()[0] < 256 * _EVALUATION_SHARE


def draw_scene(generator: np.random.Generator, split: str) -> Scene:
    """Samples a scene of a split ("train" or "evaluate")."""
    count = int(generator.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    kinds = _KINDS[split]
    while True:
        chosen = [kinds[i] for i in generator.integers(len(kinds), size=count).tolist()]
        if belongs_to_evaluation(chosen) == (split == "evaluate"):
            break
    height, width = FRAMES[int(generator.integers(len(FRAMES)))]
    drawn = generator.random((count, 2))
    attributes = [_ALL[kind] for kind in chosen]
    bounds = np.array([DIAMETERS[size] for _, _, size, _ in attributes])
    diameters = bounds[:, 0] + drawn[:, 0] * (bounds[:, 1] - bounds[:, 0])
    radii = 0.5 * min(height, width) * diameters
    angles = MAX_ROTATION * (2 * drawn[:, 1] - 1)
    return Scene(
        height, width, _place(generator, attributes, radii, angles, height, width)
    )


def _place(
    generator: np.random.Generator,
    attributes: list[tuple[str, str, str, str]],
    radii: np.ndarray,
    angles: np.ndarray,
    height: int,
    width: int,
) -> tuple[SceneObject, ...]:
    """Samples positions until every object is visible enough.

    Attributes are not resampled: that would make scenes of many large objects rarer.
    """
    count = len(attributes)
    first, second = np.triu_indices(count, 1)
    reach = radii[first] + radii[second]
    low = radii[:, None]
    span = np.array([width, height]) - 2 * low
    separation = _SEPARATION
    while True:
        centres = low + generator.random((_LAYOUTS_PER_BLOCK, count, 2)) * span
        offset = centres[:, first] - centres[:, second]
        distance = np.sqrt((offset * offset).sum(-1))
        for layout in np.flatnonzero((distance >= separation * reach).all(1)).tolist():
            objects = tuple(
                SceneObject(*a, x, y, r, t)
                for a, (x, y), r, t in zip(
                    attributes,
                    centres[layout].tolist(),
                    radii.tolist(),
                    angles.tolist(),
                    strict=True,
                )
            )
            touching = distance[layout] < reach
            if not touching.any() or _all_visible(objects):
                return objects
        separation *= 0.97  # many large objects may not fit otherwise


def _all_visible(objects: tuple[SceneObject, ...]) -> bool:
    return all(
        visible_share(objects, i) >= MIN_VISIBLE for i in range(len(objects) - 1)
    )


def visible_share(objects: tuple[SceneObject, ...], index: int) -> float:
    """Returns the fraction of an object's area that no object in front covers."""
    thing = objects[index]
    x, y = shapes.interior_points(thing.shape)
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    x, y = (
        thing.x + thing.radius * (cos * x - sin * y),
        thing.y + thing.radius * (sin * x + cos * y),
    )
    hidden = np.zeros(x.shape, bool)
    for other in objects[index + 1 :]:
        if (
            math.hypot(thing.x - other.x, thing.y - other.y)
            < thing.radius + other.radius
        ):
            u, v = shapes.to_unit(x - other.x, y - other.y, other.radius, other.angle)
            hidden |= shapes.distance(other.shape, u, v) < 0
    return 1.0 - float(hidden.mean())
