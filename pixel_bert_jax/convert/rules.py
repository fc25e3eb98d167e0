"""Names and layouts of other frameworks' weights, as tables that are read both ways.

A rule pairs a name there with a path here. `{n}` stands for a number, the same in both;
`{n+1}` for one more, where there counts from 0 and here from 1. A layout says how the
axes are ordered.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pixel_bert_jax.convert.weights import Tensor
from pixel_bert_jax.types import InputError

SHOWN = 5  # offending names in a message
ROWS = 32  # that are transposed at a time
_NUMBER = re.compile(r"\{(\w)(\+1)?\}")


class Layout(NamedTuple):
    """How the axes of an array there are ordered, seen from an array here.

    Attributes:
      merged: maps the shape here to the one with head axes merged.
      axes: of that shape, in the order there.
    """

    merged: Callable[[tuple[int, ...]], tuple[int, ...]]
    axes: tuple[int, ...] | None = None

    def shape_there(self, here: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape there of an array of shape `here`."""
        shape = self.merged(here)
        return shape if self.axes is None else tuple(shape[a] for a in self.axes)

    def import_(self, x: np.ndarray, here: tuple[int, ...]) -> np.ndarray:
        """Returns an array from there as a new float32 array in the layout here."""
        if self.axes is None:
            return np.asarray(x, np.float32).reshape(here)
        # torch's first axis, outputs, is the last one here in every layout.
        x = _first_axis_last(x)
        order = (np.argsort(self.axes) - 1) % len(self.axes)
        return np.ascontiguousarray(x.transpose(order)).reshape(here)

    def export(self, x: np.ndarray) -> np.ndarray:
        """Returns an array from here in the layout there."""
        x = x.reshape(self.merged(x.shape))
        return np.ascontiguousarray(x if self.axes is None else x.transpose(self.axes))


SAME = Layout(lambda shape: shape)
# A bias, here perhaps [N, D / N].
VECTOR = Layout(lambda shape: (math.prod(shape),))
# torch's Linear [out, in]; here [in, out] or [in, N, out / N].
LINEAR = Layout(lambda shape: (shape[0], math.prod(shape[1:])), (1, 0))
# torch's Conv2d [out, in, h, w]; here [h, w, in, out].
CONV = Layout(lambda shape: shape, (3, 2, 0, 1))


class Rule(NamedTuple):
    """A name there, a path here ("" = of no use here), and the layout there."""

    there: str
    here: str
    layout: Layout = SAME


@dataclasses.dataclass(frozen=True)
class Table:
    """All names that a kind of file may have.

    Attributes:
      name: of the kind, for messages.
      prefix: that all names may begin with, or not.
      rules: ordered; the first that fits a name counts.
      optional: patterns of paths here that such a file may lack.
      cut: paths whose first axis may be longer there.
    """

    name: str
    prefix: str
    rules: Sequence[Rule]
    optional: Sequence[str] = ()
    cut: Sequence[str] = ()

    def here(self, name: str) -> tuple[str, Layout] | None:
        """Returns the path and layout of a name there, None if it is unknown."""
        name = name.removeprefix(self.prefix)
        for rule in self.rules:
            if path := _translate(name, rule.there, rule.here):
                return path.pop(), rule.layout
        return None

    def there(self, path: str) -> tuple[str, Layout] | None:
        """Returns the name and layout of a path here, None if there is none."""
        for rule in self.rules:
            if rule.here and (name := _translate(path, rule.here, rule.there)):
                return name.pop(), rule.layout
        return None


class Report(NamedTuple):
    """What became of the tensors of a file and of the paths that it could fill.

    Attributes:
      loaded: path here -> name there.
      reshaped: paths whose table was cut to the rows that are needed here.
      unused: names there that are of no use here.
      missing: paths that the file has nothing for and that start anew.
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
    """Converts a file's tensors; nothing is returned unless all of it fits.

    Args:
      weights: of `open_weights`.
      table: of the kind of file.
      target: {path: shape} of all that such a file could fill.
      where: names the file in messages.

    Returns:
      {path: float32 array} and what became of everything.

    Raises:
      InputError: names that the table does not know, parts that the model does not
        have or that the file lacks, or other shapes; names the first and both shapes.
    """
    found: dict[str, tuple[str, Layout]] = {}
    unknown, unused, faults, reshaped = [], [], [], []
    for name, tensor in weights.items():
        match = table.here(name)
        if match is None:
            unknown.append(name)
            continue
        path, layout = match
        if not path:
            unused.append(name)
        elif path in found:
            faults.append(f"{name} and {found[path][0]} are both {path}")
        elif path not in target:
            faults.append(f"{name} {tensor.shape} has no place: no {path} in the model")
        else:
            found[path] = name, layout
            wanted = layout.shape_there(target[path])
            longer = (
                path in table.cut
                and tensor.shape[1:] == wanted[1:]
                and tensor.shape[:1] > wanted[:1]
            )
            if longer:
                reshaped.append(path)
            elif tensor.shape != wanted:
                faults.append(
                    f"{name}: there {tensor.shape}, wanted {wanted} for {path} "
                    f"{target[path]}"
                )
    absent = [path for path in target if path not in found]
    missing = [p for p in absent if any(re.fullmatch(o, p) for o in table.optional)]
    faults += [f"{n}: not a name of {table.name}" for n in unknown]
    faults += [
        f"nothing for {path} {target[path]}" for path in absent if path not in missing
    ]
    if faults:
        raise InputError(
            f"{where} does not fit this model as {table.name}: {len(faults)} "
            f"differences:\n  " + "\n  ".join(faults[:SHOWN])
        )
    out = {}
    for path, (name, layout) in found.items():
        array = np.asarray(weights[name].read())
        if path in reshaped:
            array = array[: target[path][0]]
        out[path] = layout.import_(array, target[path])
    loaded = {path: name for path, (name, _) in found.items()}
    return out, Report(loaded, reshaped, unused, missing)


def export_weights(
    arrays: Mapping[str, np.ndarray], table: Table
) -> dict[str, np.ndarray]:
    """Returns {name there: array there} of all paths that the table knows."""
    out = {}
    for path, array in arrays.items():
        if match := table.there(path):
            name, layout = match
            out[table.prefix + name] = layout.export(np.asarray(array))
    return out


def shorten(names: Sequence[str]) -> str:
    """Joins the first few names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _first_axis_last(x: np.ndarray) -> np.ndarray:
    """Maps [A, ...] to a new float32 array [..., A].

    Some rows at a time, which stay in the processor's cache: three times as fast as
    copying the transposed array at once.
    """
    flat = x.reshape(len(x), -1)
    out = np.empty(flat.shape[::-1], np.float32)
    for start in range(0, len(flat), ROWS):
        out[:, start : start + ROWS] = flat[start : start + ROWS].T
    return out.reshape(*x.shape[1:], len(x))


def _translate(name: str, pattern: str, template: str) -> list[str] | None:
    """Returns [the template with the name's numbers], None if the name is another.

    A list, because the result may be empty text.
    """
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

    return [_NUMBER.sub(number, template)]
