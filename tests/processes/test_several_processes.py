"""Several real processes train as one, stop as one, and end as one."""

import re
import secrets
import signal
import sys
import time
from collections import Counter

import numpy as np
import pytest

from pixel_bert_jax.types import EXIT_HOSTS, EXIT_LOST
from tests import runs

pytestmark = pytest.mark.slow
DEVICES = "JAX_NUM_CPU_DEVICES"


def launch(processes, *flags, devices=2, faults=None):
    """Starts the micro config in several processes.

    faults: process -> fault of `tests/faulty.py`.
    """

    def program(number):
        fault = (faults or {}).get(number)
        return ("tests.faulty", fault) if fault else ("pixel_bert_jax.main",)

    port = runs.free_port()
    flags = [
        f"--config={runs.FILE}{runs.argument()}",
        *flags,
        f"--coordinator_address=localhost:{port}",
        f"--num_processes={processes}",
        "--host_timeout=120",
    ]
    return [
        runs.Process(
            [sys.executable, "-m", *program(n), *flags, f"--process_id={n}"],
            **{DEVICES: str(devices)},
        )
        for n in range(processes)
    ]


def wait_for(processes, number, start):
    """Reads one's output up to a line that begins so."""
    if not processes[number].read_until(start):
        pytest.fail("\n".join(outcome.output for outcome in runs.finish(processes)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process of four devices."""
    folder = tmp_path_factory.mktemp("alone")
    flags = runs.place(folder / "run", folder / "index")
    outcome = runs.Process(runs.command(*flags), **{DEVICES: "4"}).finish()
    assert outcome.code == 0, outcome.output
    return folder


@pytest.mark.parametrize(("processes", "mesh"), [(2, ""), (4, ""), (2, "fsdp")])
def test_several_processes_train_as_one(alone, tmp_path, processes, mesh):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    if mesh:
        flags += ["--config.mesh.data=1", "--config.mesh.fsdp=-1"]
    found = runs.finish(launch(processes, *flags, devices=4 // processes))
    for outcome in found:
        assert outcome.code == 0, outcome.output
    got, want = runs.log(tmp_path / "run"), runs.log(alone / "run")
    assert len(got) == len(want)
    texts = Counter()
    for ours, theirs in zip(got, want, strict=True):
        if "evaluation" in ours:
            for name, value in theirs["evaluation"].items():
                assert ours["evaluation"][name] == pytest.approx(value, abs=1e-4)
            continue
        assert ours["examples"] == theirs["examples"]  # of the global batch
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
        texts[ours["examples"]] += 1
    assert set(texts.values()) == {1}
    # Only the first one speaks.
    assert "finished step" in found[0].output
    assert all("step 1/" not in outcome.output for outcome in found[1:])


def test_several_processes_share_the_work_of_a_frozen_cnn(alone, tmp_path):
    def flags(name):
        rules = "(('backbone/.*', 'frozen'), ('.*', 'transformer'))"
        return [
            *runs.place(tmp_path / name, alone / "index"),
            f"--config.init.model={alone / 'run'}",
            "--config.data.cache_features=True",
            f"--config.data.feature_dir={tmp_path / name / 'features'}",
            "--config.model.norm=frozen",
            f"--config.optim.rules={rules}",
        ]

    one = runs.Process(runs.command(*flags("one")), **{DEVICES: "4"}).finish()
    assert one.code == 0, one.output
    for outcome in runs.finish(launch(2, *flags("two"))):
        assert outcome.code == 0, outcome.output

    def kept(name):
        folder = tmp_path / name / "features"
        return sorted(path.relative_to(folder) for path in folder.rglob("*.bin"))

    assert kept("one") == kept("two") and len(kept("one")) == 48 + 8
    for ours, theirs in zip(
        *map(runs.log, (tmp_path / "two", tmp_path / "one")), strict=True
    ):
        if "evaluation" not in ours:
            assert ours["examples"] == theirs["examples"]
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_sigterm_to_one_stops_all_at_the_same_step(alone, tmp_path):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    flags += ["--config.total=4000 steps", "--config.checkpoint.every=100 %"]
    processes = launch(2, *flags)
    wait_for(processes, 0, "step 3/")
    processes[1].popen.send_signal(signal.SIGTERM)
    found = runs.finish(processes)
    assert [outcome.code for outcome in found] == [143, 143], found[0].output
    steps = [re.search(r"saved step (\d+) of", x.output)[1] for x in found]
    assert steps[0] == steps[1]
    names = [p.name for p in (tmp_path / "run/checkpoints/latest").iterdir()]
    assert names == [steps[0]]


def test_sigterm_in_an_evaluation_stops_all_before_its_end(alone, tmp_path):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    flags += ["--config.eval.groups=1"]  # they agree on one of the next batches
    processes = launch(2, *flags, faults=dict.fromkeys((0, 1), "slow_evaluation"))
    wait_for(processes, 1, "evaluating")
    processes[1].popen.send_signal(signal.SIGTERM)
    found = runs.finish(processes)
    for outcome in found:
        assert outcome.code == 143, outcome.output
        assert "SIGTERM: saved step 6 of 12" in outcome.output
    assert not any("evaluation" in line for line in runs.log(tmp_path / "run"))


def test_a_run_of_one_goes_on_with_two(alone, tmp_path):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    process = runs.Process(runs.command(*flags), **{DEVICES: "1"})
    assert process.read_until("step 3/"), process.finish().output
    process.popen.send_signal(signal.SIGTERM)
    outcome = process.finish()
    assert outcome.code == 143, outcome.output
    found = runs.finish(launch(2, *flags))
    for outcome in found:
        assert outcome.code == 0, outcome.output
    assert "resuming from step" in found[0].output
    got, want = runs.log(tmp_path / "run"), runs.log(alone / "run")
    assert [x.get("examples") for x in got] == [x.get("examples") for x in want]
    for ours, theirs in zip(got, want, strict=True):
        if "loss" in theirs:
            np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_killed_ends_the_others(alone, tmp_path, killed):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    processes = launch(2, *flags, "--config.total=4000 steps")
    wait_for(processes, 0, "step 3/")
    began = time.monotonic()
    processes[killed].popen.kill()
    found = runs.finish(processes)
    assert time.monotonic() - began < 30
    other = found[1 - killed]
    if killed == 0 and other.code == -signal.SIGABRT:
        return  # JAX was quicker: it aborts when process 0 is gone
    assert other.code == EXIT_LOST == 7, other.output
    told = f"process {killed} \\(.*\\) is gone without a word"
    assert re.search(told, other.output), other.output


@pytest.mark.parametrize("ends", [0, 1])
def test_an_error_on_one_host_ends_all_with_its_message_and_code(alone, tmp_path, ends):
    flags = runs.place(tmp_path / "run", alone / "index")
    found = runs.finish(launch(2, *flags, faults={ends: "read_hangs"}))
    why = r"TimeoutError: no image came for 3 s; being read: corpus 'scenes'"
    assert [outcome.code for outcome in found] == [1, 1], found[1 - ends].output
    assert re.search(f"^{why}", found[ends].output, re.M), found[ends].output
    told = rf"^error: process {ends} \(.*\) ended: {why}"
    assert re.search(told, found[1 - ends].output, re.M), found[1 - ends].output


def slurm(number, job):
    """Returns the variables that SLURM sets, which JAX finds processes by."""
    return {
        "SLURM_JOB_ID": job,  # which JAX makes the port of
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


@pytest.mark.parametrize("way", ["differ", "killed"])
def test_under_slurm_processes_find_each_other(alone, tmp_path, way):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    flags += ["--coordinator_address=auto", "--config.total=4000 steps"]
    job = str(secrets.randbelow(4096))
    processes = [
        runs.Process(
            runs.command(*flags, f"--config.seed={n if way == 'differ' else 0}"),
            **slurm(n, job),
        )
        for n in range(2)
    ]
    if way == "killed":
        wait_for(processes, 0, "step 3/")
        processes[1].popen.kill()
    found = runs.finish(processes)
    code, told = {
        "differ": (EXIT_HOSTS, r"has config\.seed = 1, process 0"),
        "killed": (EXIT_LOST, "process 1 .* is gone"),
    }[way]
    for outcome in found[: 1 if way == "killed" else 2]:
        assert outcome.code == code, outcome.output
        assert re.search(told, outcome.output), outcome.output
    assert (tmp_path / "run").exists() == (way == "killed")


def test_a_process_with_another_config_ends_all_with_its_name(alone, tmp_path):
    port = runs.free_port()
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    flags += [f"--coordinator_address=localhost:{port}", "--num_processes=2"]
    found = runs.finish(
        [
            runs.Process(
                runs.command(*flags, f"--process_id={n}", f"--config.seed={n}")
            )
            for n in range(2)
        ]
    )
    for outcome in found:
        assert outcome.code == EXIT_HOSTS == 6, outcome.output
        assert "has config.seed = 1, process 0" in outcome.output
    assert not (tmp_path / "run").exists()
