"""Figures of the probe against plain counting, on a stream made by hand."""

import types

import numpy as np
import pytest

from pixel_bert_jax.config import Eval
from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.evaluate import Evaluation
from pixel_bert_jax.evaluators.base import Settings
from pixel_bert_jax.evaluators.errors import clustered_mean
from pixel_bert_jax.evaluators.probe import Probe

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "ring", "star")
RED, BLUE, RING, STAR = 5, 6, 7, 8
GROUPS, TEXTS, LENGTH, SLOTS = 4, 2, 6, 3


class Oracle:
    """Knows every word of an image's text, and that negatives are wrong."""

    def __init__(self, words):
        self._words = words

    def words(self, words, hidden):
        assert all(0 <= position < len(words) for position in hidden)
        return [self._words[position] for position in hidden]

    def match(self, words):
        return list(words) == self._words


def batch_and_predictions():
    """One batch: group 3 is a hole, text (2, 1) is one, group 1 has no other image."""
    generator = np.random.default_rng(0)
    shape = (GROUPS, TEXTS)
    mask = np.ones(shape, bool)
    mask[3] = mask[2, 1] = False
    ids = np.zeros((*shape, LENGTH), np.int32)
    ids[..., :4] = [2, RED, RING, 3]
    negatives = np.zeros_like(ids)
    negatives[..., :4] = [2, BLUE, STAR, 3]
    other_size = np.full((GROUPS, 1, 2), 8, np.int32)
    other_size[1] = 0
    batch = {
        "example_mask": mask,
        "corpus": np.zeros(GROUPS, np.int32),
        "image_id": np.array([[10], [11], [12], [-1]], np.int32),
        "example_id": np.arange(2 * GROUPS * TEXTS).reshape(*shape, 2),
        "text_ids": ids,
        "text_mask": ids > 0,
        "negative_ids": negatives,
        "negative_mask": negatives > 0,
        "other_image_size": other_size,
    }
    weights = np.zeros((*shape, SLOTS), bool)
    weights[..., :2] = True
    positions = np.broadcast_to(np.array([1, 2, 0], np.int32), weights.shape)
    labels = np.broadcast_to(np.array([RED, RING, 0], np.int32), weights.shape)
    out = {"labels": labels, "positions": positions, "weights": weights}
    for name in ("own", "blanked", "other"):
        out[f"words_{name}"] = generator.choice([RED, BLUE, RING, STAR], weights.shape)
        out[f"match_{name}"] = generator.normal(size=(*shape, 2)).astype(np.float32)
    return batch, out


@pytest.fixture
def figures():
    batch, out = batch_and_predictions()
    source = types.SimpleNamespace(
        word_classes={
            "colour": frozenset({"red", "blue"}),
            "shape": frozenset({"ring", "star"}),
        },
        oracle=lambda image_id: Oracle(["red", "ring"]),
    )
    index = types.SimpleNamespace(corpora=("toy",), sources=(source,))
    stream = [types.SimpleNamespace(batch=batch)]
    options, heads = Eval(oracle=True), ("mlm", "itm")
    probe = Probe(Settings(WordPiece(WORDS), None, options, heads))
    found = dict(probe.run(lambda name, variables, step: out, {}, stream, index))
    for metric, values in probe.examples.items():  # every mean has its error
        mean, error = values.mean()
        assert found[metric] == pytest.approx(mean)
        assert found[f"{metric}_se"] == pytest.approx(error)
    assert {"toy/match_blanked", "toy/shape_other"} < probe.examples.keys()
    corpora = types.SimpleNamespace(index=lambda split: index)
    run = types.SimpleNamespace(corpora=corpora)
    one = Evaluation("", Probe, "evaluate", options, run)
    assert all(map(one.gives, found))
    wrong = ("toy/matches", "toy/colours", "toy/match_red", "ring/match", "match")
    assert not any(map(one.gives, wrong))
    return batch, out, {k.removeprefix("toy/"): v for k, v in found.items()}


REAL = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]


def test_matches_count_both_decisions(figures):
    _, out, found = figures
    for name, suffix in (("own", ""), ("blanked", "_blanked"), ("other", "_other")):
        rows = [r for r in REAL if name != "other" or r[0] != 1]
        right = []
        for row in rows:
            true, false = out[f"match_{name}"][row]
            right += [true > 0, false <= 0]
        assert found[f"match{suffix}"] == pytest.approx(sum(right) / len(right))
    assert found["match_oracle"] == 1.0
    assert found["texts"] == len(REAL)


@pytest.mark.parametrize("kind, slot", [("colour", 0), ("shape", 1)])
def test_word_classes_count_their_tokens_alone(figures, kind, slot):
    _, out, found = figures
    truth = (RED, RING)[slot]
    own = [out["words_own"][row][slot] == truth for row in REAL]
    assert found[kind] == pytest.approx(np.mean(own))
    blanked = [out["words_blanked"][row][slot] == truth for row in REAL]
    assert found[f"{kind}_blanked"] == pytest.approx(np.mean(blanked))
    assert found[f"{kind}_oracle"] == 1.0
    assert found["tokens"] == 2 * len(REAL)


def test_differences_are_paired_and_clustered_by_picture(figures):
    _, out, found = figures
    truth = np.array([RED, RING])
    rows = [r for r in REAL if r[0] != 1]
    difference = np.array(
        [
            np.mean(out["words_own"][r][:2] == truth)
            - np.mean(out["words_other"][r][:2] == truth)
            for r in rows
        ]
    )
    assert found["words_minus_other"] == pytest.approx(difference.mean())
    mean, error = clustered_mean(difference, np.array([10, 10, 12]))
    assert found["words_minus_other_se"] == pytest.approx(error)
    assert mean == pytest.approx(difference.mean())
