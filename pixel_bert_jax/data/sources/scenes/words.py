"""The fixed vocabulary of captions, questions, answers and two-image statements.

Every word is one token. Checkpoints depend on the content and the order of `WORDS`: do
not change it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pixel_bert_jax.data.sources.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES

PLURALS: Mapping[str, str] = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "ring": "rings",
    "object": "objects",
}

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten"),
)

# For the metric of masked relations: the one word that decides each relation.
RELATIONS = ("left", "right", "above", "below", "larger", "smaller")

WORD_CLASSES: Mapping[str, frozenset[str]] = {
    "colour": frozenset(COLOURS),
    "shape": frozenset(SHAPES) | frozenset(PLURALS[shape] for shape in SHAPES),
    "size": frozenset(SIZES),
    "texture": frozenset(TEXTURES),
    "count": frozenset(NUMBERS),
    "relation": frozenset(RELATIONS),
}

# fmt: off
_OTHERS = (
    # punctuation
    ".", ",", "?", "!", ":", "'", "-",
    # articles, pronouns, determiners
    "a", "an", "the", "this", "that", "these", "it", "its", "they", "their", "i", "we",
    "you", "another", "other", "others", "each", "every", "all", "any", "some", "both",
    "either", "neither", "none", "no", "not", "nothing", "only", "exactly", "least",
    "most", "more", "less", "fewer", "many", "much", "few", "several", "half", "pair",
    "same", "different", "first", "second", "third", "last",
    # verbs
    "is", "are", "be", "do", "does", "has", "have", "can", "see", "show", "shows",
    "shown", "contain", "contains", "containing", "include", "includes", "including",
    "lies", "appears", "look", "looks", "find", "count", "name", "differ", "match",
    "matches", "share", "covers", "touches", "equal", "true", "false", "yes",
    # questions
    "what", "which", "who", "where", "when", "why", "how", "whether", "answer",
    "question",
    # prepositions, conjunctions, adverbs
    "of", "to", "in", "on", "at", "by", "with", "without", "from", "for", "among",
    "between", "beside", "next", "near", "nearest", "far", "over", "under", "behind",
    "front", "inside", "outside", "and", "or", "but", "nor", "than", "then", "as", "if",
    "also", "too", "there", "here", "together", "else", "about",
    # places
    "top", "bottom", "middle", "corner", "edge", "side", "row", "upper", "lower",
    "leftmost", "rightmost", "highest", "lowest", "background", "closer", "higher",
    "position",
    # images
    "picture", "pictures", "image", "images", "photo", "photos", "scene", "scenes",
    # things and properties
    "thing", "things", "colour", "colours", "color", "colors", "shape", "shapes",
    "size", "sizes", "texture", "textures", "pattern", "number", "total", "kind",
    "kinds", "big", "bigger", "biggest", "little", "largest", "smallest", "greater",
    "dark", "light", "orange", "black", "grey", "brown", "stripes", "dots",
)
# fmt: on

WORDS: tuple[str, ...] = tuple(
    sorted(
        {*PLURALS, *PLURALS.values(), *NUMBERS, *RELATIONS, *_OTHERS}
        | {*COLOURS, *SIZES, *TEXTURES}
    )
)
