"""The six shapes as signed distance functions, with a bounding circle of radius 1.

Negative inside, and approximately the distance near the outline: the same function
antialiases the edges of an object and tests which points it covers. x points right, y
down.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

_HALF_SIDE = math.sqrt(0.5)
_ARM_WIDTH = 0.31  # half width of the cross's arms; their corners lie on the circle
_ARM_LENGTH = math.sqrt(1 - _ARM_WIDTH**2)
_HOLE = 0.52  # inner radius of the ring
_STAR_INNER = 0.42  # inner radius of the five-pointed star


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - _HALF_SIDE


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, math.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.5


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sector = 2 * math.pi / 5
    angle = np.arctan2(x, -y)
    folded = np.abs(angle - sector * np.rint(angle / sector))
    radius = np.sqrt(x * x + y * y)
    across = _STAR_INNER * math.sin(sector / 2)
    along = 1 - _STAR_INNER * math.cos(sector / 2)
    norm = math.hypot(across, along)
    inward = radius * np.cos(folded) - 1
    return (inward * across + radius * np.sin(folded) * along) / norm


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    long, short = np.maximum(x, y), np.minimum(x, y)
    return np.maximum(long - _ARM_LENGTH, short - _ARM_WIDTH)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    middle, half = 0.5 * (1 + _HOLE), 0.5 * (1 - _HOLE)
    return np.abs(np.sqrt(x * x + y * y) - middle) - half


_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the signed distance [...] of points in unit coordinates to an outline."""
    return _DISTANCES[shape](x, y)


def to_unit(
    dx: np.ndarray, dy: np.ndarray, radius: float, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Maps offsets in pixels from an object's centre to its unit coordinates."""
    cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
    return cos * dx + sin * dy, cos * dy - sin * dx


@functools.cache
def interior_points(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n] and y [n] of a regular grid of points inside a shape."""
    line = (np.arange(24) + 0.5) / 12 - 1
    x, y = (axis.ravel() for axis in np.meshgrid(line, line))
    inside = distance(shape, x, y) < 0
    return x[inside], y[inside]
