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

from pixel_bert_jax import metrics, train, trees
from pixel_bert_jax.config import resolve
from pixel_bert_jax.data import durable
from pixel_bert_jax.types import EXIT_DONE, InputError

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
          Failed: a process ended with an error; names its log.
        """
        if (found := self.result(name, seed)) is not None:
            return found
        cell, workdir = self.cells[name], self.workdir(name, seed)
        flags = [*self._flags, f"--config.seed={seed}"]
        if cell.start:
            self.run(cell.start, seed)
            flags = [flag for flag in flags if not flag.startswith("--config.init.")]
            flags.append(f"--config.init.model={self.workdir(cell.start, seed)}")
        words = [
            *(sys.executable, "-m", "pixel_bert_jax.main"),
            *(f"--config={cell.config}", *flags, f"--workdir={workdir}"),
        ]
        log = self.folder / LOGS / f"{name}-{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        began, used = time.monotonic(), _cpu_seconds()
        print(f"{name}, seed {seed}: {log}", file=sys.stderr, flush=True)
        with (
            log.open("a") as output,
            subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT) as process,
            _passing_signals(process),
        ):
            code = process.wait()
        if code != EXIT_DONE:
            raise Failed(f"{name}, seed {seed}: exit code {code}, see {log}")
        record = {
            "cell": name,
            "seed": seed,
            "command": shlex.join(words[1:]),
            "config": json.loads((workdir / "config.json").read_text()),
            "metrics": last_evaluation(workdir),
            "sha256": re.findall(r"SHA-256 ([0-9a-f]{64})", log.read_text())[-1],
            "wall_seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(_cpu_seconds() - used, 1),
        }
        file = self._file(name, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.write(file, json.dumps(record, indent=1) + "\n")
        return record

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


def run_all(runner: Runner, seeds: range, only: str = "") -> list[str]:
    """Runs all cells, seed by seed, and returns the failures of those that failed.

    Cells that start from a failed one are left out; the others are run.
    """
    failed: list[str] = []
    for seed in seeds:
        for name in runner.cells:
            if only not in name:
                continue
            try:
                runner.run(name, seed)
            except Failed as error:
                if str(error) not in failed:
                    failed.append(str(error))
    return failed


def last_evaluation(workdir: Path) -> dict[str, float]:
    """Returns the metrics of a run's last evaluation, {} if there was none."""
    lines = (workdir / metrics.FILE).read_text().splitlines()
    found = [json.loads(line) for line in lines if '"evaluation"' in line]
    return found[-1]["evaluation"] if found else {}


def _cpu_seconds() -> float:
    """Returns user and system time of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _passing_signals(process: subprocess.Popen) -> Iterator[None]:
    """Passes SIGTERM on, so that the run saves its state."""

    def terminate(number: int, frame: Any) -> None:
        del frame
        process.terminate()
        process.wait()
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
