"""Masked language modelling by hand: at which places, over what, for which pairs."""

import numpy as np
import pytest

from pixel_bert_jax import objectives
from pixel_bert_jax.models.pixel_bert import Encoded
from pixel_bert_jax.objectives.views import View
from pixel_bert_jax.ops.masking import MaskedText
from tests import small

B, L, V = 3, 4, 5  # a group of three texts, of which the second is another image's
MATCH = np.array([[True, False, True]])
POSITIONS = np.array([[[1, 2], [3, 0], [2, 1]]], np.int32)
LABELS = np.array([[[4, 1], [2, 0], [0, 3]]], np.int32)
WEIGHTS = np.array([[[True, True], [True, False], [False, True]]])


@pytest.mark.parametrize(("on_swapped", "count"), [(True, 4), (False, 3)])
def test_loss_is_the_cross_entropy_of_masked_words(on_swapped, count):
    fields = {"weight": 7.0, "on_swapped": on_swapped}
    (objective,) = objectives.build({"mlm": fields})
    text = np.random.default_rng(0).normal(0, 1, (B, L, V)).astype(np.float32)
    text[0, 1, 4] = 5.0  # right, and in a pair that matches
    text[1, 3, 2] = 5.0  # right, but its text belongs to another image
    masked = MaskedText(None, POSITIONS, LABELS, WEIGHTS)
    nothing = dict.fromkeys(("text_ids", "text_mask", "image_id", "mask", "unpaired"))
    view = View(**nothing, match=MATCH, masked=masked)
    encoded = Encoded(text, *[None] * 5)
    table = 2 * np.eye(V, dtype=np.float32)
    heads = small.Heads({"mlm": lambda x, words: x @ words.T}, table)
    found = small.loss_of(objective, view, heads, fused=encoded)
    total = hits = number = 0
    for b, slot in zip(*WEIGHTS[0].nonzero(), strict=True):
        logits = 2 * text[b, POSITIONS[0, b, slot]].astype(np.float64)
        label = LABELS[0, b, slot]
        if MATCH[0, b] or on_swapped:
            total += np.log(np.exp(logits).sum()) - logits[label]
        if MATCH[0, b]:
            hits, number = hits + (logits.argmax() == label), number + 1
    np.testing.assert_allclose(found.total, total, rtol=1e-6)
    assert float(found.count) == float(objective.count(view)) == count
    assert tuple(map(float, found.metrics["accuracy"])) == (hits, number)
    assert 0 < hits < number == 3
