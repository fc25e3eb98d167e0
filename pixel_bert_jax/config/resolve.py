"""From plain values to a `Config`: all faults are reported before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import ml_collections

from pixel_bert_jax.config.reader import Reader, conflicts, unknown_field
from pixel_bert_jax.config.schema import Config
from pixel_bert_jax.types import InputError, nearest


def resolve(values: Config | Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Checks all values and fills in the defaults of missing fields.

    A sequence becomes a tuple; an integer becomes a float where one is expected.
    Mappings are sorted by name, so that parts that are built in their order
    (objectives) do not depend on how a config was written. A `Config` is returned
    unchanged.

    Args:
      values: nested fields, as in this version or as stored by an earlier one.

    Raises:
      InputError: lists every unknown field and every value that cannot be used, with
        what was expected, what was received and a valid example.
    """
    if isinstance(values, Config):
        return values
    reader = Reader()
    config = reader.read(Config, upgrade(_plain(values)), "")
    faults = [*reader.faults.values(), *conflicts(config, reader.faults)]
    if faults:
        raise InputError("\n  ".join(["the config cannot be used:", *faults]))
    return config


def resolve_section(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """Checks the values of one section of the schema.

    Args:
      kind: dataclass of the section.
      values: its fields by name; missing ones take their defaults.
      where: names the section in messages.

    Raises:
      InputError: lists every unknown field and every value that cannot be used.
    """
    reader = Reader()
    section = reader.read(kind, _plain(values), where)
    if reader.faults:
        raise InputError("; ".join(reader.faults.values()))
    return section


def upgrade(values: Any) -> Any:
    """Returns a stored config of an earlier version in the form of this one.

    Backbone and front end had no name, as there was one of each. Images per group were
    a field of the dry run; now they follow from the objectives.
    """
    if not isinstance(values, Mapping):
        return values
    values = dict(values)
    if isinstance(values.get("model"), Mapping):
        values["model"] = model = dict(values["model"])
        for part, name in (("backbone", "resnet"), ("front_end", "pixels")):
            if isinstance(model.get(part), Mapping):
                model[part] = {"name": name, **model[part]}
    if isinstance(values.get("dry_run"), Mapping):
        values["dry_run"] = dict(values["dry_run"])
        values["dry_run"].pop("images_per_group", None)
    return values


def defaults() -> ml_collections.ConfigDict:
    """Returns the defaults of all fields, locked, for a config file to change."""
    return ml_collections.ConfigDict(Config().to_dict()).lock()


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns a config with other values, {"optim.accumulate": 2, ...}, all checked.

    A mapping without named fields, such as "model.backbone" or "objectives", may be
    replaced as a whole, and may gain fields.

    Raises:
      InputError: an unknown field, or a value that cannot be used.
    """
    values = config.to_dict()
    for path, value in changes.items():
        *parents, name = path.split(".")
        node: Any = values
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise InputError(unknown_field(path))
        node[name] = value
    return resolve(values)


def places(config: Config) -> tuple[str, ...]:
    """Returns the names of the fields that are paths on a machine."""

    def visit(kind: type, start: str) -> Iterator[str]:
        for name, hint in get_type_hints(kind, include_extras=True).items():
            if dataclasses.is_dataclass(hint):
                yield from visit(hint, f"{start}{name}.")
            elif "place" in (getattr(mark, "name", "") for mark in get_args(hint)):
                yield start + name

    return tuple(visit(type(config), ""))


def check_metric(metric: str, names: Sequence[str]) -> None:
    """Refuses a `checkpoint.best_metric` that no evaluation gives.

    Args:
      metric: name of the metric, "" for none.
      names: names of an evaluation's metrics.

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
