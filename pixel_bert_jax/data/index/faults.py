"""Reports on an index: faults of its images, images left out, and unknown words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pixel_bert_jax.data.index.blocks import REBUILD
from pixel_bert_jax.data.index.index import Index
from pixel_bert_jax.data.sources.base import MISSING, SHOWN, Problems
from pixel_bert_jax.types import BadImageBudgetError

BROKEN = "broken image file"
UNKNOWN_WARN = 0.05
"""Share of unknown tokens of a corpus above which every opening warns about them."""


class Unknown:
    """Counts the tokens of a corpus that are [UNK], with examples of their words."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._tokens = self._all = 0
        self._words: dict[str, None] = {}

    def add(self, texts: Sequence[str], encoded: Sequence[np.ndarray]) -> None:
        """Counts the unknown tokens of texts, given the ids of each text."""
        ids = np.concatenate(encoded)
        self._all += len(ids) - 2 * len(encoded)  # without [CLS] and [SEP]
        found = int((ids == self._tokenizer.unk_id).sum())
        self._tokens += found
        if found and len(self._words) < SHOWN:
            for text, of_text in zip(texts, encoded, strict=True):
                if (of_text == self._tokenizer.unk_id).any():
                    self._words |= dict.fromkeys(self._tokenizer.unknown_words(text))

    def entry(self) -> dict[str, Any]:
        """Returns the number of unknown tokens, their share of all, and some words."""
        share = self._tokens / max(self._all, 1)
        words = list(self._words)[:SHOWN]
        return {"tokens": self._tokens, "share": share, "words": words}


def raise_if_any(problems: Problems) -> None:
    """Raises InputError with all faults of an index's sources, if there are any."""
    images = sum(problems.count[kind] for kind in (MISSING, BROKEN))
    title = "The index was not built"
    if images:
        title += (
            f" (data.on_bad_image='skip' leaves the {images:,} images that are missing "
            "or broken out, within data.bad_image_budget)"
        )
    problems.raise_if_any(title)


def check_budget(
    left_out: Sequence[tuple[int, str, str]],
    kept: int,
    names: Sequence[str],
    budget: float,
) -> None:
    """Checks that an index leaves out at most a given share of all images.

    Args:
      left_out: (corpus, key, reason) of each image that is left out.
      kept: number of all other images.
      names: names of the corpora.
      budget: greatest share.

    Raises:
      BadImageBudgetError: the share is greater.
    """
    total = kept + len(left_out)
    if len(left_out) <= budget * total:
        return
    shown = [f"  corpus {names[c]!r}, {key}: {why}" for c, key, why in left_out[:SHOWN]]
    raise BadImageBudgetError(
        f"{len(left_out):,} of {total:,} images are missing or broken, more than "
        f"data.bad_image_budget={budget} allows; the first {len(shown)}:\n"
        + "\n".join(shown)
    )


def warn(index: Index) -> None:
    """Prints warnings about an opened index."""
    lines = []
    for c, name in enumerate(index.corpora):
        mine = [(key, why) for corpus, key, why in index.left_out if corpus == c]
        if mine:
            texts = index.texts_left_out[name]
            lines.append(
                f"corpus {name!r}: {len(mine):,} images, missing or broken when the "
                f"index was built, are left out with {texts:,} texts: "
                + "; ".join(f"{key}: {why}" for key, why in mine[:SHOWN])
                + f"; --rebuild_index looks again ({index.folder})"
            )
        unknown = index.header.get("unknown", {}).get(name, {})
        if unknown.get("share", 0.0) > UNKNOWN_WARN:
            lines.append(
                f"corpus {name!r}: {unknown['share']:.1%} of its tokens are [UNK], "
                f"words that the vocabulary does not have, such as "
                f"{', '.join(map(repr, unknown['words']))}; is data.tokenizer the one "
                "of this language?"
            )
        if index.sources[c].upright and not index.upright[c]:
            lines.append(
                f"corpus {name!r}: its index is from before photos were turned upright "
                f"by their EXIF orientation, and they are not; {REBUILD}"
            )
    for line in lines:
        print(f"warning: {line}", file=sys.stderr, flush=True)
