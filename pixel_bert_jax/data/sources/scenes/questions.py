"""Questions about a scene in the style of VQA: ten answers each, types, balance.

A question says little about its answer: the attributes of objects are uniform, and
"yes", "no" and numbers are sampled before the question that they answer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pixel_bert_jax.data.sources.scenes.text import relation, say
from pixel_bert_jax.data.sources.scenes.words import NUMBERS
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
# Number of people who give the correct answer -> probability.
AGREEMENT = {10: 0.7, 9: 0.2, 8: 0.1}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

# Attributes that a phrase may name.
PHRASES = (
    *(("colour",), ("shape",), ("colour", "shape"), ("size", "shape")),
    *(("texture", "shape"), ("size", "colour"), ("colour", "texture")),
)
# Attributes that may identify the object of a question about another attribute.
REFERENCES = (
    *(("shape",), ("colour",), ("colour", "shape"), ("size", "shape")),
    *(("texture", "shape"), ("size", "colour"), ("colour", "texture")),
    *(("size", "colour", "shape"), ("colour", "texture", "shape")),
    ("size", "texture", "shape"),
)
TRIES = 50  # attempts to find a phrase before another question is sampled
EVERYTHING = 8  # one in this many attempts at "how many" is about all objects

Phrase = dict[str, str]  # some of NAMES -> value


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its correct answer.

    Attributes:
      text: words separated by spaces.
      answer: one of ANSWERS.
      kind: VQA's "question_type", such as "how many".
      alternatives: all answers of the same kind.
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
    """Returns an attribute of an object; `name` is one of NAMES."""
    return getattr(thing, name)


def fits(thing: SceneObject, phrase: Phrase) -> bool:
    """Returns whether a phrase describes an object."""
    return all(value(thing, name) == wanted for name, wanted in phrase.items())


def count(things: Iterable[SceneObject], phrase: Phrase) -> int:
    """Returns how many objects a phrase describes."""
    return sum(fits(thing, phrase) for thing in things)


class Draw:
    """Random choices from one generator."""

    def __init__(self, generator: np.random.Generator):
        self._generator = generator

    def of(self, options: Sequence[Any]) -> Any:
        """Returns one of the options, all equally probable."""
        return options[int(self._generator.integers(len(options)))]

    def weighted(self, options: dict[Any, float]) -> Any:
        """Returns a key of {key: probability}."""
        places = np.cumsum(list(options.values()))
        place = int(np.searchsorted(places, self._generator.random(), side="right"))
        return list(options)[min(place, len(options) - 1)]

    def phrase(self, things: Sequence[SceneObject], absent: bool = False) -> Phrase:
        """Returns a phrase that describes one of the objects.

        Args:
          things: the scene's objects.
          absent: change one attribute, so that the phrase may describe no object.
        """
        thing, names = self.of(things), self.of(PHRASES)
        phrase = {name: value(thing, name) for name in names}
        if absent:
            name = self.of(names)
            phrase[name] = self.of([v for v in VALUES[name] if v != phrase[name]])
        return phrase

    def reference(
        self, things: Sequence[SceneObject], thing: SceneObject, without: str = ""
    ) -> Phrase | None:
        """Returns a phrase that describes only this object, None if there is none.

        Args:
          things: the scene's objects.
          thing: one of them.
          without: attribute that the phrase must not name.
        """
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

# Function that samples a question, or fails with None -> its probability.
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
    """Samples a question about a scene."""
    draw = Draw(generator)
    while True:
        ask = draw.weighted(TEMPLATES)
        if question := ask(scene, draw):
            return question


def human_answers(question: Question, generator: np.random.Generator) -> list[str]:
    """Samples the answers of ten people, most of which are correct."""
    draw = Draw(generator)
    right = draw.weighted(AGREEMENT)
    others = [a for a in question.alternatives if a != question.answer]
    answers = [question.answer] * right
    answers += [draw.of(others) for _ in range(PEOPLE - right)]
    return [answers[i] for i in generator.permutation(PEOPLE)]
