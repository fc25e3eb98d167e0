"""Questions about a scene, in the manner of VQA: ten human answers, types, balance.

What is asked depends on the answer as little as can be: the asked attribute is uniform,
and yes, no and numbers are drawn before what they are the answer to. So a question
alone tells little, and a picture alone nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pixel_bert_jax.data.sources.scenes.text import relation
from pixel_bert_jax.data.sources.scenes.words import NUMBERS, PLURALS
from pixel_bert_jax.data.sources.scenes.world import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
)

NAMES = ("colour", "shape", "size", "texture")
VALUES = dict(zip(NAMES, (COLOURS, SHAPES, SIZES, TEXTURES), strict=True))
COUNTS = NUMBERS[:6]  # a scene has at most five objects
ANSWERS: tuple[str, ...] = (*COLOURS, *SHAPES, *SIZES, *TEXTURES, *COUNTS, "yes", "no")
"""Every answer, in the order of the classes."""

PEOPLE = 10
# How many of the ten say what is so, and how often.
AGREEMENT = {10: 0.7, 9: 0.2, 8: 0.1}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

# Attributes that a phrase may name; what is said without a shape is an "object".
PHRASES = (
    *(("colour",), ("shape",), ("colour", "shape"), ("size", "shape")),
    *(("texture", "shape"), ("size", "colour"), ("colour", "texture")),
)
# What is told of an object that is asked about, in addition to which the asked
# attribute is left out.
REFERENCES = (
    *(("shape",), ("colour",), ("colour", "shape"), ("size", "shape")),
    *(("texture", "shape"), ("size", "colour"), ("colour", "texture")),
    *(("size", "colour", "shape"), ("colour", "texture", "shape")),
    ("size", "texture", "shape"),
)
TRIES = 50  # draws of what is asked about before another question is drawn
EVERYTHING = 8  # one in so many phrases of a number question is all objects

Phrase = dict[str, str]  # some of NAMES -> value


@dataclasses.dataclass(frozen=True)
class Question:
    """One question and what a reader of the scene answers.

    Attributes:
      text: words separated by spaces.
      answer: one of ANSWERS.
      kind: question type, as VQA has them.
      alternatives: answers of the same kind.
    """

    text: str
    answer: str
    kind: str
    alternatives: tuple[str, ...]

    @property
    def answer_type(self) -> str:
        """VQA's "yes/no", "number" or "other"."""
        if self.alternatives == ("yes", "no"):
            return "yes/no"
        return "number" if self.alternatives == COUNTS else "other"


def value(thing: SceneObject, name: str) -> str:
    """Returns an attribute of an object."""
    return dict(zip(NAMES, thing.attributes(), strict=True))[name]


def fits(thing: SceneObject, phrase: Phrase) -> bool:
    """Says whether an object is what a phrase names."""
    return all(value(thing, name) == wanted for name, wanted in phrase.items())


def count(things: Iterable[SceneObject], phrase: Phrase) -> int:
    """Returns how many objects are what a phrase names."""
    return sum(fits(thing, phrase) for thing in things)


def say(phrase: Phrase, plural: bool = False) -> str:
    """Returns a phrase in words, without an article."""
    noun = phrase.get("shape", "object")
    adjectives = [phrase[n] for n in ("size", "colour", "texture") if n in phrase]
    return " ".join([*adjectives, PLURALS[noun] if plural else noun])


class Draw:
    """Uniform choices from one generator."""

    def __init__(self, generator: np.random.Generator):
        """Keeps the generator."""
        self._generator = generator

    def of(self, options: Sequence[Any]) -> Any:
        """Returns one of the options."""
        return options[int(self._generator.integers(len(options)))]

    def weighted(self, options: dict[Any, float]) -> Any:
        """Returns a key, as likely as its value says; values sum to 1."""
        places = np.cumsum(list(options.values()))
        place = int(np.searchsorted(places, self._generator.random(), side="right"))
        return list(options)[min(place, len(options) - 1)]

    def phrase(self, things: Sequence[SceneObject], absent: bool = False) -> Phrase:
        """Returns a phrase of one object, or one with an attribute that is another's.

        Args:
          things: of the scene.
          absent: change one attribute, so that perhaps nothing fits.
        """
        thing, names = self.of(things), self.of(PHRASES)
        phrase = {name: value(thing, name) for name in names}
        if absent:
            name = self.of(names)
            others = [v for v in VALUES[name] if v != phrase[name]]
            phrase[name] = self.of(others)
        return phrase

    def reference(
        self, things: Sequence[SceneObject], thing: SceneObject, without: str = ""
    ) -> Phrase | None:
        """Returns a phrase that fits this object alone, None if there is none."""
        found = []
        for names in REFERENCES:
            if without not in names:
                phrase = {name: value(thing, name) for name in names}
                if count(things, phrase) == 1:
                    found.append(phrase)
        return self.of(found) if found else None


def _attribute(name: str, kind: str, wordings: tuple[str, ...]) -> Any:
    def ask(scene: Scene, draw: Draw) -> Question | None:
        thing = draw.of(scene.objects)
        phrase = draw.reference(scene.objects, thing, without=name)
        if phrase is None:
            return None
        text = draw.of(wordings).format(say(phrase))
        return Question(text, value(thing, name), kind, VALUES[name])

    return ask


def _existence(scene: Scene, draw: Draw) -> Question | None:
    answer = draw.of(("yes", "no"))
    wording = draw.of(("is there a {} ?", "do you see a {} ?"))
    for _ in range(TRIES):
        phrase = draw.phrase(scene.objects, absent=answer == "no")
        if (count(scene.objects, phrase) > 0) == (answer == "yes"):
            text = wording.format(say(phrase))
            return Question(text, answer, "is there a", ("yes", "no"))
    return None


def _number(scene: Scene, draw: Draw) -> Question | None:
    wanted = draw.of(range(len(COUNTS)))
    wording = draw.of(("how many {} are there ?", "how many {} do you see ?"))
    for _ in range(TRIES):
        phrase = draw.phrase(scene.objects, absent=wanted == 0)
        if draw.of(range(EVERYTHING)) == 0:
            phrase = {}
        if count(scene.objects, phrase) == wanted:
            text = wording.format(say(phrase, plural=True))
            return Question(text, COUNTS[wanted], "how many", COUNTS)
    return None


def _relation(scene: Scene, draw: Draw) -> Question | None:
    pairs = list(itertools.permutations(scene.objects, 2))
    a, b = draw.of(pairs)
    words = relation(scene, a, b)
    first, second = (draw.reference(scene.objects, thing) for thing in (a, b))
    if not words or first is None or second is None:
        return None
    word, answer = draw.of(words), draw.of(("yes", "no"))
    if answer == "no":
        word = OPPOSITE[word]
    link = f"{word} of" if word in ("left", "right") else word
    text = f"is the {say(first)} {link} the {say(second)} ?"
    return Question(text, answer, "is the", ("yes", "no"))


# kind: (weight, how it is drawn)
_colour = _attribute(
    "colour", "what color", ("what color is the {} ?", "which color has the {} ?")
)
_shape = _attribute(
    "shape", "what shape", ("what shape is the {} ?", "which shape has the {} ?")
)
_size = _attribute("size", "how big", ("how big is the {} ?", "what size has the {} ?"))
_texture = _attribute(
    "texture",
    "what texture",
    ("what texture has the {} ?", "which pattern does the {} show ?"),
)

# How a question is drawn -> how often.
TEMPLATES: dict[Callable[[Scene, Draw], Question | None], float] = {
    _colour: 0.25,
    _shape: 0.2,
    _size: 0.1,
    _texture: 0.1,
    _existence: 0.15,
    _number: 0.12,
    _relation: 0.08,
}


def draw_question(scene: Scene, generator: np.random.Generator) -> Question:
    """Draws one question about a scene."""
    draw = Draw(generator)
    while True:
        ask = draw.weighted(TEMPLATES)
        if question := ask(scene, draw):
            return question


def human_answers(question: Question, generator: np.random.Generator) -> list[str]:
    """Returns what ten people answer, of whom most are right."""
    draw = Draw(generator)
    right = draw.weighted(AGREEMENT)
    others = [a for a in question.alternatives if a != question.answer]
    answers = [question.answer] * right
    answers += [draw.of(others) for _ in range(PEOPLE - right)]
    return [answers[i] for i in generator.permutation(PEOPLE)]
