"""Start-up of a run of several processes: have all joined, and do they agree?

If a process is missing, JAX's own start-up ends all others without naming it. Therefore
the processes first connect here: process 0 listens at the port above the coordinator's,
each process reports its number, host and facts (the config, package versions), and all
receive the same verdict: an error message, or "" if the run can start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from pixel_bert_jax.processes.alarm import Alarm, receive, send
from pixel_bert_jax.types import HostError, InputError

PACKAGES = ("pixel-bert-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
SHOWN = 5  # differences per process in a message
RETRY = 0.2  # seconds between attempts to reach process 0
CONNECTING = 30.0  # seconds to connect processes that have joined through JAX
PATIENCE = 5.0  # seconds in which a new connection has to identify itself
_alarm: Alarm | None = None  # of this process, once it is connected to the others


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a run, as given by flags.

    Attributes:
      coordinator: "host:port" of process 0; the next port has to be free as well.
      processes: number of processes.
      process: number of this process, from 0.
      timeout: seconds to wait for the others.
    """

    coordinator: str
    processes: int
    process: int
    timeout: float = 300.0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          InputError: the address or the number of the process is invalid.
        """
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65535):
            raise InputError(
                f"--coordinator_address is {self.coordinator!r}, expected HOST:PORT"
            )
        if not 0 <= self.process < self.processes:
            raise InputError(
                f"--process_id is {self.process}, expected 0 to num_processes - 1 = "
                f"{self.processes - 1}"
            )

    @property
    def meeting(self) -> tuple[str, int]:
        """(host, port) at which process 0 listens."""
        host, _, port = self.coordinator.rpartition(":")
        return host, int(port) + 1


def start(group: Group | None, launch: Mapping[str, Any]) -> None:
    """Joins the processes of a run; to be called before any device is used.

    Args:
      group: the processes; None to use what JAX detects on TPU pods and under SLURM,
        where a missing process is not named.
      launch: nested facts that have to be equal in all processes, such as the config.

    Raises:
      HostError: a process did not join, was launched with other facts, or has other
        package versions.
    """
    global _alarm
    facts = {**launch, "packages": versions()}
    if group is None:
        jax.distributed.initialize()
        compare(facts)
        if several():
            _alarm = _meet_again()
        return
    _alarm = meet(group, facts | {"processes": group.processes})
    jax.distributed.initialize(
        group.coordinator,
        group.processes,
        group.process,
        initialization_timeout=max(int(group.timeout), 1),
    )


def _meet_again() -> Alarm | None:
    """Connects processes that have joined through JAX, so that they have an alarm."""
    with socket.socket() as server:
        server.bind(("", 0))
        own = {"host": socket.gethostname(), "port": server.getsockname()[1]}
        first = _everyone(own)[0]
    # The socket is closed, so that its port is free again.
    group = Group(
        f"{first['host']}:{first['port'] - 1}",
        jax.process_count(),
        jax.process_index(),
        CONNECTING,
    )
    try:
        return meet(group, {})
    except HostError as error:
        say(f"warning: only JAX will notice the end of a process: {error}")
        return None


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def meet(group: Group, facts: Mapping[str, Any]) -> Alarm:
    """Waits for all processes and compares their facts.

    Args:
      group: the processes to wait for.
      facts: nested plain values that have to be equal in all processes.

    Returns:
      The alarm, which ends all processes when one of them fails.

    Raises:
      HostError: raised with the same text in every process that joined.
    """
    own = {
        "process": group.process,
        "host": socket.gethostname(),
        "facts": json.loads(json.dumps(facts)),
    }
    with contextlib.ExitStack() as stack:
        if group.process == 0:
            verdict, others = _listen(group, own, stack)
        else:
            verdict, others = _report(group, own, stack)
        if verdict:
            raise HostError(verdict)
        stack.pop_all()  # the connections stay open
    return Alarm(_name(own), others, group.process == 0)


def _listen(
    group: Group, own: dict[str, Any], stack: contextlib.ExitStack
) -> tuple[str, dict[str, socket.socket]]:
    """Collects all reports and sends the verdict.

    Returns:
      The verdict, and the connections to all other processes by their names.
    """
    reports = {0: own}
    connections = []
    deadline = time.monotonic() + group.timeout
    verdict = ""
    try:
        server = socket.create_server(("", group.meeting[1]))
    except OSError as error:
        raise HostError(
            f"process 0 cannot listen at port {group.meeting[1]}, the one above "
            f"--coordinator_address: {error}"
        ) from error
    with server:
        while len(reports) < group.processes and not verdict:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            server.settimeout(left)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            stack.callback(connection.close)
            connection.settimeout(min(left, PATIENCE))
            try:
                report = receive(connection)
                number, host = int(report["process"]), str(report["host"])
                _ = report["facts"].items()
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                connection.close()  # not a process of this run
                continue
            connections.append((report, connection))
            if number in reports or not 0 < number < group.processes:
                first = reports.get(number, {"host": "not expected"})["host"]
                verdict = (
                    f"two processes have the number {number} of "
                    f"{group.processes}: {first} and {host}"
                )
            reports.setdefault(number, report)
    verdict = verdict or _verdict(group, reports)
    for _, connection in connections:
        with contextlib.suppress(OSError):
            send(connection, verdict)
    return verdict, {_name(report): connection for report, connection in connections}


def _report(
    group: Group, own: dict[str, Any], stack: contextlib.ExitStack
) -> tuple[str, dict[str, socket.socket]]:
    """Reports to process 0; returns its verdict and the connection to it."""
    deadline = time.monotonic() + group.timeout
    host, port = group.meeting
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            verdict = (
                f"process 0 did not answer at {host}:{port} within "
                f"{group.timeout:.0f} s; process {group.process} was waiting"
            )
            return verdict, {}
        try:
            connection = socket.create_connection((host, port), timeout=left)
            stack.callback(connection.close)
            send(connection, own)
            # Process 0 itself may wait for other processes until its timeout.
            connection.settimeout(group.timeout + 5)
            return str(receive(connection)), {f"process 0 ({host})": connection}
        except (OSError, ValueError):
            time.sleep(RETRY)


def _name(report: Mapping[str, Any]) -> str:
    return f"process {report['process']} ({report['host']})"


def _verdict(group: Group, reports: Mapping[int, Mapping[str, Any]]) -> str:
    missing = [str(n) for n in range(group.processes) if n not in reports]
    if not missing:
        return _differences(reports)
    joined = ", ".join(f"{n} ({reports[n]['host']})" for n in sorted(reports))
    return (
        f"process {', '.join(missing)} of {group.processes} did not join within "
        f"{group.timeout:.0f} s; joined: {joined}"
    )


def _differences(reports: Mapping[int, Mapping[str, Any]]) -> str:
    """Names the facts in which a process differs from process 0; "" if none."""
    lines = []
    first = traverse_util.flatten_dict(reports[0]["facts"], sep=".")
    for n in sorted(reports):
        other = traverse_util.flatten_dict(reports[n]["facts"], sep=".")
        paths = sorted(p for p in first.keys() | other if first.get(p) != other.get(p))
        lines += [
            f"process {n} ({reports[n]['host']}) has {path} = {other.get(path)!r}, "
            f"process 0 ({reports[0]['host']}) has {first.get(path)!r}"
            for path in paths[:SHOWN]
        ]
    return "; ".join(lines)


def compare(facts: Mapping[str, Any]) -> None:
    """Compares facts of all processes, once they have joined.

    Args:
      facts: nested plain values that have to be equal in all processes.

    Raises:
      HostError: some differ; raised with the same text in every process.
    """
    if not several():
        return
    reports = _everyone({"host": socket.gethostname(), "facts": facts})
    if verdict := _differences(dict(enumerate(reports))):
        raise HostError(verdict)


def _everyone(own: Any) -> list[Any]:
    """Gathers a value that JSON can hold from every process, in order of processes."""
    # A collective needs equal shapes: pad all texts to the longest.
    text = json.dumps(own, default=str).encode()
    longest = np.max(multihost_utils.process_allgather(np.int32(len(text))))
    sent = np.zeros(longest, np.uint8)
    sent[: len(text)] = np.frombuffer(text, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(sent))
    return [json.loads(row.tobytes().rstrip(b"\0")) for row in rows]


def leave(code: int, text: str = "") -> int:
    """Informs the other processes that this one ends; see `Alarm.leave`."""
    return code if _alarm is None else _alarm.leave(code, text)


def several() -> bool:
    """Returns whether the run has several processes."""
    return jax.process_count() > 1


def first() -> bool:
    """Returns whether this is process 0, which alone writes and prints."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line to stderr, on process 0 only."""
    if first():
        print(text, file=sys.stderr, flush=True)


def agree(value: int) -> int:
    """Broadcasts a number from process 0 to all processes, as int32."""
    if not several():
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
