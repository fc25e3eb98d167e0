import math
from fractions import Fraction

import numpy as np
import pytest

from pixel_bert_jax.data import geometry
from pixel_bert_jax.types import InputError

WIDE = ("1088x800", "1216x800", "1344x800")
CANVASES = [geometry.parse_canvas(c) for c in (*WIDE, "800x1088", "800x1344")]
SQUARE = (1344, 1344)


def all_sizes() -> np.ndarray:
    """Random sizes, log-uniform from 1 to 20,000 pixels, and the extremes."""
    generator = np.random.default_rng(0)
    random = np.exp(generator.uniform(0, math.log(20_000), (5000, 2))).astype(int)
    extreme = [(1, 1), (1, 20_000), (20_000, 1), (20, 20_000), (20_000, 20_000)]
    return np.concatenate([random, extreme])


def test_canvas_text_is_width_first():
    assert geometry.parse_canvas("1344x800") == (800, 1344)
    assert geometry.format_canvas((800, 1344)) == "1344x800"


@pytest.mark.parametrize("text", ["", "800", "800x", "0x800", "-1x8", "8x8x8", "axb"])
def test_bad_canvas_text(text):
    with pytest.raises(InputError, match=r"WIDTHxHEIGHT.*received"):
        geometry.parse_canvas(text)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((427, 640), (800, 1199)),
        ((375, 500), (800, 1067)),
        ((600, 600), (800, 800)),
        ((300, 640), (625, 1333)),  # the longer side binds
        ((768, 1024), (800, 1067)),
        ((1, 1000), (64, 1333)),
        ((20_000, 20), (1333, 64)),
        ((1, 1), (800, 800)),
        ((0, 0), (0, 0)),
    ],
)
def test_known_targets(size, expected):
    targets = geometry.target_sizes(np.array(size), 800, 1333)
    assert tuple(targets) == expected


@pytest.mark.parametrize(("short", "long"), [(800, 1333), (600, 1000), (96, 160)])
def test_targets_follow_the_exact_rule(short, long):
    sizes = all_sizes()
    targets = geometry.target_sizes(sizes.reshape(-1, 5, 2), short, long)
    assert targets.dtype == np.int32
    for size, target in zip(sizes.tolist(), targets.reshape(-1, 2), strict=True):
        scale = min(Fraction(short, min(size)), Fraction(long, max(size)))
        exact = [max(math.floor(x * scale + Fraction(1, 2)), 64) for x in size]
        assert target.tolist() == exact


def test_targets_never_exceed_the_bounds():
    targets = geometry.target_sizes(all_sizes(), 800, 1333)
    assert targets.min() >= 64
    assert targets.min(axis=1).max() <= 800
    assert targets.max() <= 1333
    # So every image finds a canvas: this raises otherwise.
    geometry.choose_canvas(targets[:, None], CANVASES)


def test_turning_an_image_turns_its_target():
    sizes = all_sizes()
    targets = geometry.target_sizes(sizes, 600, 1000)
    turned = geometry.target_sizes(sizes[:, ::-1], 600, 1000)
    np.testing.assert_array_equal(turned, targets[:, ::-1])


@pytest.mark.parametrize("bounds", [(800, 700, 64), (800, 1333, 801), (800, 1333, 0)])
def test_bad_bounds(bounds):
    with pytest.raises(InputError, match="minimum <= short <= long"):
        geometry.target_sizes(np.array([480, 640]), *bounds)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (-2, -2)])
def test_bad_sizes(size):
    with pytest.raises(InputError, match=f"height {size[0]}, width {size[1]}"):
        geometry.target_sizes(np.array(size), 800, 1333)


def test_canvas_is_the_smallest_that_holds_all_images():
    canvases = [*CANVASES[::-1], SQUARE]
    targets = geometry.target_sizes(all_sizes()[:5000].reshape(-1, 2, 2), 800, 1333)
    chosen = geometry.choose_canvas(targets, canvases)
    assert chosen.dtype == np.int32
    for image_set, index in zip(targets, chosen, strict=True):
        fits = [c for c in canvases if (image_set <= np.array(c)).all()]
        assert math.prod(canvases[index]) == min(map(math.prod, fits))
        assert canvases[index] in fits
    assert set(chosen.tolist()) == set(range(6))


def test_square_canvas_is_for_mixed_units_only():
    canvases = [SQUARE, *CANVASES]
    wide, tall = (800, 1067), (1067, 800)
    image_sets = np.array([[wide, wide], [tall, tall], [wide, tall], [tall, (0, 0)]])
    chosen = [canvases[i] for i in geometry.choose_canvas(image_sets, canvases)]
    assert chosen == [(800, 1088), (1088, 800), SQUARE, (1088, 800)]


def test_between_equal_areas_the_first_listed_wins():
    image_set = np.array([[(800, 800)]])
    assert geometry.choose_canvas(image_set, [(800, 1088), (1088, 800)]).tolist() == [0]
    assert geometry.choose_canvas(image_set, [(1088, 800), (800, 1088)]).tolist() == [0]


def test_no_canvas_holds_the_unit():
    image_set = np.array([[(800, 1067), (1067, 800)]])
    with pytest.raises(InputError, match=r"1067x1067.*1088x800.*square"):
        geometry.choose_canvas(image_set, CANVASES)
    with pytest.raises(InputError, match="at least one canvas"):
        geometry.choose_canvas(image_set, [])


def test_sources_shrink_only_what_is_larger_than_the_largest():
    sizes = all_sizes()
    shrunk = geometry.source_sizes(sizes, (640, 1344))
    large = sizes.max(axis=1) > 1344
    assert large.any() and not large.all()
    np.testing.assert_array_equal(shrunk[~large], sizes[~large])
    assert (shrunk[large].max(axis=1) == 1344).all()
    assert shrunk.min() >= 1
    for size, small in zip(sizes[large].tolist(), shrunk[large], strict=True):
        exact = [Fraction(1344 * side, max(size)) for side in size]
        rounded = [max(math.floor(x + Fraction(1, 2)), 1) for x in exact]
        assert small.tolist() == rounded
    assert geometry.source_sizes(np.zeros(2, int), (640,)).tolist() == [0, 0]


def test_source_is_the_smallest_that_holds_all_images():
    image_sets = np.array(
        [[(480, 640), (10, 10)], [(641, 1), (5, 5)], [(1, 1), (9000, 2000)]]
    )
    assert geometry.choose_source(image_sets, (640, 1344)).tolist() == [0, 1, 1]
    assert geometry.choose_source(image_sets, (1344, 640)).tolist() == [1, 0, 0]
    assert geometry.choose_source(image_sets, (640,)).tolist() == [0, 0, 0]


def test_source_does_not_depend_on_shrinking_first():
    sizes = all_sizes().reshape(-1, 1, 2)
    chosen = geometry.choose_source(sizes, (224, 640, 1344))
    shrunk = geometry.source_sizes(sizes, (224, 640, 1344))
    np.testing.assert_array_equal(
        geometry.choose_source(shrunk, (224, 640, 1344)), chosen
    )


def test_bad_source_canvases():
    for canvases in ((), (0,), (640, -1)):
        with pytest.raises(InputError, match="source canvases"):
            geometry.choose_source(np.array([[(480, 640)]]), canvases)
