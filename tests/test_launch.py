"""The launch scripts: what they would run, and how they go on after a preemption."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
CONFIG = "--config=configs/pretrain.py:r50"
TPU = {
    "TPU_NAME": "pod",
    "TPU_ZONE": "us-west4-a",
    "TPU_TYPE": "v5litepod-64",
    "TPU_SOURCE": "https://example.org/pixel_bert_jax.git",
    "TPU_PAUSE": "0",
}
GKE = {
    "GKE_CLUSTER": "c",
    "GKE_ZONE": "z",
    "GKE_PROJECT": "p",
    "GKE_TYPE": "v5litepod-64",
    "GKE_IMAGE": "image",
}
# Answers from a list, and writes down what it was asked: what clouds are like cannot be
# had here, what the script does with their answers can.
FAKE = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
plan = json.loads((folder / "plan").read_text())
word = next(w for w in ("create", "describe", "delete", "ssh") if w in sys.argv)
with (folder / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if word == "ssh" and "jax.main" not in sys.argv[-1]:
    sys.exit(0)  # the set-up
answers = plan.get(word, [])
answer = answers.pop(0) if answers else 0
(folder / "plan").write_text(json.dumps(plan))
if isinstance(answer, str):
    print(answer)
    answer = 0
sys.exit(answer)
"""


def bash(script, *arguments, path=None, **environment):
    """Runs a script with nothing of this machine's tools but those in `path`."""
    base = {k: v for k, v in os.environ.items() if k[:4] not in ("TPU_", "GKE_")}
    base["PATH"] = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    return subprocess.run(
        ["bash", str(ROOT / "launch" / script), *arguments],
        env=base | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_they_pass_shellcheck(script):
    program = Path(sys.executable).with_name("shellcheck")
    program = program if program.is_file() else shutil.which("shellcheck")
    if not program:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [program, "-x", str(script)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def cloud(tmp_path):
    """A gcloud that answers from a plan: `cloud(describe=[...], ssh=[...])`."""
    program = tmp_path / "gcloud"
    program.write_text(FAKE.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)

    def train(*flags, **plan):
        (tmp_path / "plan").write_text(json.dumps(plan))
        (tmp_path / "calls").write_text("")
        done = bash("tpu_vm.sh", "train", *flags, path=tmp_path, **TPU)
        calls = [json.loads(x) for x in (tmp_path / "calls").read_text().splitlines()]
        words = [
            "train" if "jax.main" in call[-1] else "setup" if "ssh" in call else call[3]
            for call in calls
        ]
        return done, words, calls

    return train


def test_tpu_shows_its_commands_and_runs_none(tmp_path):
    done = bash("tpu_vm.sh", "--print", "train", CONFIG, "--workdir=/mnt/my run", **TPU)
    assert done.returncode == 0, done.stderr
    setup, train = (shlex.split(line) for line in done.stdout.splitlines()[-2:])
    assert setup[:5] == train[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh"]
    assert {"pod", "--zone=us-west4-a", "--worker=all"} <= set(train)
    words = shlex.split(train[-1].removeprefix("--command="))
    assert words[-3:] == [CONFIG, "--workdir=/mnt/my run", "--coordinator_address=auto"]
    done = bash("tpu_vm.sh", "--print", "create", **TPU)
    words = shlex.split(done.stdout)
    assert {"--spot", "--accelerator-type=v5litepod-64", "--node-id=pod"} <= set(words)
    done = bash("tpu_vm.sh", "--print", "create", **TPU, TPU_SPOT="0")
    assert "--spot" not in done.stdout


def test_tpu_goes_on_after_preemptions(cloud):
    done, words, _ = cloud(
        CONFIG,
        # No request yet, then a queue; taken away twice on the way.
        describe=[1, "WAITING_FOR_RESOURCES", "ACTIVE"]
        + ["SUSPENDING", "SUSPENDED", 1, "ACTIVE"]
        + ["ACTIVE"],
        ssh=[143, 255, 0],
    )
    assert done.returncode == 0, done.stderr
    assert words == (
        ["describe", "create", "describe", "describe", "setup", "train"]
        + ["describe", "describe", "delete", "describe", "create", "describe"]
        + ["setup", "train", "describe", "setup", "train"]
    )
    assert "ended with code 143; restart 1" in done.stderr


@pytest.mark.parametrize("code", [2, 3, 4, 6])
def test_tpu_stops_where_a_restart_would_not_help(cloud, code):
    done, words, _ = cloud(CONFIG, describe=["ACTIVE"], ssh=[code])
    assert done.returncode == code and words == ["describe", "setup", "train"]


def test_slurm_starts_a_process_a_node(tmp_path):
    done = bash("slurm.sh", "--print", CONFIG, "--workdir=/shared/my run")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[:4] == ["srun", "--kill-on-bad-exit=1", "bash", "-c"]
    # The step itself, with what SLURM sets and a Python that shows its arguments.
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'node1\\nnode2\\n'\n")
    scontrol.chmod(0o755)
    shows = [sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv))"]
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(shows)} "$@"\n')
    python.chmod(0o755)
    step = words[2:]
    step[3] = str(python)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
    }
    got = subprocess.run(step, env=environment, capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    assert json.loads(got.stdout)[1:] == [
        "-m",
        "pixel_bert_jax.main",
        CONFIG,
        "--workdir=/shared/my run",
        "--coordinator_address=node1:29500",
        "--num_processes=2",
        "--process_id=1",
    ]


def test_gke_submits_a_workload():
    done = bash("gke.sh", "--print", "run1", CONFIG, "--workdir=/mnt/my run", **GKE)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[:3] == ["xpk", "workload", "create"]
    assert {"--workload=run1", "--tpu-type=v5litepod-64", "--num-slices=1"} <= set(
        words
    )
    command = words[-1].removeprefix("--command=")
    assert shlex.split(command)[-3:] == [
        CONFIG,
        "--workdir=/mnt/my run",
        "--coordinator_address=auto",
    ]


@pytest.mark.parametrize(
    ("script", "environment", "arguments", "message"),
    [
        ("tpu_vm.sh", {}, ["train"], "TPU_NAME is not set"),
        ("tpu_vm.sh", TPU, ["fly"], "create|setup|train|status|delete"),
        ("slurm.sh", {}, [], "sbatch --nodes=4"),
        ("gke.sh", {}, ["run1", CONFIG], "GKE_CLUSTER is not set"),
        ("gke.sh", GKE, ["run1"], "GKE_SLICES"),
    ],
)
def test_what_is_missing_is_told(script, environment, arguments, message):
    done = bash(script, *arguments, **environment)
    assert done.returncode == 2 and message in done.stderr
