"""Resizing against other libraries; padding; the mask of valid cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax.ops import image

SOURCE = 56
CANVAS = (64, 96)
# (source size, target size): enlarged, shrunk, one axis each, equal; odd sizes.
CASES = (
    ((37, 50), (64, 86)),
    ((50, 41), (33, 27)),
    ((56, 20), (31, 40)),
    ((23, 23), (23, 23)),
)
RESIZE = jax.jit(image.resize, static_argnames="canvas")


def photo_of(size, seed=0):
    """Areas with edges and some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (8, 8, 3)).astype(np.float32)
    photo = np.kron(coarse, np.ones((7, 7, 1)))[: size[0], : size[1]]
    noise = random.normal(0, 6, (*size, 3))
    return np.clip(photo + noise, 0, 255).astype(np.uint8)


def on_source(photo, fill=0):
    canvas = np.full((SOURCE, SOURCE, 3), fill, np.uint8)
    canvas[: photo.shape[0], : photo.shape[1]] = photo
    return canvas


def resized(photo, target, fill=0):
    out = RESIZE(
        jnp.asarray(on_source(photo, fill)),
        jnp.asarray(photo.shape[:2], jnp.int32),
        jnp.asarray(target, jnp.int32),
        CANVAS,
    )
    return np.asarray(out)


@pytest.mark.parametrize(("source", "target"), CASES)
def test_resize_equals_jax_image_resize(source, target):
    photo = photo_of(source)
    want = jax.image.resize(
        photo.astype(np.float32), (*target, 3), "linear", antialias=True
    )
    got = resized(photo, target)[: target[0], : target[1]]
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_enlarging_equals_bilinear_without_antialias():
    photo = photo_of((37, 50))
    want = jax.image.resize(
        photo.astype(np.float32), (64, 86, 3), "linear", antialias=False
    )
    np.testing.assert_allclose(resized(photo, (64, 86))[:, :86], want, atol=2e-3)


@pytest.mark.parametrize(("source", "target"), CASES)
def test_resize_is_within_a_level_of_pillow(source, target):
    pillow = pytest.importorskip("PIL.Image")
    photo = photo_of(source)
    want = pillow.fromarray(photo).resize(target[::-1], pillow.Resampling.BILINEAR)
    got = resized(photo, target)[: target[0], : target[1]]
    difference = np.abs(got - np.asarray(want, np.float32))
    # Pillow rounds to whole levels after each of its two passes.
    assert difference.max() <= 1.01
    assert difference.mean() <= 0.35


def test_enlarging_equals_opencv():
    cv2 = pytest.importorskip("cv2")
    photo = photo_of((37, 50))
    want = cv2.resize(
        photo.astype(np.float32), (86, 64), interpolation=cv2.INTER_LINEAR
    )
    difference = np.abs(resized(photo, (64, 86))[:, :86] - want)
    assert difference.max() <= 0.02
    assert difference.mean() <= 0.001


@pytest.mark.parametrize(("source", "target"), CASES)
def test_nothing_beside_the_photo_reaches_the_result(source, target):
    photo = photo_of(source)
    clean, dirty = (resized(photo, target, fill) for fill in (0, 255))
    np.testing.assert_array_equal(clean, dirty)
    inside = np.zeros(CANVAS, bool)
    inside[: target[0], : target[1]] = True
    assert not clean[~inside].any()


def test_prepare_normalises_inside_and_is_zero_outside():
    levels = np.array([10, 130, 250], np.uint8)
    source = np.broadcast_to(levels, (2, 1, SOURCE, SOURCE, 3))
    sizes = jnp.asarray([[[30, 20]], [[0, 0]]], jnp.int32)
    prepare = jax.jit(image.prepare, static_argnames="canvas")
    out = np.asarray(prepare(jnp.asarray(source), sizes, sizes, canvas=(32, 24)))
    want = (levels - np.array(image.RGB_MEAN)) / np.array(image.RGB_STD)
    inside = out[0, 0, :30, :20]
    np.testing.assert_allclose(inside, np.broadcast_to(want, inside.shape), rtol=1e-5)
    assert not out[0, 0, 30:].any()
    assert not out[0, 0, :, 20:].any()
    assert not out[1].any()  # an image that failed: size (0, 0)


def test_valid_cells_are_the_upper_left_rectangle():
    sizes = jnp.asarray([[2, 3], [0, 0], [4, 1]], jnp.int32)
    got = np.asarray(image.valid_cells(sizes, (4, 3)))
    want = np.zeros((3, 4, 3), bool)
    want[0, :2, :3] = want[2, :4, :1] = True
    np.testing.assert_array_equal(got, want)
