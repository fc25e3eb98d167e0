"""Tables that convert other frameworks' weights to our parameters and back.

A rule pairs a source name, the name of a tensor in a file, with one of our parameter
paths, and states the order of the tensor's axes in the source.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pixel_bert_jax.convert.tensors import Tensor
from pixel_bert_jax.types import InputError

SHOWN = 5  # names in a message
ROWS = 32  # rows that are transposed at a time
_NUMBER = re.compile(r"\{(\w)(\+1)?\}")


class Layout(NamedTuple):
    """Order of the axes of a source array, relative to our array.

    Attributes:
      merged: maps our shape to the shape in which the axes of attention heads are
        merged with their neighbours.
      axes: axes of the merged shape in the order of the source; None: unchanged.
    """

    merged: Callable[[tuple[int, ...]], tuple[int, ...]]
    axes: tuple[int, ...] | None = None

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the source's shape for our `shape`."""
        merged = self.merged(shape)
        return merged if self.axes is None else tuple(merged[a] for a in self.axes)

    def from_source(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a source array as float32 of our `shape`."""
        if self.axes is None:
            return np.asarray(x, np.float32).reshape(shape)
        # In every layout, torch's first axis (outputs) is our last.
        x = _first_axis_last(x)
        order = (np.argsort(self.axes) - 1) % len(self.axes)
        return np.ascontiguousarray(x.transpose(order)).reshape(shape)

    def to_source(self, x: np.ndarray) -> np.ndarray:
        """Returns our array in the source's order."""
        x = x.reshape(self.merged(x.shape))
        return np.ascontiguousarray(x if self.axes is None else x.transpose(self.axes))


SAME = Layout(lambda shape: shape)
# A bias [D]; ours may be [N, D / N].
VECTOR = Layout(lambda shape: (math.prod(shape),))
# torch's Linear [out, in]; ours is [in, out] or [in, N, out / N].
LINEAR = Layout(lambda shape: (shape[0], math.prod(shape[1:])), (1, 0))
# torch's Conv2d [out, in, h, w]; ours is [h, w, in, out].
CONV = Layout(lambda shape: shape, (3, 2, 0, 1))


class Rule(NamedTuple):
    """Pairs the name of a tensor in the source with our path.

    In both, `{n}` (with any letter) stands for the same number, and `{n+1}` for that
    number plus 1.

    Attributes:
      source: name in the source.
      path: our path; "" if the tensor is not used.
      layout: order of the source's axes.
    """

    source: str
    path: str
    layout: Layout = SAME


@dataclasses.dataclass(frozen=True)
class Table:
    """The names of tensors in one kind of file.

    Attributes:
      name: name of the kind, for messages.
      prefix: prefix that either all names of a file have or none.
      rules: of the rules that match a name, the first applies.
      optional: regular expressions of our paths that may be missing in a file.
      cut: our paths whose arrays may have more rows in the source; these are cut off.
    """

    name: str
    prefix: str
    rules: Sequence[Rule]
    optional: Sequence[str] = ()
    cut: Sequence[str] = ()

    def path_of(self, source: str) -> tuple[str, Layout] | None:
        """Returns our path for a source name, and the layout; None if unknown."""
        source = source.removeprefix(self.prefix)
        for rule in self.rules:
            path = _translate(source, rule.source, rule.path)
            if path is not None:
                return path, rule.layout
        return None

    def source_of(self, path: str) -> tuple[str, Layout] | None:
        """Returns the source name for our path, and the layout; None if unknown."""
        for rule in self.rules:
            source = _translate(path, rule.path, rule.source) if rule.path else None
            if source is not None:
                return source, rule.layout
        return None


class Report(NamedTuple):
    """The result of loading a file.

    Attributes:
      loaded: our path -> source name.
      reshaped: our paths whose arrays were cut to the model's number of rows.
      unused: source names that are not used.
      missing: our paths that are not in the file and keep their initial values.
    """

    loaded: dict[str, str]
    reshaped: list[str]
    unused: list[str]
    missing: list[str]

    def __str__(self) -> str:
        lines = [
            f"{len(self.loaded)} tensors loaded, {len(self.reshaped)} cut, "
            f"{len(self.missing)} start anew, {len(self.unused)} not used"
        ]
        for title in ("reshaped", "missing", "unused"):
            if names := getattr(self, title):
                lines.append(f"  {title}: {shorten(names)}")
        return "\n".join(lines)


def import_weights(
    weights: Mapping[str, Tensor],
    table: Table,
    target: Mapping[str, tuple[int, ...]],
    where: str,
) -> tuple[dict[str, np.ndarray], Report]:
    """Converts the tensors of a file, if all of them fit.

    Args:
      weights: source name -> tensor, see `open_weights`.
      table: names of this kind of file.
      target: our path -> shape, of all parameters that the file should provide.
      where: names the file in messages.

    Returns:
      {our path: float32 array}, and the report.

    Raises:
      InputError: a name is not in the table, a tensor is not in the model, a parameter
        is not in the file, or the shapes differ.
    """
    pairs, unused, faults = _pair(weights, table, target)
    reshaped = []
    for path, (name, layout) in pairs.items():
        shape, wanted = weights[name].shape, layout.source_shape(target[path])
        longer = shape[1:] == wanted[1:] and shape[:1] > wanted[:1]
        if longer and path in table.cut:
            reshaped.append(path)
        elif shape != wanted:
            faults.append(
                f"{name}: received {shape}, expected {wanted} for {path} {target[path]}"
            )
    absent = [path for path in target if path not in pairs]
    missing = [p for p in absent if any(re.fullmatch(o, p) for o in table.optional)]
    faults += [
        f"nothing for {path} {target[path]}" for path in absent if path not in missing
    ]
    if faults:
        raise InputError(
            f"{where} does not fit this model as {table.name}: {len(faults)} "
            f"differences:\n  " + "\n  ".join(faults[:SHOWN])
        )
    out = {}
    for path, (name, layout) in pairs.items():
        array = weights[name].read()
        if path in reshaped:
            array = array[: target[path][0]]
        out[path] = layout.from_source(array, target[path])
    loaded = {path: name for path, (name, _) in pairs.items()}
    return out, Report(loaded, reshaped, unused, missing)


def _pair(
    weights: Mapping[str, Tensor], table: Table, target: Mapping[str, Any]
) -> tuple[dict[str, tuple[str, Layout]], list[str], list[str]]:
    """Returns {our path: (source name, layout)}, unused source names, and faults."""
    pairs: dict[str, tuple[str, Layout]] = {}
    unused, faults, unknown = [], [], []
    for name, tensor in weights.items():
        match = table.path_of(name)
        if match is None:
            unknown.append(f"{name}: not a name of {table.name}")
            continue
        path, layout = match
        if not path:
            unused.append(name)
        elif path in pairs:
            faults.append(f"{name} and {pairs[path][0]} are both {path}")
        elif path not in target:
            faults.append(f"{name} {tensor.shape} has no place: no {path} in the model")
        else:
            pairs[path] = name, layout
    return pairs, unused, faults + unknown


def export_weights(
    arrays: Mapping[str, np.ndarray], table: Table
) -> dict[str, np.ndarray]:
    """Returns {source name: source array} of all our paths that are in the table."""
    out = {}
    for path, array in arrays.items():
        if match := table.source_of(path):
            name, layout = match
            out[table.prefix + name] = layout.to_source(np.asarray(array))
    return out


def shorten(names: Sequence[str]) -> str:
    """Joins the first `SHOWN` names and tells how many there are more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _first_axis_last(x: np.ndarray) -> np.ndarray:
    """Maps [A, ...] to a new float32 array [..., A].

    Copies a few rows at a time, which stay in the processor's cache: three times as
    fast as copying the transposed array at once.
    """
    flat = x.reshape(len(x), -1)
    out = np.empty(flat.shape[::-1], np.float32)
    for start in range(0, len(flat), ROWS):
        out[:, start : start + ROWS] = flat[start : start + ROWS].T
    return out.reshape(*x.shape[1:], len(x))


def _translate(name: str, pattern: str, template: str) -> str | None:
    """Returns `template` with the numbers in `name`, None if it is not a `pattern`."""
    parts, offsets = ["^"], {}
    position = 0
    for match in _NUMBER.finditer(pattern):
        parts.append(re.escape(pattern[position : match.start()]))
        parts.append(rf"(?P<{match[1]}>\d+)")
        offsets[match[1]] = bool(match[2])
        position = match.end()
    parts.append(re.escape(pattern[position:]) + "$")
    found = re.match("".join(parts), name)
    if found is None:
        return None

    def number(match: re.Match[str]) -> str:
        value = int(found[match[1]]) - offsets[match[1]]
        return str(value + bool(match[2]))

    return _NUMBER.sub(number, template)
