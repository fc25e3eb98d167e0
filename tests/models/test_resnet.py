"""Residual CNN: padding never leaks, and blocks equal their definition."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax.models.front_ends import PixelFrontEnd, sample_pixels
from pixel_bert_jax.models.resnet import Block, ResNet
from pixel_bert_jax.ops.image import valid_cells
from pixel_bert_jax.types import InputError

RANDOM = np.random.default_rng(0)
CNN = ResNet((1, 1), (6, 8), (1, 2), norm="frozen")
FRONT_END = PixelFrontEnd(10)


def randomise(variables, seed=0):
    """Weights and running statistics that leave most units alive."""
    random = np.random.default_rng(seed)

    def one(path, x):
        name = path[-1].key
        value = random.normal(0, 0.4, x.shape)
        if name in ("scale", "var"):
            value = np.exp(value)
        return value.astype(x.dtype)

    return jax.tree_util.tree_map_with_path(one, variables)


@functools.cache
def variables():
    image = jnp.zeros((1, 16, 16, 3))
    size = jnp.full((1, 2), 16)
    shapes = jax.eval_shape(
        lambda: CNN.init(jax.random.key(0), image, size, train=False)
    )
    front = jax.eval_shape(
        lambda: FRONT_END.init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)), size, 1)
    )
    return randomise(shapes), randomise(front, 1)


@jax.jit
def features(image, size):
    cnn, front = variables()
    x, grid_size = CNN.apply(cnn, image, size, train=False)
    return x, grid_size, FRONT_END.apply(front, x, grid_size, 1)


def on_canvas(photo, canvas, padding=0.0):
    out = np.full((1, *canvas, 3), padding, np.float32)
    out[0, : photo.shape[0], : photo.shape[1]] = photo
    return out


def test_an_image_gives_the_same_features_on_every_canvas():
    canvases = ((33, 41), (34, 48), (41, 50))
    sizes = ((33, 41), (33, 40), (17, 41), (31, 30), (9, 12))
    for height, width in sizes:
        photo = RANDOM.normal(0, 1, (height, width, 3)).astype(np.float32)
        size = np.array([[height, width]], np.int32)
        grid = (-(-height // 4), -(-width // 4))
        cells = (grid[0] // 2, grid[1] // 2)
        maps, tokens = [], []
        for canvas in canvases:
            # Garbage in the padding: the sizes decide, never the pixels' values.
            x, valid, visual = features(on_canvas(photo, canvas, 77.0), size)
            np.testing.assert_array_equal(valid, [grid])
            maps.append(np.asarray(x)[0, : grid[0], : grid[1]])
            mask = np.asarray(visual.mask).reshape(visual.grid)
            want = np.zeros(visual.grid, bool)
            want[: cells[0], : cells[1]] = True
            np.testing.assert_array_equal(mask, want)
            tokens.append(np.asarray(visual.features)[np.asarray(visual.mask)])
            assert not np.asarray(visual.features)[~np.asarray(visual.mask)].any()
        for values in (maps, tokens):
            rms = np.sqrt(np.mean(values[0].astype(np.float64) ** 2))
            assert rms > 0.1
            for other in values[1:]:
                assert np.abs(other - values[0]).max() <= 1e-5 * rms


def test_an_image_that_fills_its_canvas_needs_no_mask():
    photo = RANDOM.normal(0, 1, (33, 41, 3)).astype(np.float32)
    size = np.array([[33, 41]], np.int32)
    got, valid, _ = features(photo[None], size)
    # Sizes beyond the canvas mask nothing, as torch's network does.
    want, _, _ = features(photo[None], size + 100)
    assert got.shape[1:3] == (9, 11) == tuple(np.asarray(valid)[0])
    np.testing.assert_array_equal(got, want)


def test_no_image_gives_no_cell():
    _, valid, visual = features(
        np.ones((1, 33, 41, 3), np.float32), np.zeros((1, 2), np.int32)
    )
    np.testing.assert_array_equal(valid, [[0, 0]])
    assert not np.asarray(visual.mask).any()


def convolution(x, kernel, stride, groups=1):
    """Torch's Conv2d without bias, in numpy, padded with (k - 1) / 2 zeros."""
    side = kernel.shape[0]
    pad = (side - 1) // 2
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    height = (x.shape[0] - side) // stride + 1
    width = (x.shape[1] - side) // stride + 1
    out = np.zeros((height, width, kernel.shape[-1]))
    inputs, outputs = x.shape[-1] // groups, kernel.shape[-1] // groups
    for i, j in np.ndindex(height, width):
        window = x[i * stride : i * stride + side, j * stride : j * stride + side]
        for g in range(groups):
            part = window[..., g * inputs : (g + 1) * inputs]
            to = slice(g * outputs, (g + 1) * outputs)
            out[i, j, to] = np.tensordot(part, kernel[..., to], 3)
    return out


def normalise(x, params, stats):
    scaled = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    return scaled * params["scale"] + params["bias"]


def in_float64(values):
    return jax.tree.map(
        lambda v: np.asarray(v, np.float64), (values["params"], values["batch_stats"])
    )


@pytest.mark.parametrize(
    ("stride", "channels", "inner", "groups"),
    [
        (1, 4, 0, 1),
        (2, 5, 0, 1),
        (1, 4, 6, 1),
        (2, 8, 6, 1),
        (2, 8, 6, 3),
        (1, 4, 4, 2),
    ],
)
def test_block_equals_numpy(stride, channels, inner, groups):
    block = Block(channels, inner, stride, groups, batch_statistics=False)
    x = RANDOM.normal(0, 1, (1, 7, 9, 4)).astype(np.float32)
    size = np.array([[6, 9]], np.int32)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, size))
    values = randomise(shapes)
    got = jax.jit(lambda v, x: block.apply(v, x, size))(values, x)
    params, stats = in_float64(values)
    photo = x[0, :6].astype(np.float64)

    def layer(x, conv, norm, stride, groups=1):
        y = convolution(x, params[conv]["conv"]["kernel"], stride, groups)
        return normalise(y, params[norm], stats[norm])

    if inner:
        # The stride is the 3x3 convolution's, as in torchvision.
        y = np.maximum(layer(photo, "conv1", "norm1", 1), 0)
        y = np.maximum(layer(y, "conv2", "norm2", stride, groups), 0)
        y = layer(y, "conv3", "norm3", 1)
    else:
        y = np.maximum(layer(photo, "conv1", "norm1", stride), 0)
        y = layer(y, "conv2", "norm2", 1)
    assert ("shortcut" in params) == (stride == 2)
    if stride == 2:
        photo = layer(photo, "shortcut", "shortcut_norm", 2)
    want = np.maximum(photo + y, 0)
    got = np.asarray(got)[0, : want.shape[0], : want.shape[1]]
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert (want > 0).mean() > 0.1


def test_imagenet_stem_equals_numpy():
    cnn = ResNet((), (), (), stem="conv7_pool", norm="frozen")
    x = RANDOM.normal(0, 1, (1, 21, 30, 3)).astype(np.float32)
    size = np.array([[19, 30]], np.int32)
    shapes = jax.eval_shape(lambda: cnn.init(jax.random.key(0), x, size, train=False))
    values = randomise(shapes)
    got, got_size = cnn.apply(values, x, size, train=False)
    params, stats = in_float64(values)
    photo = x[0, :19].astype(np.float64)
    y = convolution(photo, params["stem"]["conv"]["kernel"], 2)
    y = np.maximum(normalise(y, params["stem_norm"], stats["stem_norm"]), 0)
    assert y.shape == (10, 15, 64)
    padded = np.pad(y, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    want = np.zeros((5, 8, 64))
    for i, j in np.ndindex(5, 8):
        want[i, j] = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1))
    np.testing.assert_array_equal(got_size, [[5, 8]])
    np.testing.assert_allclose(np.asarray(got)[0, :5, :8], want, atol=2e-5)


BOTTLENECKS = dict(
    depths=(1, 1, 1),
    widths=(8, 8, 12),
    strides=(1, 2, 2),
    inner=(4, 4, 4),
    groups=2,
    stem="conv7_pool",
)


def test_bottlenecks_give_the_same_features_on_every_canvas():
    cnn = ResNet(**BOTTLENECKS, norm="frozen")
    shapes = jax.eval_shape(
        lambda: cnn.init(
            jax.random.key(0),
            jnp.zeros((1, 32, 32, 3)),
            jnp.full((1, 2), 32),
            train=False,
        )
    )
    values = randomise(shapes)
    apply = jax.jit(lambda image, size: cnn.apply(values, image, size, train=False))
    photo = RANDOM.normal(0, 1, (37, 50, 3)).astype(np.float32)
    size = np.array([[37, 50]], np.int32)
    maps = []
    for canvas in ((37, 50), (48, 64), (64, 51)):
        x, valid = apply(on_canvas(photo, canvas, 77.0), size)
        np.testing.assert_array_equal(valid, [[3, 4]])
        maps.append(np.asarray(x)[0, :3, :4])
    rms = np.sqrt(np.mean(maps[0].astype(np.float64) ** 2))
    assert rms > 0.1
    for other in maps[1:]:
        assert np.abs(other - maps[0]).max() <= 1e-5 * rms


def test_frozen_stages_keep_their_running_statistics():
    size = jnp.full((2, 2), 32)
    image = RANDOM.normal(0, 1, (2, 32, 32, 3)).astype(np.float32)

    def moments(train=True, **fields):
        cnn = ResNet(**BOTTLENECKS, **fields)
        values = cnn.init(jax.random.key(0), image, size, train=False)
        _, out = cnn.apply(values, image, size, train=train, mutable=["moments"])
        layers = out.get("moments", {})
        return {
            name if name.startswith("stem") else name.split("_")[0] for name in layers
        }

    every = {"stem_norm", "stage1", "stage2", "stage3"}
    assert moments(norm="batch") == every
    assert moments(norm="batch", frozen_stages=0) == every - {"stem_norm"}
    assert moments(norm="batch", frozen_stages=2) == {"stage3"}
    assert moments(norm="batch", train=False) == set()
    assert moments(norm="frozen") == set()


def test_patterns_of_frozen_stages():
    assert ResNet.frozen_patterns({"frozen_stages": -1}) == ()
    patterns = ResNet.frozen_patterns({"frozen_stages": 1})
    paths = [
        "backbone/stem/conv/kernel",
        "backbone/stem_norm/scale",
        "backbone/stage1_block2/conv1/conv/kernel",
        "backbone/stage2_block0/norm1/bias",
        "backbone/stage11_block0/norm1/bias",
    ]
    frozen = [any(re.fullmatch(p, path) for p in patterns) for path in paths]
    assert frozen == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": "conv7"}, r"stem is 'conv7'.*valid: conv3, conv7_pool"),
        ({"inner": (4, 4)}, r"as many values in each of depths \(3\).*inner \(2\)"),
        ({"remat": "dot"}, r"'dot' is unknown \(did you mean 'dots'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    cnn = ResNet(**BOTTLENECKS | fields)
    image, size = jnp.zeros((1, 32, 32, 3)), jnp.full((1, 2), 32)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: cnn.init(jax.random.key(0), image, size, train=False))


@pytest.mark.slow
def test_what_is_computed_again_changes_no_gradient():
    size = jnp.full((2, 2), 32)
    image = RANDOM.normal(0, 1, (2, 32, 32, 3)).astype(np.float32)
    cnns = {
        name: ResNet(**BOTTLENECKS, remat=name) for name in ("none", "dots", "full")
    }
    values = cnns["none"].init(jax.random.key(0), image, size, train=False)
    gradients, held = {}, {}
    for name, cnn in cnns.items():

        def loss(params, cnn=cnn):
            variables = {"params": params, "batch_stats": values["batch_stats"]}
            (x, _), _ = cnn.apply(
                variables, image, size, train=True, mutable=["moments"]
            )
            return jnp.mean(x**2)

        gradients[name] = jax.jit(jax.grad(loss))(values["params"])
        _, backward = jax.vjp(loss, values["params"])
        held[name] = sum(x.nbytes for x in jax.tree.leaves(backward))
    # Fewer results of the forward pass are held for the backward pass.
    assert held["full"] < held["dots"] < held["none"]
    for name in ("dots", "full"):
        want, got = (jax.tree.leaves_with_path(gradients[n]) for n in ("none", name))
        for (path, one), (same, two) in zip(want, got, strict=True):
            assert path == same
            worst = np.abs(np.asarray(one) - np.asarray(two)).max()
            assert worst <= 1e-4 * max(np.abs(np.asarray(one)).max(), 1e-3)


def test_front_end_pools_whole_windows_and_adds_one_vector():
    random = np.random.default_rng(3)
    x = random.normal(0, 1, (1, 5, 7, 8)).astype(np.float32)
    params = variables()[1]["params"]
    visual = FRONT_END.apply({"params": params}, x, jnp.asarray([[5, 6]]), 1)
    assert visual.grid == (2, 3)
    projected = x[0] @ np.asarray(params["project"]["kernel"])
    projected += np.asarray(params["project"]["bias"])
    want = projected[:4, :6].reshape(2, 2, 3, 2, 10).max(axis=(1, 3)).reshape(6, 10)
    got = np.asarray(visual.features)[0, 0]
    np.testing.assert_allclose(got, want + np.asarray(params["segment"]), atol=1e-5)
    np.testing.assert_array_equal(visual.index[0, 0], np.arange(6))


def test_sampled_tokens_are_the_maps_own_at_their_index():
    random = np.random.default_rng(3)
    x = random.normal(0, 1, (4, 6, 8, 8)).astype(np.float32)
    size = jnp.asarray([[6, 8], [4, 4], [0, 0], [5, 7]])
    values = variables()[1]
    keys = jax.random.split(jax.random.key(0), (2, 2))
    every = FRONT_END.apply(values, x, size, 2)
    some = sample_pixels(every, keys, 5)
    assert some.features.shape == (2, 2, 5, 10)
    mask, index = np.asarray(some.mask), np.asarray(some.index)
    np.testing.assert_array_equal(mask.sum(-1), [[5, 4], [0, 5]])
    for g, m, p in np.argwhere(mask):
        cell = index[g, m, p]
        assert every.mask[g, m, cell]
        np.testing.assert_array_equal(
            some.features[g, m, p], np.asarray(every.features)[g, m, cell]
        )
    assert not np.asarray(some.features)[~mask].any()


@pytest.mark.parametrize("size", [(800, 1333), (800, 1066), (600, 1000), (600, 800)])
def test_grids_are_those_of_the_paper(size):
    """ceil(n / 2) five times and floor(n / 2) at the pool: facts of the two sizes."""
    expected = {
        (800, 1333): (12, 21),
        (800, 1066): (12, 17),
        (600, 1000): (9, 16),
        (600, 800): (9, 12),
    }
    cnn = ResNet((1, 1, 1, 1), (1, 1, 1, 1), (2, 2, 2, 2), norm="frozen")

    def run():
        image, real = jnp.zeros((1, *size, 3)), jnp.asarray([size])
        x, real = cnn.init_with_output(jax.random.key(0), image, real, train=False)[0]
        return x, valid_cells(real // 2, (x.shape[1] // 2, x.shape[2] // 2))

    x, mask = jax.eval_shape(run)
    assert mask.shape[1:] == expected[size]
    assert x.shape[1] == -(-size[0] // 32)
