"""How many programs a run compiles, and that presets run as they are."""

import logging
import re

import pytest

from configs import pretrain
from pixel_bert_jax import train
from tests import runs

pytestmark = pytest.mark.runs

CANVASES = ("112x96", "96x112", "96x96")


@pytest.mark.slow
def test_each_canvas_is_compiled_once(tmp_path, caplog):
    config = runs.config(
        total="2 epochs",
        data__canvases=CANVASES,
        data__index_dir=str(tmp_path / "index"),
        checkpoint__best_metric="",
        eval__every="50 %",
        compile_cache="",
    )
    import jax

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train.train_and_evaluate(config, tmp_path / "run")
    names = [
        found[1]
        for record in caplog.records
        if (found := re.match(r"Compiling (?:jit\()?([\w<>]+)", record.getMessage()))
    ]
    # A program of each for every canvas; "probe" is the evaluation's, whose images come
    # in batches of another shape.
    for name, kinds in (("step", 1), ("prepare_images", 2), ("probe", 1)):
        assert names.count(name) == kinds * len(CANVASES), (name, names.count(name))


@pytest.mark.parametrize(
    "name", ["tiny", pytest.param("tiny_long", marks=pytest.mark.slow)]
)
def test_a_preset_takes_two_steps_as_it_is(name, tmp_path):
    """Only the amount of data is changed."""
    changes = ",data.scenes.train_scenes=64,data.scenes.evaluate_scenes=8"
    config = f"configs/pretrain.py:{name},total=2 steps{changes}"
    flags = runs.place(tmp_path / "run", tmp_path / "index")
    outcome = runs.Process(runs.command(*flags, config=config)).finish()
    assert outcome.code == 0, outcome.output
    lines = [line for line in runs.log(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    names = set(pretrain.get_config(name).objectives)
    assert {key.split("/")[0] for key in lines[0]} >= names
