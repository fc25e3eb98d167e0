"""The whole step against a torch composition: logits, losses, gradients, parameters."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.runs

pytest.importorskip("torch")

TOLERANCE = 1e-4


def figures(repository, *flags):
    """Runs tests/convert/step_parity.py; a precision holds for a whole process."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.convert.step_parity", *flags],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    print(json.dumps(found))
    return found


def check(found, dtype, tolerance):
    assert found["dtype"] == dtype
    # The step was a hard one: masked and swapped texts, dropped cells, clipping.
    assert found["predicted"] > 3 and found["swapped"] > 0 and any(found["clipped"])
    assert found["words"] <= tolerance
    assert found["match"] <= tolerance
    for ours, theirs in found["losses"]:
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
    assert len(found["gradients"]) == 4
    assert max(found["gradients"].values()) <= tolerance
    assert found["parameters"] <= tolerance


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="resnet"),
        pytest.param(["--groups=4"], id="resnext", marks=SLOW),
        pytest.param(["--norm=batch"], id="live norm", marks=SLOW),
    ],
)
def test_three_steps_are_torchs(repository, flags):
    found = figures(repository, *flags)
    check(found, "float64", TOLERANCE)
    # What a step moves, not only what is there.
    assert found["updates"] <= TOLERANCE


@pytest.mark.slow
def test_three_steps_are_nearly_torchs_in_float32(repository):
    found = figures(repository, "--dtype=float32")
    assert found["dtype"] == "float32"
    assert max(found["words"], found["match"]) <= TOLERANCE
    del found["gradients"]["key biases"]
    assert max(found["gradients"].values()) <= TOLERANCE
    assert found["parameters"] <= TOLERANCE


@pytest.mark.slow
def test_full_size_steps_are_torchs(repository):
    """ResNet-50 and BERT-base on 427 x 641 and 640 x 480 pixels."""
    check(figures(repository, "--full"), "float64", TOLERANCE)
