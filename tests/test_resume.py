"""A killed run that is started again ends exactly like one that was not killed."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator

from pixel_bert_jax.processes import lock
from tests import runs


def interrupt(
    straight: runs.Straight, workdir: Path, number: int, after: int, delay: float = 0.0
) -> runs.Outcome:
    """Starts a run and sends it a signal, `delay` seconds after a step's log line."""
    process = runs.Process(runs.command(*runs.place(workdir, straight.index_dir)))
    assert process.read_until(f"step {after}/"), process.finish().output
    time.sleep(delay)
    os.kill(process.popen.pid, number)
    return process.finish()


@pytest.mark.runs
def test_the_straight_run_logs_every_step(straight):
    steps = [line["step"] for line in straight.lines if "loss" in line]
    assert steps == list(range(1, runs.STEPS + 1))
    assert len({line["examples"] for line in straight.lines if "loss" in line}) == 12
    evaluated = [line["step"] for line in straight.lines if "evaluation" in line]
    assert evaluated == [6, 12]


@pytest.mark.runs
def test_kill_and_resume(straight, tmp_path):
    # Step 8 lies in the third epoch, beyond the checkpoint of step 5.
    outcome = interrupt(straight, tmp_path, signal.SIGKILL, after=8)
    assert outcome.code == -signal.SIGKILL
    assert "finished" not in outcome.output
    runs.check_relaunch(straight, tmp_path)
    shown = plugin_event_accumulator.EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}
    ).Reload()
    steps = [point.step for point in shown.Tensors("train/loss")]
    assert steps == list(range(1, runs.STEPS + 1))  # none twice


@pytest.mark.runs
def test_a_finished_run_says_so_and_changes_nothing(straight):
    def files() -> dict[Path, tuple[int, int]]:
        found = [path for path in straight.workdir.rglob("*") if path.is_file()]
        # Who holds the workdir is written down whenever it is opened.
        found = [path for path in found if path.name != lock.FILE]
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in found}

    before = files()
    outcome = runs.run(*runs.place(straight.workdir, straight.index_dir))
    assert outcome.code == 0
    assert "already finished" in outcome.output
    assert outcome.digest == straight.digest
    assert files() == before


@pytest.mark.slow
@pytest.mark.parametrize("after", range(1, runs.STEPS + 1))
def test_kill_after_each_log_line(straight, tmp_path, after):
    outcome = interrupt(straight, tmp_path, signal.SIGKILL, after)
    # After its last line a run has little left to do.
    allowed = (-signal.SIGKILL, 0) if after == runs.STEPS else (-signal.SIGKILL,)
    assert outcome.code in allowed
    runs.check_relaunch(straight, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_kill_at_a_random_time(straight, tmp_path, number):
    draw = random.Random(number)
    after = draw.randint(1, runs.STEPS - 3)
    delay = draw.uniform(0, straight.step_seconds)  # two micro-batches
    outcome = interrupt(straight, tmp_path, signal.SIGKILL, after, delay)
    assert outcome.code == -signal.SIGKILL
    runs.check_relaunch(straight, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5])
def test_kill_after_sigterm(straight, tmp_path, delay):
    """Who sent SIGTERM does not wait for the save, or just so."""
    process = runs.Process(runs.command(*runs.place(tmp_path, straight.index_dir)))
    assert process.read_until("step 2/"), process.finish().output
    process.popen.send_signal(signal.SIGTERM)
    time.sleep(delay)
    process.popen.kill()
    assert process.finish().code in (-signal.SIGKILL, 143)
    runs.check_relaunch(straight, tmp_path)


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_its_code(straight, tmp_path):
    outcome = interrupt(straight, tmp_path, signal.SIGTERM, after=2)
    assert outcome.code == 143, outcome.output
    last = outcome.output.splitlines()[-1]
    assert last.startswith("SIGTERM: saved step "), outcome.output
    step = int(last.split()[3])
    assert 2 <= step < runs.STEPS
    assert (tmp_path / "checkpoints" / "latest" / str(step)).is_dir()
    runs.check_relaunch(straight, tmp_path)
