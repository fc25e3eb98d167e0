"""The captions of a scene as a weighted grammar, which is sampled and read by `oracle`.

A caption is sampled in three steps: a template (weighted, among those that apply to the
scene), a binding of the template to objects (uniform), and an alternative for each slot
(weighted, independent). A number means exactly that many: "two plain objects" is false
of three.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping

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
    """A slot: alternative sequences of words with their probabilities."""

    __slots__ = ("_cumulative", "alternatives", "weights")

    def __init__(self, weighted: dict[str, float]):
        total = sum(weighted.values())
        self.alternatives: tuple[Words, ...] = tuple(tuple(t.split()) for t in weighted)
        self.weights = tuple(weight / total for weight in weighted.values())
        self._cumulative = list(itertools.accumulate(self.weights))[:-1]

    def pick(self, uniform: float) -> Words:
        """Returns an alternative, sampled by inversion of `uniform` in [0, 1)."""
        return self.alternatives[bisect.bisect_right(self._cumulative, uniform)]


Slots = tuple[Choice, ...]

_OTHER_INTROS = {"we see": 1, "a picture of": 1, "an image with": 1}
_SINGULAR_INTRO = Choice({"": 4, "there is": 3, "here is": 1} | _OTHER_INTROS)
_PLURAL_INTRO = Choice({"": 4, "there are": 3, "here are": 1} | _OTHER_INTROS)
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

# Attributes that a phrase names -> weight. Most name two or more, so that a caption is
# rarely true of another scene.
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
# For comparisons, which size words would answer without the image.
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


_STYLES = {"full": _FULL, "short": _SHORT, "sizeless": _SIZELESS}


def say(attributes: Mapping[str, str], plural: bool = False) -> str:
    """Returns a noun phrase without an article; without a shape it says "object".

    Args:
      attributes: some of "colour", "shape", "size" and "texture" -> value.
      plural: whether the noun is in the plural.
    """
    noun = attributes.get("shape", "object")
    # The colour is in the middle, so that a masked size and a masked texture are on
    # different sides of it.
    order = ("size", "colour", "texture")
    adjectives = [attributes[name] for name in order if name in attributes]
    return " ".join([*adjectives, PLURALS[noun] if plural else noun])


def _named(attributes: tuple[str, ...], names: Words) -> dict[str, str]:
    """Returns the attributes with these names, of `SceneObject.attributes()`."""
    found = dict(zip(("colour", "shape", "size", "texture"), attributes, strict=True))
    return {name: found[name] for name in names}


@functools.cache
def _phrase(attributes: tuple[str, ...], style: str) -> Choice:
    return Choice(
        {
            f"a {say(_named(attributes, names))}": weight
            for names, weight in _STYLES[style].items()
        }
    )


@functools.cache
def _literal(text: str) -> Choice:
    return Choice({text: 1.0})


def relation(scene: Scene, a: SceneObject, b: SceneObject) -> list[str]:
    """Returns which of left, right, above and below a is of b; see RELATION_MARGIN."""
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
        """Returns the template's bindings to objects, all equally probable."""
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
        """Samples a caption; `uniform` returns a random number in [0, 1)."""
        (name,) = self._choice.pick(uniform())
        bindings = self.bindings(name)
        slots = self.slots(name, bindings[int(uniform() * len(bindings))])
        return tuple(
            itertools.chain.from_iterable(slot.pick(uniform()) for slot in slots)
        )

    def phrase(self, index: int, style: str = "full") -> Choice:
        """Returns the slot that describes one object with its article."""
        return _phrase(self._things[index].attributes(), style)

    @functools.cached_property
    def related(self) -> list[tuple[int, str, int]]:
        """All true (object, relation, object)."""
        return [
            (a, word, b)
            for a, b in itertools.permutations(range(len(self._things)), 2)
            for word in relation(self.scene, self._things[a], self._things[b])
        ]

    @functools.cached_property
    def groups(self) -> list[tuple[str, tuple[int, ...]]]:
        """All (plural noun phrase, the two or more objects that it is true of)."""
        found: dict[str, list[int]] = {}
        for index, thing in enumerate(self._things):
            for names in _GROUPS:
                text = say(_named(thing.attributes(), names), plural=True)
                found.setdefault(text, []).append(index)
        return [(text, tuple(who)) for text, who in found.items() if len(who) > 1]


def draw_captions(
    scene: Scene, count: int, generator: np.random.Generator
) -> list[Words]:
    """Samples `count` distinct captions of a scene."""
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


def _tuples(grammar: Grammar, length: int) -> list[tuple]:
    """All ordered tuples of different objects."""
    return list(itertools.permutations(range(len(grammar.scene.objects)), length))


def _chains(grammar: Grammar) -> list[tuple]:
    """All (a, relation, b, relation, c) of an object a to two others."""
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
        for a, b in _tuples(grammar, 2)
        if ranks[a] != ranks[b]
    ]


def _group_and_other(grammar: Grammar) -> list[tuple]:
    return [
        (text, members, other)
        for text, members in grammar.groups
        for other in range(len(grammar.scene.objects))
        if other not in members
    ]


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

# Name -> (weight, function that lists the bindings, function that makes the slots).
_TEMPLATES: dict[
    str,
    tuple[float, Callable[[Grammar], list[tuple]], Callable[..., Slots]],
] = {
    "relation": (30, lambda grammar: grammar.related, _say_relation),
    "sentence": (12, lambda grammar: grammar.related, _say_sentence),
    "chain": (10, _chains, _say_chain),
    "pair": (18, functools.partial(_tuples, length=2), _say_pair),
    "list": (8, functools.partial(_tuples, length=3), _say_list),
    "comparison": (6, _compared, _say_comparison),
    "group": (3, lambda grammar: grammar.groups, _say_group),
    "group_and_other": (10, _group_and_other, _say_group_and_other),
    "total": (3, functools.partial(_tuples, length=1), _say_total),
}
