"""Masked tokens: how many, which, and that none goes without a loss."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax.ops.masking import Vocabulary, mask_tokens, max_masked

SPECIAL = (0, 1, 2, 3, 4)
PAD, CLS, SEP, MASK = 0, 2, 3, 4
WORDS = 1000
CONTINUATION = np.zeros(WORDS, bool)
CONTINUATION[900:] = True
VOCABULARY = Vocabulary(
    special_ids=SPECIAL,
    mask_id=MASK,
    replacement_ids=jnp.arange(5, WORDS),
    is_continuation=jnp.asarray(CONTINUATION),
)
LENGTH = 24
NUMBER = 2000  # texts, the same in every test: one shape to compile


@functools.partial(jax.jit, static_argnames=("slots", "whole_words"))
def jitted(keys, ids, mask, **options):
    return mask_tokens(keys, ids, mask, VOCABULARY, **options)


def texts(seed=0, low=0, continuations=False):
    """Returns ids and mask of [CLS] words [SEP] with `low` to L - 2 words."""
    random, number = np.random.default_rng(seed), NUMBER
    ids = random.integers(5, 1000 if continuations else 900, (number, LENGTH))
    words = random.integers(low, LENGTH - 1, number)
    place = np.arange(LENGTH)
    ids[:, 0] = CLS
    ids[np.arange(number), words + 1] = SEP
    ids[:, 1] = np.where(words > 0, ids[:, 1] % 800 + 50, ids[:, 1])  # starts a word
    mask = place <= words[:, None] + 1
    return np.where(mask, ids, PAD).astype(np.int32), mask


def run(ids, mask, *, slots=LENGTH, whole_words=False):
    keys = jax.random.split(jax.random.key(1), NUMBER)
    out = jitted(keys, ids, mask, slots=slots, whole_words=whole_words)
    return jax.tree.map(np.asarray, out)


def chosen_of(out):
    """[B, L] bool: the positions that have a loss."""
    chosen = np.zeros(out.ids.shape, bool)
    row = np.broadcast_to(np.arange(len(out.ids))[:, None], out.positions.shape)
    chosen[row[out.weights], out.positions[out.weights]] = True
    return chosen


def within(observed, trials, probability, z=5.0):
    """Whether a count lies within z standard deviations; p < 6e-7 at 5."""
    deviation = math.sqrt(trials * probability * (1 - probability))
    return abs(observed - trials * probability) <= z * deviation


def test_fifteen_percent_are_chosen_and_corrupted_80_10_10():
    ids, mask = texts(low=22)  # 44,000 words
    out = run(ids, mask)
    maskable = mask & ~np.isin(ids, SPECIAL)
    chosen = chosen_of(out)
    # A text of n words where none was drawn still gives one.
    words = maskable.sum(1)
    forced = (0.85**words).sum()
    number = chosen.sum()
    assert within(number - forced, maskable.sum(), 0.15)
    masked = (out.ids == MASK) & chosen
    kept = (out.ids == ids) & chosen
    replaced = chosen & ~masked & ~kept
    assert within(masked.sum(), number, 0.8)
    assert within(replaced.sum(), number, 0.1 * (1 - 1 / 995))
    assert within(kept.sum(), number, 0.1 * (1 + 1 / 995))
    # Replacements are spread over the whole vocabulary and hold no special token.
    values = out.ids[replaced]
    assert not np.isin(values, SPECIAL).any()
    assert len(np.unique(values)) > 400
    assert abs(values.mean() - 502) < 5 * 287 / math.sqrt(len(values))


@pytest.mark.parametrize(
    ("slots", "whole_words"),
    [(2, False), (2, True), (LENGTH, False), (LENGTH, True), (40, True)],
)
def test_every_corrupted_token_has_a_loss_and_its_original_as_label(slots, whole_words):
    ids, mask = texts(continuations=True)
    out = run(ids, mask, slots=slots, whole_words=whole_words)
    assert (
        out.positions.shape == out.labels.shape == out.weights.shape == (NUMBER, slots)
    )
    chosen = chosen_of(out)
    np.testing.assert_array_equal(out.ids[~chosen], ids[~chosen])
    originals = np.take_along_axis(ids, out.positions, axis=1)
    np.testing.assert_array_equal(out.labels[out.weights], originals[out.weights])
    assert not chosen[~mask | np.isin(ids, SPECIAL)].any()
    words = (mask & ~np.isin(ids, SPECIAL)).sum(1)
    number = chosen.sum(1)
    assert (words == 0).any()
    assert (number[words == 0] == 0).all()
    assert (number[words > 0] >= 1).all()
    assert (number <= slots).all()
    assert (out.weights.sum(1) == number).all()  # no position twice
    assert slots > 2 or (number == slots).any()
    if whole_words and slots >= LENGTH:
        assert (out.positions[~out.weights] == 0).all()


def test_positions_ascend():
    out = run(*texts())
    for positions, weights in zip(out.positions, out.weights, strict=True):
        assert (np.diff(positions[weights]) > 0).all()


def test_pieces_of_a_word_are_chosen_together():
    ids, mask = texts(low=4, continuations=True)
    chosen = chosen_of(run(ids, mask, whole_words=True))
    continues = CONTINUATION[ids] & mask
    assert continues.sum() > 200
    np.testing.assert_array_equal(
        chosen[:, 1:][continues[:, 1:]], chosen[:, :-1][continues[:, 1:]]
    )
    # Without the option they are chosen one by one.
    single = chosen_of(run(ids, mask))
    assert (single[:, 1:] != single[:, :-1])[continues[:, 1:]].any()


def test_the_choice_belongs_to_the_key():
    ids, mask = texts()
    keys = jax.random.split(jax.random.key(0), NUMBER)
    order = np.random.default_rng(0).permutation(NUMBER)

    def masked(rows):
        out = jitted(keys[rows], ids[rows], mask[rows], slots=LENGTH, whole_words=False)
        return jax.tree.map(np.asarray, out)

    whole, moved = masked(np.arange(NUMBER)), masked(order)
    for before, after in zip(whole, moved, strict=True):
        np.testing.assert_array_equal(after, before[order])


@pytest.mark.parametrize(("length", "slots"), [(32, 9), (22, 8), (1, 5), (100, 19)])
def test_default_slots_are_the_ceiling_of_15_percent_and_4(length, slots):
    assert max_masked(length) == slots


def test_padding_is_never_chosen_whatever_its_ids():
    ids, mask = texts()
    filled = np.where(mask, ids, 7).astype(np.int32)  # a word behind the end
    chosen = chosen_of(run(filled, mask))
    np.testing.assert_array_equal(chosen, chosen_of(run(ids, mask)))
    assert chosen.any() and not chosen[~mask].any()
