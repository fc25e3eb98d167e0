"""True or false statements about two scenes, in the style of NLVR2.

As in the collection of NLVR2 (Suhr et al., arXiv 1811.00491), a sentence is written for
four pairs of images and is true of exactly two, so it cannot be judged without them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from pixel_bert_jax.data.sources.scenes.questions import Draw, Phrase, count, say
from pixel_bert_jax.data.sources.scenes.words import NUMBERS
from pixel_bert_jax.data.sources.scenes.world import Scene

PAIRS = 4  # for each sentence
TRUE_PAIRS = 2
SIDES = ("left", "right")
Pair = tuple[Scene, Scene]
Statement = tuple[str, Callable[[Pair], bool]]


def _has(scene: Scene, phrase: Phrase) -> bool:
    return count(scene.objects, phrase) > 0


def _phrase(draw: Draw, pairs: Sequence[Pair]) -> Phrase:
    scenes = list(itertools.chain.from_iterable(pairs))
    return draw.phrase(draw.of(scenes).objects)


def _one_side(draw: Draw, pairs: Sequence[Pair]) -> Statement:
    side, phrase = draw.of((0, 1)), _phrase(draw, pairs)
    wording = draw.of(("the {} image shows a {}", "the {} picture contains a {}"))
    text = wording.format(SIDES[side], say(phrase))
    return text, lambda pair: _has(pair[side], phrase)


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
    wording = draw.of(
        (
            "the {} image has more {} than the {} image",
            "there are more {1} in the {0} picture than in the {2} picture",
        )
    )
    text = wording.format(SIDES[first], say(phrase, plural=True), SIDES[1 - first])

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


# Function that samples a statement -> its probability.
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
    """Samples a sentence that is true of exactly two of four pairs.

    Args:
      pairs: the four pairs (left scene, right scene).
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
