"""Reads the collectives of a compiled program."""

import dataclasses
import re

_KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "reduce-scatter",
)
# `%name = TYPE kind(operands), ..., metadata={op_name="..."}`; a TYPE may be a tuple
# with comments inside, and an asynchronous collective is a `-start` and a `-done`.
_LINE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<type>.*?) (?P<kind>"
    + "|".join(_KINDS)
    + r")(?:-start)?\("
)
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective and the (dtype, shape) of every array it gives."""

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    name: str


def collectives(text: str) -> list[Collective]:
    """Lists every collective of a compiled program's text."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        shapes = tuple(
            (dtype, tuple(int(n) for n in dims.split(",") if n))
            for dtype, dims in _SHAPE.findall(match["type"])
        )
        name = _NAME.search(line)
        found.append(Collective(match["kind"], shapes, name[1] if name else ""))
    return found
