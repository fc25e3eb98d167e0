import itertools
from collections import Counter

import numpy as np

from pixel_bert_jax.data.plan import permutations


def test_segments_are_shuffled_uniformly(monkeypatch):
    monkeypatch.setattr(permutations, "_CHUNK", 1000)  # many chunks, uneven ends
    count = 12_000
    out = np.empty(3 * count, np.int32)
    offsets = np.arange(count + 1) * 3
    permutations.shuffle_segments(permutations.stream(1, 2), offsets, out)
    inside = out.reshape(count, 3) - offsets[:-1, None]
    found = Counter(map(tuple, inside.tolist()))
    assert set(found) == set(itertools.permutations(range(3)))
    expected = count / 6
    chi_square = sum((n - expected) ** 2 / expected for n in found.values())
    assert chi_square < 20.5  # 5 degrees of freedom, p = 0.001


def test_segments_of_any_length(monkeypatch):
    monkeypatch.setattr(permutations, "_CHUNK", 16)
    lengths = np.array([0, 40, 0, 0, 1, 15, 16, 17, 0, 2, 3, 0])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    out = np.full(lengths.sum(), -1, np.int32)
    permutations.shuffle_segments(permutations.stream(1), offsets, out)
    for begin, end in itertools.pairwise(offsets):
        assert sorted(out[begin:end]) == list(range(begin, end))
