"""Several processes as one run: real processes, sockets and signals."""

import concurrent.futures
import contextlib
import re
import secrets
import signal
import socket
import sys
import time
from collections import Counter

import numpy as np
import pytest

from pixel_bert_jax import alarm, hosts, sharding
from pixel_bert_jax.hosts import Group, meet
from pixel_bert_jax.types import EXIT_HOSTS, EXIT_LOST, HostError, InputError
from tests import runs

DEVICES = "JAX_NUM_CPU_DEVICES"


@pytest.fixture(autouse=True)
def pytest_goes_on(monkeypatch):
    """What ends a process must not end this one."""
    monkeypatch.setattr(alarm.os, "_exit", lambda code: print(f"would end with {code}"))


# --- who is there ---------------------------------------------------------------------


def gather(facts, processes=None, timeout=20.0, port=None):
    """Lets processes meet, as threads, and returns what each of them got."""
    address = f"localhost:{port or runs.free_port()}"
    processes = processes or len(facts)

    def one(number, said):
        try:
            alarm = meet(Group(address, processes, number, timeout), said)
        except HostError as error:
            return str(error)
        alarm.leave(0)
        return ""

    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [pool.submit(one, n, said) for n, said in facts.items()]
        return [task.result() for task in waiting]


def test_those_who_agree_start():
    facts = {"config": {"seed": 0, "model": {"layers": 2}}, "packages": {"jax": "1"}}
    assert gather(dict.fromkeys(range(4), facts)) == [""] * 4


def test_one_with_another_config_is_named_everywhere():
    same = {"config": {"seed": 0, "total": "1 steps"}}
    found = gather({0: same, 1: same, 2: {"config": {"seed": 7}}})
    assert len(set(found)) == 1
    host = socket.gethostname()
    assert (
        f"process 2 ({host}) has config.seed = 7, process 0 ({host}) has 0"
        in (found[0])
    )
    assert "config.total = None" in found[0] and "process 1 (" not in found[0]


def test_another_package_is_named():
    same = {"packages": {"jax": "0.10.2", "flax": "0.12.8"}}
    found = gather({0: same, 1: {"packages": {"jax": "0.10.1", "flax": "0.12.8"}}})
    assert "has packages.jax = '0.10.1', process 0" in found[0]
    assert found[0] == found[1] and "flax" not in found[0]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_one_that_does_not_come_is_named_in_time(missing):
    facts = {n: {} for n in range(3) if n != missing}
    began = time.monotonic()
    found = gather(facts, processes=3, timeout=1.5)
    assert time.monotonic() - began < 12
    for text in found:
        if missing:
            assert f"process {missing} of 3 did not come within 2 s" in text
        else:
            assert "process 0 did not answer at localhost:" in text


def test_it_does_not_matter_who_is_first():
    port = runs.free_port()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        group = Group(f"localhost:{port}", 2, 1, 20.0)
        early = pool.submit(meet, group, {})
        time.sleep(1)
        late = pool.submit(meet, Group(f"localhost:{port}", 2, 0, 20.0), {})
        assert early.result().leave(0) == late.result().leave(0) == 0


def test_a_stranger_does_not_count():
    port = runs.free_port()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        host = pool.submit(meet, Group(f"localhost:{port}", 2, 0, 20.0), {})
        time.sleep(0.5)
        with socket.create_connection(("localhost", port + 1)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        alarm = meet(Group(f"localhost:{port}", 2, 1, 20.0), {})
        assert host.result().leave(0) == alarm.leave(0) == 0


def test_strangers_that_say_nothing_or_nonsense(monkeypatch):
    monkeypatch.setattr(hosts, "PATIENCE", 0.5)
    port = runs.free_port()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        host = pool.submit(meet, Group(f"localhost:{port}", 2, 0, 20.0), {})
        time.sleep(0.5)
        with contextlib.ExitStack() as stack:
            for text in (b"", b"[1]", b"7", b'{"process": "x"}', b'{"process": 1}'):
                stranger = socket.create_connection(("localhost", port + 1))
                stack.enter_context(stranger)
                if text:
                    stranger.sendall(len(text).to_bytes(8, "big") + text)
            alarm = meet(Group(f"localhost:{port}", 2, 1, 20.0), {})
            assert host.result().leave(0) == alarm.leave(0) == 0


def test_two_of_one_number_are_told_at_once():
    port = runs.free_port()

    def one(number):
        try:
            meet(Group(f"localhost:{port}", 3, number, 20.0), {})
        except HostError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        began = time.monotonic()
        found = list(pool.map(one, (0, 1, 1)))
        assert time.monotonic() - began < 15
    assert all("say that they are number 1 of 3" in text for text in found)


def test_a_port_that_is_taken():
    port = runs.free_port()
    message = f"cannot listen at port {port + 1}"
    taken = socket.create_server(("", port + 1))
    with taken, pytest.raises(HostError, match=message):
        meet(Group(f"localhost:{port}", 2, 0, 5.0), {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("nowhere", 2, 0), "expected HOST:PORT"),
        (("host:x", 2, 0), "expected HOST:PORT"),
        (("host:99999", 2, 0), "expected HOST:PORT"),
        (("host:1234", 2, 2), "expected 0 to num_processes - 1 = 1"),
    ],
)
def test_flags_that_cannot_be_meant(fields, message):
    with pytest.raises(InputError, match=message):
        Group(*fields)


def test_a_single_process_reads_everything():
    mesh = sharding.make_mesh({"data": -1})
    for accumulate in (1, 2):
        rows = sharding.local_groups(32, accumulate, mesh)
        assert rows.tolist() == list(range(32))
    assert hosts.agree(3) == 3 and not hosts.several() and hosts.first()
    hosts.compare({"plan": "x"})


# --- whole runs -----------------------------------------------------------------------


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


def finish(processes):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda process: process.finish(), processes))


def wait_for(processes, number, start):
    """Reads one's output up to a line that begins so."""
    if not processes[number].read_until(start):
        pytest.fail("\n".join(outcome.output for outcome in finish(processes)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process of four devices."""
    folder = tmp_path_factory.mktemp("alone")
    flags = runs.place(folder / "run", folder / "index")
    outcome = runs.Process(runs.command(*flags), **{DEVICES: "4"}).finish()
    assert outcome.code == 0, outcome.output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "mesh"), [(2, ""), (4, ""), (2, "fsdp")])
def test_several_processes_train_as_one(alone, tmp_path, processes, mesh):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    if mesh:
        flags += ["--config.mesh.data=1", "--config.mesh.fsdp=-1"]
    found = finish(launch(processes, *flags, devices=4 // processes))
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


@pytest.mark.slow
def test_sigterm_to_one_stops_all_at_the_same_step(alone, tmp_path):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    flags += ["--config.total=4000 steps", "--config.checkpoint.every=100 %"]
    processes = launch(2, *flags)
    wait_for(processes, 0, "step 3/")
    processes[1].popen.send_signal(signal.SIGTERM)
    found = finish(processes)
    assert [outcome.code for outcome in found] == [143, 143], found[0].output
    steps = [re.search(r"saved step (\d+) of", x.output)[1] for x in found]
    assert steps[0] == steps[1]
    names = [p.name for p in (tmp_path / "run/checkpoints/latest").iterdir()]
    assert names == [steps[0]]


@pytest.mark.slow
def test_sigterm_in_an_evaluation_stops_all_before_its_end(alone, tmp_path):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    flags += ["--config.eval.groups=1"]  # they agree on one of the next batches
    processes = launch(2, *flags, faults=dict.fromkeys((0, 1), "slow_evaluation"))
    wait_for(processes, 1, "evaluating")
    processes[1].popen.send_signal(signal.SIGTERM)
    found = finish(processes)
    for outcome in found:
        assert outcome.code == 143, outcome.output
        assert "SIGTERM: saved step 6 of 12" in outcome.output
    assert not any("evaluation" in line for line in runs.log(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_of_one_goes_on_with_two(alone, tmp_path):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    process = runs.Process(runs.command(*flags), **{DEVICES: "1"})
    assert process.read_until("step 3/"), process.finish().output
    process.popen.send_signal(signal.SIGTERM)
    outcome = process.finish()
    assert outcome.code == 143, outcome.output
    found = finish(launch(2, *flags))
    for outcome in found:
        assert outcome.code == 0, outcome.output
    assert "resuming from step" in found[0].output
    got, want = runs.log(tmp_path / "run"), runs.log(alone / "run")
    assert [x.get("examples") for x in got] == [x.get("examples") for x in want]
    for ours, theirs in zip(got, want, strict=True):
        if "loss" in theirs:
            np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_killed_ends_the_others(alone, tmp_path, killed):
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    processes = launch(2, *flags, "--config.total=4000 steps")
    wait_for(processes, 0, "step 3/")
    began = time.monotonic()
    processes[killed].popen.kill()
    found = finish(processes)
    assert time.monotonic() - began < 30
    other = found[1 - killed]
    if killed == 0 and other.code == -signal.SIGABRT:
        return  # JAX was quicker: it aborts when process 0 is gone
    assert other.code == EXIT_LOST == 7, other.output
    told = f"process {killed} \\(.*\\) is gone without a word"
    assert re.search(told, other.output), other.output


@pytest.mark.slow
@pytest.mark.parametrize("ends", [0, 1])
def test_an_error_on_one_host_ends_all_with_its_message_and_code(alone, tmp_path, ends):
    flags = runs.place(tmp_path / "run", alone / "index")
    found = finish(launch(2, *flags, faults={ends: "read_hangs"}))
    why = r"TimeoutError: no image came for 3 s; being read: corpus 'scenes'"
    assert [outcome.code for outcome in found] == [1, 1], found[1 - ends].output
    assert re.search(f"^{why}", found[ends].output, re.M), found[ends].output
    told = rf"^error: process {ends} \(.*\) ended: {why}"
    assert re.search(told, found[1 - ends].output, re.M), found[1 - ends].output


ALARM = """
import os, sys, time
from pixel_bert_jax import alarm, hosts
alarm.GRACE = 3.0
port, number, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
hosts._alarm = hosts.meet(hosts.Group(f"localhost:{port}", 3, number, 60.0), {})
if number == 1:
    time.sleep(1)
    if way == "error":
        os._exit(hosts.leave(4, "too many bad images"))
    if way == "order":
        os._exit(hosts.leave(143))
    if way == "late":
        hosts.leave(0)
        time.sleep(30)  # as in JAX's barrier at the exit
    os._exit(77)
time.sleep(8)
print("slept", flush=True)
if way == "late" and number == 0:
    os._exit(hosts.leave(1, "disk full"))
if way == "late":
    time.sleep(30)
os._exit(hosts.leave(0))
"""


@pytest.mark.parametrize(
    ("way", "code", "text"),
    [
        ("error", 4, r"process 1 \(.*\) ended: too many bad images"),
        ("killed", EXIT_LOST, r"process 1 \(.*\) is gone without a word"),
        ("order", 0, "slept"),
        ("late", 1, "slept"),
    ],
)
def test_the_end_of_one_is_that_of_all(way, code, text):
    port = str(runs.free_port())
    program = [sys.executable, "-c", ALARM, port]
    found = finish([runs.Process([*program, str(n), way]) for n in range(3)])
    assert found[1].code == {"error": 4, "killed": 77, "order": 143, "late": 1}[way]
    for outcome in (found[0], found[2]):
        assert outcome.code == code, outcome.output
        assert re.search(text, outcome.output), outcome.output
        assert ("slept" in outcome.output) == (way in ("order", "late"))
    if way == "late":
        for outcome in found[1:]:
            assert re.search(r"process 0 \(.*\) ended: disk full", outcome.output)


def test_one_that_does_not_come_ends_a_real_launch_in_time(tmp_path):
    flags = [*runs.place(tmp_path / "run", tmp_path / "index")]
    flags += [f"--coordinator_address=localhost:{runs.free_port()}"]
    flags += ["--num_processes=2", "--process_id=0", "--host_timeout=2"]
    outcome = runs.run(*flags)
    assert outcome.code == EXIT_HOSTS
    assert "process 1 of 2 did not come within 2 s" in outcome.output.splitlines()[-1]


def slurm(number, job):
    """Returns the variables that SLURM sets, which JAX finds processes by."""
    return {
        "SLURM_JOB_ID": job,  # which JAX makes the port of
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


@pytest.mark.slow
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
    found = finish(processes)
    code, told = {
        "differ": (EXIT_HOSTS, r"has config\.seed = 1, process 0"),
        "killed": (EXIT_LOST, "process 1 .* is gone"),
    }[way]
    for outcome in found[: 1 if way == "killed" else 2]:
        assert outcome.code == code, outcome.output
        assert re.search(told, outcome.output), outcome.output
    assert (tmp_path / "run").exists() == (way == "killed")


@pytest.mark.slow
def test_a_process_with_another_config_ends_all_with_its_name(alone, tmp_path):
    port = runs.free_port()
    flags = [*runs.place(tmp_path / "run", alone / "index")]
    flags += [f"--coordinator_address=localhost:{port}", "--num_processes=2"]
    found = finish(
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
