"""Scenes: the draw, the hold-out, the pictures, the captions and the oracle."""

import collections
import itertools
import math

import numpy as np
import pytest

from pixel_bert_jax.data.sources import scenes, scenes_render, scenes_shapes
from pixel_bert_jax.data.sources import scenes_world as world
from pixel_bert_jax.data.sources.scenes_text import Grammar, draw_captions
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


@pytest.fixture
def example():
    return world.Scene(
        96,
        112,
        (
            thing("large red plain circle", 25.0, 30.0),
            thing("small blue striped square", 85.0, 30.0),
            thing("small red dotted star", 85.0, 75.0),
        ),
    )


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


def test_half_of_every_object_is_visible(evaluate):
    crowded = [scene for scene in evaluate if len(scene.objects) == 5][:40]
    hidden_somewhere = 0
    for scene in crowded:  # paint the numbers of the objects at 4 points a pixel
        x = (np.arange(4 * scene.width) + 0.5)[None, :] / 4
        y = (np.arange(4 * scene.height) + 0.5)[:, None] / 4
        owner = np.full((4 * scene.height, 4 * scene.width), -1)
        areas = []
        for number, item in enumerate(scene.objects):
            unit = scenes_shapes.to_unit(
                x - item.x, y - item.y, item.radius, item.angle
            )
            inside = scenes_shapes.distance(item.shape, *unit) < 0
            areas.append(inside.sum())
            owner[inside] = number
        for number, area in enumerate(areas):
            share = (owner == number).sum() / area
            assert share > world.MIN_VISIBLE - 0.03  # the draw counts a coarser grid
            hidden_somewhere += share < 0.98
    assert hidden_somewhere > 5  # the check above had something to check


def test_visible_share_of_a_covered_object():
    behind = thing("small red plain circle", 48.0, 48.0)
    cover = thing("large blue plain square", 48.0, 48.0)
    edge = thing("large blue plain square", 48.0 + cover.radius * math.sqrt(0.5), 48.0)
    assert world.visible_share((behind, cover), 0) == 0
    assert world.visible_share((behind, edge), 0) == pytest.approx(0.5, abs=0.05)
    assert world.visible_share((behind, cover), 1) == 1


# --- the hold-out -----------------------------------------------------------------------


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


# --- the pictures ---------------------------------------------------------------------


def test_pictures_have_the_announced_size_and_repeat():
    source = scenes.ScenesSource("evaluate", seed=1, num_scenes=30)
    for record in source.images():
        picture = source.read(record.key)
        assert picture.shape == (record.height, record.width, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 5
    np.testing.assert_array_equal(source.read("3"), source.read("3"))


def test_plain_objects_show_their_colour(evaluate):
    palette = np.array([scenes_render.PALETTE[name] for name in world.COLOURS], float)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    right = []
    for number, scene in enumerate(evaluate[:150]):
        picture = scenes_render.render(scene, np.random.default_rng(number))
        item = scene.objects[-1]  # nothing in front of it
        if item.texture == "plain" and item.shape != "ring":
            y, x = int(item.y), int(item.x)
            colour = picture[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
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
            picture = scenes_render.render(
                world.Scene(96, 96, (item,)), np.random.default_rng(seed)
            )
            x, y = scenes_shapes.interior_points(shape)
            deep = scenes_shapes.distance(shape, x, y) < -1 / item.radius
            rows = (item.y + item.radius * y[deep]).astype(int)
            columns = (item.x + item.radius * x[deep]).astype(int)
            dark.append(picture[rows, columns].std())
        assert dark[1] > 1.5 * dark[0], (seed, dark)


# --- the captions ---------------------------------------------------------------------


def test_captions_are_short_different_and_of_the_vocabulary():
    source = scenes.ScenesSource("train", seed=0, num_scenes=400)
    words = set(scenes.WORDS)
    by_key = collections.defaultdict(list)
    for key, caption in source.texts():
        by_key[key].append(caption)
    lengths = []
    for captions in by_key.values():
        assert len(captions) == len(set(captions)) == 5
        for caption in captions:
            tokens = caption.split(" ")
            assert words.issuperset(tokens), caption
            lengths.append(len(tokens))
    assert list(by_key) == [record.key for record in source.images()]
    assert max(lengths) <= 20
    assert 8 <= np.mean(lengths) <= 14


def test_scene_zero_stays_what_it_is():
    """A change here needs a new `scenes.VERSION`: indexes and checkpoints are stale."""
    source = scenes.ScenesSource("train", seed=0)
    assert scenes.VERSION == 1
    assert source.captions(0) == [
        "a star is smaller than a pink triangle",
        "there is a dotted circle below a plain star",
        "a medium triangle is right of a large red star",
        "a large blue circle is above a pink triangle",
        "there are two red objects and a small purple striped star",
    ]
    assert [thing.attributes() for thing in source.scene(0).objects] == [
        ("red", "star", "large", "plain"),
        ("red", "circle", "large", "dotted"),
        ("pink", "triangle", "medium", "plain"),
        ("purple", "star", "small", "striped"),
        ("blue", "circle", "large", "dotted"),
    ]
    assert source.scene(0).objects[0].x == pytest.approx(30.612858284153788)


def test_enumeration_is_a_distribution_and_the_draw_follows_it(example):
    scene = world.Scene(example.height, example.width, example.objects[:2])
    candidates = Grammar(scene).candidates()
    assert sum(candidates.values()) == pytest.approx(1)
    drawn = []
    for seed in range(4000):
        drawn += draw_captions(scene, 1, np.random.default_rng(seed))
    assert set(drawn) <= set(candidates)
    frequencies = collections.Counter(drawn)
    for words, probability in sorted(candidates.items(), key=lambda c: -c[1])[:30]:
        error = math.sqrt(probability / len(drawn))
        assert abs(frequencies[words] / len(drawn) - probability) < 4.5 * error, words
    # The mean surprise of a draw is the entropy exactly if the two agree everywhere.
    surprise = [-math.log(candidates[words]) for words in drawn]
    entropy = -sum(p * math.log(p) for p in candidates.values())
    error = np.std(surprise) / math.sqrt(len(drawn))
    assert abs(np.mean(surprise) - entropy) < 4 * error


def test_every_template_is_drawn(evaluate):
    offered = set()
    for scene in evaluate[:50]:
        grammar = Grammar(scene)
        offered |= set(grammar.templates)
        assert sum(w for w, _ in grammar.derivations()) == pytest.approx(1)
    assert len(offered) == 9


def test_words_alone_tell_little(evaluate):
    """No colour or shape is common, and two of one caption are independent."""
    generator = np.random.default_rng(0)
    for kind, limit in (("colour", 0.16), ("shape", 0.21)):
        values = scenes.WORD_CLASSES[kind]
        found, equal = collections.Counter(), []
        for scene in evaluate:
            for words in draw_captions(scene, 2, generator):
                named = [word for word in words if word in values]
                found.update(named)
                if len(named) == 2:
                    equal.append(named[0] == named[1])
        assert max(found.values()) / sum(found.values()) < limit
        chance = {"colour": 1 / 8, "shape": 1 / 6}[kind]
        assert np.mean(equal) == pytest.approx(chance, abs=0.04)


# --- the oracle -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("a red circle left of a blue square", True),
        ("a red circle right of a blue square", False),
        ("a red circle above a blue square", False),  # level: not decidable
        ("a small red star is below a blue striped square", True),
        ("there are two small objects and a large red circle", True),
        ("there are two red objects", True),
        ("there are two blue objects", False),
        ("there are two plain objects", False),
        ("three objects including a dotted star", True),
        ("four objects including a dotted star", False),
        ("a red plain circle is larger than a striped square", True),
        ("a striped square is larger than a red circle", False),
        ("a blue square smaller than a star", False),  # both are small
        ("a red square and a blue star", False),  # attributes exchanged
        ("a red object and a red star", True),
        ("a blue object and a blue square", False),  # would be one object twice
        ("a red circle , a blue square and a red star", True),
        ("a blue square right of a red circle and above a red star", True),
        ("a blue square right of a red circle and below a red star", False),
        ("words of no caption", False),
        ("", False),
    ],
)
def test_match_of_hand_written_captions(example, caption, true):
    assert scenes.oracle_match(example, caption.split()) is true


def test_words_of_hand_written_captions(example):
    def fill(text):
        words = text.split()
        hidden = [place for place, word in enumerate(words) if word == "[MASK]"]
        return scenes.oracle_words(example, words, hidden)

    assert fill("a [MASK] circle left of a blue [MASK]") == ["red", "square"]
    assert fill("a red star is [MASK] a blue square") == ["below"]
    assert fill("there are [MASK] red objects and a striped square") == ["two"]
    with pytest.raises(InputError, match="no caption"):
        fill("a [MASK] ring left of a blue square")
    with pytest.raises(InputError, match="hidden positions"):
        scenes.oracle_words(example, ["a"], [1])


def test_oracle_equals_the_sum_over_the_enumeration(example):
    grammar = Grammar(example)
    candidates = grammar.candidates()
    generator = np.random.default_rng(5)
    for words in draw_captions(example, 12, generator):
        hidden = np.flatnonzero(generator.random(len(words)) < 0.3).tolist()
        agreeing = {
            other: probability
            for other, probability in candidates.items()
            if len(other) == len(words)
            and all(
                a == b
                for place, (a, b) in enumerate(zip(other, words, strict=True))
                if place not in hidden
            )
        }
        answers = scenes.oracle_words(grammar, words, hidden)
        assert scenes.oracle_match(example, words, hidden)
        for place, answer in zip(hidden, answers, strict=True):
            table = collections.Counter()
            for other, probability in agreeing.items():
                table[other[place]] += probability
            assert table[answer] == pytest.approx(max(table.values()))


def test_ceilings_are_high(evaluate):
    generator = np.random.default_rng(0)
    true, swapped, found, total = 0, 0, 0, 0
    words_named = scenes.WORD_CLASSES["colour"] | scenes.WORD_CLASSES["shape"]
    pairs = list(itertools.pairwise(evaluate[:101]))
    for scene, other in pairs:
        (words,) = draw_captions(scene, 1, generator)
        true += scenes.oracle_match(scene, words)
        swapped += scenes.oracle_match(other, words)
        for place, word in enumerate(words):
            if word in words_named:
                found += scenes.oracle_words(scene, words, [place]) == [word]
                total += 1
    assert true == len(pairs)
    assert swapped <= 0.05 * len(pairs)
    assert found > 0.85 * total


# --- vocabulary and options -----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "what colour is the large ring ?",
        "how many red circles are there ?",
        "is there a small striped cross left of a green star ?",
        "which shape is left of the white triangle ?",
        "what is the texture of the object above the ring ?",
        "the left image contains more circles than the right image .",
        "both images contain a dotted square .",
        "exactly one image shows two purple stars .",
        "in each image there is at least one pink cross .",
        "the two images contain the same number of rings .",
        "an orange object is in the middle , not at the top .",
        "yes no zero one two three four five six seven eight nine ten true false",
    ],
)
def test_vocabulary_covers_later_tasks(text):
    assert set(text.split()) <= set(scenes.WORDS)


def test_vocabulary_is_a_sorted_list_of_different_lower_case_words():
    assert list(scenes.WORDS) == sorted(set(scenes.WORDS))
    assert all(word == word.lower() and " " not in word for word in scenes.WORDS)
    assert 150 <= len(scenes.WORDS) <= 250
    classes = list(scenes.WORD_CLASSES.values())
    assert all(names <= set(scenes.WORDS) for names in classes)
    assert sum(map(len, classes)) == len(frozenset().union(*classes))


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
