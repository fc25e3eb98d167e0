"""EfficientNet-Lite: published sizes, TensorFlow's padding, padding never leaks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from pixel_bert_jax import models, trees
from pixel_bert_jax.models.efficientnet_lite import Block, Conv, EfficientNetLite
from pixel_bert_jax.ops.image import RGB_MEAN, RGB_STD
from pixel_bert_jax.types import InputError
from tests.models.test_resnet import on_canvas, randomise

RANDOM = np.random.default_rng(0)
CLASSIFIER = 1280 * 1000 + 1000
# Parameters in millions, github.com/tensorflow/tpu, models/official/efficientnet/lite.
PUBLISHED = {0: 4.7, 1: 5.4, 2: 6.1, 3: 8.2, 4: 13.0}


def shapes_of(module):
    def make():
        image, size = jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64)
        return module.init(jax.random.key(0), image, size, train=False)

    return jax.eval_shape(make)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_it_has_the_published_number_of_parameters(variant):
    params = shapes_of(EfficientNetLite(variant))["params"]
    count = CLASSIFIER + sum(x.size for x in jax.tree.leaves(params))
    assert round(count / 1e6, 1) == PUBLISHED[variant]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 10), (9, 10), (8, 7), (11, 5), (1, 2)])
@pytest.mark.parametrize("depthwise", [True, False])
def test_convolutions_pad_as_tensorflow_does(kernel, stride, size, depthwise):
    conv = Conv(4, kernel, stride, depthwise)
    photo = RANDOM.normal(0, 1, (*size, 4)).astype(np.float32)
    canvas = np.full((1, 12, 11, 4), 9.0, np.float32)  # its padding has to be ignored
    canvas[0, : size[0], : size[1]] = photo
    valid = np.array([size], np.int32)
    variables = conv.init(jax.random.key(0), canvas, valid)
    found = np.asarray(conv.apply(variables, canvas, valid))
    assert found.shape == (1, -(-12 // stride), -(-11 // stride), 4)
    kernels = np.asarray(variables["params"]["conv"]["kernel"])
    if depthwise:  # TensorFlow's depthwise kernels are [k, k, C, 1]
        steps = [1, stride, stride, 1]
        wanted = tf.nn.depthwise_conv2d(
            photo[None], kernels.transpose(0, 1, 3, 2), steps, "SAME"
        )
    else:
        wanted = tf.nn.conv2d(photo[None], kernels, stride, "SAME")
    height, width = wanted.shape[1:3]
    assert (height, width) == (-(-size[0] // stride), -(-size[1] // stride))
    np.testing.assert_allclose(found[:, :height, :width], wanted, atol=1e-5)


def test_images_of_one_batch_are_padded_each_by_its_own_size():
    conv = Conv(3, 5, 2)
    images = np.zeros((2, 10, 10, 3), np.float32)
    sizes = np.array([[9, 8], [8, 9]], np.int32)
    for n, (height, width) in enumerate(sizes):
        images[n, :height, :width] = RANDOM.normal(0, 1, (height, width, 3))
    variables = conv.init(jax.random.key(0), images, sizes)
    both = conv.apply(variables, images, sizes)
    for n in range(2):
        alone = conv.apply(variables, images[n : n + 1], sizes[n : n + 1])
        np.testing.assert_allclose(both[n : n + 1], alone, atol=1e-6)


@pytest.mark.parametrize("stride, features", [(1, 6), (2, 6), (1, 8)])
def test_a_block_has_a_shortcut_only_where_its_shape_stays(stride, features):
    block = Block(features, 2, 3, stride, batch_statistics=False)
    x, size = RANDOM.normal(0, 1, (1, 6, 6, 6)).astype(np.float32), np.full((1, 2), 6)
    made = block.init(jax.random.key(0), x, size)
    # With a last norm of zeros only the shortcut is left.
    norm = made["params"]["project_norm"]
    norm["scale"] = jnp.zeros_like(norm["scale"])
    found = np.asarray(block.apply(made, x, size))
    same = stride == 1 and features == 6
    np.testing.assert_allclose(found, x if same else np.zeros_like(found), atol=1e-6)


@pytest.fixture(scope="module")
def network():
    module = EfficientNetLite(norm="frozen")
    variables = randomise(shapes_of(module))
    return jax.jit(
        lambda image, size: module.apply(variables, image, size, train=False)
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 40), (96, 31)])
def test_an_image_gives_the_same_features_on_every_canvas(network, size):
    photo = RANDOM.normal(0, 1, (*size, 3)).astype(np.float32)
    found = []
    for canvas in ((96, 97), (128, 100)):
        x, cells = network(on_canvas(photo, canvas, 77.0), np.array([size], np.int32))
        np.testing.assert_array_equal(cells, [[-(-side // 32) for side in size]])
        found.append(np.asarray(x)[0, : cells[0, 0], : cells[0, 1]])
    assert found[0].std() > 0
    np.testing.assert_allclose(found[0], found[1], atol=1e-5 * found[0].std())


@pytest.mark.runs
def test_it_reads_pixels_in_the_range_of_its_authors():
    # A grey of 127 is 0 to the published network; a stem without bias then gives 0.
    module = EfficientNetLite()
    image = (np.full((1, 32, 32, 3), 127.0) - RGB_MEAN) / RGB_STD
    size = np.full((1, 2), 32)
    shapes = shapes_of(module)
    variables = jax.tree.map(lambda s: np.ones(s.shape, np.float32), shapes)
    _, state = module.apply(
        variables,
        image.astype(np.float32),
        size,
        train=False,
        capture_intermediates=lambda m, _: m.name == "stem",
    )
    stem = state["intermediates"]["stem"]["__call__"][0]
    np.testing.assert_allclose(stem, np.zeros_like(stem), atol=1e-4)


@pytest.mark.parametrize("frozen, trained", [(-1, 18), (0, 17), (2, 14), (8, 0)])
def test_frozen_stages_are_not_trained(frozen, trained):
    fields = {"name": "efficientnet_lite", "variant": 0, "frozen_stages": frozen}
    patterns = EfficientNetLite.frozen_patterns(fields)
    paths = trees.flatten({"backbone": shapes_of(EfficientNetLite())["params"]})
    # A stem, sixteen blocks and a head, each with norms.
    parts = {re.match(r"backbone/(stem|block\d+|head)", path)[0] for path in paths}
    assert len(parts) == 18
    kept = {
        re.match(r"backbone/(stem|block\d+|head)", path)[0]
        for path in paths
        if not any(re.fullmatch(p, path) for p in patterns)
    }
    assert len(kept) == trained


def test_live_norms_are_those_that_are_not_frozen():
    module = EfficientNetLite(norm="batch", frozen_stages=3)
    image, size = jnp.zeros((1, 32, 32, 3)), jnp.full((1, 2), 32)

    def run():
        key = jax.random.key(0)
        _, made = module.init_with_output(key, image, size, train=True)
        return made

    live = jax.eval_shape(run)["moments"]
    # Blocks 0 to 4 are the first three stages.
    assert set(live) == {f"block{n}" for n in range(5, 16)} | {"head_norm"}


def test_another_variant_is_refused():
    with pytest.raises(InputError, match="variant is 5; valid: 0 to 4"):
        shapes_of(EfficientNetLite(5))
    assert models.BACKBONES["efficientnet_lite"] is EfficientNetLite
