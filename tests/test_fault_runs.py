"""Whole runs that meet a fault, or go on elsewhere, in processes of their own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from pixel_bert_jax.checkpoints.checkpointing import Checkpoints
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.processes.sigterm import on_sigterm
from pixel_bert_jax.trees import digest
from tests import runs

pytestmark = pytest.mark.runs

DEVICES = "JAX_NUM_CPU_DEVICES"


def faulty(fault: str, *flags: str, **fields) -> runs.Outcome:
    """Runs the micro config with a fault of `tests/faulty.py`."""
    config = runs.FILE + runs.argument(**fields)
    program = [sys.executable, "-m", "tests.faulty", fault, f"--config={config}"]
    return runs.Process([*program, *flags]).finish()


def saved_steps(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints/latest").iterdir())


# --- checkpoints ----------------------------------------------------------------------


def test_a_save_that_fails_in_the_background_ends_the_run(straight, tmp_path):
    flags = runs.place(tmp_path, straight.index_dir)
    # No best one, which is waited for.
    changes = {"checkpoint__every": "3 steps", "checkpoint__best_metric": ""}
    outcome = faulty("save_fails", *flags, **changes)
    assert outcome.code == 1
    assert "No space left on device" in outcome.output
    assert not re.search(r"^step 12/", outcome.output, re.M)
    assert [step for step in saved_steps(tmp_path) if step.isdigit()] == ["3"]
    assert "resuming from step 3" in runs.check_relaunch(straight, tmp_path)


@pytest.mark.slow
def test_a_save_that_hangs_ends_the_run_with_its_stacks(straight, tmp_path):
    flags = runs.place(tmp_path, straight.index_dir)
    limits = {"watchdog__warn": 10.0, "watchdog__limit": 20.0}
    outcome = faulty("save_hangs", *flags, **limits)
    assert outcome.code == 5, outcome.output
    assert "still waiting" in outcome.output
    assert "faulty.py" in outcome.output.split("ends the process")[1]
    assert "resuming from step 5" in runs.check_relaunch(straight, tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """Returns a function that mounts a disk of some MB, on Linux and for root alone."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command).returncode:
            pytest.skip("a disk can be mounted by root on Linux alone")
        return place

    yield mount
    while subprocess.run(["umount", str(place)], capture_output=True).returncode == 0:
        pass


@pytest.mark.slow
def test_a_disk_that_fills_up(straight, tmp_path, small_disk):
    disk = small_disk("size=24m")
    flags = runs.place(disk / "run", straight.index_dir)
    process = runs.Process(runs.command(*flags))
    assert process.read_until("step 6/"), process.finish().output
    # The save of step 5 goes on in the background; the next one is that of step 10.
    process.popen.send_signal(signal.SIGSTOP)
    while "5" not in saved_steps(disk / "run"):
        process.popen.send_signal(signal.SIGCONT)
        time.sleep(0.02)
        process.popen.send_signal(signal.SIGSTOP)
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - (1 << 16)))
    process.popen.send_signal(signal.SIGCONT)
    outcome = process.finish()
    assert outcome.code == 1
    told = re.search(
        r"no space for a checkpoint in (\S+): ([\d,]+) bytes", outcome.output
    )
    assert Path(told[1]).parent == disk / "run/checkpoints", outcome.output
    assert int(told[2].replace(",", "")) > 100_000
    (disk / "filler").unlink()
    assert "resuming from step 5" in runs.check_relaunch(straight, disk / "run")


@pytest.mark.slow
def test_a_disk_that_is_full_of_figures(straight, tmp_path, small_disk):
    disk = small_disk("size=64k")
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "tensorboard").symlink_to(disk, target_is_directory=True)
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
    outcome = runs.run(*runs.place(workdir, straight.index_dir))
    assert outcome.code == 0, outcome.output
    warning = rf"^warning: {workdir}/tensorboard cannot be written, .* No space left"
    assert len(re.findall(warning, outcome.output, re.M)) == 1, outcome.output
    assert outcome.digest == straight.digest
    assert runs.log(workdir) == straight.lines


@pytest.mark.slow
def test_a_disk_that_is_read_only(straight, small_disk):
    disk = small_disk("ro,size=1m")
    outcome = runs.run(*runs.place(disk / "run", straight.index_dir))
    assert outcome.code == 2
    assert f"cannot write to {disk / 'run'}" in outcome.output
    assert "Read-only file system" in outcome.output
    assert "step 1/" not in outcome.output


@pytest.mark.slow
def test_a_workdir_by_any_name(straight, tmp_path):
    """Relative, from the home folder, with a slash at the end: the same folder."""
    names = {"a": "a", "b/": "b/", "~/c/": "c"}
    for name, folder in names.items():
        command = runs.command(
            *runs.place(name, straight.index_dir),
            "--config.total=1 steps",
            config=str(runs.ROOT / runs.FILE) + runs.argument(),
        )
        process = runs.Process(
            command, tmp_path, HOME=str(tmp_path), PYTHONPATH=str(runs.ROOT)
        )
        outcome = process.finish()
        assert outcome.code == 0, outcome.output
        assert saved_steps(tmp_path / folder) == ["1"]


@pytest.mark.slow
def test_a_flipped_bit_is_noticed_by_the_program(straight, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight.workdir, workdir)
    newest = workdir / "checkpoints/latest/12"
    file = max(newest.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    outcome = runs.run(*runs.place(workdir, straight.index_dir))
    assert outcome.code == 2
    assert str(file.relative_to(newest)) in outcome.output
    assert "Traceback" not in outcome.output
    output = runs.check_relaunch(straight, workdir, "--config.checkpoint.fallback=True")
    assert "resuming from step 10" in output
    assert "12.damaged" in saved_steps(workdir)


# --- the stream -----------------------------------------------------------------------


def test_an_image_that_never_comes_is_named(straight, tmp_path):
    began = time.monotonic()
    outcome = faulty("read_hangs", *runs.place(tmp_path, straight.index_dir))
    assert outcome.code == 1
    assert re.search(
        r"warning: no image came for 1 s; being read: corpus 'scenes",
        outcome.output,
    ), outcome.output
    assert re.search(
        r"TimeoutError: no image came for 3 s; being read: corpus 'scenes'",
        outcome.output,
    )
    assert "Traceback" in outcome.output
    assert time.monotonic() - began < 120


# --- signals --------------------------------------------------------------------------


def test_sigterm_is_a_flag_until_the_loop_reads_it():
    former = signal.getsignal(signal.SIGTERM)
    with on_sigterm() as terminated:
        assert not terminated()
        for _ in range(2):  # the second changes nothing
            os.kill(os.getpid(), signal.SIGTERM)
            assert terminated()
    assert signal.getsignal(signal.SIGTERM) is former


@pytest.mark.slow
def test_sigterm_in_an_evaluation_does_not_wait_for_its_end(straight, tmp_path):
    program = [sys.executable, "-m", "tests.faulty", "slow_evaluation"]
    flags = [f"--config={runs.FILE + runs.argument()}"]
    flags += runs.place(tmp_path, straight.index_dir)
    process = runs.Process([*program, *flags])
    assert process.read_until("evaluating"), process.finish().output
    process.popen.send_signal(signal.SIGTERM)
    outcome = process.finish()
    assert outcome.code == 143
    assert "SIGTERM: saved step 6 of 12" in outcome.output.splitlines()[-1]
    assert outcome.output.count("evaluating") == 1
    assert not any("evaluation" in line for line in runs.log(tmp_path))
    assert "resuming from step 6" in runs.check_relaunch(straight, tmp_path)


# --- going on from any step, and elsewhere --------------------------------------------


@pytest.mark.slow
def test_a_run_goes_on_from_every_step(tmp_path):
    index = tmp_path / "index"
    config = runs.FILE + runs.argument(
        checkpoint__every="1 steps", checkpoint__keep=runs.STEPS
    )

    def launch(workdir):
        flags = runs.place(workdir, index)
        outcome = runs.Process(runs.command(*flags, config=config)).finish()
        assert outcome.code == 0, outcome.output
        return outcome

    whole = tmp_path / "whole"
    want = launch(whole).digest
    for step in range(1, runs.STEPS):
        workdir = tmp_path / f"from{step}"
        shutil.copytree(whole, workdir)
        for later in range(step + 1, runs.STEPS + 1):
            shutil.rmtree(workdir / f"checkpoints/latest/{later}")
        outcome = launch(workdir)
        assert f"resuming from step {step} " in outcome.output
        assert outcome.digest == want, step
        assert runs.log(workdir) == runs.log(whole), step


MESHES = [
    (8, {"data": -1, "fsdp": 1, "model": 1}),
    (4, {"data": 1, "fsdp": -1, "model": 1}),
    (4, {"data": -1, "fsdp": 1, "model": 2}),
    (1, {"data": -1, "fsdp": 1, "model": 1}),
]


@pytest.mark.slow
def test_a_run_goes_on_on_other_meshes(tmp_path):
    """8 devices, 4 that split the parameters, 2 x 2 that split products, then one."""
    changes = {"total": "40 steps", "checkpoint__every": "100 %", "checkpoint__keep": 1}
    config, index = runs.FILE + runs.argument(**changes), tmp_path / "index"

    def launch(workdir, devices, mesh):
        flags = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
        command = runs.command(*runs.place(workdir, index), *flags, config=config)
        return runs.Process(command, **{DEVICES: str(devices)})

    outcome = launch(tmp_path / "straight", *MESHES[-1]).finish()
    assert outcome.code == 0, outcome.output
    want, workdir, step = runs.log(tmp_path / "straight"), tmp_path / "run", 0
    for devices, mesh in MESHES:
        process = launch(workdir, devices, mesh)
        if devices == 1:
            outcome = process.finish()
            assert outcome.code == 0, outcome.output
            assert f"resuming from step {step} " in outcome.output
            break
        assert process.read_until(f"step {step + 3}/"), process.finish().output
        process.popen.send_signal(signal.SIGTERM)
        outcome = process.finish()
        assert outcome.code == 143, outcome.output
        if step:
            assert f"resuming from step {step} " in outcome.output
        (name,) = saved_steps(workdir)
        step = int(name)
        digests = set()
        for number, other in MESHES:
            axes = {f"mesh__{axis}": size for axis, size in other.items()}
            there = runs.config(**changes, **axes, data__index_dir=str(index))
            run = Experiment(there, devices=jax.devices()[:number])
            checkpoints = Checkpoints(workdir, keep=1, read_only=True)
            digests.add(digest(checkpoints.restore(run.target)))
            checkpoints.close()
        assert len(digests) == 1
    got = runs.log(workdir)
    assert [x.get("examples") for x in got] == [x.get("examples") for x in want]
    losses = np.array(
        [[x["loss"], y["loss"]] for x, y in zip(got, want, strict=True) if "loss" in x]
    )
    print(f"largest relative difference {np.ptp(np.log(losses), axis=1).max():.1e}")
    # Rounding differs between meshes, and training lets it grow.
    np.testing.assert_allclose(*losses[:10].T, rtol=1e-5)
    np.testing.assert_allclose(*losses.T, rtol=1e-3)
