"""Captions of scenes: the draw, the oracle that knows its distribution, the words."""

import collections
import itertools
import math

import numpy as np
import pytest

from pixel_bert_jax.data.sources import scenes
from pixel_bert_jax.data.sources.scenes import source as source_module
from pixel_bert_jax.data.sources.scenes import world
from pixel_bert_jax.data.sources.scenes.text import Grammar, draw_captions
from pixel_bert_jax.types import InputError


@pytest.fixture(scope="module")
def evaluate():
    source = scenes.ScenesSource("evaluate", seed=0, num_scenes=1000)
    return [source.scene(number) for number in range(len(source))]


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
    """A change here needs a new `source.VERSION`: indexes and checkpoints are stale."""
    source = scenes.ScenesSource("train", seed=0)
    assert source_module.VERSION == 1
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
    # Pixels may differ by rounding between versions of numpy, not by more.
    image_id = source.read("0").astype(float)
    assert image_id.shape == (96, 96, 3)
    means = [80.32, 69.04, 80.81]
    np.testing.assert_allclose(image_id.mean((0, 1)), means, atol=0.05)
    np.testing.assert_allclose(image_id[10, 20], [69, 73, 75], atol=2)
    np.testing.assert_allclose(image_id[50, 60], [75, 92, 72], atol=2)


def all_captions(grammar):
    """Every caption with its probability: tens of thousands."""
    found = collections.Counter()
    for weight, slots in grammar.derivations():
        options = [zip(s.alternatives, s.weights, strict=True) for s in slots]
        for picked in itertools.product(*options):
            words = tuple(itertools.chain.from_iterable(w for w, _ in picked))
            found[words] += weight * math.prod(share for _, share in picked)
    return dict(found)


def chi_square(draws, candidates, key):
    """Returns the chi-square of grouped draws minus its degrees, in its deviations."""
    observed = collections.Counter(key(words) for words in draws)
    expected = collections.Counter()
    for words, probability in candidates.items():
        expected[key(words)] += probability * len(draws)
    rare = [name for name, number in expected.items() if number < 10]
    for table in (observed, expected):
        table["rare"] = sum(table.pop(name, 0) for name in rare)
    total = sum((observed[n] - e) ** 2 / e for n, e in expected.items() if e)
    degrees = len(expected) - 1
    return (total - degrees) / math.sqrt(2 * degrees)


def test_enumeration_is_a_distribution_and_the_draw_follows_it(example):
    two = world.Scene(example.height, example.width, example.objects[:2])
    generator = np.random.default_rng(0)
    keys = [(two, lambda words: words), (example, lambda words: words[:3])]
    keys.append((example, lambda words: words[-3:]))
    for scene, key in keys:
        candidates = all_captions(Grammar(scene))
        assert sum(candidates.values()) == pytest.approx(1)
        draws = [draw_captions(scene, 1, generator)[0] for _ in range(8000)]
        assert set(draws) <= set(candidates)
        assert abs(chi_square(draws, candidates, key)) < 4


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
        ("there are two red objects and a blue object", True),
        ("there are two red objects and a red star", False),  # one of the two
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
    candidates = all_captions(grammar)
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


# --- the vocabulary -------------------------------------------------------------------


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


def test_the_oracle_knows_how_likely_each_caption_is(example):
    two = world.Scene(example.height, example.width, example.objects[:2])
    candidates = all_captions(Grammar(two))
    oracle = scenes.SceneOracle(two)
    some = list(candidates)[:: len(candidates) // 200]
    for words in some:
        assert oracle.likelihood(words) == pytest.approx(candidates[words])
    assert oracle.likelihood(["a", "red", "red", "red", "circle"]) == 0
    other = world.Scene(example.height, example.width, example.objects[1:])
    impossible = [w for w in some if not scenes.oracle_match(other, w)]
    assert impossible
    assert all(scenes.SceneOracle(other).likelihood(w) == 0 for w in impossible)
