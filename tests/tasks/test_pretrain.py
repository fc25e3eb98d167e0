"""The task: losses of a step by hand, predictions that do not depend on batch mates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pixel_bert_jax.objectives.mlm import masked_word_logits
from pixel_bert_jax.tasks import pretrain
from tests import small

GROUPS, TEXTS = 6, 2


@functools.cache
def run():
    return small.run()


@functools.cache
def predict():
    arrays = small.batch(GROUPS, TEXTS, evaluation=True)
    task, variables = run().task, run().state().variables
    probe = jax.jit(functools.partial(pretrain.probe, task))
    compiled = probe.lower(variables, arrays).compile(small.QUICK)
    return lambda arrays: jax.device_get(compiled(variables, arrays))


def evaluation_batch(**options):
    return small.batch(GROUPS, TEXTS, evaluation=True, **options)


def test_predictions_of_a_permuted_batch_are_permuted():
    arrays = evaluation_batch()
    order = np.random.default_rng(0).permutation(GROUPS)
    whole = predict()(arrays)
    moved = predict()({name: x[order] for name, x in arrays.items()})
    for name, values in whole.items():
        np.testing.assert_allclose(moved[name], values[order], atol=1e-5, err_msg=name)
    assert whole["weights"].any()


def test_predictions_do_not_depend_on_batch_mates():
    arrays, mates = evaluation_batch(), evaluation_batch(seed=9)
    mixed = {
        name: np.concatenate([arrays[name][:2], mates[name][2:]]) for name in mates
    }
    whole, other = predict()(arrays), predict()(mixed)
    for name, values in whole.items():
        np.testing.assert_array_equal(other[name][:2], values[:2], err_msg=name)


def test_blanked_and_other_see_no_own_pixel():
    arrays = evaluation_batch()
    changed = arrays | {"image": evaluation_batch(seed=4)["image"]}
    whole, other = predict()(arrays), predict()(changed)
    for kind in ("blanked", "other"):
        for name in (f"words_{kind}", f"match_{kind}"):
            np.testing.assert_array_equal(whole[name], other[name])
    assert (whole["match_own"] != other["match_own"]).any()
    assert (whole["match_own"] != whole["match_other"]).any()
    assert (whole["match_own"] != whole["match_blanked"]).any()


def test_an_evaluation_may_sample_pixels_which_are_those_of_the_image():
    arrays = evaluation_batch()
    variables = run().state().variables

    def visual(count, arrays):
        task = small.task(eval__sample_pixels=count)
        compiled = jax.jit(task.visual).lower(variables, arrays)
        return jax.device_get(compiled.compile(small.QUICK)(variables, arrays))

    every, some = visual(0, arrays), visual(5, arrays)
    assert every.features.shape[2] == 24 and some.features.shape[2] == 5
    for g, m in np.ndindex(some.mask.shape[:2]):
        cells = some.index[g, m][some.mask[g, m]]
        assert len(set(cells)) == len(cells) == min(5, every.mask[g, m].sum())
        kept = some.features[g, m][some.mask[g, m]]
        np.testing.assert_allclose(kept, every.features[g, m][cells], atol=1e-5)
    # The draw belongs to the image, not to its place in the batch.
    moved = visual(5, {name: x[::-1] for name, x in arrays.items()})
    np.testing.assert_array_equal(moved.index[::-1], some.index)
    assert len({tuple(row) for row in some.index[:, 0]}) > 1


def test_masked_only_logits_equal_the_full_projection():
    task, variables = run().task, run().state().variables
    heads = task.bind(variables)
    random = np.random.default_rng(0)
    text = jnp.asarray(random.normal(0, 1, (4, small.LENGTH, 16)), jnp.float32)
    positions = random.integers(0, small.LENGTH, (4, 3)).astype(np.int32)
    some = np.asarray(masked_word_logits(heads, text, jnp.asarray(positions)))
    every = np.asarray(heads["mlm"](text, heads.word_embedding))
    assert every.shape == (4, small.LENGTH, small.VOCAB)
    want = np.take_along_axis(every, positions[..., None], axis=1)
    np.testing.assert_allclose(some, want, atol=1e-5)
