"""Fixed partners for evaluation: for every item one that shows another picture."""

from __future__ import annotations

import numpy as np

from pixel_bert_jax.data.permutations import permutation, shuffle_segments


def choose_partners(bits: np.random.PCG64, pictures: np.ndarray) -> np.ndarray:
    """Returns for every item the index of an item of another picture.

    The items are put in a cyclic order: pictures at random, each one's items together
    and at random. With m the largest number of items of one picture, the partner of
    rank i is rank i + m: another picture whenever there are at least 2 m items. The
    few that still meet their own picture are spread over the items of all others. The
    training objective swaps texts by the same rule.

    Args:
      bits: source of randomness (`permutations.stream`).
      pictures: int [N] picture of each item.

    Returns:
      int64 [N]; all -1 if every item shows the same picture.
    """
    count = len(pictures)
    _, picture, counts = np.unique(pictures, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return np.full(count, -1, np.int64)
    place = permutation(bits, len(counts))  # of each picture in the order
    sizes = np.empty_like(counts)
    sizes[place] = counts
    ends = np.cumsum(sizes)
    inside = np.empty(count, np.int64)
    shuffle_segments(bits, np.concatenate([[0], ends]), inside)
    order = np.argsort(place[picture], kind="stable")[inside]  # rank -> item

    rank = np.arange(count)
    block = np.repeat(np.arange(len(sizes)), sizes)
    partner = (rank + counts.max()) % count
    met = block[partner] == block
    end, size = ends[block[met]], sizes[block[met]]
    partner[met] = (end + (rank[met] - end + size) % (count - size)) % count
    result = np.empty(count, np.int64)
    result[order] = order[partner]
    return result
