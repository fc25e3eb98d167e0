"""The best predictions of words and matches from a scene: the ceiling of metrics.

They are exact sums over the grammar from which the captions are sampled, given the
objects of the scene and not its pixels. Only the rejection of repeated captions of a
scene is neglected: each caption counts as sampled independently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from pixel_bert_jax.data.sources.scenes.text import Choice, Grammar, Slots
from pixel_bert_jax.data.sources.scenes.world import Scene
from pixel_bert_jax.types import InputError


class _Reader:
    """Parses one caption, some words of which are hidden."""

    def __init__(self, words: Sequence[str], hidden: Collection[int]):
        hidden = set(hidden)
        if hidden - set(range(len(words))):
            raise InputError(
                f"expected hidden positions from 0 to {len(words) - 1}, received "
                f"{sorted(hidden)}"
            )
        self.visible = [None if i in hidden else word for i, word in enumerate(words)]
        self._fits: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def fits(self, slot: Choice, start: int) -> list[tuple[int, int]]:
        """Returns (index, end) of the alternatives that fit the words at `start`."""
        key = (id(slot), start)  # the grammar shares slots between bindings
        if key not in self._fits:
            self._fits[key] = [
                (number, start + len(words))
                for number, words in enumerate(slot.alternatives)
                if start + len(words) <= len(self.visible)
                and all(
                    seen is None or seen == word
                    for seen, word in zip(self.visible[start:], words, strict=False)
                )
            ]
        return self._fits[key]

    def forward(self, slots: Slots) -> list[dict[int, float]]:
        """Computes the forward weights of the forward-backward algorithm.

        Returns:
          {position: probability that the earlier slots produce the words before it} for
          each slot and for the end; [] if the slots cannot produce the caption.
        """
        steps: list[dict[int, float]] = [{0: 1.0}]
        for slot in slots:
            after: dict[int, float] = {}
            for start, weight in steps[-1].items():
                for number, end in self.fits(slot, start):
                    after[end] = after.get(end, 0.0) + weight * slot.weights[number]
            if not after:
                return []
            steps.append(after)
        return steps if len(self.visible) in steps[-1] else []

    def readings(self, slots: Slots) -> Iterator[tuple[int, str, float]]:
        """Yields (position, word, probability) of all parses, by a backward pass."""
        steps = self.forward(slots)
        if not steps:
            return
        beyond = {len(self.visible): 1.0}
        for slot, before in zip(reversed(slots), reversed(steps[:-1]), strict=True):
            earlier: dict[int, float] = {}
            for start, weight in before.items():
                for number, end in self.fits(slot, start):
                    rest = slot.weights[number] * beyond.get(end, 0.0)
                    if rest:
                        earlier[start] = earlier.get(start, 0.0) + rest
                        for offset, word in enumerate(slot.alternatives[number]):
                            yield start + offset, word, weight * rest
            beyond = earlier


def oracle_words(
    scene: Scene | Grammar, words: Sequence[str], hidden: Sequence[int]
) -> list[str]:
    """Returns the most probable word at each hidden position, given all visible words.

    What `words` has at hidden positions is ignored. Of equally probable words, the
    alphabetically first is returned.

    Raises:
      InputError: no caption of the scene agrees with the visible words, or a hidden
        position is outside the caption.
    """
    grammar = scene if isinstance(scene, Grammar) else Grammar(scene)
    reader = _Reader(words, hidden)
    posterior: dict[int, Counter[str]] = {position: Counter() for position in hidden}
    for weight, slots in grammar.derivations():
        for position, word, share in reader.readings(slots):
            if position in posterior:
                posterior[position][word] += weight * share
    if not all(posterior.values()):
        raise InputError(
            f"no caption of this scene agrees with {reader.visible} (None is hidden)"
        )
    return [
        min(
            posterior[position],
            key=lambda word, at=position: (-posterior[at][word], word),
        )
        for position in hidden
    ]


def oracle_match(
    scene: Scene | Grammar, words: Sequence[str], hidden: Sequence[int] = ()
) -> bool:
    """Returns whether the scene has a caption that agrees with the visible words."""
    grammar = scene if isinstance(scene, Grammar) else Grammar(scene)
    reader = _Reader(words, hidden)
    return any(reader.forward(slots) for _, slots in grammar.derivations())


def oracle_likelihood(scene: Scene | Grammar, words: Sequence[str]) -> float:
    """Returns the probability of a caption, given the scene."""
    grammar = scene if isinstance(scene, Grammar) else Grammar(scene)
    reader, total = _Reader(words, ()), 0.0
    for weight, slots in grammar.derivations():
        if steps := reader.forward(slots):
            total += weight * steps[-1][len(words)]
    return total


class SceneOracle:
    """The oracle of one scene, whose grammar is built once."""

    def __init__(self, scene: Scene):
        self._grammar = Grammar(scene)

    def words(self, words: Sequence[str], hidden: Sequence[int]) -> list[str]:
        """Returns `oracle_words` of the scene."""
        return oracle_words(self._grammar, words, hidden)

    def match(self, words: Sequence[str]) -> bool:
        """Returns `oracle_match` of the scene."""
        return oracle_match(self._grammar, words)

    def likelihood(self, words: Sequence[str]) -> float:
        """Returns `oracle_likelihood` of the scene."""
        return oracle_likelihood(self._grammar, words)
