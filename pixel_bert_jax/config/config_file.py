"""The flag --config: runs a config file once and returns a config to override."""

from __future__ import annotations

import importlib.util
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from pixel_bert_jax.config.reader import EXPECTED, unknown_field
from pixel_bert_jax.config.resolve import resolve
from pixel_bert_jax.config.schema import Config, Section, flat
from pixel_bert_jax.types import InputError, nearest

OVERRIDE = re.compile(r"-{1,2}(?:no)?config\.([^=\[]*)")


def choose(name: str, presets: Mapping[str, Callable[[], Any]]) -> Any:
    """Returns the locked config of a preset, as `get_config` of a config file does.

    Args:
      name: PRESET of --config=FILE:PRESET, "" if none is given.
      presets: name -> function that makes a config; "" is the default.

    Raises:
      InputError: no such preset, with the nearest name.
    """
    if name not in presets:
        valid = [other for other in presets if other]
        raise InputError(
            f"no preset {name!r}{nearest(name, valid)}; valid: {', '.join(valid)}"
        )
    return presets[name]().lock()


class FileParser(flags.ArgumentParser):
    """Parses the value of --config, with messages where ml_collections has tracebacks.

    Attributes:
      file: path of the config file, as given.
      preset: its config without overrides; None if no --config was given.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.file = Path()
        self.preset: Config | None = None
        self._words = words

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        """Returns all fields of FILE:PRESET, including those that the file leaves out.

        Raises:
          InputError: no such file or preset, or an override of an unknown field.
        """
        name, colon, preset = argument.partition(":")
        self.file = Path(name)
        self.preset = resolve(
            run_file(self.file, "get_config", [preset] if colon else [])
        )
        for found in filter(None, map(OVERRIDE.match, self._words)):
            _check_field(found[1], self.preset)
        return ml_collections.ConfigDict(self.preset.to_dict()).lock()

    def expected(self, error: str) -> str:
        """Returns what is expected of the field that an error names, "" if none is."""
        found = re.match(r"flag --config\.([^=\[]+)=", error)
        if found is None or self.preset is None:
            return ""
        value: Any = self.preset.to_dict()
        for name in found[1].split("."):
            value = value[name]
        kind = EXPECTED.get(type(value), "a Python literal")
        return f"; expected {kind} such as {value!r}"


def run_file(path: Path, function: str, arguments: Sequence[str]) -> Any:
    """Runs a function of a config file, such as `get_config`.

    Raises:
      InputError: there is no such file or function, or it raises; names the line.
    """
    if not path.is_file():
        there = [str(other) for other in path.parent.glob("*.py")]
        raise InputError(f"no file {str(path)!r}{nearest(str(path), there)}")
    spec = importlib.util.spec_from_file_location("config_file", path.resolve())
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)(*arguments)
    except InputError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(path.resolve())]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise InputError(f"{where}: {type(error).__name__}: {error}") from error


def _check_field(path: str, preset: Config) -> None:
    """Refuses an override of an unknown field, or of a whole section.

    Raises:
      InputError: with the nearest name.
    """
    names = list(_settable(vars(preset)))
    if path in names:
        return
    inner = [name for name in names if name.startswith(f"{path}.")]
    if inner:
        raise InputError(
            f"{path} is a section, expected its fields one by one, such as "
            f"--config.{inner[0]}=VALUE"
        )
    raise InputError(unknown_field(path, tuple(flat(preset))))


def _settable(
    values: Mapping[str, Any], start: str = "", *, whole: bool = False
) -> Iterator[str]:
    """Yields the names that an override may set.

    A section is not among them: fields that its value left out would silently lose the
    preset's values. A mapping is, and so are the sections in it (`whole`).
    """
    for name, value in values.items():
        section = isinstance(value, Section)
        if whole or not section:
            yield start + name
        inner = vars(value) if section else value
        if isinstance(inner, Mapping):
            yield from _settable(inner, f"{start}{name}.", whole=not section)
