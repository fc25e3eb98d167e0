"""Seeded permutations that are the same on every machine, process and numpy version.

numpy promises stable streams for its *bit generators* only, not for
`Generator.permutation` or `shuffle`. So every permutation of the data plan sorts
unique 64-bit keys: random bits above, an index below. Unique keys have one sorted
order, whatever sorting algorithm numpy picks for the processor. The index bits leave
at least 28 random ones in every use here; equal random bits are merely ordered by
index.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Items sorted at a time, so that keys stay in cache and memory stays flat. It decides
# which bits of a draw are used: another value is another `plan.FORMAT`.
_CHUNK = 1 << 18


def stream(*seed: int) -> np.random.PCG64:
    """Returns the bit generator of a tuple of non-negative integers."""
    return np.random.PCG64(np.random.SeedSequence(seed))


def permutation(bits: np.random.PCG64, count: int) -> np.ndarray:
    """Returns a random permutation of range(count), int64 [count]."""
    mask = _index_mask(count)
    keys = bits.random_raw(count) & ~mask
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    return (keys & mask).astype(np.int64)


def shuffle_segments(
    bits: np.random.PCG64, offsets: np.ndarray, out: np.ndarray
) -> None:
    """Writes range(len(out)) into `out`, shuffled inside each segment.

    Args:
      bits: source of randomness; consumes one draw an item.
      offsets: int64 [S + 1], ascending; segment s is offsets[s]:offsets[s + 1].
      out: integers [offsets[-1]], overwritten.
    """
    for first, last in _chunks(offsets):
        begin, end = int(offsets[first]), int(offsets[last])
        lengths = np.diff(offsets[first : last + 1])
        index_mask = _index_mask(end - begin)
        segment_mask = _index_mask(last - first)
        # segment | random | index, from the highest bit to the lowest
        keys = bits.random_raw(end - begin)
        keys >>= np.uint64(int(segment_mask).bit_length())
        keys &= ~index_mask
        keys |= np.arange(end - begin, dtype=np.uint64)
        segments = np.arange(last - first, dtype=np.uint64)
        if segment_mask:  # numpy leaves a shift by all 64 bits undefined
            segments <<= np.uint64(64 - int(segment_mask).bit_length())
        keys |= np.repeat(segments, lengths)
        keys.sort()
        keys &= index_mask
        out[begin:end] = keys
        out[begin:end] += out.dtype.type(begin)


def _chunks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields ranges of whole segments that hold about `_CHUNK` items each."""
    first, segments = 0, len(offsets) - 1
    while first < segments:
        limit = int(offsets[first]) + _CHUNK
        last = int(np.searchsorted(offsets, limit, side="right")) - 1
        last = min(max(last, first + 1), segments)
        yield first, last
        first = last


def _index_mask(count: int) -> np.uint64:
    """Returns the mask of the low bits that number `count` items."""
    return np.uint64((1 << max(count - 1, 0).bit_length()) - 1)
