"""Exported folders: bit-equal round trips, and refusals that say what is wrong."""

import numpy as np
import pytest

from pixel_bert_jax import trees
from pixel_bert_jax.convert import export
from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.types import InputError

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "ring")


@pytest.fixture
def variables():
    draw = np.random.default_rng(0).normal
    return {
        "params": {"encoder": {"kernel": draw(size=(3, 4)).astype(np.float32)}},
        "batch_stats": {"norm": {"mean": draw(size=5).astype(np.float32)}},
    }


@pytest.fixture
def folder(tmp_path, variables):
    where = tmp_path / "model"
    config = {"seed": 3, "model": {"layers": 2}}
    export.save(where, variables, config, WordPiece(WORDS), {"step": 7})
    return where


def test_round_trip_is_bit_equal(folder, variables):
    found = export.load(folder)
    want, have = trees.flatten(variables), trees.flatten(found.variables)
    assert have.keys() == want.keys()
    for path, array in want.items():
        assert have[path].dtype == array.dtype
        np.testing.assert_array_equal(have[path], array)
    assert found.config == {"seed": 3, "model": {"layers": 2}}
    assert found.provenance == {"step": 7}
    assert found.tokenizer.fingerprint == WordPiece(WORDS).fingerprint


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "vocab.txt", "provenance.json"]
)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        export.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_cut_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=name):
        export.load(folder)


def test_other_architecture_is_refused_with_both_shapes(variables):
    target = {
        "params": {"encoder": {"kernel": np.zeros((3, 5)), "bias": np.zeros(5)}},
        "batch_stats": variables["batch_stats"],
    }
    with pytest.raises(InputError) as caught:
        export.check_fits(variables, target, "the folder")
    text = str(caught.value)
    assert "params/encoder/kernel" in text and "(3, 4)" in text and "(3, 5)" in text
    assert "params/encoder/bias" in text and "2 tensors" in text
    export.check_fits(variables, variables, "itself")
