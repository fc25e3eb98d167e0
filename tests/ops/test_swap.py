"""Partners of the swap against a brute-force reading of the rule."""

import jax
import numpy as np
import pytest

from pixel_bert_jax.ops.swap import partners


def random_slots(seed, slots=40, corpora=3, pictures=12, holes=0.2):
    """Slots of several corpora with repeated pictures, some of them holes."""
    random = np.random.default_rng(seed)
    bits_of = random.integers(0, 2**32, pictures, dtype=np.uint32)
    if seed % 2:
        bits_of[: pictures // 2] = bits_of[0]  # equal bits: image_id decides
    image_id = random.integers(0, pictures, slots).astype(np.int32)
    return {
        "bits": bits_of[image_id],
        "image_id": image_id,
        "corpus": random.integers(0, corpora, slots).astype(np.int32),
        "example_id": np.stack(
            [random.integers(0, 3, slots), random.permutation(slots)], axis=1
        ).astype(np.uint32),
        "real": random.random(slots) >= holes,
    }


def reference(bits, image_id, corpus, example_id, real):
    """Architecture's rule, one corpus and one slot at a time."""
    partner = np.arange(len(real))
    found = np.zeros(len(real), bool)
    for c in np.unique(corpus[real]):
        members = np.flatnonzero(real & (corpus == c))
        members = sorted(
            members,
            key=lambda i: (bits[i], image_id[i], example_id[i, 0], example_id[i, 1]),
        )
        largest = np.bincount(image_id[members]).max()
        for rank, slot in enumerate(members):
            other = members[(rank + largest) % len(members)]
            if image_id[other] != image_id[slot]:
                partner[slot], found[slot] = other, True
    return partner, found


PARTNERS = jax.jit(partners)


def run(slots):
    got = PARTNERS(**slots)
    return tuple(np.asarray(x) for x in got)


@pytest.mark.parametrize("seed", range(8))
def test_partners_follow_the_rule(seed):
    slots = random_slots(seed)
    got, want = run(slots), reference(**slots)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
    assert want[1].any()


@pytest.mark.parametrize("seed", range(8))
def test_a_partner_is_real_of_the_same_corpus_and_another_picture(seed):
    slots = random_slots(seed, corpora=2)
    partner, found = run(slots)
    assert not (found & ~slots["real"]).any()
    there = partner[found]
    assert slots["real"][there].all()
    assert (slots["corpus"][there] == slots["corpus"][found]).all()
    assert (slots["image_id"][there] != slots["image_id"][found]).all()
    np.testing.assert_array_equal(partner[~found], np.flatnonzero(~found))
    # Nobody is the partner of two.
    assert len(np.unique(there)) == len(there)


def test_every_slot_finds_a_partner_when_no_picture_has_more_than_half():
    slots = random_slots(0, slots=10, corpora=1, pictures=2, holes=0)
    slots["image_id"] = np.repeat([0, 1], 5).astype(np.int32)
    slots["bits"] = slots["image_id"].astype(np.uint32)
    assert run(slots)[1].all()
    # With 6 of 10, the ones of the larger picture that map into it find none.
    slots["image_id"][5] = 0
    slots["bits"][5] = 0
    assert run(slots)[1].sum() == 8


@pytest.mark.parametrize("real", [[], [2], [0, 1, 2, 3]])
def test_a_single_picture_finds_no_partner(real):
    slots = random_slots(0, slots=4, corpora=1, pictures=1)
    slots["real"] = np.isin(np.arange(4), real)
    assert not run(slots)[1].any()


def test_permuting_the_slots_permutes_the_partners():
    slots = random_slots(3)
    order = np.random.default_rng(9).permutation(len(slots["real"]))
    place = np.argsort(order)
    partner, found = run(slots)
    moved_partner, moved_found = run({name: x[order] for name, x in slots.items()})
    np.testing.assert_array_equal(moved_found, found[order])
    real = slots["real"][order]
    np.testing.assert_array_equal(moved_partner[real], place[partner[order]][real])
