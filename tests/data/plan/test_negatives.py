"""Retrieval's negatives: texts of other images, as a function of (seed, step)."""

import numpy as np
import pytest

from pixel_bert_jax.data.plan import NO_EXAMPLE, TrainPlan
from pixel_bert_jax.data.plan.permutations import stream
from pixel_bert_jax.types import InputError
from tests.data.plan_cases import assert_same, epoch_of, make_corpus, make_plan, many

N = 20


def extended(batch):
    """Returns texts and example ids as [G, P, 1 + N]."""
    groups = len(batch.texts)
    texts = batch.texts.reshape(groups, -1, 1 + N)
    return texts, batch.example_id.reshape(*texts.shape, 2)


def test_negatives_show_other_pictures_and_none_twice():
    plan, plain = make_plan(negatives=N), make_plan()
    empty = real = 0
    for step in range(plan.steps_per_epoch):
        batch, before = plan.batch(step), plain.batch(step)
        texts, example_id = extended(batch)
        np.testing.assert_array_equal(texts[..., 0], before.texts)
        np.testing.assert_array_equal(example_id[..., 0, :], before.example_id)
        for g, p in np.ndindex(texts.shape[:2]):
            own, *others = texts[g, p]
            if own < 0:
                assert set(others) == {-1} and (example_id[g, p] == NO_EXAMPLE).all()
                empty += 1
                continue
            corpus = plan.corpora[batch.corpus[g]]
            image_ids = corpus.image_ids[corpus.text_set]
            assert len(set(others)) == N and min(others) >= 0
            assert not (image_ids[others] == image_ids[own]).any()
            assert (example_id[g, p, :, 0] == before.example_id[g, p, 0]).all()
            assert (example_id[g, p, :, 1] == texts[g, p]).all()
            real += 1
    assert empty and real


def test_an_epoch_still_shows_every_text_once_as_its_own():
    plan = make_plan(negatives=N)
    for c, corpus in enumerate(plan.corpora):
        shown = [
            extended(batch)[0][batch.corpus == c, :, 0] for batch in epoch_of(plan, 1)
        ]
        shown = np.concatenate([x.reshape(-1) for x in shown])
        assert sorted(shown[shown >= 0]) == list(range(len(corpus.text_set)))


def test_they_are_a_pure_function_of_seed_and_step():
    plan = make_plan(negatives=N)
    later = plan.batch(40)
    plan.batch(3)
    assert_same(later, make_plan(negatives=N).batch(40))
    first, second = (extended(plan.batch(step))[0] for step in (0, 1))
    assert not np.isin(first[0, 0, 1:], second[0, 0, 1:]).all()
    other = make_plan(negatives=N, seed=4)
    assert not np.array_equal(other.batch(40).texts, later.texts)
    assert len({p.fingerprint for p in (plan, other, make_plan())}) == 3
    assert make_plan(negatives=N).fingerprint == plan.fingerprint
    assert make_plan(negatives=N - 1).fingerprint != plan.fingerprint


def test_every_text_of_the_corpus_is_drawn_as_often():
    plan = make_plan(make_corpus(), negatives=N)
    counts = np.zeros(600)
    total = 0
    for step in range(150):
        texts = extended(plan.batch(step))[0][..., 1:]
        counts += np.bincount(texts[texts >= 0], minlength=600)
        total += (texts >= 0).sum()
    expected = total / 600
    squares = ((counts - expected) ** 2 / expected).sum()
    # Chi-square of 599 degrees of freedom: mean 599, deviation 34.6.
    assert 599 - 5 * 34.6 < squares < 599 + 5 * 34.6


def test_few_texts_are_enough_or_refused():
    small = make_corpus(image_sets=6)  # 30 texts, 10 an image
    plan = TrainPlan(
        [small],
        np.full((300, 2), 480, np.int32),
        **dict(seed=0, groups=2, texts_per_group=1, short=800, long=1333, negatives=20),
        canvases=[(800, 1088)],
        source_canvases=(640,),
    )
    texts, _ = extended(plan.batch(0))
    # All that there are.
    assert all(len(set(row[1:])) == 20 for row in texts.reshape(-1, 21))
    with pytest.raises(InputError, match=r"negatives = 21 .*one image has 20"):
        make_plan(small, negatives=21)


def test_a_stream_of_their_own():
    # A draw that another use of the seed repeats would tie the two together.
    ours = stream(3, 6, 0, 0).random_raw(4)
    for purpose in range(6):
        assert not np.isin(stream(3, purpose, 0, 0).random_raw(4), ours).any()
    assert many().name != make_corpus().name
