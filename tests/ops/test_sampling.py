"""Random pixel sampling: uniform, without replacement, never padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from pixel_bert_jax.ops import keys as example_keys
from pixel_bert_jax.ops.sampling import sample_cells, take_cells

GRID = (5, 6)
CELLS = 30
VALID = np.zeros(GRID, bool)
VALID[:4, :5] = True  # 20 cells of 30
DRAWS = 8_000
KEPT = 8


SAMPLE = jax.jit(sample_cells, static_argnames="count")


def chi_square_bound(freedom, z=4.7534):
    """Wilson and Hilferty's quantile; this z leaves 1e-6 above it."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + z * math.sqrt(part)) ** 3


def chi_square_of_inclusion(index, mask, cells):
    """The statistic of equal inclusion probabilities, chi^2 with N - 1 degrees.

    Draws without replacement correlate by -1 / (N - 1) within a sample, which the
    factor (N - 1) / N / (1 - k / N) undoes.
    """
    number, kept = len(cells), mask.sum(1)[0]
    counts = np.bincount(index[mask], minlength=CELLS)[cells]
    expected = len(index) * kept / number
    statistic = ((counts - expected) ** 2).sum() / expected
    return statistic * (number - 1) / number / (1 - kept / number)


def draw(number=DRAWS, valid=VALID, count=KEPT, seed=1):
    keys = jax.random.split(jax.random.key(seed), number)
    valid = np.broadcast_to(valid.reshape(-1), (number, CELLS))
    return tuple(np.asarray(x) for x in SAMPLE(keys, valid, count))


def test_every_valid_cell_is_kept_equally_often():
    index, mask = draw()
    cells = np.flatnonzero(VALID)
    assert mask.all()
    assert np.isin(index, cells).all()  # never padding
    assert (np.diff(index, axis=1) > 0).all()  # ascending: no cell twice
    assert chi_square_of_inclusion(index, mask, cells) < chi_square_bound(19)


def test_pairs_of_cells_are_kept_equally_often():
    index, _ = draw()
    chosen = np.zeros((DRAWS, CELLS))
    np.put_along_axis(chosen, index, 1, axis=1)
    chosen = chosen[:, VALID.reshape(-1)]
    together = (chosen.T @ chosen)[np.triu_indices(20, 1)]
    share = KEPT * (KEPT - 1) / (20 * 19)
    deviation = (together - DRAWS * share) / math.sqrt(DRAWS * share * (1 - share))
    assert np.abs(deviation).max() < 5.7  # of 190 pairs; p about 2e-6


def test_the_statistic_notices_a_slight_preference():
    random = np.random.default_rng(0)
    weights = np.linspace(1.05, 0.95, 20)
    weights /= weights.sum()
    cells = np.flatnonzero(VALID)
    index = np.stack(
        [random.choice(cells, KEPT, replace=False, p=weights) for _ in range(DRAWS)]
    )
    mask = np.ones_like(index, bool)
    assert chi_square_of_inclusion(index, mask, cells) > chi_square_bound(19)


def test_an_image_with_fewer_cells_keeps_them_all():
    for number in (0, 1, 5, 8):
        valid = np.zeros(CELLS, bool)
        valid[3 : 3 + number] = True
        index, mask = draw(4, valid)
        np.testing.assert_array_equal(mask.sum(1), [number] * 4)
        assert (index[mask].reshape(4, -1) == np.arange(3, 3 + number)).all()
        assert (index[~mask] == 0).all()


def test_more_slots_than_cells_keep_the_grid():
    index, mask = draw(2, VALID, count=100)
    assert index.shape == (2, CELLS)
    np.testing.assert_array_equal(mask.sum(1), [20, 20])


def test_the_draw_belongs_to_the_example_and_not_to_its_place():
    example_id = np.arange(24, dtype=np.uint32).reshape(6, 2, 2)
    order = np.array([4, 1])
    key = example_keys.tagged(jax.random.key(3), example_keys.SAMPLE, 2)

    @jax.jit
    def sample(example_id):
        keys = example_keys.per_image(key, example_id, 2)
        valid = jnp.broadcast_to(VALID.reshape(-1), (*keys.shape, CELLS))
        return sample_cells(keys, valid, KEPT)[0]

    whole = np.asarray(sample(example_id))
    np.testing.assert_array_equal(sample(example_id[order]), whole[order])
    assert len(np.unique(whole.reshape(12, KEPT), axis=0)) == 12  # all images differ


def test_taken_feature_is_the_map_at_its_index():
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 2, CELLS, 4)).astype(np.float32)
    index = random.integers(0, CELLS, (3, 2, KEPT)).astype(np.int32)
    got = np.asarray(take_cells(jnp.asarray(features), jnp.asarray(index)))
    for g, m, p in np.ndindex(index.shape):
        np.testing.assert_array_equal(got[g, m, p], features[g, m, index[g, m, p]])
