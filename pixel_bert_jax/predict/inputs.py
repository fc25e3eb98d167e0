"""What users give to `Predictor`: photos, texts and numbers, checked and cut up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from pixel_bert_jax.convert.photos import is_single, to_pixels
from pixel_bert_jax.data.images import ImageError
from pixel_bert_jax.types import InputError


def check_top(top_k: int) -> None:
    """Raises InputError unless it is a number of results."""
    if not isinstance(top_k, int) or top_k < 1:
        raise InputError(f"top_k is {top_k!r}, expected an integer of at least 1")


def listed(texts: str | Sequence[str]) -> list[str]:
    """Returns a text or several as a list."""
    if not isinstance(texts, str) and not isinstance(texts, Iterable):
        raise InputError(f"expected a text or several, received {type(texts).__name__}")
    return [texts] if isinstance(texts, str) else list(texts)


def photos_of(image: Any) -> list[Any]:
    """Returns a photo or several as a list, without decoding any."""
    photos = [image] if is_single(image) else list(image)
    if not photos:
        raise InputError("expected at least one photo, received none")
    return photos


def pixels_of(photos: list[Any], n: int) -> np.ndarray:
    """Decodes photo n; in an error, it is told which one of several it is."""
    try:
        return to_pixels(photos[n])[0]
    except ImageError as error:
        if len(photos) == 1:
            raise
        raise ImageError(f"photos[{n}]: {error}") from error


def portions(count: int, most: int) -> Iterator[list[int]]:
    """Yields the numbers from 0 to `count` - 1 in lists of at most `most`."""
    for begin in range(0, count, most):
        yield list(range(begin, min(begin + most, count)))


def filled(rows: Any) -> Any:
    """Repeats the first of n rows up to a power of two, so that few shapes compile."""
    missing = (1 << (len(rows) - 1).bit_length()) - len(rows)
    if isinstance(rows, np.ndarray):
        return np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])
    return [*rows, *rows[:1] * missing]
