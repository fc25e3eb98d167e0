"""Reads plain values by the annotations of the schema, and collects all faults."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pixel_bert_jax.config.schema import Config, Form, Range, flat
from pixel_bert_jax.training import durations
from pixel_bert_jax.types import InputError, nearest

EXPECTED = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
}


class Reader:
    """Converts plain values to the annotated types.

    Attributes:
      faults: field -> message about its value.
    """

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def read(self, kind: Any, value: Any, path: str, example: Any = None) -> Any:
        """Returns `value` as `kind`, or any value after recording a fault.

        Args:
          kind: an annotation of the schema.
          value: a plain value: dicts, tuples, numbers, strings.
          path: name of the field, "" for the whole config.
          example: a valid value, for messages; None if there is none.
        """
        origin, parts = get_origin(kind), get_args(kind)
        if kind is Any:
            return value
        if dataclasses.is_dataclass(kind):
            return self._section(kind, value, path)
        if origin is Annotated and isinstance(parts[1], Range):
            return self._number(*parts, value, path, example)
        if origin is Annotated:
            return self._form(*parts, value, path, example)
        if origin is Literal:
            return self._choice(parts, value, path)
        if origin is tuple:
            return self._sequence(parts, value, path, example)
        if origin is collections.abc.Mapping:
            return self._mapping(parts[1], value, path, example)
        if origin is types.UnionType:
            return self._one_of(parts, value, path)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            self._fault(path, value, EXPECTED[kind], example)
        return value

    def _fault(self, path: str, value: Any, expected: str, example: Any) -> None:
        shown = "" if example in (None, "", (), {}) else f", such as {example!r}"
        what = path or "config"
        self.faults[path] = f"{what} is {value!r}, expected {expected}{shown}"

    def _number(
        self, kind: Any, valid: Range, value: Any, path: str, example: Any
    ) -> Any:
        value = self.read(kind, value, path, example)
        # Written so that NaN is outside every range.
        if path not in self.faults and not valid.least <= value <= valid.greatest:
            expected = f"at least {valid.least}"
            if valid.greatest != math.inf:
                expected = f"{valid.least} to {valid.greatest}"
            self._fault(path, value, expected, example)
        return value

    def _form(self, kind: Any, form: Form, value: Any, path: str, example: Any) -> Any:
        if form.name not in ("duration", "total"):
            return self.read(kind, value, path, example or form.example)
        try:
            # Any length of a run and of an epoch will do to check the form.
            total = None if form.name == "total" else 1
            durations.steps(value, steps_per_epoch=1, total=total)
        except InputError as error:
            self.faults[path] = f"{path}: {error}"
        return value

    def _choice(self, valid: Sequence[Any], value: Any, path: str) -> Any:
        if value not in valid:
            self.faults[path] = (
                f"{path} is {value!r}{nearest(str(value), valid)}; valid: "
                f"{', '.join(valid)}"
            )
        return value

    def _section(self, kind: Any, value: Any, path: str) -> Any:
        default = kind()
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            self._fault(path, value, "a mapping", default.to_dict())
            return default
        hints = get_type_hints(kind, include_extras=True)
        given = {}
        for name, item in value.items():
            inner = f"{path}.{name}" if path else str(name)
            if name in hints:
                example = getattr(default, name)
                given[name] = self.read(hints[name], item, inner, example)
            else:
                valid = [f"{path}.{field}" if path else field for field in hints]
                self.faults[inner] = unknown_field(inner, (*valid, *_names()))
        return kind(**given)

    def _one_of(self, kinds: Sequence[Any], value: Any, path: str) -> Any:
        """Reads one of several dataclasses, chosen by the field `kind`."""
        if isinstance(value, kinds):
            return value
        if not isinstance(value, Mapping):
            self._fault(path, value, "a mapping", kinds[0]().to_dict())
            return value
        by_kind = {kind.kind: kind for kind in kinds}
        name = self._choice(tuple(by_kind), value.get("kind"), f"{path}.kind")
        return self._section(by_kind[name], value, path) if name in by_kind else value

    def _sequence(
        self, kinds: Sequence[Any], value: Any, path: str, example: Any
    ) -> Any:
        many = kinds[-1] is Ellipsis
        if many:
            first = example[0] if example else _form_example(kinds[0])
            examples, expected = (first,) * bool(first), "a sequence"
        else:
            examples, expected = example or (), f"a sequence of {len(kinds)}"
        if not isinstance(value, tuple) or not (many or len(value) == len(kinds)):
            self._fault(path, value, expected, examples)
            return value
        if many:
            kinds, examples = kinds[:1] * len(value), examples * len(value)
        shown = [*examples, *[None] * len(value)]
        return tuple(
            self.read(kind, item, f"{path}[{n}]", shown[n])
            for n, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )

    def _mapping(self, kind: Any, value: Any, path: str, example: Any) -> Any:
        if not isinstance(value, Mapping):
            self._fault(path, value, "a mapping", example)
            return value
        first = next(iter((example or {}).values()), None)
        return {
            name: self.read(kind, item, f"{path}.{name}", first)
            for name, item in value.items()
        }


def _form_example(kind: Any) -> Any:
    """Returns the example of an element's form, None if it has none."""
    return next((m.example for m in get_args(kind) if isinstance(m, Form)), None)


def conflicts(config: Config, faults: Mapping[str, str]) -> Iterator[str]:
    """Yields messages about fields that contradict each other, among valid ones."""
    model, length = config.model, config.data.max_text_length
    sound = faults.keys().isdisjoint
    if sound({"model.features", "model.heads"}) and model.features % model.heads:
        yield (
            f"model.features is {model.features}, which does not divide by "
            f"model.heads = {model.heads}, expected a multiple such as "
            f"{-(-model.features // model.heads) * model.heads}"
        )
    fields = {"data.max_text_length", "model.max_positions"}
    if sound(fields) and length > model.max_positions:
        yield (
            f"data.max_text_length is {length}, but there are only "
            f"model.max_positions = {model.max_positions} position embeddings"
        )


def unknown_field(path: str, valid: Sequence[str] = ()) -> str:
    """Returns the message about an unknown field, with the nearest valid one."""
    return f"no config field {path!r}{nearest(path, valid or _names())}"


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(flat(Config()))
