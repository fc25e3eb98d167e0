"""Names that every layer shares."""

import subprocess
import sys

import pytest

from pixel_bert_jax import types

FIELDS = ("groups", "optim.accumulate", "model.norm", "model.front_end.norm")


@pytest.mark.parametrize(
    ("name", "valid", "expected"),
    [
        ("grops", FIELDS, "groups"),
        # The last part is right, the group is not; the closest of several.
        ("accumulate", FIELDS, "optim.accumulate"),
        ("training.schedule.accumulate", FIELDS, "optim.accumulate"),
        ("front_end.norm", FIELDS, "model.front_end.norm"),
        ("modl.norm", FIELDS, "model.norm"),
        # An ending that files share says nothing.
        ("configs/pretrian.py", ("configs/a.py", "configs/pretrain.py"), "configs/pre"),
        ("nowhere/x.py", ("configs/pretrain.py",), None),
        ("zzz", FIELDS, None),
    ],
)
def test_the_nearest_name(name, valid, expected):
    text = types.nearest(name, valid)
    assert text.startswith(f" (did you mean '{expected}") if expected else text == ""


def test_a_module_that_is_no_program_says_so(repository):
    code = "from pixel_bert_jax import types; types.refuse_to_run('train')"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True
    )
    assert process.returncode == types.EXIT_BAD_INPUT
    assert "pixel_bert_jax.train is not a program" in process.stderr
    assert "pixel_bert_jax.main --config=" in process.stderr
