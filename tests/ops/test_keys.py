"""A draw's key is a function of (base, step, tag, example id) and of nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from pixel_bert_jax.ops import keys

BASE = jax.random.key(5)


def data(key):
    return np.asarray(jax.random.key_data(key))


def test_key_is_the_fold_of_step_tag_and_both_halves():
    example_id = jnp.asarray(
        [[[256, 7], [keys.NO_EXAMPLE, keys.NO_EXAMPLE]]], jnp.uint32
    )
    got = keys.per_example(keys.tagged(BASE, keys.MASK, 9), example_id)
    assert got.shape == (1, 2)
    for k, (high, low) in enumerate(np.asarray(example_id[0])):
        want = BASE
        for number in (9, keys.MASK, high, low):
            want = jax.random.fold_in(want, number)
        np.testing.assert_array_equal(data(got[0, k]), data(want))


def test_evaluation_keys_fold_no_step():
    want = jax.random.fold_in(BASE, keys.MASK)
    np.testing.assert_array_equal(data(keys.tagged(BASE, keys.MASK)), data(want))


def test_image_key_is_that_of_text_slot_0_folded_with_its_number():
    example_id = jnp.asarray([[[0, 3], [0, 4]], [[1, 5], [1, 6]]], jnp.uint32)
    got = keys.per_image(keys.tagged(BASE, keys.SAMPLE, 0), example_id, 3)
    assert got.shape == (2, 3)
    first = keys.per_example(keys.tagged(BASE, keys.SAMPLE, 0), example_id[:, 0])
    for g in range(2):
        for m in range(3):
            want = jax.random.fold_in(first[g], m)
            np.testing.assert_array_equal(data(got[g, m]), data(want))


def test_keys_of_different_examples_steps_and_tags_differ():
    example_id = jnp.asarray([[0, 1], [1, 0], [0, 2], [256, 1]], jnp.uint32)
    every = [
        data(keys.per_example(keys.tagged(BASE, tag, step), example_id))
        for tag in (keys.SWAP, keys.MASK, keys.SAMPLE, keys.DROPOUT)
        for step in (0, 1)
    ]
    every = np.concatenate(every)
    assert len(np.unique(every, axis=0)) == len(every) == 32
