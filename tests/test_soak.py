"""A run that is stopped again and again ends like one that never was.

PIXEL_BERT_SOAK  "steps,stops" (default: 240,4); for a soak of about 20 undisturbed
                 minutes take as many steps as the machine does in that time, and 25.
"""

import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests import runs

STEPS, STOPS = map(int, os.environ.get("PIXEL_BERT_SOAK", "240,4").split(","))
CHANGES = {
    "total": f"{STEPS} steps",
    "checkpoint__every": f"{max(STEPS // 60, 2)} steps",
    "eval__every": "50 %",
    "log__every": max(STEPS // 200, 1),
}


def start(workdir, index):
    config = runs.FILE + runs.argument(**CHANGES)
    return runs.Process(runs.command(*runs.place(workdir, index), config=config))


def resident(pid):
    """Returns a process' resident memory in MB, None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return None
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watched(process):
    """Runs to the end; returns the outcome and the memory over time."""
    memory, over = [], threading.Event()

    def look():
        while not over.wait(0.5):
            memory.append(resident(process.popen.pid))

    thread = threading.Thread(target=look)
    thread.start()
    outcome = process.finish()
    over.set()
    thread.join()
    return outcome, np.array([m for m in memory if m])


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again(tmp_path):
    index = tmp_path / "index"
    outcome, memory = watched(start(tmp_path / "straight", index))
    assert outcome.code == 0, outcome.output
    # Flat: the last quarter needs no more than the second, but for 5 %.
    quarters = [np.median(part) for part in np.array_split(memory, 4)]
    print(f"{outcome.seconds:.0f} s, MB by quarters {np.round(quarters)}")
    assert quarters[3] < 1.05 * quarters[1]

    draw = random.Random(0)
    workdir = tmp_path / "stopped"
    # So that about STOPS stops fit before the end.
    longest = 2 * outcome.seconds / (STOPS + 1)
    stops = {signal.SIGTERM: 0, signal.SIGKILL: 0}
    while True:
        process = start(workdir, index)
        wait = threading.Timer(
            20 + draw.uniform(0, longest),
            process.popen.send_signal,
            [number := draw.choice(list(stops))],
        )
        wait.start()
        ended = process.finish()
        wait.cancel()
        if ended.code == 0:
            break
        assert ended.code in (143, -number), ended.output
        stops[number] += 1
        time.sleep(0.1)
    print(f"stopped {stops}")
    assert sum(stops.values()) >= STOPS // 2
    assert ended.digest == outcome.digest
    assert runs.log(workdir) == runs.log(tmp_path / "straight")
