"""Image words: the loss by hand, and what must not count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax import objectives
from pixel_bert_jax.models.front_ends import VisualTokens
from pixel_bert_jax.objectives.views import VIEWS
from tests import small

GROUPS, IMAGES, TEXTS, CELLS, FEATURES = 5, 2, 3, 4, 6
(OBJECTIVE,) = objectives.build({"image_words": {"weight": 0.5}})
HEAD = OBJECTIVE.head(small.config().model, small.text_spec())


@functools.cache
def parts():
    """Pixels of which group 1 has none, texts of which group 2 has none."""
    random = np.random.default_rng(0)
    shape = (GROUPS, IMAGES, CELLS)
    features = random.normal(0, 2, (*shape, FEATURES)).astype(np.float32)
    mask = random.random(shape) < 0.7
    mask[:, 0, 0] = True
    mask[1] = False
    index = np.zeros(shape, np.int32)
    visual = VisualTokens(jnp.asarray(features), jnp.asarray(mask), index, (2, 2))
    arrays = small.batch(GROUPS, TEXTS)
    arrays["example_mask"][:] = True
    arrays["example_mask"][2] = False
    arrays["example_mask"][3, 1] = False
    view = VIEWS["clean"](
        arrays, jax.random.key(0), jnp.zeros(()), small.task().settings
    )
    table = random.normal(0, 0.3, (small.VOCAB, FEATURES)).astype(np.float32)
    bias = random.normal(-1, 1, small.VOCAB).astype(np.float32)
    return visual, view, arrays, {"bias": jnp.asarray(bias)}, jnp.asarray(table)


def loss_of(visual, view):
    *_, params, table = parts()
    head = functools.partial(HEAD.apply, {"params": params})
    heads = small.Heads({"image_words": head}, table)
    return small.loss_of(OBJECTIVE, view, heads, pixels=visual)


def test_loss_is_that_of_a_noisy_or_of_the_pixels():
    visual, view, arrays, params, table = parts()
    loss, count, sums, _ = loss_of(visual, view)
    kernel = np.asarray(table, np.float64).T
    bias = np.asarray(params["bias"], np.float64)
    want, words, found = 0.0, 0, 0
    for g in (0, 3, 4):
        seen = np.asarray(visual.features, np.float64)[g][np.asarray(visual.mask)[g]]
        any_shows = 1 - np.prod(1 / (1 + np.exp(seen @ kernel + bias)), axis=0)
        present = set()
        for k in range(TEXTS):
            if arrays["example_mask"][g, k]:
                present |= set(arrays["text_ids"][g, k][arrays["text_mask"][g, k]])
        for word in range(small.VOCAB):
            p = any_shows[word]
            want -= np.log(p if word in present else 1 - p)
            words += word in present
            found += word in present and p > 0.5
    # Without a pixel every word is as likely as not.
    want += small.VOCAB * np.log(2)
    words += len(set(arrays["text_ids"][1][arrays["text_mask"][1]]))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert [float(x) for x in sums["recall"]] == [found, words]
    assert float(OBJECTIVE.count(view)) == 4 == float(count)


def test_gradient_reaches_every_real_pixel_and_is_finite():
    visual, view, *_ = parts()
    gradient = np.asarray(
        jax.grad(lambda x: loss_of(visual.replace(features=x), view)[0])(
            visual.features
        )
    )
    assert np.isfinite(gradient).all()
    mask = np.array(visual.mask)
    assert not gradient[~mask].any()
    assert not gradient[2].any()
    mask[2] = False
    assert gradient[mask].any(-1).all()


@pytest.mark.slow
def test_a_step_adds_the_weighted_mean_and_leaves_the_other_losses():
    arrays = small.batch(4, TEXTS)
    both = {"mlm": {"weight": 1.0, "on_swapped": True}, "itm": {"weight": 1.0}}
    plain = small.task()
    task = small.task(objectives={**both, "image_words": {"weight": 0.5}})
    assert task.weights["image_words"] == 0.5
    key, step = jax.random.key(7), jnp.zeros((), jnp.int32)

    @jax.jit
    def losses(variables, arrays):
        small_arrays = {k: v for k, v in arrays.items() if k != "image"}
        views = task.views(small_arrays, key, step)
        out = task.losses(variables, {}, arrays, views, key, step, micro=0)
        old = {k: views[k] for k in ("swapped_masked",)}
        return out, plain.losses(variables, {}, arrays, old, key, step, micro=0)

    variables = task.init(jax.random.key(0))
    new, old = losses(variables, arrays)
    assert new.totals["image_words"] > 0
    for name, value in old.totals.items():
        np.testing.assert_allclose(new.totals[name], value, rtol=1e-6)


def test_texts_of_other_images_do_not_count():
    visual, view, *_ = parts()
    own = np.arange(TEXTS) == 0
    candidates = view.replace(match=view.match & own)
    alone = view.replace(mask=view.mask & own)
    got, want, everything = (loss_of(visual, v)[0] for v in (candidates, alone, view))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert abs(got - everything) > 1
