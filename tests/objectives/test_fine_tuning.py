"""The objectives of VQA and NLVR2, in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax import objectives
from pixel_bert_jax.models.pixel_bert import Encoded
from pixel_bert_jax.objectives.truth import joined
from pixel_bert_jax.objectives.views import VIEWS
from pixel_bert_jax.types import InputError
from tests import small

D, ANSWERS = 16, 7
MODEL = small.config(model__features=D, model__init_std=0.2).model


def view_of(batch):
    task = small.task()
    return VIEWS["clean"](batch, jax.random.key(0), jnp.zeros(()), task.settings)


def bound(objective, text):
    """Returns the objective's own head, with random parameters."""
    head = objective.head(MODEL, text)
    pooled = jnp.zeros((1, objective.images * D))
    params = head.init(jax.random.key(1), pooled)
    return small.Heads({objective.name: functools.partial(head.apply, params)})


def encoded(pairs):
    """Returns outputs of the transformer of which nothing but [CLS] can be read."""
    pooled = jax.random.normal(jax.random.key(2), (pairs, D))
    return Encoded(*[None] * 5, pooled=pooled)


def test_answers_are_summed_binary_cross_entropies():
    batch = small.batch(6, 3)
    scores = np.random.default_rng(0).choice([0, 0.3, 0.6, 1], (6, 3, ANSWERS))
    batch["answer_scores"] = scores.astype(np.float32)
    (objective,) = objectives.build({"answers": {"weight": 2.0}})
    heads, view = bound(objective, small.text_spec(ANSWERS)), view_of(batch)
    out = encoded(18)
    loss, count, sums, _ = small.loss_of(objective, view, heads, fused=out)
    real = batch["example_mask"].reshape(-1)
    assert 3 < real.sum() < 18
    p = 1 / (1 + np.exp(-np.float64(heads["answers"](out.pooled))[real]))
    s = scores.reshape(18, ANSWERS)[real]
    wanted = -(s * np.log(p) + (1 - s) * np.log(1 - p)).sum()
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert float(objective.count(view)) == real.sum() == float(count)
    best = s[np.arange(len(s)), p.argmax(1)]
    np.testing.assert_allclose(sums["score"][0], best.sum(), rtol=1e-6)


def test_a_model_without_answers_cannot_give_any():
    (objective,) = objectives.build({"answers": {"weight": 1.0}})
    with pytest.raises(InputError, match=r"config\.data\.answers"):
        objective.head(MODEL, small.text_spec())


@pytest.mark.parametrize("hidden", [0, 2])
def test_truth_is_the_cross_entropy_of_both_outputs(hidden):
    batch = small.batch(5, 2, images=2)
    batch["label"] = np.random.default_rng(0).integers(0, 2, (5, 2)).astype(np.int32)
    (objective,) = objectives.build({"truth": {"weight": 1.0, "hidden": hidden}})
    heads, view = bound(objective, small.text_spec()), view_of(batch)
    out = encoded(20)
    loss, count, sums, _ = small.loss_of(objective, view, heads, fused=out)
    # Pairs are ordered (group, image, text).
    pooled = np.asarray(out.pooled).reshape(5, 2, 2, D)
    total = hits = 0.0
    for g, k in zip(*batch["example_mask"].nonzero(), strict=True):
        both = np.concatenate([pooled[g, 0, k], pooled[g, 1, k]])
        logits = np.float64(heads["truth"](both[None]))[0]
        total -= logits[batch["label"][g, k]] - np.log(np.exp(logits).sum())
        hits += logits.argmax() == batch["label"][g, k]
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert float(sums["accuracy"][0]) == hits
    real = batch["example_mask"].sum()
    assert float(objective.count(view)) == real == float(count)


def test_swapped_images_swap_the_halves():
    pooled = jax.random.normal(jax.random.key(0), (3 * 2 * 2, D))
    swapped = pooled.reshape(3, 2, 2, D)[:, ::-1].reshape(-1, D)
    one, other = joined(pooled, (3, 2)), joined(swapped, (3, 2))
    np.testing.assert_array_equal(one[..., :D], other[..., D:])
    np.testing.assert_array_equal(one[..., D:], other[..., :D])


def candidates(groups, texts, negatives, seed=0):
    """A batch whose texts are each followed by texts of other pictures."""
    batch = small.batch(groups, texts * (1 + negatives), seed=seed)
    own = batch["example_mask"].reshape(groups, texts, -1)[..., :1]
    mask = np.broadcast_to(own, (groups, texts, 1 + negatives))
    batch["example_mask"] = mask.reshape(groups, -1)
    return batch


@pytest.mark.parametrize("hardest", [0, 3, 7])
def test_retrieval_is_the_cross_entropy_against_the_hardest(hardest):
    fields = {"weight": 1.0, "negatives": 7, "hardest": hardest}
    (objective,) = objectives.build({"retrieval": fields})
    batch = candidates(6, 2, 7)
    task = small.task(objectives={"retrieval": fields})
    view = VIEWS["clean"](batch, jax.random.key(0), jnp.zeros(()), task.settings)
    heads, out = bound(objective, small.text_spec()), encoded(6 * 16)
    loss, count, sums, _ = small.loss_of(objective, view, heads, fused=out)
    scores = np.float64(heads["retrieval"](out.pooled)).reshape(12, 8)
    total = first = 0.0
    real = batch["example_mask"].reshape(12, 8)[:, 0]
    for own, *others in scores[real]:
        hard = sorted(others)[-(hardest or 7) :]
        total += np.log(np.exp([own, *hard]).sum()) - own
        first += own > max(others)
    assert 0 < first < real.sum() < 12
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert float(objective.count(view)) == real.sum() == float(count)
    assert float(sums["accuracy"][0]) == first


def test_a_negative_of_equal_score_counts_against_the_own_text():
    fields = {"weight": 1.0, "negatives": 7, "hardest": 3}
    (objective,) = objectives.build({"retrieval": fields})
    batch = candidates(6, 2, 7)
    task = small.task(objectives={"retrieval": fields})
    view = VIEWS["clean"](batch, jax.random.key(0), jnp.zeros(()), task.settings)
    heads = small.Heads({"retrieval": lambda pooled: jnp.zeros(len(pooled))})
    found = small.loss_of(objective, view, heads, fused=encoded(6 * 16))
    real = batch["example_mask"].reshape(12, 8)[:, 0].sum()
    assert tuple(map(float, found.metrics["accuracy"])) == (0, real)
    np.testing.assert_allclose(found.total, real * np.log(4), rtol=1e-6)


def test_only_the_hardest_negatives_have_a_gradient():
    fields = {"weight": 1.0, "negatives": 7, "hardest": 3}
    (objective,) = objectives.build({"retrieval": fields})
    batch = candidates(6, 2, 7)
    task = small.task(objectives={"retrieval": fields})
    view = VIEWS["clean"](batch, jax.random.key(0), jnp.zeros(()), task.settings)
    heads, out = bound(objective, small.text_spec()), encoded(6 * 16)

    def loss(pooled):
        moved = out.replace(pooled=pooled)
        return small.loss_of(objective, view, heads, fused=moved).total

    touched = np.abs(jax.grad(loss)(out.pooled)).sum(-1).reshape(12, 8) > 0
    real = batch["example_mask"].reshape(12, 8)[:, 0]
    assert touched[real, 0].all() and (touched[real, 1:].sum(1) == 3).all()
    assert not touched[~real].any()
    scores = np.asarray(heads["retrieval"](out.pooled)).reshape(12, 8)[real, 1:]
    lifted = np.sort(scores, axis=1)[:, 3]
    assert (touched[real, 1:] == (scores > lifted[:, None])).all()


def test_objectives_of_one_batch_agree_on_what_it_holds():
    words, match = {"image_words": {"weight": 1.0}}, {"itm": {"weight": 1.0}}
    ranks = {"retrieval": {"weight": 1.0, "negatives": 4, "hardest": 2}}
    task = small.task(objectives=words | ranks)
    assert (task.images, task.negatives, task.settings.negatives) == (1, 4, 4)
    task = small.task(objectives=words | {"truth": {"weight": 1.0}})
    assert (task.images, task.negatives) == (2, 0)
    task = small.task(objectives=words)
    assert (task.images, task.negatives) == (1, 0)
    with pytest.raises(InputError, match=r"different negatives .*: itm 0, retrieval 4"):
        small.task(objectives=match | ranks)
    with pytest.raises(InputError, match=r"different images .*: itm 1, truth 2"):
        small.task(objectives=match | {"truth": {"weight": 1.0}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"negatives": 0}, "negatives is 0, expected at least 1"),
        ({"hardest": 21}, r"hardest is 21, expected 0 \(all\) to 20"),
        ({"hardest": -1}, "hardest is -1"),
    ],
)
def test_numbers_of_negatives_that_cannot_be_meant(fields, message):
    with pytest.raises(InputError, match=message):
        objectives.build({"retrieval": {"weight": 1.0, **fields}})
