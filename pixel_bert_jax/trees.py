"""Parameter paths: the one handle by which everything names a parameter.

A nested dict of parameters is seen as a flat dict whose keys are paths such as
``encoder/layer_0/attention/query/kernel``. Ordered lists of ``(pattern, value)``
rules over those paths drive learning rates, weight decay, freezing, sharding and
partial loading. The first rule whose pattern matches the *whole* path wins, and a path
that no rule matches is an error: no library has both, which is why the rules are here.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from pixel_bert_jax.types import InputError

Value = TypeVar("Value")
Rules = Sequence[tuple[str, Value]]

SEPARATOR = "/"


def key_path(path: tuple[Any, ...]) -> str:
    """Returns ``a/b/0`` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator=SEPARATOR)


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a nested dict into ``{"a/b/c": leaf}``, in the order of the nested dict.

    Only dicts are descended into; everything else, ``None`` and sequences included, is
    a leaf. An empty dict leaves no trace.
    """
    return traverse_util.flatten_dict(tree, sep=SEPARATOR)


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turns ``{"a/b/c": leaf}`` back into nested dicts; the inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep=SEPARATOR)


def match_rules(rules: Rules[Value], paths: Iterable[str]) -> dict[str, Value]:
    """Gives every path the value of the first rule that matches it.

    A pattern is a regular expression that must match the whole path
    (`re.fullmatch`): ``backbone/.*`` is everything below ``backbone``, ``.*/bias``
    every bias, ``.*`` all that is left. There is no default, so that a renamed or
    new parameter is noticed instead of being trained at an unsuitable rate.

    Args:
      rules: ordered ``(pattern, value)`` pairs.
      paths: parameter paths, e.g. the keys of `flatten`.

    Returns:
      ``{path: value}`` in the order of `paths`.

    Raises:
      InputError: a pattern is not a regular expression, or a path is matched by no
        rule; the text lists every such path and the rules.
    """
    compiled = _compile(rules)
    matched: dict[str, Value] = {}
    unmatched: list[str] = []
    for path in paths:
        index = _first_match(compiled, path)
        if index is None:
            unmatched.append(path)
        else:
            matched[path] = rules[index][1]
    if unmatched:
        raise InputError(
            "expected every parameter to be matched by a rule, but no pattern matches "
            + ", ".join(repr(path) for path in unmatched)
            + ". The patterns, which must match a whole path, are: "
            + (", ".join(repr(pattern) for pattern, _ in rules) or "(none)")
            + ". A last rule '.*' matches everything."
        )
    return matched


def unused_rules(rules: Rules[Any], paths: Iterable[str]) -> tuple[str, ...]:
    """Lists the patterns that decide nothing, in the order of `rules`.

    A rule is unused when it matches no path, or only paths that an earlier rule
    matches as well. Most often its pattern is misspelt.

    Raises:
      InputError: a pattern is not a regular expression.
    """
    compiled = _compile(rules)
    used = {_first_match(compiled, path) for path in paths}
    return tuple(
        pattern for index, (pattern, _) in enumerate(rules) if index not in used
    )


def _compile(rules: Rules[Any]) -> list[re.Pattern[str]]:
    compiled = []
    for pattern, _ in rules:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise InputError(
                f"expected a regular expression over parameter paths, received "
                f"{pattern!r}: {error}"
            ) from error
    return compiled


def _first_match(compiled: Sequence[re.Pattern[str]], path: str) -> int | None:
    for index, pattern in enumerate(compiled):
        if pattern.fullmatch(path):
            return index
    return None


def whole(x: Any) -> np.ndarray:
    """Returns an array, even one spread over processes, as a host array on each."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        if not x.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        x = x.addressable_data(0)
    return np.asarray(jax.device_get(x))


def digest(state: Any) -> str:
    """Returns the SHA-256 of a state, which identifies a checkpoint.

    Hashed are the leaves sorted by path: path, dtype, shape and little-endian bytes.
    """
    total = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    for name, leaf in sorted((key_path(path), leaf) for path, leaf in leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = whole(leaf)
        array = array.astype(array.dtype.newbyteorder("<"))
        total.update(f"{name} {array.dtype.name} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
