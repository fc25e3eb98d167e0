"""Options of the front end: what figure 2 shows, and what others do instead."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax.models.front_ends import (
    MAX_SIDE,
    OPTIONS,
    PixelFrontEnd,
    sine_positions,
)
from pixel_bert_jax.types import InputError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(0, 1, (2, 6, 9, 5)).astype(np.float32)
SIZE = np.array([[5, 8], [6, 4]], np.int32)
GRID = (3, 4)
FEATURES = 8


def run(x=X, size=SIZE, train=False, values=None, **options):
    """Returns tokens [2, 3, 4, D], their mask, the values and the moments."""
    module = PixelFrontEnd(FEATURES, **options)
    if values is None:
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, size, 1))
        random = np.random.default_rng(1)
        values = jax.tree.map(
            lambda s: random.uniform(0.2, 1.0, s.shape).astype(np.float32), shapes
        )
    visual, out = module.apply(values, x, size, 1, train=train, mutable=["moments"])
    tokens = np.asarray(visual.features).reshape(-1, *visual.grid, FEATURES)
    mask = np.asarray(visual.mask).reshape(-1, *visual.grid)
    return tokens, mask, values, out.get("moments", {})


def pool(x):
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return x.max(axis=(2, 4))


def project(x, params):
    return x @ params["project"]["kernel"] + params["project"].get("bias", 0.0)


def convolve(x, params, size):
    """3x3 over the valid cells, zeros elsewhere."""
    kernel = params["project"]["kernel"]
    out = np.zeros((*x.shape[:3], FEATURES))
    for n, (h, w) in enumerate(size):
        padded = np.pad(x[n, :h, :w], ((1, 1), (1, 1), (0, 0)))
        for i, j in np.ndindex(h, w):
            out[n, i, j] = np.tensordot(padded[i : i + 3, j : j + 3], kernel, 3)
    return out + params["project"].get("bias", 0.0)


def check(tokens, mask, want):
    assert mask.tolist() == [
        [[True] * 4, [True] * 4, [False] * 4],
        [[True, True, False, False]] * 3,
    ]
    np.testing.assert_allclose(tokens[mask], want[mask], rtol=1e-4, atol=1e-5)
    assert not tokens[~mask].any()


def test_figure_2_convolves_pools_and_adds_the_segment():
    tokens, mask, values, _ = run()
    params = values["params"]
    assert set(params) == {"project", "segment"}
    check(tokens, mask, pool(project(X, params)) + params["segment"])


def test_pooling_may_come_first_without_bias():
    tokens, mask, values, _ = run(order="pool_conv", bias=False)
    params = values["params"]
    assert set(params["project"]) == {"kernel"}
    check(tokens, mask, project(pool(X), params) + params["segment"])


@pytest.mark.parametrize("order", OPTIONS["order"])
def test_without_pooling_every_cell_is_a_token(order):
    tokens, mask, values, _ = run(order=order, pool=1)
    params = values["params"]
    np.testing.assert_array_equal(mask.sum((1, 2)), SIZE.prod(1))
    want = project(X, params) + params["segment"]
    np.testing.assert_allclose(tokens[mask], want[mask], rtol=1e-4, atol=1e-5)
    assert not tokens[~mask].any()


@pytest.mark.parametrize("order", OPTIONS["order"])
def test_a_3x3_convolution_reads_valid_cells_alone(order):
    tokens, mask, values, _ = run(order=order, kernel=3, activation="relu")
    params = values["params"]
    if order == "conv_pool":
        want = pool(convolve(X, params, SIZE))
    else:
        want = convolve(pool(X), params, SIZE // 2)
    check(tokens, mask, np.maximum(want, 0) + params["segment"])
    inside = np.arange(6)[:, None] < SIZE[:, 0, None, None]
    inside = inside & (np.arange(9) < SIZE[:, 1, None, None])
    dirty = np.where(inside[..., None], X, 99.0).astype(np.float32)
    again, *_ = run(dirty, values=values, order=order, kernel=3, activation="relu")
    np.testing.assert_array_equal(again, tokens)


def test_batch_norm_is_live_in_training_alone():
    options = dict(order="pool_conv", norm="batch")
    tokens, mask, values, moments = run(**options, batch_statistics=True)
    assert not moments
    params, stats = values["params"], values["batch_stats"]["norm"]
    scale, bias = params["norm"]["scale"], params["norm"]["bias"]
    x = project(pool(X), params)
    want = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * scale + bias
    check(tokens, mask, want + params["segment"])
    tokens, mask, _, moments = run(
        **options, batch_statistics=True, train=True, values=values
    )
    cells = x[mask]
    want = (x - cells.mean(0)) / np.sqrt(cells.var(0) + 1e-5) * scale + bias
    check(tokens, mask, want + params["segment"])
    assert float(moments["norm"]["sums"]["count"]) == mask.sum()
    *_, moments = run(**options, batch_statistics=False, train=True, values=values)
    assert not moments


def test_layer_norm_takes_the_sum_with_learned_positions():
    tokens, mask, values, _ = run(norm="layer", positions="learned")
    params = values["params"]
    x = pool(project(X, params)) + params["segment"]
    x = x + params["rows"][: GRID[0], None] + params["columns"][None, : GRID[1]]
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    check(tokens, mask, x * params["norm"]["scale"] + params["norm"]["bias"])


def test_sine_positions_are_relative_to_the_image():
    got = np.asarray(sine_positions(GRID, jnp.asarray(SIZE // 2), FEATURES))
    for n, (height, width) in enumerate(SIZE // 2):
        for i, j in np.ndindex(height, width):
            want = []
            for position, length in ((i, height), (j, width)):
                angle = 2 * math.pi * (position + 1) / length
                for k in range(FEATURES // 4):
                    part = angle / 10_000 ** (4 * k / FEATURES)
                    want += [math.sin(part), math.cos(part)]
            np.testing.assert_allclose(got[n, i, j], want, atol=1e-5)
    tokens, mask, values, _ = run(positions="sine")
    plain, *_ = run(values=values)
    check(tokens, mask, plain + got)


@pytest.mark.parametrize("name", OPTIONS)
def test_unknown_options_are_refused(name):
    with pytest.raises(InputError, match=rf"model\.front_end\.{name} is 'x'; valid: "):
        run(**{name: "x"})


def test_a_grid_beyond_the_learned_positions_is_refused():
    x = np.zeros((1, 2 * MAX_SIDE + 2, 2, 5), np.float32)
    with pytest.raises(InputError, match=f"covers {MAX_SIDE} rows"):
        run(x, np.array([[2, 2]]), positions="learned")


def test_sine_positions_need_four_features_a_frequency():
    module = PixelFrontEnd(6, positions="sine")
    with pytest.raises(InputError, match="divisible by 4, received 6"):
        module.init(jax.random.key(0), X, SIZE, 1)
