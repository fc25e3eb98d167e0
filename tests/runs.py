"""Runs of the real program on a tiny config, each in a process of its own.

A straight run is made once a session and shared by all workers; compiled programs are
kept in the tests' compile cache, so that every later process starts within seconds.
"""

import concurrent.futures
import dataclasses
import fcntl
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixel_bert_jax.config import Config, load

ROOT = Path(__file__).resolve().parent.parent
FILE = "tests/micro.py:"
STEPS = 12
GROUPS = 16
# 48 scenes are three batches an epoch; 12 steps cross three epoch borders.
MICRO = {
    "groups": GROUPS,
    "texts_per_group": 2,
    "total": f"{STEPS} steps",
    "optim.accumulate": 2,
    "data.scenes.train_scenes": 48,
    "data.scenes.evaluate_scenes": 8,
    "data.scenes.captions_per_scene": 2,
    "data.canvases": ("112x112",),  # one program to compile
    "model.layers": 1,
    "model.features": 32,
    "model.heads": 2,
    "model.hidden": 64,
    "model.dropout": 0.1,  # a resumed run must draw what the straight one draws
    "model.backbone.widths": (8, 8, 16),
    "optim.groups.cnn.learning_rate": 0.05,
    "log.every": 1,
    "checkpoint.every": "5 steps",
    "checkpoint.best_metric": "scenes/match",
    "eval.every": "6 steps",
    "eval.groups": 8,
}


def fields(**changes: Any) -> dict[str, Any]:
    """Returns the fields that differ from the preset; "__" stands for "." in a name."""
    return MICRO | {name.replace("__", "."): v for name, v in changes.items()}


def argument(**changes: Any) -> str:
    """Returns the preset with all overrides, as follows `--config=FILE:`."""
    words = [f"{name}={value}" for name, value in fields(**changes).items()]
    return ",".join(["micro", *words])


def config(**changes: Any) -> Config:
    """Returns the config that a process would have."""
    return load(f"{ROOT / FILE}micro", fields(**changes))


def command(*flags: str, config: str = FILE + argument()) -> list[str]:
    """Returns the command line of a process."""
    return [sys.executable, "-m", "pixel_bert_jax.main", f"--config={config}", *flags]


@dataclasses.dataclass
class Outcome:
    """How a process ended."""

    code: int
    output: str
    seconds: float

    @property
    def digest(self) -> str:
        """SHA-256 of the final state, as the last line of a run says it."""
        found = re.findall(r"SHA-256 ([0-9a-f]{64})", self.output)
        assert found, self.output
        return found[-1]


class Process:
    """A running program whose output is read line by line."""

    def __init__(self, command: list[str], cwd: Path = ROOT, **environment: str):
        """Starts it in the folder `cwd`, with additional environment variables."""
        self.began = time.monotonic()
        self.lines: list[tuple[float, str]] = []  # (seconds since the start, line)
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, start: str) -> bool:
        """Reads up to a line that begins with `start`; False if none came."""
        for line in self.popen.stdout:
            self.lines.append((time.monotonic() - self.began, line))
            if line.startswith(start):
                return True
        return False

    def finish(self) -> Outcome:
        """Reads to the end of the process."""
        for line in self.popen.stdout:
            self.lines.append((time.monotonic() - self.began, line))
        code = self.popen.wait()
        output = "".join(line for _, line in self.lines)
        return Outcome(code, output, time.monotonic() - self.began)


def finish(processes: list[Process]) -> list[Outcome]:
    """Reads all of them to their ends at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda process: process.finish(), processes))


def run(*flags: str, **environment: str) -> Outcome:
    """Runs the micro config to its end."""
    return Process(command(*flags), **environment).finish()


@dataclasses.dataclass
class Straight:
    """The uninterrupted run."""

    workdir: Path
    index_dir: Path
    digest: str
    output: str
    lines: list[dict[str, Any]]
    step_seconds: float  # the median


def straight(factory: pytest.TempPathFactory) -> Straight:
    """Returns the session's uninterrupted run, making it if it is the first to ask."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    workdir, index_dir = shared / "straight", shared / "index"
    note = shared / "straight.json"
    with (shared / "straight.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.exists():
            process = Process(command(*place(workdir, index_dir)))
            outcome = process.finish()
            assert outcome.code == 0, outcome.output
            times = [t for t, line in process.lines if line.startswith("step ")]
            print(f"straight run: {outcome.seconds:.1f} s")
            content = {
                "digest": outcome.digest,
                "output": outcome.output,
                "step_seconds": statistics.median(np.diff(times)),
            }
            note.write_text(json.dumps(content))
    content = json.loads(note.read_text())
    return Straight(workdir, index_dir, lines=log(workdir), **content)


def check_relaunch(straight: Straight, workdir: Path, *flags: str) -> str:
    """Runs to the end and compares all with the straight run; returns the output."""
    outcome = run(*place(workdir, straight.index_dir), *flags)
    assert outcome.code == 0, outcome.output
    assert outcome.digest == straight.digest
    assert log(workdir) == straight.lines
    return outcome.output


def place(workdir: Path, index_dir: Path) -> tuple[str, str]:
    """Returns the flags that say where a run writes."""
    return f"--workdir={workdir}", f"--config.data.index_dir={index_dir}"


def log(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl."""
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def free_port() -> int:
    """Returns a port that is free, with the next one."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("", port + 1))
            except (OSError, OverflowError):
                continue
            return port
