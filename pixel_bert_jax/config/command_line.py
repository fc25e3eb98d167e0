"""The command line: how programs and tests choose and override a config.

    --config=configs/pretrain.py:tiny --config.optim.accumulate=2

The flags are those of ml_collections. `--config=FILE:PRESET,key=value,...` is short for
`--config=FILE:PRESET --config.key=value ...`.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from pixel_bert_jax.config.config_file import OVERRIDE, FileParser
from pixel_bert_jax.config.resolve import places, resolve
from pixel_bert_jax.config.schema import Config
from pixel_bert_jax.types import EXIT_BAD_INPUT, InputError

EXAMPLE = "--config=configs/pretrain.py:tiny"
HELP = f"FILE:PRESET, such as {EXAMPLE}; --config.FIELD=VALUE sets a field of it."
FIELD = re.compile(r"-{1,2}config\.([\w.]+)")
KEY = r"\s*[A-Za-z_][\w.\[\]]*="


@dataclasses.dataclass(frozen=True)
class Launch:
    """A config that was chosen by a command line.

    Attributes:
      config: the config with all overrides.
      preset: the config without any.
      file: path of the config file, as given.
      given: names of the fields that the command line sets, such as "init.model".
    """

    config: Config
    preset: Config
    file: Path
    given: frozenset[str] = frozenset()

    @property
    def workdir(self) -> Path:
        """The default of --workdir: runs/<config file>_<preset>."""
        return Path(
            "runs", "_".join(filter(None, (self.file.stem, self.config.preset)))
        )

    @property
    def command(self) -> str:
        """The command that trains with this config, without the paths of a machine."""
        source = f"configs/{self.file.stem}.py:{self.config.preset}"
        left_out = [f"--config.{path}=" for path in places(self.config)]
        words = [w for w in self.changes if not w.startswith(tuple(left_out))]
        return " ".join(
            [
                f"python -m pixel_bert_jax.main --config={source}",
                *map(shlex.quote, words),
            ]
        )

    @property
    def changes(self) -> list[str]:
        """The flags that turn the preset into the config."""
        both = self.config.to_dict(), self.preset.to_dict()
        return [f"--config.{path}={value}" for path, value in _differences(*both)]


def _differences(
    new: Mapping[str, Any], old: Mapping[str, Any], start: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields (name, value) of fields that differ; mappings of other keys as a whole."""
    for name, value in new.items():
        before = old[name]
        if value == before:
            continue
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        if both and value.keys() == before.keys():
            yield from _differences(value, before, f"{start}{name}.")
        else:
            yield f"{start}{name}", value


def load(value: str, changes: Mapping[str, Any] | None = None) -> Config:
    """Returns the config that a command line chooses.

    Args:
      value: of --config: FILE:PRESET, or FILE:PRESET,key=value,...
      changes: {"optim.accumulate": 2, ...}, as --config.optim.accumulate=2.

    Raises:
      InputError: no such file, preset or field, or a value that cannot be used.
    """
    words = [f"--config.{path}={item}" for path, item in (changes or {}).items()]
    launch, _ = parse(["", f"--config={value}", *words], flags.FlagValues())
    return launch.config


def parse(words: Sequence[str], values: flags.FlagValues) -> tuple[Launch, list[str]]:
    """Parses a command line: --config, and all other flags that `values` defines.

    Args:
      words: the command line, beginning with the program's name.
      values: flags; the flag --config is added.

    Returns:
      The launch, and the words that are not flags.

    Raises:
      InputError: any fault of the command line or the config.
    """
    words = values.read_flags_from_files(list(words), force_gnu=False)
    words = list(_without_shorthand(words))
    parser = FileParser(words)
    config_flags.DEFINE_config_file(
        "config", None, HELP, flag_values=values, sys_argv=words
    )
    values["config"].parser = parser
    values.register_key_flag_for_module(words[0], values["config"])  # for --help
    try:
        rest = values(words)
    except flags.Error as error:
        message = str(error).removesuffix(".")
        raise InputError(message + parser.expected(message)) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # An index or attribute of a field, as in --config.data.corpora[0].name.
        raise InputError(f"no such element of a --config.FIELD: {error}") from error
    if parser.preset is None:
        raise InputError(f"--config is missing; for example {EXAMPLE}")
    named = frozenset(found[1] for word in words if (found := FIELD.match(word)))
    config = resolve(values["config"].value)
    return Launch(config, parser.preset, parser.file, named), rest[1:]


def parse_program(words: list[str]) -> Launch:
    """Parses the command line of `main`; a fault in it ends with exit code 2."""
    values = flags.FLAGS
    try:
        launch, rest = parse(words, values)
        if rest:
            raise InputError(f"unexpected arguments: {' '.join(rest)}")
        _check(values)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    # `app.run` would make it INFO, at which Orbax reports every file.
    if values["verbosity"].using_default_value:
        values.verbosity = logging.WARNING
    return launch


def _check(values: flags.FlagValues) -> None:
    """Refuses flags of `main` that do not fit together.

    Raises:
      InputError: names the flag.
    """
    if "://" in values.workdir:
        raise InputError(
            f"--workdir={values.workdir} is an address; expected a folder, such as one "
            "on which the bucket is mounted"
        )
    if values.mode == "predict" and not (values.output or values.dry_run):
        raise InputError("--mode=predict needs --output=FILE")
    if values.seeds and (values.coordinator_address or values.mode != "train"):
        raise InputError("--seeds is for training by a single process")
    if values.seeds and values.rebuild_index:
        raise InputError("--seeds and --rebuild_index do not go together")
    if not values.coordinator_address:
        if values.num_processes != 1 or values.process_id:
            raise InputError(
                "--num_processes and --process_id need --coordinator_address=HOST:PORT"
            )
    elif values.rebuild_index:
        raise InputError(
            "--rebuild_index is for a single process; build the index first, such as "
            "by a run of --config.total='1 steps', then start all"
        )


def _without_shorthand(words: Sequence[str]) -> Iterator[str]:
    """Turns key=value after a preset into --config.key=value.

    Raises:
      InputError: something else after a preset, --config more than once, or overrides
        without --config.
    """
    words = list(words)
    given = [n for n, word in enumerate(words) if re.match(r"-{1,2}config(=|$)", word)]
    if len(given) > 1:
        raise InputError("--config is given twice, expected one config")
    if not given and any(map(OVERRIDE.match, words)):
        raise InputError(f"--config is missing; for example {EXAMPLE}")
    for number in given:
        if "=" not in words[number]:
            words[number : number + 2] = ["=".join(words[number : number + 2])]
    for number, word in enumerate(words):
        if number not in given:
            yield word
            continue
        preset, comma, changes = word.partition(",")
        yield preset
        for change in _split(changes) if comma else ():
            key = re.match(KEY, change)
            if not key:
                raise InputError(
                    f"{word}: expected key=value after the preset, received {change!r}"
                )
            flag = f"--config.{key[0].strip()}"
            # A flag for the same field wins: ml_collections would join two tuples.
            if not any(other.startswith(flag) for other in words[number + 1 :]):
                yield flag + change[key.end() :]


def _split(text: str) -> Iterator[str]:
    """Splits at commas before key=, except inside brackets."""
    whole = ""
    for part in re.split(f",(?={KEY})", text):
        whole = f"{whole},{part}" if whole else part
        if sum(map(whole.count, "([{")) <= sum(map(whole.count, ")]}")):
            yield whole
            whole = ""
    if whole:
        yield whole
