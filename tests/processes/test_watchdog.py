"""A run that hangs ends with its stacks; a workdir has one process."""

import subprocess
import sys
import time

import pytest

from pixel_bert_jax.processes import lock
from pixel_bert_jax.processes.watchdog import Watchdog
from pixel_bert_jax.types import EXIT_WATCHDOG, InputError

HANGS = """
import threading, time
from pixel_bert_jax.processes.watchdog import Watchdog

def stuck():
    time.sleep(60)

threading.Thread(target=stuck, daemon=True).start()
with Watchdog(warn=0.3, limit=1.2) as watchdog:
    for _ in watchdog.watched(range(4), "a batch came"):
        time.sleep(0.2)
    stuck()
"""


def test_a_run_that_hangs_is_ended_with_its_stacks():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == EXIT_WATCHDOG == 5
    assert time.monotonic() - began < 30
    first, second = done.stderr.split("watchdog: ")[1:]
    assert "since a batch came; still waiting" in first
    assert "since a batch came; ends the process" in second
    for text in (first, second):
        # Both the main thread and the other one.
        assert text.count("in stuck") == 2 and "most recent call first" in text


def test_signs_of_life_keep_it_quiet(capfd):
    with Watchdog(warn=0.4, limit=0.8) as watchdog:
        assert list(watchdog.watched(range(3), "x")) == [0, 1, 2]
        for _ in range(8):
            time.sleep(0.15)
            watchdog.alive("a step")
    time.sleep(1)  # nobody watches any more
    assert capfd.readouterr().err == ""


def test_zero_means_never():
    with Watchdog(warn=0, limit=0) as watchdog:
        assert not watchdog._thread.is_alive()


def test_a_workdir_has_one_process(tmp_path):
    holds = (
        "import sys, time, pathlib\n"
        "from pixel_bert_jax.processes.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holds, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        message = rf"in use by process {other.pid} on"
        with pytest.raises(InputError, match=message), lock.locked(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    # A process that was killed holds nothing.
    with lock.locked(tmp_path):
        pass
    with lock.locked(tmp_path):
        pass


def test_a_workdir_that_is_no_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    message = "cannot write to the workdir"
    with pytest.raises(InputError, match=message), lock.locked(file):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def flock(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.locked(tmp_path):
        assert f"warning: {tmp_path} is not locked" in capsys.readouterr().err
