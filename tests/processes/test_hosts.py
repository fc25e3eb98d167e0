"""Several processes as one run: real processes, sockets and signals."""

import concurrent.futures
import contextlib
import re
import socket
import sys
import time

import pytest

from pixel_bert_jax.processes import alarm, hosts
from pixel_bert_jax.processes.hosts import Group, meet
from pixel_bert_jax.training import sharding
from pixel_bert_jax.types import EXIT_HOSTS, EXIT_LOST, HostError, InputError
from tests import runs


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
            assert f"process {missing} of 3 did not join within 2 s" in text
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
    assert all("two processes have the number 1 of 3" in text for text in found)


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


# --- the end of one -------------------------------------------------------------------

ALARM = """
import os, sys, time
from pixel_bert_jax.processes import alarm, hosts
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


@pytest.mark.runs
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
    found = runs.finish([runs.Process([*program, str(n), way]) for n in range(3)])
    assert found[1].code == {"error": 4, "killed": 77, "order": 143, "late": 1}[way]
    for outcome in (found[0], found[2]):
        assert outcome.code == code, outcome.output
        assert re.search(text, outcome.output), outcome.output
        assert ("slept" in outcome.output) == (way in ("order", "late"))
    if way == "late":
        for outcome in found[1:]:
            assert re.search(r"process 0 \(.*\) ended: disk full", outcome.output)


@pytest.mark.runs
def test_one_that_does_not_come_ends_a_real_launch_in_time(tmp_path):
    flags = [*runs.place(tmp_path / "run", tmp_path / "index")]
    flags += [f"--coordinator_address=localhost:{runs.free_port()}"]
    flags += ["--num_processes=2", "--process_id=0", "--host_timeout=2"]
    outcome = runs.run(*flags)
    assert outcome.code == EXIT_HOSTS
    assert "process 1 of 2 did not join within 2 s" in outcome.output.splitlines()[-1]
