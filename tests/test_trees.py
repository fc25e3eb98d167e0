"""Parameter paths and rules over them."""

import pytest

from pixel_bert_jax import trees
from pixel_bert_jax.types import InputError

TREE = {
    "backbone": {"stem": {"kernel": 1}, "stage_1": {"norm": {"scale": 2, "bias": 3}}},
    "encoder": {"layer_0": {"kernel": 4, "bias": None}},
}
PATHS = (
    "backbone/stem/kernel",
    "backbone/stage_1/norm/scale",
    "backbone/stage_1/norm/bias",
    "encoder/layer_0/kernel",
    "encoder/layer_0/bias",
)


def test_flatten_keeps_order_and_round_trips():
    flat = trees.flatten(TREE)
    assert tuple(flat) == PATHS
    assert flat["encoder/layer_0/bias"] is None
    assert trees.unflatten(flat) == TREE


def test_sequences_are_leaves():
    assert trees.flatten({"a": {"b": [1, 2]}, "c": ()}) == {"a/b": [1, 2], "c": ()}


def test_first_match_wins():
    rules = [(r".*/bias", "no decay"), (r"backbone/.*", "sgd"), (r".*", "adamw")]
    assert list(trees.match_rules(rules, PATHS).values()) == [
        "sgd",
        "sgd",
        "no decay",
        "adamw",
        "no decay",
    ]
    # The same rules in another order decide otherwise.
    assert set(trees.match_rules(rules[::-1], PATHS).values()) == {"adamw"}


def test_pattern_must_match_the_whole_path():
    rules = [(r"backbone", 1), (r"bias", 2), (r".*", 3)]
    assert set(trees.match_rules(rules, PATHS).values()) == {3}


def test_unmatched_paths_are_listed_with_the_rules():
    with pytest.raises(InputError) as caught:
        trees.match_rules([(r"backbone/.*", 1), (r"encoder/.*/kernel", 2)], PATHS)
    text = str(caught.value)
    assert "'encoder/layer_0/bias'" in text
    assert "'encoder/layer_0/kernel'" not in text
    assert "'backbone/.*'" in text and "'encoder/.*/kernel'" in text


def test_broken_pattern_is_named():
    with pytest.raises(InputError, match=r"'backbone/\('"):
        trees.match_rules([("backbone/(", 1)], PATHS)


def test_unused_rules_include_shadowed_ones():
    rules = [(r"backbone/.*", 1), (r"backbone/stem/.*", 2), (r"neck/.*", 3), (".*", 4)]
    assert trees.unused_rules(rules, PATHS) == (r"backbone/stem/.*", r"neck/.*")
    assert trees.unused_rules([(".*", 1)], PATHS) == ()
