"""Batch norm over valid cells against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from pixel_bert_jax.models.norm import EPSILON, MaskedBatchNorm, update_running

RANDOM = np.random.default_rng(0)
CHANNELS = 3
MICRO = 4  # micro-batches of a step, of which one is empty
X = RANDOM.normal(2.0, 3.0, (MICRO, 2, 5, 4, CHANNELS)).astype(np.float32)
MASK = RANDOM.random((MICRO, 2, 5, 4)) < 0.6
MASK[2] = False
SCALE = np.array([1.0, -0.5, 2.0], np.float32)
BIAS = np.array([0.1, 0.2, -3.0], np.float32)
STATS = {
    "mean": np.array([1.0, -1.0, 0.0], np.float32),
    "var": np.array([4.0, 0.5, 1.0], np.float32),
}


def apply(batch_statistics, part):
    values = {"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": STATS}
    out, mutated = MaskedBatchNorm(batch_statistics).apply(
        values, X[part], MASK[part], mutable=["moments"]
    )
    return np.asarray(out), mutated.get("moments", {})


def normalised(x, mean, var):
    return (x - mean) / np.sqrt(var + EPSILON) * SCALE + BIAS


def test_frozen_and_evaluated_norms_use_the_running_values():
    want = normalised(X[0].astype(np.float64), STATS["mean"], STATS["var"])
    got, moments = apply(False, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert not moments


def test_live_norm_uses_the_biased_variance_of_valid_cells():
    for part in (0, 1, 3):
        got, moments = apply(True, part)
        cells = X[part][MASK[part]].astype(np.float64)
        want = normalised(X[part], cells.mean(0), cells.var(0))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        sums = moments["sums"]
        assert float(sums["count"]) == len(cells)
        np.testing.assert_allclose(sums["total"], cells.sum(0), rtol=1e-5)
        np.testing.assert_allclose(sums["squares"], (cells**2).sum(0), rtol=1e-5)


def test_padding_reaches_no_valid_cell():
    values = {"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": STATS}
    norm = MaskedBatchNorm(True)
    dirty = np.where(MASK[0][..., None], X[0], 1e4).astype(np.float32)
    clean, other = (norm.apply(values, x, MASK[0]) for x in (X[0], dirty))
    np.testing.assert_array_equal(
        np.asarray(clean)[MASK[0]], np.asarray(other)[MASK[0]]
    )


def test_a_micro_batch_without_a_cell_uses_the_running_values():
    got, moments = apply(True, 2)
    want = normalised(X[2].astype(np.float64), STATS["mean"], STATS["var"])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert float(moments["sums"]["count"]) == 0


def test_running_values_take_the_whole_steps_unbiased_variance():
    moments = [apply(True, part)[1] for part in range(MICRO)]
    total = jax.tree.map(lambda *x: sum(x), *moments)
    cells = X[MASK].astype(np.float64)
    got = update_running({"norm": STATS}, {"norm": total}, 0.9)["norm"]
    for name, value in (("mean", cells.mean(0)), ("var", cells.var(0, ddof=1))):
        want = 0.9 * STATS[name] + 0.1 * value
        np.testing.assert_allclose(got[name], want, rtol=1e-5)


def test_a_step_without_a_cell_and_frozen_layers_keep_the_running_values():
    _, nothing = apply(True, 2)
    stats = {"a": {"norm": STATS}, "b": {"norm": STATS}}
    got = update_running(stats, {"a": {"norm": nothing}}, 0.9)
    for layer in ("a", "b"):
        for name, value in STATS.items():
            np.testing.assert_array_equal(got[layer]["norm"][name], value)


def test_statistics_of_a_constant_are_finite():
    values = {"params": {"scale": SCALE, "bias": BIAS}, "batch_stats": STATS}
    x = jnp.full((1, 2, 2, CHANNELS), 1000.1)
    mask = jnp.zeros((1, 2, 2), bool).at[0, 0, 0].set(True)
    out, mutated = MaskedBatchNorm(True).apply(values, x, mask, mutable=["moments"])
    assert np.isfinite(np.asarray(out)).all()
    new = update_running(STATS, mutated["moments"], 0.9)
    assert (np.asarray(new["var"]) >= 0).all()
