"""Fixed partners for evaluation: for every item one that shows another image.

They depend on the seed and on the corpus they stay in, never on how texts are grouped
or batched, so that no figure depends on the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixel_bert_jax.data.plan.layout import Layout
from pixel_bert_jax.data.plan.permutations import permutation, shuffle_segments, stream
from pixel_bert_jax.data.plan.types import Corpus

_NEGATIVES, _OTHERS = 4, 5  # what a stream is for; `plan` has the numbers before


def text_partners(seed: int, corpora: Sequence[Corpus]) -> list[np.ndarray]:
    """Returns, a corpus, the row of each text's negative or -1; int64 [T]."""
    return [
        choose_partners(
            stream(seed, _NEGATIVES, c), np.asarray(corpus.image_ids)[corpus.text_set]
        )
        for c, corpus in enumerate(corpora)
    ]


def set_partners(seed: int, corpora: Sequence[Corpus], layout: Layout) -> np.ndarray:
    """Returns for each image set another of its corpus and bucket, or -1.

    Units are numbered through all corpora, as in `layout`; int64 [U].
    """
    other = np.full(len(layout.set_images), -1, np.int64)
    for c, corpus in enumerate(corpora):
        first, last = layout.corpus_set[c : c + 2]
        for b, bucket in enumerate(layout.buckets):
            image_sets = np.flatnonzero(layout.set_bucket[first:last] == b)
            # Keyed by shape: another corpus may add buckets and so move the number b.
            bits = stream(seed, _OTHERS, c, *bucket.canvas, bucket.source)
            chosen = choose_partners(bits, np.asarray(corpus.image_ids)[image_sets])
            other[first + image_sets] = np.where(
                chosen < 0, -1, first + image_sets[chosen]
            )
    return other


def choose_partners(bits: np.random.PCG64, image_ids: np.ndarray) -> np.ndarray:
    """Returns for every item the index of an item of another image.

    The items are put in a cyclic order: images at random, each one's items together
    and at random. With m the largest number of items of one image, the partner of
    rank i is rank i + m: another image whenever there are at least 2 m items. The
    few that still meet their own image are spread over the items of all others. The
    training objective swaps texts by the same rule.

    Args:
      bits: source of randomness (`permutations.stream`).
      image_ids: int [N] image of each item.

    Returns:
      int64 [N]; all -1 if every item shows the same image.
    """
    count = len(image_ids)
    _, image_id, counts = np.unique(image_ids, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return np.full(count, -1, np.int64)
    place = permutation(bits, len(counts))  # of each image in the order
    sizes = np.empty_like(counts)
    sizes[place] = counts
    ends = np.cumsum(sizes)
    inside = np.empty(count, np.int64)
    shuffle_segments(bits, np.concatenate([[0], ends]), inside)
    order = np.argsort(place[image_id], kind="stable")[inside]  # rank -> item

    rank = np.arange(count)
    block = np.repeat(np.arange(len(sizes)), sizes)
    partner = (rank + counts.max()) % count
    met = block[partner] == block
    end, size = ends[block[met]], sizes[block[met]]
    partner[met] = (end + (rank[met] - end + size) % (count - size)) % count
    result = np.empty(count, np.int64)
    result[order] = order[partner]
    return result
