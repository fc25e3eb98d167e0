"""The encoder against a plain numpy transcript of BERT's equations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from pixel_bert_jax.models.bert import Encoder, TextEmbedding, attend_to_similar
from pixel_bert_jax.models.heads import MaskedWordHead, MatchHead

RANDOM = np.random.default_rng(0)
FEATURES, HEADS, HIDDEN, TOKENS = 8, 2, 12, 6


def randomised(shapes):
    random = np.random.default_rng(1)

    def one(path, x):
        value = random.normal(0, 0.4, x.shape)
        return (value + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def norm(x, params):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * params["scale"] + params["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def dense(x, params):
    return x @ params["kernel"] + params["bias"]


def layer(x, mask, params):
    """One text [T, D]: softmax(Q K^T / sqrt(d)) V a head, post layer norm."""
    heads = []
    for n in range(HEADS):
        query, key, value = (
            x @ params[name]["kernel"][:, n] + params[name]["bias"][n]
            for name in ("query", "key", "value")
        )
        scores = np.exp(query @ key.T / math.sqrt(FEATURES / HEADS))
        scores = np.where(mask, scores, 0)
        heads.append(scores / scores.sum(-1, keepdims=True) @ value)
    x = norm(
        x + dense(np.concatenate(heads, -1), params["attention_out"]),
        params["attention_norm"],
    )
    inner = gelu(dense(x, params["hidden"]))
    return norm(x + dense(inner, params["out"]), params["output_norm"])


def test_encoder_equals_numpy():
    encoder = Encoder(2, FEATURES, HEADS, HIDDEN, 0.1, 0.02)
    x = RANDOM.normal(0, 1, (3, TOKENS, FEATURES)).astype(np.float32)
    mask = np.arange(TOKENS) < np.array([6, 4, 1])[:, None]
    init = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, mask, train=False))
    values = randomised(init)
    apply = jax.jit(lambda v, x, m: encoder.apply(v, x, m, train=False))
    got = apply(values, x, mask)
    params = jax.tree.map(lambda v: np.asarray(v, np.float64), values["params"])
    for row in range(3):
        want = x[row].astype(np.float64)
        for number in range(2):
            want = layer(want, mask[row], params[f"layer{number}"])
        np.testing.assert_allclose(np.asarray(got)[row], want, atol=2e-5)
    # What is masked reaches nothing, and a row without any token stays finite.
    dirty = np.where(mask[..., None], x, 50.0).astype(np.float32)
    other = apply(values, dirty, mask)
    np.testing.assert_array_equal(np.asarray(other)[mask], np.asarray(got)[mask])
    empty = apply(values, x, np.zeros_like(mask))
    assert np.isfinite(np.asarray(empty)).all()


def test_a_mask_of_each_query_blocks_what_it_says():
    encoder = Encoder(2, FEATURES, HEADS, HIDDEN, 0.1, 0.02)
    x = RANDOM.normal(0, 1, (3, TOKENS, FEATURES)).astype(np.float32)
    keys = np.arange(TOKENS) < np.array([6, 4, 5])[:, None]
    init = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, keys, train=False))
    values = randomised(init)
    apply = jax.jit(lambda x, m: encoder.apply(values, x, m, train=False))
    square = np.broadcast_to(keys[:, None], (3, TOKENS, TOKENS))
    whole = np.asarray(apply(x, keys))
    np.testing.assert_allclose(np.asarray(apply(x, square)), whole, atol=1e-6)
    # Two sequences side by side that do not see each other are two sequences.
    part = np.arange(TOKENS) < 2
    blocks = square & (part[:, None] == part)
    got = np.asarray(apply(x, blocks))
    apart = [np.asarray(apply(x, keys & half)) for half in (part, ~part)]
    want = np.where(part[:, None], *apart)
    np.testing.assert_allclose(got[keys], want[keys], atol=1e-6)
    assert np.abs(got - whole)[keys].max() > 1e-2
    # Rows are queries: what only looks back depends on nothing behind it.
    behind = square & np.tri(TOKENS, dtype=bool)
    changed = x.copy()
    changed[:, 3:] = 9.0
    first, second = (np.asarray(apply(one, behind)) for one in (x, changed))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (first[0, 3:] != second[0, 3:]).any()


def test_attention_can_start_with_what_is_alike():
    """Queries then score tokens by a positive semi-definite product."""
    features, heads = 32, 4
    encoder = Encoder(2, features, heads, HIDDEN, 0.0, 0.2)
    x = RANDOM.normal(0, 1, (8, features)).astype(np.float32)
    mask = np.ones((1, 8), bool)
    start = encoder.init(jax.random.key(0), x[None], mask, train=False)["params"]
    similar = attend_to_similar(start)
    for name, layer in start.items():
        kernel = np.asarray(layer["query"]["kernel"])
        np.testing.assert_array_equal(similar[name]["key"]["kernel"], kernel)
        assert (np.asarray(layer["key"]["kernel"]) != kernel).all()
        for part, values in layer.items():
            for leaf, value in values.items():
                same = similar[name][part][leaf] is value
                assert same == ((part, leaf) != ("key", "kernel"))
        # Summed over heads, a token scores itself above the others on average.
        query = np.einsum("td,dhe->the", x, kernel)
        scores = np.einsum("the,she->ts", query, query)
        own = np.diag(scores)
        assert own.min() > 0
        assert (own > scores.mean(1)).all()


def test_dropout_acts_in_training_alone():
    encoder = Encoder(1, FEATURES, HEADS, HIDDEN, 0.5, 0.02)
    x = RANDOM.normal(0, 1, (1, TOKENS, FEATURES)).astype(np.float32)
    mask = np.ones((1, TOKENS), bool)
    init = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, mask, train=False))
    values = randomised(init)

    @functools.partial(jax.jit, static_argnums=1)
    def run(seed, train):
        rngs = {"dropout": jax.random.key(seed)}
        return encoder.apply(values, x, mask, train=train, rngs=rngs)

    assert (np.asarray(run(0, True)) != np.asarray(run(1, True))).any()
    np.testing.assert_array_equal(run(0, True), run(0, True))
    np.testing.assert_array_equal(run(0, False), run(1, False))


def test_text_embedding_is_the_norm_of_word_and_position():
    module = TextEmbedding(11, 9, FEATURES, 0.0, 0.02)
    ids = RANDOM.integers(0, 11, (2, 3, TOKENS)).astype(np.int32)
    init = jax.eval_shape(lambda: module.init(jax.random.key(0), ids, train=False))
    values = randomised(init)
    params = values["params"]
    want = norm(params["word"][ids] + params["position"][:TOKENS], params["norm"])
    got = module.apply(values, ids, train=False)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_heads_equal_numpy():
    words = RANDOM.normal(0, 1, (11, FEATURES)).astype(np.float32)
    x = RANDOM.normal(0, 1, (5, FEATURES)).astype(np.float32)
    head = MaskedWordHead(FEATURES, 11, 0.02)
    values = randomised(jax.eval_shape(lambda: head.init(jax.random.key(0), x, words)))
    params = values["params"]
    inner = norm(gelu(dense(x, params["transform"])), params["norm"])
    got = head.apply(values, x, words)
    np.testing.assert_allclose(got, inner @ words.T + params["bias"], atol=1e-5)

    match = MatchHead(0.02)
    values = randomised(jax.eval_shape(lambda: match.init(jax.random.key(0), x)))
    want = dense(x, values["params"]["classifier"])
    np.testing.assert_allclose(match.apply(values, x), want, atol=1e-5)


def test_bfloat16_products_give_float32_logits():
    words = jnp.zeros((11, FEATURES))
    head = MaskedWordHead(FEATURES, 11, 0.02, jnp.dtype("bfloat16"))
    x = jnp.zeros((2, FEATURES), jnp.bfloat16)
    # Half-precision outputs meet float32 norms: the one place of mixed dtypes.
    with jax.numpy_dtype_promotion("standard"):
        out, values = jax.eval_shape(
            lambda: head.init_with_output(jax.random.key(0), x, words)
        )
    assert out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(values)} == {jnp.dtype("float32")}
