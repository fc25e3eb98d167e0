"""Views: what is swapped and masked, and that a draw belongs to its example."""

import functools

import jax
import numpy as np
import pytest

from pixel_bert_jax import objectives
from pixel_bert_jax.objectives.views import VIEWS
from pixel_bert_jax.types import InputError
from tests import small

GROUPS, TEXTS = 120, 3
TASK = small.task()


@functools.partial(jax.jit, static_argnums=2)
def jitted(arrays, step, name):
    return VIEWS[name](arrays, jax.random.key(7), step, TASK.settings)


def batch(seed=0):
    arrays = small.batch(GROUPS, TEXTS, seed=seed, corpora=3)
    del arrays["image"]
    return arrays


def view_of(arrays, name="swapped_masked", step=1):
    return jax.device_get(jitted(arrays, np.int32(step), name))


def original_texts(view):
    """Puts the labels back at their positions: the texts before they were masked."""
    ids = view.text_ids.reshape(-1, small.LENGTH).copy()
    slots = view.masked.positions.shape[-1]
    positions = view.masked.positions.reshape(-1, slots)
    labels = view.masked.labels.reshape(-1, slots)
    weights = view.masked.weights.reshape(-1, slots)
    for row in range(len(ids)):
        ids[row, positions[row][weights[row]]] = labels[row][weights[row]]
    return ids.reshape(view.text_ids.shape)


@pytest.mark.parametrize("seed", range(3))
def test_swapped_texts_are_of_another_picture_of_the_same_corpus(seed):
    arrays = batch(seed)
    view = view_of(arrays)
    real = arrays["example_mask"]
    np.testing.assert_array_equal(view.mask, real)
    texts = original_texts(view)
    same = (texts == arrays["text_ids"]).all(-1)
    assert same[view.match & real].all()
    swapped = ~view.match
    assert not swapped[~real].any()
    # About half of the real pairs: within 5 standard deviations.
    number = real.sum()
    selected = (swapped | view.unpaired)[real].sum()
    assert abs(selected - number / 2) < 5 * np.sqrt(number / 4)
    assert not (swapped & view.unpaired).any()
    # Every swapped text is that of a real slot, same corpus, another picture.
    corpus = np.broadcast_to(arrays["corpus"][:, None], real.shape)
    image_id = np.broadcast_to(arrays["image_id"], real.shape)
    for g, k in np.argwhere(swapped):
        source = (arrays["text_ids"] == texts[g, k]).all(-1) & real
        source &= (corpus == corpus[g, k]) & (image_id != image_id[g, k])
        source &= (arrays["text_mask"] == view.text_mask[g, k]).all(-1)
        assert source.any()


def test_pairs_without_partner_stay_and_are_counted():
    arrays = batch()
    arrays["image_id"][:] = 5  # a single picture: nobody has a partner
    view = view_of(arrays)
    assert view.match.all()
    real = arrays["example_mask"]
    assert 0.3 < view.unpaired[real].mean() < 0.7
    np.testing.assert_array_equal(original_texts(view)[real], arrays["text_ids"][real])


def test_permuting_the_groups_permutes_the_view():
    arrays = batch()
    order = np.random.default_rng(0).permutation(GROUPS)
    view = view_of(arrays)
    moved = view_of({name: x[order] for name, x in arrays.items()})
    np.testing.assert_array_equal(moved.image_id, view.image_id[order])
    # All other leaves have an axis of texts.
    view, moved = (v.replace(image_id=v.match) for v in (view, moved))
    real = arrays["example_mask"][order]
    for before, after in zip(
        jax.tree.leaves(view), jax.tree.leaves(moved), strict=True
    ):
        np.testing.assert_array_equal(after[real], before[order][real])


def test_another_step_draws_again_and_another_batch_mate_changes_no_mask():
    arrays = batch()
    first, second = (view_of(arrays, "masked", step) for step in (1, 2))
    assert (first.text_ids != second.text_ids).any()
    fewer = {name: x.copy() for name, x in arrays.items()}
    fewer["example_mask"][10:] = False
    alone = view_of(fewer, "masked")
    np.testing.assert_array_equal(alone.text_ids[:10], first.text_ids[:10])
    assert not alone.masked.weights[10:].any()  # holes have no loss
    assert first.match.all()
    assert not first.unpaired.any()


def test_more_words_are_masked_while_the_run_is_young():
    settings = TASK.settings._replace(
        warmup_probability=0.9, warmup_steps=3, mask_slots=small.LENGTH
    )
    masked = jax.jit(
        lambda arrays, step: VIEWS["masked"](
            arrays, jax.random.key(7), step, settings
        ).masked.weights.sum()
    )
    arrays = batch()
    words = arrays["text_mask"].sum(-1) - 2
    total = words[arrays["example_mask"]].sum()
    shares = [float(masked(arrays, np.int32(step))) / total for step in (0, 2, 3)]
    assert all(0.85 < share < 0.95 for share in shares[:2])
    assert 0.15 < shares[2] < 0.35  # at least one of each short text


def test_clean_view_is_the_batch():
    arrays = batch()
    view = view_of(arrays, "clean")
    assert view.masked is None
    np.testing.assert_array_equal(view.text_ids, arrays["text_ids"])


def test_swapped_moves_the_same_texts_as_swapped_masked_and_masks_none():
    arrays = batch()
    swapped, both = view_of(arrays, "swapped"), view_of(arrays)
    assert swapped.masked is None
    np.testing.assert_array_equal(swapped.match, both.match)
    real = arrays["example_mask"]
    np.testing.assert_array_equal(swapped.text_ids[real], original_texts(both)[real])


def test_each_objective_reads_the_view_that_the_config_names():
    views = {"mlm": "masked", "itm": "swapped"}
    task = small.task(**{f"objectives__{k}__view": v for k, v in views.items()})
    arrays = batch()
    found = task.views(arrays, jax.random.key(7), np.int32(1))
    assert found.keys() == {"masked", "swapped"}
    assert found["masked"].match.all()  # MLM alone reads matched pairs
    assert not found["swapped"].match.all()
    for name, wrong in (("mlm", "swapped"), ("itm", "masked")):
        with pytest.raises(InputError, match=f"{name} cannot read .* valid: "):
            small.task(**{f"objectives__{name}__view": wrong})


def test_counts_follow_from_the_view():
    view = view_of(batch())
    counts = TASK.counts({"swapped_masked": view})
    assert float(counts["itm"]) == view.mask.sum()
    assert float(counts["mlm"]) == view.masked.weights.sum()
    (matched_only,) = objectives.build({"mlm": {"weight": 1.0, "on_swapped": False}})
    want = (view.masked.weights & view.match[..., None]).sum()
    assert float(matched_only.count(view)) == want < float(counts["mlm"])


def test_weights_are_multipliers_and_unknown_names_are_refused():
    heavy = small.task(objectives__mlm__weight=3.0, objectives__itm__weight=0.0)
    assert heavy.weights == {"mlm": 3.0, "itm": 0.0}
    with pytest.raises(InputError, match="did you mean 'mlm'"):
        objectives.build({"mln": {"weight": 1.0}})
    with pytest.raises(InputError, match="empty"):
        objectives.build({})
