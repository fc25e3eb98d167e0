"""Contrast: who is whose negative, and what its vectors are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixel_bert_jax import objectives
from pixel_bert_jax.models.heads import ContrastHead
from pixel_bert_jax.models.pixel_bert import Alone
from pixel_bert_jax.objectives.contrast import info_nce
from pixel_bert_jax.objectives.views import VIEWS
from pixel_bert_jax.ops.similarity import SIMILARITIES
from pixel_bert_jax.types import InputError
from tests import small

GROUPS, TEXTS, D = 6, 3, 16


def softmax_loss(own, others):
    """Cross-entropy of the first of several logits."""
    logits = np.array([own, *others])
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - own


def test_cross_entropies_are_over_images_and_texts_of_other_images():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(GROUPS, GROUPS * TEXTS)).astype(np.float32) * 3
    images = np.array([4, 7, 4, 9, -1, 2])  # one image twice, one place empty
    texts = np.repeat(images, TEXTS)
    texts[[2, 11]] = -1  # empty slots
    to_image, to_text, found = info_nce(*map(jnp.asarray, (logits, images, texts)))
    for t in np.flatnonzero(texts >= 0):
        g = t // TEXTS
        others = [
            logits[i, t] for i in range(GROUPS) if images[i] not in (-1, texts[t])
        ]
        assert float(to_image[t]) == pytest.approx(
            softmax_loss(logits[g, t], others), rel=1e-5
        )
        assert bool(found[t]) == (logits[g, t] > max(others))
        others = [
            logits[g, u]
            for u in range(GROUPS * TEXTS)
            if texts[u] not in (-1, images[g])
        ]
        assert float(to_text[t]) == pytest.approx(
            softmax_loss(logits[g, t], others), rel=1e-5
        )


def test_with_one_text_an_image_it_is_the_loss_of_clip():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)), jnp.float32)
    ids = jnp.arange(5)
    to_image, to_text, _ = info_nce(logits, ids, ids)
    wanted = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
    np.testing.assert_allclose(to_text, wanted, rtol=1e-5)
    wanted = optax.softmax_cross_entropy_with_integer_labels(logits.T, ids)
    np.testing.assert_allclose(to_image, wanted, rtol=1e-5)


def alone(seed, groups, number, length):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups, number, length, D)).astype(np.float32)
    count = rng.integers(3, length + 1, (groups, number, 1))
    return Alone(jnp.asarray(x), jnp.asarray(np.arange(length) < count))


def bound(objective):
    head = objective.head(small.config(model__features=D).model, small.text_spec())
    inputs = alone(0, 1, 1, 4), alone(1, 1, 1, 5)
    params = head.init(jax.random.key(0), *inputs)
    return lambda *x: head.apply(params, *x), params


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_loss_is_the_mean_of_both_ways_over_real_texts(similarity):
    fields = {"weight": 1.0, "similarity": similarity}
    (objective,) = objectives.build({"contrast": fields})
    head, _ = bound(objective)
    batch = small.batch(GROUPS, TEXTS)
    batch["image_id"] = np.arange(GROUPS, dtype=np.int32)[:, None]
    settings = small.task().settings
    view = VIEWS["clean"](batch, jax.random.key(0), jnp.zeros(()), settings)
    pixels, words = alone(2, GROUPS, 1, 7), alone(3, GROUPS, TEXTS, small.LENGTH)
    total, count, metrics, _ = small.loss_of(
        objective,
        view,
        small.Heads({"contrast": head}),
        pixels_alone=pixels,
        text_alone=words,
    )
    images, texts, scale = head(pixels, words)
    assert float(scale) == pytest.approx(1 / 0.07, rel=1e-5)
    real = batch["example_mask"].reshape(-1)
    assert 0 < real.sum() < len(real)
    owners = jnp.where(real, jnp.repeat(jnp.arange(GROUPS), TEXTS), -1)
    logits = SIMILARITIES[similarity](images, texts) * scale
    to_image, to_text, found = info_nce(logits, jnp.arange(GROUPS), owners)
    wanted = np.asarray(to_image + to_text)[real].sum() / 2
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert float(count) == real.sum() == float(objective.count(view))
    assert float(metrics["accuracy"][0]) == np.asarray(found)[real].sum()


def test_vectors_start_as_the_encoder_gives_them_and_leave_special_tokens_out():
    (objective,) = objectives.build({"contrast": {"weight": 1.0}})
    head, _ = bound(objective)
    pixels, words = alone(4, 2, 1, 5), alone(5, 2, 3, 6)
    images, texts, _ = head(pixels, words)

    def directions(one):
        x = np.asarray(one.features).reshape(-1, *one.features.shape[2:])
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    np.testing.assert_allclose(images.vectors, directions(pixels), atol=1e-5)
    np.testing.assert_allclose(texts.vectors, directions(words), atol=1e-5)
    np.testing.assert_array_equal(images.mask, pixels.mask[:, 0])
    lengths = np.asarray(words.mask).sum(-1).reshape(-1)
    wanted = np.arange(6) < (lengths - 1)[:, None]  # the last one is [SEP]
    wanted[:, 0] = False  # [CLS]
    np.testing.assert_array_equal(texts.mask, wanted)
    assert head(pixels, None)[1] is None and head(None, words)[0] is None


def test_the_scale_has_a_limit():
    head = ContrastHead(D)
    inputs = alone(0, 1, 1, 4), alone(1, 1, 1, 5)
    params = head.init(jax.random.key(0), *inputs)["params"]
    params = {**params, "log_scale": jnp.float32(9.0)}
    assert float(head.apply({"params": params}, *inputs)[2]) == 100


def test_a_similarity_that_does_not_exist():
    with pytest.raises(InputError, match=r"similarity is 'cosin'.*'cosine'.*max_mean"):
        objectives.build({"contrast": {"weight": 1.0, "similarity": "cosin"}})
