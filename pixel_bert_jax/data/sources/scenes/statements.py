"""Statements about two scenes, true or false, in the manner of NLVR2.

As NLVR2 was collected (Suhr et al., arXiv 1811.00491): a sentence comes with four pairs
of images and is true of exactly two. So the sentence alone tells nothing at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from pixel_bert_jax.data.sources.scenes.questions import Draw, Phrase, count, say
from pixel_bert_jax.data.sources.scenes.words import NUMBERS
from pixel_bert_jax.data.sources.scenes.world import Scene

PAIRS = 4  # of a sentence
TRUE_PAIRS = 2
Pair = tuple[Scene, Scene]
Statement = tuple[str, Callable[[Pair], bool]]


def _has(scene: Scene, phrase: Phrase) -> bool:
    return count(scene.objects, phrase) > 0


def _phrase(draw: Draw, pairs: Sequence[Pair]) -> Phrase:
    scenes = list(itertools.chain.from_iterable(pairs))
    return draw.phrase(draw.of(scenes).objects)


def _one_side(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    side, phrase = draw.of((0, 1)), _phrase(draw, pairs)
    where = ("left", "right")[side]
    wording = draw.of(("the {} image shows a {}", "the {} picture contains a {}"))
    return wording.format(where, say(phrase)), lambda pair: _has(pair[side], phrase)


def _both(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    phrase = _phrase(draw, pairs)
    wording = draw.of(("both images show a {}", "each picture contains a {}"))
    return wording.format(say(phrase)), lambda pair: all(_has(s, phrase) for s in pair)


def _neither(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    phrase = _phrase(draw, pairs)
    wording = draw.of(("neither image shows a {}", "no picture contains a {}"))
    text = wording.format(say(phrase))
    return text, lambda pair: not any(_has(s, phrase) for s in pair)


def _exactly_one(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    phrase = _phrase(draw, pairs)
    wording = draw.of(
        ("exactly one image shows a {}", "only one picture contains a {}")
    )
    text = wording.format(say(phrase))
    return text, lambda pair: sum(_has(s, phrase) for s in pair) == 1


def _total(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    phrase, number = _phrase(draw, pairs), draw.of((2, 3, 4))
    wording = draw.of(
        ("there are at least {} {} in total", "the images contain at least {} {}")
    )
    text = wording.format(NUMBERS[number], say(phrase, plural=True))
    return text, lambda pair: sum(count(s.objects, phrase) for s in pair) >= number


def _more(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    phrase = draw.of(({}, _phrase(draw, pairs)))
    first = draw.of((0, 1))
    sides = ("left", "right")
    wording = draw.of(
        (
            "the {} image has more {} than the {} image",
            "there are more {1} in the {0} picture than in the {2} picture",
        )
    )
    text = wording.format(sides[first], say(phrase, plural=True), sides[1 - first])

    def holds(pair: Pair) -> bool:
        one, other = (count(pair[n].objects, phrase) for n in (first, 1 - first))
        return one > other

    return text, holds


def _one_and_other(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    a, b = draw.of(pairs)
    phrases = draw.phrase(a.objects), draw.phrase(b.objects)
    text = "one image shows a {} and the other a {}".format(*map(say, phrases))

    def holds(pair: Pair) -> bool:
        return any(
            _has(x, phrases[0]) and _has(y, phrases[1]) for x, y in (pair, pair[::-1])
        )

    return text, holds


TEMPLATES: dict[Callable[[Draw, Sequence[Pair]], Statement], float] = {
    _one_side: 0.3,
    _both: 0.15,
    _neither: 0.15,
    _exactly_one: 0.1,
    _total: 0.1,
    _more: 0.1,
    _one_and_other: 0.1,
}


def draw_statement(
    pairs: Sequence[Pair], generator: np.random.Generator
) -> tuple[str, list[bool]]:
    """Draws a sentence that is true of exactly two of four pairs.

    Args:
      pairs: the four pairs of scenes, (left, right) each.
      generator: source of randomness.

    Returns:
      The sentence, and whether it is true of each pair.
    """
    draw = Draw(generator)
    while True:
        text, holds = draw.weighted(TEMPLATES)(draw, pairs)
        labels = [holds(pair) for pair in pairs]
        if sum(labels) == TRUE_PAIRS:
            return text, labels
