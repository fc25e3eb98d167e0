"""The captions of a scene as one weighted grammar that both draw and oracle read.

A caption is a template (weights below, over those the scene offers), a binding of its
objects (uniform), and one alternative for each slot (independent). `Grammar` lists
exactly that, so what `draw_captions` produces and what `oracle` believes cannot
differ. A number means exactly so many: "two plain objects" is false of three.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from pixel_bert_jax.data.sources.scenes.words import NUMBERS, PLURALS
from pixel_bert_jax.data.sources.scenes.world import (
    RELATION_MARGIN,
    SIZES,
    Scene,
    SceneObject,
)

Words = tuple[str, ...]


class Choice:
    """One slot: alternative word sequences with probabilities."""

    __slots__ = ("_cumulative", "alternatives", "weights")

    def __init__(self, weighted: dict[str, float]):
        total = sum(weighted.values())
        self.alternatives: tuple[Words, ...] = tuple(tuple(t.split()) for t in weighted)
        self.weights = tuple(weight / total for weight in weighted.values())
        self._cumulative = list(itertools.accumulate(self.weights))[:-1]

    def pick(self, uniform: float) -> Words:
        """Returns the alternative at a number in [0, 1)."""
        return self.alternatives[bisect.bisect_right(self._cumulative, uniform)]


Slots = tuple[Choice, ...]

_SINGULAR_INTRO = Choice(
    {
        "": 4,
        "there is": 3,
        "here is": 1,
        "we see": 1,
        "a picture of": 1,
        "an image with": 1,
    }
)
_PLURAL_INTRO = Choice(
    {
        "": 4,
        "there are": 3,
        "here are": 1,
        "we see": 1,
        "a picture of": 1,
        "an image with": 1,
    }
)
_SHORT_INTRO = Choice({"": 5, "there is": 3, "we see": 1})

_RELATION_WORDS = {
    "left": Choice({"left of": 3, "to the left of": 1}),
    "right": Choice({"right of": 3, "to the right of": 1}),
    "above": Choice({"above": 1}),
    "below": Choice({"below": 1}),
}
_SHORT_RELATION_WORDS = {
    "left": Choice({"left of": 1}),
    "right": Choice({"right of": 1}),
    "above": Choice({"above": 1}),
    "below": Choice({"below": 1}),
}

# Which attributes a phrase names and how often, in the order in which they are said;
# without a shape it says "object". Most name two or more, so that a caption is rarely
# true of another scene. The colour stands between size and texture: which of the two a
# masked word is then shows from its side of the colour.
_FULL = {
    ("colour", "shape"): 30,
    ("size", "shape"): 6,
    ("texture", "shape"): 6,
    ("size", "colour", "shape"): 16,
    ("colour", "texture", "shape"): 16,
    ("size", "texture", "shape"): 3,
    ("size", "colour", "texture", "shape"): 10,
    ("shape",): 3,
    ("size", "colour"): 4,
    ("colour", "texture"): 4,
    ("colour",): 2,
}
_SHORT = {
    ("colour", "shape"): 60,
    ("size", "colour", "shape"): 10,
    ("colour", "texture", "shape"): 10,
    ("size", "shape"): 5,
    ("texture", "shape"): 5,
    ("shape",): 5,
    ("colour",): 5,
}
# Size words would answer a comparison without the picture.
_SIZELESS = {
    ("colour", "shape"): 60,
    ("colour", "texture", "shape"): 25,
    ("texture", "shape"): 10,
    ("shape",): 5,
}
_GROUPS = (
    *(("colour",), ("shape",), ("size",), ("texture",)),
    *(("colour", "shape"), ("texture", "shape"), ("size", "shape")),
    *(("colour", "texture"), ("size", "colour")),
)


def _noun_phrase(attributes: dict[str, str], names: Words, plural: bool) -> str:
    noun = attributes["shape"] if "shape" in names else "object"
    adjectives = [attributes[name] for name in names if name != "shape"]
    return " ".join([*adjectives, PLURALS[noun] if plural else noun])


@functools.cache
def _phrase(colour: str, shape: str, size: str, texture: str, style: str) -> Choice:
    attributes = {"colour": colour, "shape": shape, "size": size, "texture": texture}
    subsets = {"full": _FULL, "short": _SHORT, "sizeless": _SIZELESS}[style]
    return Choice(
        {
            "a " + _noun_phrase(attributes, names, plural=False): weight
            for names, weight in subsets.items()
        }
    )


@functools.cache
def _literal(text: str) -> Choice:
    return Choice({text: 1.0})


def relation(scene: Scene, a: SceneObject, b: SceneObject) -> list[str]:
    """Returns what a is to b, of left, right, above, below: decidable ones only."""
    margin = RELATION_MARGIN * min(scene.height, scene.width)
    found = []
    if abs(a.x - b.x) > margin:
        found.append("left" if a.x < b.x else "right")
    if abs(a.y - b.y) > margin:
        found.append("above" if a.y < b.y else "below")
    return found


class Grammar:
    """All captions of one scene with their probabilities."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self._things = scene.objects
        self._bindings: dict[str, list[tuple]] = {}
        offered = [(name, weight) for name, (weight, *_) in _TEMPLATES.items()]
        offered = [(name, weight) for name, weight in offered if self.bindings(name)]
        total = sum(weight for _, weight in offered)
        self.templates = {name: weight / total for name, weight in offered}
        self._choice = Choice(self.templates)

    def bindings(self, template: str) -> list[tuple]:
        """Returns what the template can speak of; each is equally likely."""
        if template not in self._bindings:
            self._bindings[template] = _TEMPLATES[template][1](self)
        return self._bindings[template]

    def slots(self, template: str, binding: tuple) -> Slots:
        """Returns the slots of a bound template, from the first word to the last."""
        return _TEMPLATES[template][2](self, *binding)

    def derivations(self) -> Iterator[tuple[float, Slots]]:
        """Yields (probability, slots) of every bound template; the sum is 1."""
        for name, weight in self.templates.items():
            bindings = self.bindings(name)
            for binding in bindings:
                yield weight / len(bindings), self.slots(name, binding)

    def draw(self, uniform: Callable[[], float]) -> Words:
        """Draws one caption with numbers in [0, 1) from `uniform`."""
        (name,) = self._choice.pick(uniform())
        bindings = self.bindings(name)
        slots = self.slots(name, bindings[int(uniform() * len(bindings))])
        return tuple(
            itertools.chain.from_iterable(slot.pick(uniform()) for slot in slots)
        )

    def phrase(self, index: int, style: str = "full") -> Choice:
        """Returns the slot that describes one object with its article."""
        return _phrase(*self._things[index].attributes(), style)

    @functools.cached_property
    def related(self) -> list[tuple[int, str, int]]:
        """All (object, relation, object) that hold."""
        return [
            (a, word, b)
            for a, b in itertools.permutations(range(len(self._things)), 2)
            for word in relation(self.scene, self._things[a], self._things[b])
        ]

    @functools.cached_property
    def groups(self) -> list[tuple[str, tuple[int, ...]]]:
        """All (plural noun phrase, its objects): two or more, and no others fit it."""
        found: dict[str, list[int]] = {}
        for index, thing in enumerate(self._things):
            names = ("colour", "shape", "size", "texture")
            attributes = dict(zip(names, thing.attributes(), strict=True))
            for names in _GROUPS:
                text = _noun_phrase(attributes, names, plural=True)
                found.setdefault(text, []).append(index)
        return [(text, tuple(who)) for text, who in found.items() if len(who) > 1]


def draw_captions(
    scene: Scene, count: int, generator: np.random.Generator
) -> list[Words]:
    """Draws `count` different captions of a scene."""
    grammar = Grammar(scene)
    numbers: Iterator[float] = iter(())

    def uniform() -> float:
        nonlocal numbers
        value = next(numbers, None)
        if value is None:
            numbers = iter(generator.random(64).tolist())
            value = next(numbers)
        return value

    captions: dict[Words, None] = {}
    while len(captions) < count:
        captions[grammar.draw(uniform)] = None
    return list(captions)


def _pairs(grammar: Grammar) -> list[tuple]:
    return list(itertools.permutations(range(len(grammar.scene.objects)), 2))


def _triples(grammar: Grammar) -> list[tuple]:
    return list(itertools.permutations(range(len(grammar.scene.objects)), 3))


def _related(grammar: Grammar) -> list[tuple]:
    return grammar.related


def _chains(grammar: Grammar) -> list[tuple]:
    """Two relations of one object to two others."""
    starting: dict[int, list[tuple[str, int]]] = {}
    for a, word, b in grammar.related:
        starting.setdefault(a, []).append((word, b))
    return [
        (a, *one, *two)
        for a, ends in starting.items()
        for one in ends
        for two in ends
        if one[1] != two[1]
    ]


def _compared(grammar: Grammar) -> list[tuple]:
    ranks = [SIZES.index(thing.size) for thing in grammar.scene.objects]
    return [
        (a, "larger" if ranks[a] > ranks[b] else "smaller", b)
        for a, b in _pairs(grammar)
        if ranks[a] != ranks[b]
    ]


def _grouped(grammar: Grammar) -> list[tuple]:
    return grammar.groups


def _group_and_other(grammar: Grammar) -> list[tuple]:
    everyone = range(len(grammar.scene.objects))
    return [
        (text, members, other)
        for text, members in grammar.groups
        for other in everyone
        if other not in members
    ]


def _each(grammar: Grammar) -> list[tuple]:
    return [(index,) for index in range(len(grammar.scene.objects))]


def _say_relation(grammar: Grammar, a: int, word: str, b: int) -> Slots:
    link = _RELATION_WORDS[word]
    return _SINGULAR_INTRO, grammar.phrase(a), link, grammar.phrase(b)


def _say_sentence(grammar: Grammar, a: int, word: str, b: int) -> Slots:
    link = _RELATION_WORDS[word]
    return grammar.phrase(a), _literal("is"), link, grammar.phrase(b)


def _say_chain(grammar: Grammar, a: int, r: str, b: int, s: str, c: int) -> Slots:
    return (
        _SHORT_INTRO,
        grammar.phrase(a, "short"),
        _SHORT_RELATION_WORDS[r],
        grammar.phrase(b, "short"),
        _literal("and"),
        _SHORT_RELATION_WORDS[s],
        grammar.phrase(c, "short"),
    )


def _say_pair(grammar: Grammar, a: int, b: int) -> Slots:
    return _SINGULAR_INTRO, grammar.phrase(a), _literal("and"), grammar.phrase(b)


def _say_list(grammar: Grammar, a: int, b: int, c: int) -> Slots:
    return (
        _SHORT_INTRO,
        grammar.phrase(a, "short"),
        _literal(","),
        grammar.phrase(b, "short"),
        _literal("and"),
        grammar.phrase(c, "short"),
    )


def _say_comparison(grammar: Grammar, a: int, word: str, b: int) -> Slots:
    return (
        grammar.phrase(a, "sizeless"),
        _COPULA,
        _literal(f"{word} than"),
        grammar.phrase(b, "sizeless"),
    )


def _say_group(grammar: Grammar, text: str, members: tuple[int, ...]) -> Slots:
    return _PLURAL_INTRO, _literal(NUMBERS[len(members)]), _literal(text)


def _say_group_and_other(
    grammar: Grammar, text: str, members: tuple[int, ...], other: int
) -> Slots:
    return (
        *_say_group(grammar, text, members),
        _literal("and"),
        grammar.phrase(other),
    )


def _say_total(grammar: Grammar, index: int) -> Slots:
    count = _literal(f"{NUMBERS[len(grammar.scene.objects)]} objects")
    return _PLURAL_INTRO, count, _literal("including"), grammar.phrase(index)


_COPULA = Choice({"is": 3, "": 1})

# name: (weight, what it can be bound to, its slots)
_TEMPLATES: dict[
    str,
    tuple[float, Callable[[Grammar], list[tuple]], Callable[..., Slots]],
] = {
    "relation": (30, _related, _say_relation),
    "sentence": (12, _related, _say_sentence),
    "chain": (10, _chains, _say_chain),
    "pair": (18, _pairs, _say_pair),
    "list": (8, _triples, _say_list),
    "comparison": (6, _compared, _say_comparison),
    "group": (3, _grouped, _say_group),
    "group_and_other": (10, _group_and_other, _say_group_and_other),
    "total": (3, _each, _say_total),
}
