"""Metrics as sums, and where they are written: JSON lines, TensorBoard, the console.

TensorBoard's files are written by `clu.metric_writers`. The rest of clu does not fit:
`clu.metrics.Collection` fixes the names of its metrics in a class, here they follow
from the objectives; `clu.periodic_actions.ReportProgress` takes the time when it is
called, which is one step after the step that it reports, and knows neither pairs nor
the wait for data.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tqdm

from pixel_bert_jax.data import durable
from pixel_bert_jax.types import Sums

FILE = "metrics.jsonl"
SUMMARIES = "tensorboard"
ERROR = "_se"  # ends the name of a standard error


def means(sums: Sums) -> dict[str, float]:
    """Returns total / count of every metric that counted something.

    A step may have nothing that a metric counts, e.g. no text with a colour in it; the
    metric is then left out instead of being reported as NaN.
    """
    return {
        name: float(total) / float(count)
        for name, (total, count) in sums.items()
        if float(count)
    }


def with_errors(metrics: Mapping[str, float]) -> dict[str, str]:
    """Returns each metric as text, with ± its standard error if it has one."""
    errors = {}
    for name in metrics:
        plain, at, mark = name.partition("@")
        if plain.endswith(ERROR):
            errors[plain.removesuffix(ERROR) + at + mark] = name
    return {
        name: f"{value:.4f}"
        + (f" ± {metrics[errors[name]]:.4f}" if name in errors else "")
        for name, value in metrics.items()
        if name not in errors.values()
    }


class Writer:
    """Writes the metrics of a run.

    `metrics.jsonl` in the workdir gets one JSON object per line, TensorBoard files lie
    beside it. Standard error gets one line per call, or a progress bar if it is a
    terminal.
    """

    def __init__(self, workdir: Path, *, total_steps: int, first_step: int):
        """Opens the files for appending."""
        self._workdir = workdir
        self._total = total_steps
        self._clock = Clock(first_step, total_steps)
        self._failed: set[str] = set()  # files of which a failure was reported
        self._summaries: Any = None
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total_steps, initial=first_step, unit="step", file=sys.stderr
            )
        self._lines = open(workdir / FILE, "a", buffering=1)  # noqa: SIM115
        self._attempt(SUMMARIES, lambda: self._open_summaries(first_step + 1))

    def _open_summaries(self, step: int) -> None:
        # clu imports TensorFlow: only a run that writes summaries pays for it.
        from clu import metric_writers

        folder = self._workdir / SUMMARIES
        _start_session(folder, step)
        self._summaries = metric_writers.SummaryWriter(str(folder))

    def train(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        examples: str,
        pairs: float,
        waited: float,
        moment: float,
    ) -> None:
        """Writes the metrics of one training step.

        Args:
          step: number of batches consumed, this one included.
          metrics: name -> mean, see `means`.
          examples: hash of the ids of the step's examples.
          pairs: number of image-text pairs in the step's batch.
          waited: seconds spent waiting for data from the start of the run to `moment`.
          moment: `time.monotonic()` when the step was sent to the device.
        """
        self._write_line({"step": step, "examples": examples, **metrics})
        speed = self._clock.tick(step, waited, moment)
        scalars = {f"train/{name}": value for name, value in metrics.items()}
        scalars["speed/steps_per_second"] = speed.rate
        scalars["speed/data_wait_share"] = speed.wait_share
        self._write_scalars(step, scalars)
        shown = " ".join(
            f"{name} {value:.3f}"
            for name, value in metrics.items()
            if name == "loss" or name.endswith(("/loss", "/accuracy"))
        )
        self.say(
            f"step {step}/{self._total} | {shown} | {speed.rate * pairs:.1f} pairs/s | "
            f"data wait {speed.wait_share:.1%} | ETA {clock_time(speed.remaining)}",
            step=step,
        )

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of one evaluation."""
        self._write_line({"step": step, "evaluation": dict(metrics)})
        self._write_scalars(
            step, {f"evaluation/{name}": value for name, value in metrics.items()}
        )
        shown = "  ".join(" ".join(item) for item in with_errors(metrics).items())
        self.say(f"evaluation at step {step}: {shown}")

    def say(self, text: str, *, step: int | None = None) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        elif step is None:
            self._bar.write(text, file=sys.stderr)
        else:
            self._bar.n = step
            self._bar.set_postfix_str(text.split(" | ", 1)[1], refresh=True)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._bar is not None:
            self._bar.close()
        if self._summaries is not None:
            self._attempt(SUMMARIES, self._summaries.close)
        self._attempt(FILE, self._lines.close)

    def _write_line(self, fields: Mapping[str, Any]) -> None:
        line = json.dumps(as_json(fields), allow_nan=False) + "\n"
        self._attempt(FILE, lambda: self._lines.write(line))

    def _write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._summaries is None:
            return
        write = functools.partial(self._summaries.write_scalars, step, scalars)
        if not self._attempt(SUMMARIES, write):
            self._summaries = None  # TensorFlow's writer is unusable after an error

    def _attempt(self, name: str, write: Callable[[], Any]) -> bool:
        """Writes; a full disk costs metrics, not the run, and is reported once."""
        from tensorflow.errors import OpError

        try:
            write()
        except (OSError, OpError) as error:
            if name not in self._failed:
                self.say(
                    f"warning: {self._workdir / name} cannot be written, training goes "
                    f"on without: {error}"
                )
            self._failed.add(name)
            return False
        return True


class NoWriter:
    """Writes nothing: of several processes only the first one does."""

    def train(self, step: int, metrics: Mapping[str, float], **unused: Any) -> None:
        """Does nothing."""

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""

    def say(self, text: str, *, step: int | None = None) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _start_session(folder: Path, step: int) -> None:
    """Makes TensorBoard drop what an earlier session wrote of `step` and later ones.

    It does so at every sign of a start but the first, so each session gives one.
    """
    earlier = folder.is_dir()
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    writer = EventFileWriter(str(folder))
    writer.add_event(
        event_pb2.Event(wall_time=time.time(), step=step, session_log=start)
    )
    writer.close()
    if earlier:
        # Files are read in the order of their names, which begin with the second they
        # were opened in: the next one must not be of this second.
        time.sleep(1.0 - time.time() % 1.0)


def evaluations(workdir: Path) -> dict[int, dict[str, float | None]]:
    """Returns the metrics of every evaluation of a run, by step, in the log's order."""
    path = workdir / FILE
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if '"evaluation"' in line]
    return {line["step"]: line["evaluation"] for line in found}


class Speed(NamedTuple):
    """Speed and remaining time between two ticks of a `Clock`."""

    rate: float  # steps per second
    wait_share: float  # of the time, spent waiting for data
    remaining: float  # seconds


class Clock:
    """Measures speed between ticks; the first one only starts the clock."""

    def __init__(self, first_step: int, total_steps: int):
        """Starts at `first_step` of `total_steps`."""
        self._last = (first_step, time.monotonic(), 0.0)
        self._total = total_steps

    def tick(self, step: int, waited: float, moment: float) -> Speed:
        """Returns the speed since the last tick; arguments as in `Writer.train`."""
        last_step, last_time, last_waited = self._last
        seconds = max(moment - last_time, 1e-9)
        self._last = (step, moment, waited)
        rate = (step - last_step) / seconds
        remaining = (self._total - step) / rate if rate > 0 else math.inf
        return Speed(rate, (waited - last_waited) / seconds, remaining)


def clock_time(seconds: float) -> str:
    """Formats seconds as 1h02m03s; "?" if they are not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m{rest:02d}s" if hours else f"{minutes}m{rest:02d}s"


def projection(seconds: float, done: int, left: int) -> str:
    """Says how long `left` steps take if `done` steps took some seconds."""
    return (
        f"the last {done} steps took {seconds:.1f} s; at this rate the remaining "
        f"{left} take {clock_time(seconds / done * left)}"
    )


def as_json(value: Any) -> Any:
    """Returns a value that JSON can hold: NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def truncate_log(path: Path, step: int) -> None:
    """Removes the lines of later steps from a log, replacing the file as a whole.

    Args:
      path: a file with one JSON object per line, each with "step"; may be absent.
      step: step of the restored checkpoint; its line and earlier ones stay.
    """
    if not path.exists():
        return
    kept, content = [], path.read_text()
    for line in content.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the torn last line of a killed process
    wanted = "".join(line + "\n" for line in kept)
    if wanted != content:
        durable.write(path, wanted)
