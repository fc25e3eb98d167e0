"""Scenes: the draw, the hold-out, the images, the options."""

import collections
import itertools
import math

import numpy as np
import pytest

from pixel_bert_jax.data.sources import scenes
from pixel_bert_jax.data.sources.scenes import render, world
from pixel_bert_jax.data.sources.scenes import shapes as shapes
from pixel_bert_jax.types import InputError

NAMES = ("colour", "shape", "size", "texture")
VALUES = (world.COLOURS, world.SHAPES, world.SIZES, world.TEXTURES)


@pytest.fixture(scope="module")
def train():
    source = scenes.ScenesSource("train", seed=0, num_scenes=2500)
    return [source.scene(number) for number in range(len(source))]


@pytest.fixture(scope="module")
def evaluate():
    source = scenes.ScenesSource("evaluate", seed=0, num_scenes=1000)
    return [source.scene(number) for number in range(len(source))]


def attributes_of(drawn):
    return [thing.attributes() for scene in drawn for thing in scene.objects]


def thing(text, x, y):
    """Makes an object of "size colour texture shape" at a place."""
    size, colour, texture, shape = text.split()
    radius = 48 * world.DIAMETERS[size][0]
    return world.SceneObject(colour, shape, size, texture, x, y, radius, 0.0)


# --- the draw -------------------------------------------------------------------------


def test_scene_is_a_function_of_seed_split_and_number():
    one = scenes.ScenesSource("train", seed=3, num_scenes=50)
    more = scenes.ScenesSource("train", seed=3, num_scenes=500)
    assert one.scene(7) == more.scene(7)
    assert one.captions(7) == more.captions(7)
    np.testing.assert_array_equal(one.read("7"), more.read("7"))
    others = [scenes.ScenesSource("train", seed=4).scene(7), one.scene(8)]
    others.append(scenes.ScenesSource("evaluate", seed=3).scene(7))
    assert all(other != one.scene(7) for other in others)


def test_numbers_of_objects_frames_and_attributes_are_uniform(train):
    counts = collections.Counter(len(scene.objects) for scene in train)
    frames = collections.Counter((scene.height, scene.width) for scene in train)
    assert set(frames) == set(world.FRAMES)
    columns = zip(*attributes_of(train), strict=True)
    tables = [(counts, 4), (frames, 3)]
    for column, values in zip(columns, VALUES, strict=True):
        table = collections.Counter(column)
        assert set(table) == set(values)
        tables.append((table, len(values)))
    for table, kinds in tables:
        assert len(table) == kinds
        expected = sum(table.values()) / kinds
        chi_square = sum((n - expected) ** 2 / expected for n in table.values())
        degrees = kinds - 1  # mean of the chi-square, variance twice that
        assert chi_square < degrees + 4 * math.sqrt(2 * degrees) + 4, table


def test_attributes_tell_nothing_of_the_place_in_the_list(train):
    for place in (0, -1):
        table = collections.Counter(scene.objects[place].size for scene in train)
        assert max(table.values()) < 1.15 * len(train) / 3


def test_diameters_follow_the_size_word_and_objects_stay_inside(train, evaluate):
    for scene in (*train, *evaluate):
        shorter = min(scene.height, scene.width)
        for item in scene.objects:
            low, high = world.DIAMETERS[item.size]
            assert low - 1e-9 <= 2 * item.radius / shorter <= high + 1e-9
            assert item.radius - 1e-9 <= item.x <= scene.width - item.radius + 1e-9
            assert item.radius - 1e-9 <= item.y <= scene.height - item.radius + 1e-9
    assert 0.15 <= world.DIAMETERS["small"][0] < world.DIAMETERS["large"][1] <= 0.4


@pytest.mark.parametrize("separation", [world._SEPARATION, 0.0])
def test_half_of_every_object_is_visible(monkeypatch, separation):
    monkeypatch.setattr(world, "_SEPARATION", separation)  # 0: only the check protects
    source = scenes.ScenesSource("evaluate", seed=2, num_scenes=60)
    shares = []
    for scene in map(source.scene, range(len(source))):
        # Paint the objects' numbers at 16 points a pixel.
        x = (np.arange(4 * scene.width) + 0.5)[None, :] / 4
        y = (np.arange(4 * scene.height) + 0.5)[:, None] / 4
        owner = np.full((4 * scene.height, 4 * scene.width), -1)
        areas = []
        for number, item in enumerate(scene.objects):
            offset = x - item.x, y - item.y
            image_set = shapes.to_unit(*offset, item.radius, item.angle)
            inside = shapes.distance(item.shape, *image_set) < 0
            areas.append(inside.sum())
            owner[inside] = number
        shares += [(owner == i).sum() / area for i, area in enumerate(areas)]
    assert min(shares) > 0.5 - 0.03  # the draw counts on a coarser grid
    assert sum(share < 0.98 for share in shares) > 5  # there was something to check


def test_visible_share_of_a_covered_object():
    behind = thing("small red plain circle", 48.0, 48.0)
    cover = thing("large blue plain square", 48.0, 48.0)
    half = 48.0 + cover.radius * math.sqrt(0.5)
    edge = thing("large blue plain square", half, 48.0)
    assert world.visible_share((behind, cover), 0) == 0
    assert world.visible_share((behind, edge), 0) == pytest.approx(0.5, abs=0.05)
    assert world.visible_share((behind, cover), 1) == 1


# --- the hold-out ---------------------------------------------------------------------


def test_training_shows_every_pair_but_no_held_out_triple(train):
    seen = attributes_of(train)
    for one, two in itertools.combinations(range(4), 2):
        pairs = {(kind[one], kind[two]) for kind in seen}
        assert len(pairs) == len(VALUES[one]) * len(VALUES[two])
    assert not any(world.is_held_out(c, s, t) for c, s, _, t in seen)


def test_a_sixth_of_the_triples_is_held_out_evenly():
    triples = list(itertools.product(world.COLOURS, world.SHAPES, world.TEXTURES))
    held_out = [triple for triple in triples if world.is_held_out(*triple)]
    assert len(held_out) == 24
    for values in zip(*held_out, strict=True):
        assert len(set(collections.Counter(values).values())) == 1


def test_evaluation_shows_held_out_triples_and_no_collection_of_training(
    train, evaluate
):
    kinds = attributes_of(evaluate)
    held_out = sum(world.is_held_out(c, s, t) for c, s, _, t in kinds)
    assert held_out / len(kinds) == pytest.approx(1 / 6, abs=0.03)
    train_sets = {tuple(sorted(attributes_of([scene]))) for scene in train}
    evaluation_sets = {tuple(sorted(attributes_of([scene]))) for scene in evaluate}
    assert not train_sets & evaluation_sets


def test_collections_of_all_seeds_belong_to_one_split():
    generator = np.random.default_rng(0)
    kinds = [generator.integers(432, size=3).tolist() for _ in range(2000)]
    sides = [world.belongs_to_evaluation(row) for row in kinds]
    assert np.mean(sides) == pytest.approx(1 / 8, abs=0.03)
    assert sides == [world.belongs_to_evaluation(row[::-1]) for row in kinds]


# --- the images ---------------------------------------------------------------------


def test_pictures_have_the_announced_size_and_repeat():
    source = scenes.ScenesSource("evaluate", seed=1, num_scenes=30)
    for record in source.images():
        image_id = source.read(record.key)
        assert image_id.shape == (record.height, record.width, 3)
        assert image_id.dtype == np.uint8
        assert image_id.std() > 5
    np.testing.assert_array_equal(source.read("3"), source.read("3"))


def test_plain_objects_show_their_colour(evaluate):
    palette = np.array([render.PALETTE[name] for name in world.COLOURS], float)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    right = []
    for number, scene in enumerate(evaluate[:150]):
        image_id = render.render(scene, np.random.default_rng(number))
        item = scene.objects[-1]  # nothing in front of it
        if item.texture == "plain" and item.shape != "ring":
            y, x = int(item.y), int(item.x)
            colour = image_id[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
            named = world.COLOURS[int((palette @ colour).argmax())]
            right.append(named == item.colour)
    assert len(right) > 25
    assert np.mean(right) > 0.95


@pytest.mark.parametrize("texture", ["striped", "dotted"])
@pytest.mark.parametrize("shape", world.SHAPES)
def test_textures_show_at_the_smallest_size(shape, texture):
    for seed in range(5):
        dark = []
        for name in ("plain", texture):
            item = thing(f"small white {name} {shape}", 48.0, 48.0)
            image_id = render.render(
                world.Scene(96, 96, (item,)), np.random.default_rng(seed)
            )
            x, y = shapes.interior_points(shape)
            deep = shapes.distance(shape, x, y) < -1 / item.radius
            rows = (item.y + item.radius * y[deep]).astype(int)
            columns = (item.x + item.radius * x[deep]).astype(int)
            dark.append(image_id[rows, columns].std())
        assert dark[1] > 1.5 * dark[0], (seed, dark)


# --- options --------------------------------------------------------------------------


def test_build_reads_its_fields():
    config = {"source": "scenes", "name": "s", "seed": 5, "evaluate_scenes": 7}
    source = scenes.build({**config, "captions_per_scene": 6}, "evaluate", None)
    assert (source.name, source.seed, len(source)) == ("s", 5, 7)
    assert len(list(source.texts())) == 42
    assert source.files() == []
    assert source.identity != scenes.build(config, "evaluate", None).identity


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        ({"train_scene": 5}, "train", "did you mean 'train_scenes'"),
        ({"train_scenes": 0}, "train", "from 1 to"),
        ({"train_scenes": 2.5}, "train", "whole number"),
        ({"seed": -1}, "train", "seed must be"),
        ({"captions_per_scene": 0}, "train", "captions_per_scene"),
        ({}, "evaluation", "did you mean 'evaluate'"),
    ],
)
def test_build_refuses(config, split, message):
    with pytest.raises(InputError, match=message):
        scenes.build(config, split, None)


@pytest.mark.parametrize("key", ["10", "-1", "x", ""])
def test_read_refuses_an_unknown_key(key):
    with pytest.raises(InputError, match="0 to 9"):
        scenes.ScenesSource(num_scenes=10).read(key)
