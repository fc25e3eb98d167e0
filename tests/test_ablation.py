"""The rows of the paper's ablation: what each cell trains, and from what it starts."""

import re

import pytest

from configs import ablation
from pixel_bert_jax.config import resolve
from pixel_bert_jax.convert.starting import check_architecture
from pixel_bert_jax.objectives import build
from pixel_bert_jax.study.cells import Cell, Runner

SIZES = tuple(ablation.CORPORA)
VIEWS = {
    "itm": {"itm": "swapped"},
    "mlm": {"mlm": "masked"},
    "all_pixels": {"mlm": "swapped_masked", "itm": "swapped_masked"},
    "both": {"mlm": "swapped_masked", "itm": "swapped_masked"},
    "larger_cnn": {"mlm": "swapped_masked", "itm": "swapped_masked"},
}


def config(name):
    return resolve(ablation.get_config(name))


@pytest.mark.parametrize("size", SIZES)
def test_rows_differ_in_what_the_paper_compares(size):
    sampled = config(f"{size}_both").model.sample_pixels
    assert sampled
    for row, views in VIEWS.items():
        one = config(f"{size}_{row}")
        assert {o.name: o.view for o in build(one.objectives)} == views
        pixels = 0 if row == "all_pixels" else sampled
        assert one.model.sample_pixels == pixels
        larger = one.model.backbone != config(f"{size}_both").model.backbone
        assert larger == (row == "larger_cnn")


@pytest.mark.parametrize("size", SIZES)
def test_a_cell_is_of_the_model_that_it_starts_from(size, tmp_path):
    study = ablation.get_study(size)
    cells = {name: Cell(**fields) for name, fields in study["cells"].items()}
    Runner(cells, tmp_path)  # checks what starts from what
    for name, cell in cells.items():
        one = config(name)
        assert cell.config == f"ablation.py:{name}"
        if cell.start:
            check_architecture(config(cell.start).model, one.model, cell.start)
        else:  # nothing: at paper size, weights that a flag names
            assert one.init.model == ""
    named = {cell for row in study["rows"].values() for cell, *_ in row.values()}
    assert named < cells.keys()
    assert {claim["better"] for claim in study["claims"]} < study["rows"].keys()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row", ablation.ROWS)
def test_retrieval_trains_the_front_end_that_nothing_has_trained(size, row):
    rules = config(f"{size}_{row}_retrieval").optim.rules
    path = "front_end/projection/kernel"
    group = next(name for pattern, name in rules if re.fullmatch(pattern, path))
    assert group == ("transformer" if row == "none" else "frozen")


def test_the_scenes_are_of_a_seed_that_nothing_else_uses():
    for name in ablation.cells("tiny"):
        for corpus in config(name).data.corpora:
            assert corpus["seed"] == ablation.SCENES_SEED
