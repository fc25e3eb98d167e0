"""From plain values to a `Config`: every fault is found before anything starts."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import ml_collections

from pixel_bert_jax.config.schema import Config, Form, Range
from pixel_bert_jax.training import durations
from pixel_bert_jax.types import InputError, nearest

_EXPECTED = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
}


def resolve(values: Config | Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Checks all values and fills in the defaults of fields that are missing.

    A sequence becomes a tuple, an integer where a float is expected a float. Mappings
    are sorted by name, so that parts which are built in their order (objectives) do
    not depend on how a config was written. A `Config` is returned unchanged.

    Args:
      values: nested fields, of this version or as an earlier one stored them.

    Raises:
      InputError: lists every unknown field and every value that cannot be used, with
        what was expected, what was received and a valid example.
    """
    if isinstance(values, Config):
        return values
    reader = _Reader()
    config = reader.read(Config, upgrade(_plain(values)), "config", None)
    faults = [*reader.faults.values(), *_conflicts(config, reader.faults)]
    if faults:
        raise InputError("\n  ".join(["the config cannot be used:", *faults]))
    return config


def upgrade(values: Any) -> Any:
    """Returns a stored config of an earlier version in the form of this one.

    Backbone and front end had no name, as there was one of each; images per group were
    a field of the dry run and now follow from the objectives.
    """
    if not isinstance(values, Mapping):
        return values
    values = dict(values)
    if isinstance(values.get("model"), Mapping):
        values["model"] = model = dict(values["model"])
        for field, name in (("backbone", "resnet"), ("front_end", "pixels")):
            if isinstance(model.get(field), Mapping):
                model[field] = {"name": name, **model[field]}
    if isinstance(values.get("dry_run"), Mapping):
        values["dry_run"] = dict(values["dry_run"])
        values["dry_run"].pop("images_per_group", None)
    return values


def defaults() -> ml_collections.ConfigDict:
    """Returns the default of every field, locked, for a config file to change."""
    return ml_collections.ConfigDict(Config().to_dict()).lock()


def flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"optim.accumulate": 1, ...}; an empty mapping leaves no trace."""
    values = config if isinstance(config, Mapping) else config.to_dict()
    return dict(_leaves(values, ""))


def _leaves(values: Mapping[str, Any], start: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns a config with other values, {"optim.accumulate": 2, ...}, all checked.

    A mapping without named fields, such as "model.backbone" or "objectives", may be
    replaced as a whole, and gain fields.

    Raises:
      InputError: an unknown field, or a value that cannot be used.
    """
    values = config.to_dict()
    for path, value in changes.items():
        *parents, name = path.split(".")
        node = values
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise InputError(unknown_field(path))
        node[name] = value
    return resolve(values)


def places(config: Config) -> tuple[str, ...]:
    """Returns the names of fields that say where files lie on a machine."""

    def visit(kind: type, start: str) -> Iterator[str]:
        for name, hint in get_type_hints(kind, include_extras=True).items():
            if dataclasses.is_dataclass(hint):
                yield from visit(hint, f"{start}{name}.")
            elif "place" in (getattr(mark, "name", "") for mark in get_args(hint)):
                yield start + name

    return tuple(visit(type(config), ""))


def unknown_field(path: str, valid: Sequence[str] = ()) -> str:
    """Says that there is no field of this name, and which one may be meant."""
    return f"no config field {path!r}{nearest(path, valid or _names())}"


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(flat(Config()))


def check_metric(metric: str, names: Sequence[str]) -> None:
    """Refuses a `checkpoint.best_metric` that no evaluation gives.

    Args:
      metric: the name, "" for none.
      names: metrics of an evaluation.

    Raises:
      InputError: with the nearest name.
    """
    if metric and metric not in names:
        raise InputError(
            f"checkpoint.best_metric is {metric!r}{nearest(metric, names)}; the "
            f"evaluation gives {', '.join(sorted(names))}"
        )


def _plain(value: Any) -> Any:
    """Returns plain dicts sorted by name, and tuples for lists."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value


def _conflicts(config: Config, faults: Mapping[str, str]) -> Iterator[str]:
    """Says which fields do not go together, among those that have no fault."""
    model, length = config.model, config.data.max_text_length
    if not {"model", "model.features", "model.heads"} & faults.keys():
        if model.features % model.heads:
            yield (
                f"model.features is {model.features}, which does not divide by "
                f"model.heads = {model.heads}, expected a multiple such as "
                f"{-(-model.features // model.heads) * model.heads}"
            )
    if not {"data.max_text_length", "model.max_positions"} & faults.keys():
        if length > model.max_positions:
            yield (
                f"data.max_text_length is {length}, but there are only "
                f"model.max_positions = {model.max_positions} position embeddings"
            )


class _Reader:
    """Reads values by the annotations of the schema and collects faults by field."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def read(self, kind: Any, value: Any, path: str, default: Any) -> Any:
        """Returns `value` as `kind`, or anything after noting a fault.

        Args:
          kind: an annotation of the schema.
          value: plain, see `_plain`.
          path: name of the field.
          default: a valid value, for messages; None if there is none.
        """
        origin, parts = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._annotated(*parts, value, path, default)
        if dataclasses.is_dataclass(kind):
            return self._section(kind, value, path)
        if origin is Literal:
            return self._choice(parts, value, path)
        if origin is tuple:
            return self._sequence(parts, value, path, default)
        if origin is collections.abc.Mapping:
            return self._mapping(parts[1], value, path, default)
        if origin is types.UnionType:
            return self._tagged(parts, value, path)
        if kind is Any:
            return value
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            self._fault(path, value, _EXPECTED[kind], default)
        return value

    def _fault(self, path: str, value: Any, expected: str, example: Any) -> None:
        shown = "" if example in (None, "", (), {}) else f", such as {example!r}"
        self.faults[path] = f"{path} is {value!r}, expected {expected}{shown}"

    def _annotated(
        self, kind: Any, mark: Range | Form, value: Any, path: str, default: Any
    ) -> Any:
        if isinstance(mark, Form):
            if mark.name not in ("duration", "total"):
                return self.read(kind, value, path, default or mark.example)
            try:
                # Any length of a run and of an epoch serves to read the form.
                total = None if mark.name == "total" else 1
                durations.steps(value, steps_per_epoch=1, total=total)
            except InputError as error:
                self.faults[path] = f"{path}: {error}"
            return value
        value = self.read(kind, value, path, default)
        # NaN is in no range.
        if path not in self.faults and not mark.least <= value <= mark.greatest:
            expected = f"at least {mark.least}"
            if mark.greatest != math.inf:
                expected = f"{mark.least} to {mark.greatest}"
            self._fault(path, value, expected, default)
        return value

    def _section(self, kind: Any, value: Any, path: str) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            example = {f.name: getattr(kind, f.name, None) for f in _fields(kind)[:1]}
            self._fault(path, value, "a mapping", example)
            return kind()
        hints = get_type_hints(kind, include_extras=True)
        fields = {field.name: field for field in _fields(kind)}
        given = {}
        for name, item in value.items():
            inner = f"{path}.{name}".removeprefix("config.")
            if name in fields:
                default = getattr(kind(), name)
                given[name] = self.read(hints[name], item, inner, default)
            else:
                valid = [f"{inner.removesuffix(str(name))}{field}" for field in fields]
                self.faults[inner] = unknown_field(inner, (*valid, *_names()))
        return kind(**given)

    def _choice(self, valid: Sequence[Any], value: Any, path: str) -> Any:
        if value not in valid:
            self.faults[path] = (
                f"{path} is {value!r}{nearest(str(value), valid)}; valid: "
                f"{', '.join(valid)}"
            )
        return value

    def _sequence(
        self, kinds: Sequence[Any], value: Any, path: str, default: Any
    ) -> Any:
        default = default or ()
        many = kinds[-1] is Ellipsis
        if not isinstance(value, tuple) or not (many or len(value) == len(kinds)):
            size = "a sequence" if many else f"a sequence of {len(kinds)}"
            self._fault(
                path,
                value,
                size,
                default[: 2 if many else None] or self._example(kinds[0]),
            )
            return value
        kinds = [kinds[0]] * len(value) if many else kinds
        examples = [default[0] if default else None] * len(value) if many else default
        return tuple(
            self.read(kind, item, f"{path}[{n}]", example)
            for n, (kind, item, example) in enumerate(
                zip(kinds, value, examples or [None] * len(kinds), strict=True)
            )
        )

    def _example(self, kind: Any) -> Any:
        forms = [mark for mark in get_args(kind) if isinstance(mark, Form)]
        return (forms[0].example,) if forms else None

    def _mapping(self, kind: Any, value: Any, path: str, default: Any) -> Any:
        if not isinstance(value, Mapping):
            self._fault(path, value, "a mapping", default)
            return value
        example = next(iter((default or {}).values()), None)
        return {
            name: self.read(kind, item, f"{path}.{name}", example)
            for name, item in value.items()
        }

    def _tagged(self, kinds: Sequence[Any], value: Any, path: str) -> Any:
        """Reads one of several dataclasses, which its field `kind` tells apart."""
        if isinstance(value, kinds):
            return value
        if not isinstance(value, Mapping):
            self._fault(path, value, "a mapping", kinds[0]().to_dict())
            return value
        by_kind = {kind.kind: kind for kind in kinds}
        found = self._choice(tuple(by_kind), value.get("kind"), f"{path}.kind")
        return self._section(by_kind[found], value, path) if found in by_kind else value


def _fields(kind: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(kind)
