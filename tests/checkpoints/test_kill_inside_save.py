"""A process that is killed while it saves leaves what was complete before."""

import sys
import time

import numpy as np
import pytest

from pixel_bert_jax.checkpoints import store as checkpoint_store
from pixel_bert_jax.checkpoints.checkpointing import Checkpoints
from pixel_bert_jax.trees import digest
from tests import runs, slow_save

pytestmark = pytest.mark.runs

# Seconds after a line of the program; a save of this state takes about half a second,
# to which the manifest adds one.
POINTS = [("saving", float(s)) for s in np.linspace(0, 0.45, 5)]
POINTS += [("manifest", float(s)) for s in (0.0, 0.3, 0.6, 0.9)]
POINTS += [("saved", 0.0)]
FAST = {("saving", 0.0), ("manifest", 0.6)}


@pytest.mark.parametrize(
    ("line", "delay"),
    [
        pytest.param(*point, marks=() if point in FAST else pytest.mark.slow)
        for point in POINTS
    ],
)
def test_a_kill_inside_a_save(tmp_path, line, delay):
    program = [sys.executable, "-m", "tests.slow_save", str(tmp_path)]
    process = runs.Process(program)
    assert process.read_until(line), process.finish().output
    time.sleep(delay)
    process.popen.kill()
    process.finish()
    run, states = slow_save.states()
    latest = tmp_path / "checkpoints" / "latest"
    there = {path.name for path in latest.iterdir()}
    checkpoints = Checkpoints(tmp_path, keep=2)
    newest = checkpoints.newest_step()
    # The folder has its name exactly if all is in it.
    assert newest == (4 if "4" in there else 3)
    if line == "saved":
        assert newest == 4
    if (line, delay) in FAST:
        assert newest == 3
    assert digest(checkpoints.restore(run.target)) == digest(states[newest])
    # The run comes to that step again, over whatever was left.
    checkpoints.save(states[4], slow_save.META)
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=2)
    assert again.newest_step() == 4
    assert digest(again.restore(run.target)) == digest(states[4])
    again.close()
    left = [p.name for p in latest.iterdir() if checkpoint_store.TEMPORARY in p.name]
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize(("line", "delay"), POINTS)
def test_a_kill_inside_a_save_of_two_processes(tmp_path, line, delay, killed):
    """One is killed, then the other, which has nobody to finish the save with."""

    def start(*flags):
        port = runs.free_port()
        program = [sys.executable, "-m", "tests.slow_save", *flags, str(tmp_path)]
        return [
            runs.Process([*program, str(port), str(n)], JAX_NUM_CPU_DEVICES="2")
            for n in range(2)
        ]

    processes = start()
    assert processes[0].read_until(line), processes[0].finish().output
    time.sleep(delay)
    processes[killed].popen.kill()
    time.sleep(0.2)
    processes[1 - killed].popen.kill()
    for process in processes:
        process.finish()
    there = {path.name for path in (tmp_path / "checkpoints" / "latest").iterdir()}
    newest = 4 if "4" in there else 3
    if line == "saved":
        assert newest == 4
    run, states = slow_save.states()
    checkpoints = Checkpoints(tmp_path, keep=2, read_only=True)
    assert checkpoints.newest_step() == newest
    assert digest(checkpoints.restore(run.target)) == digest(states[newest])
    checkpoints.close()
    for process in start("--again"):
        outcome = process.finish()
        assert outcome.code == 0, outcome.output
        assert f"found {newest}, equal" in outcome.output
    again = Checkpoints(tmp_path, keep=2, read_only=True)
    assert digest(again.restore(run.target)) == digest(states[4])
    again.close()
