"""The cells of a study: training runs that may start from each other, over seeds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import absl.flags

from pixel_bert_jax import metrics, train, trees
from pixel_bert_jax.config import flat, places, resolve
from pixel_bert_jax.config.command_line import parse
from pixel_bert_jax.data import durable
from pixel_bert_jax.types import EXIT_DONE, EXIT_PREEMPTED, InputError

RESULTS, LOGS, RUNS = "results", "logs", "runs"  # folders in the study's own


@dataclasses.dataclass(frozen=True)
class Cell:
    """A training run of a study.

    Attributes:
      config: value of --config, FILE:PRESET.
      start: name of the cell whose model of the same seed it starts from, "" for none.
    """

    config: str
    start: str = ""


class Failed(Exception):
    """A cell's process ended with an error."""


class Runner:
    """Runs cells in a study's folder; a finished cell is not run again.

    `results/CELL-SEED.json` is a finished cell: its command, config, metrics of the
    last evaluation, SHA-256 of the state, and time. `runs` has the workdirs, in which
    an interrupted cell resumes; `logs` has what the processes print.
    """

    def __init__(
        self, cells: Mapping[str, Cell], folder: Path, flags: Sequence[str] = ()
    ):
        """Checks the cells; runs nothing yet.

        Args:
          cells: cells by name.
          folder: the study's folder.
          flags: further flags of every process, such as --config.data.root=FOLDER;
            those of `init` only of cells that do not start from another one.

        Raises:
          InputError: a cell starts from one that is not there, or from itself.
        """
        self.cells, self.folder, self._flags = cells, folder, list(flags)
        self._failed: dict[tuple[str, int], Failed] = {}
        for name in cells:
            seen = [name]
            while start := cells[seen[-1]].start:
                if start not in cells or start in seen:
                    raise InputError(
                        f"cell {name!r} starts from {' from '.join([*seen[1:], start])}"
                        ", expected other cells of the study"
                    )
                seen.append(start)

    def result(self, name: str, seed: int) -> dict[str, Any] | None:
        """Returns what is kept of a finished cell, None if it is not finished."""
        file = self._file(name, seed)
        return json.loads(file.read_text()) if file.is_file() else None

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Runs a cell, after the one that it starts from, and returns its result.

        Raises:
          InputError: it is finished, with another config.
          Failed: a process ended with an error, now or before; names its log.
        """
        words = self._words(name, seed)
        if (found := self.result(name, seed)) is not None:
            self._check_same(name, seed, words, found["config"])
            return found
        if (name, seed) in self._failed:
            raise self._failed[name, seed]
        if start := self.cells[name].start:
            self.run(start, seed)
        log = self.folder / LOGS / f"{name}-{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"{name}, seed {seed}: {log}", file=sys.stderr, flush=True)
        code, seconds = self._launch(words, log)
        if code != EXIT_DONE:
            self._failed[name, seed] = Failed(
                f"{name}, seed {seed}: exit code {code}, see {log}"
            )
            raise self._failed[name, seed]
        workdir = self.workdir(name, seed)
        record = {
            "cell": name,
            "seed": seed,
            "command": shlex.join(words),
            "config": json.loads((workdir / "config.json").read_text()),
            "metrics": last_evaluation(workdir),
            "sha256": re.findall(r"SHA-256 ([0-9a-f]{64})", log.read_text())[-1],
            **seconds,
        }
        file = self._file(name, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.write(file, json.dumps(record, indent=1) + "\n")
        return record

    def _words(self, name: str, seed: int) -> list[str]:
        """Returns the words after `python` of a cell's command line."""
        cell, flags = self.cells[name], [*self._flags, f"--config.seed={seed}"]
        if cell.start:
            flags = [flag for flag in flags if not flag.startswith("--config.init.")]
            flags.append(f"--config.init.model={self.workdir(cell.start, seed)}")
        main = ("-m", "pixel_bert_jax.main", f"--config={cell.config}")
        return [*main, *flags, f"--workdir={self.workdir(name, seed)}"]

    def _check_same(
        self, name: str, seed: int, words: list[str], old: Mapping[str, Any]
    ) -> None:
        """Refuses a result of another config than the one that is asked for now."""
        flags = [word for word in words[2:] if not word.startswith("--workdir=")]
        launch, _ = parse(["", *flags], absl.flags.FlagValues())
        left_out = {*places(launch.config), "init.model"}
        before, now = (
            flat(json.loads(json.dumps(resolve(one).to_dict())))
            for one in (old, launch.config.to_dict())
        )
        different = [
            f"{path}: {before.get(path)!r} -> {now.get(path)!r}"
            for path in sorted(before.keys() | now.keys())
            if before.get(path) != now.get(path) and path not in left_out
        ]
        if different:
            raise InputError(
                f"{name}, seed {seed}, is finished with another config: "
                f"{'; '.join(different)}. Give another --workdir, or remove "
                f"{self._file(name, seed)} and {self.workdir(name, seed)}"
            )

    def _launch(self, words: list[str], log: Path) -> tuple[int, dict[str, float]]:
        """Runs a process to its end; returns its code, and seconds of all launches."""
        spent = log.with_suffix(".json")
        seconds = {"wall_seconds": 0.0, "cpu_seconds": 0.0}
        if spent.is_file():
            seconds = json.loads(spent.read_text())
        began, used = time.monotonic(), _cpu_seconds()
        with (
            log.open("a") as output,
            subprocess.Popen(
                [sys.executable, *words], stdout=output, stderr=subprocess.STDOUT
            ) as process,
            _passing_sigterm(process) as terminated,
        ):
            code = process.wait()
        seconds["wall_seconds"] += round(time.monotonic() - began, 1)
        seconds["cpu_seconds"] += round(_cpu_seconds() - used, 1)
        durable.write(spent, json.dumps(seconds) + "\n")
        if terminated:
            raise SystemExit(EXIT_PREEMPTED)
        return code, seconds

    def run_again(self, name: str, seed: int) -> list[str]:
        """Trains a finished cell again from its stored config, in a new workdir.

        Returns:
          The names of metrics that differ, in any bit, and "SHA-256" if the state does.

        Raises:
          InputError: the cell is not finished, or has been run again before.
        """
        found = self.result(name, seed)
        if found is None:
            raise InputError(f"{name}, seed {seed}, is not finished in {self.folder}")
        workdir = self.folder / "again" / f"{name}-{seed}"
        if workdir.exists():
            raise InputError(f"{workdir} is there already; remove it to run again")
        state = train.train_and_evaluate(resolve(found["config"]), workdir)
        again = last_evaluation(workdir) | {"SHA-256": trees.digest(state)}
        before = found["metrics"] | {"SHA-256": found["sha256"]}
        names = before.keys() | again.keys()
        return sorted(n for n in names if before.get(n) != again.get(n))

    def workdir(self, name: str, seed: int) -> Path:
        """Returns the workdir of a cell."""
        return self.folder / RUNS / f"{name}-{seed}"

    def _file(self, name: str, seed: int) -> Path:
        return self.folder / RESULTS / f"{name}-{seed}.json"


def run_all(runner: Runner, seeds: range, only: str = "", skip: str = "") -> list[str]:
    """Runs all cells, seed by seed, and returns the failures of those that failed.

    Cells that start from a failed one are left out; the others are run.

    Args:
      runner: runs the cells.
      seeds: their seeds.
      only: part of the names of the cells that are run.
      skip: part of the names of cells that are not, "" for none.
    """
    failed: list[str] = []
    for seed in seeds:
        for name in runner.cells:
            if only not in name or (skip and skip in name):
                continue
            try:
                runner.run(name, seed)
            except Failed as error:
                if str(error) not in failed:
                    failed.append(str(error))
    return failed


def last_evaluation(workdir: Path) -> dict[str, float | None]:
    """Returns the metrics of a run's last evaluation, {} if there was none."""
    found = metrics.evaluations(workdir)
    return found[max(found)] if found else {}


def _cpu_seconds() -> float:
    """Returns user and system time of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _passing_sigterm(process: subprocess.Popen) -> Iterator[list[int]]:
    """Passes SIGTERM on, so that the run saves its state; yields what has come."""
    came: list[int] = []

    def terminate(number: int, frame: Any) -> None:
        # Nothing is waited for: the interrupted code is waiting already.
        del frame
        came.append(number)
        process.terminate()

    former = signal.signal(signal.SIGTERM, terminate)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, former)
