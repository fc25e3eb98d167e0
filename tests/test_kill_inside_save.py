"""A process that is killed while it saves leaves what was complete before."""

import sys
import time

import numpy as np
import pytest

from pixel_bert_jax import checkpoint_store
from pixel_bert_jax.checkpointing import Checkpoints, digest
from tests import runs, slow_save

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
