"""Imported weights against outputs of torch that are stored: needs no torch."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax import trees
from pixel_bert_jax.convert import bert, resnet
from pixel_bert_jax.convert.weights import Tensor
from pixel_bert_jax.models.bert import Encoder, TextEmbedding
from pixel_bert_jax.models.heads import MaskedWordHead
from pixel_bert_jax.models.resnet import ResNet

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = 1e-4  # of activations of unit variance


def golden(name):
    """Returns the weights as `open_weights` lists them, and the other arrays."""
    with np.load(FOLDER / f"{name}.npz") as file:
        content = dict(file)
    weights = {
        key.removeprefix("weight:"): Tensor(x.shape, lambda x=x: x)
        for key, x in content.items()
        if key.startswith("weight:")
    }
    return weights, content


def shapes(tree):
    flat = trees.flatten(jax.eval_shape(tree))
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def close(ours, theirs):
    scale = theirs.std()
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=TOLERANCE, rtol=0)


def test_bert():
    weights, content = golden("bert")
    vocab, width = content["weight:bert.embeddings.word_embeddings.weight"].shape
    embedding = TextEmbedding(vocab, 24, width, 0.0, 0.02)
    encoder = Encoder(3, width, 4, 64, 0.0, 0.02)
    head = MaskedWordHead(width, vocab, 0.02)
    key, x = jax.random.key(0), jnp.zeros((1, 7, width))
    ids, mask = content["ids"], content["mask"].astype(bool)

    def make():
        real = jnp.ones((1, 7), bool)
        return {
            "text": embedding.init(key, ids, train=False)["params"],
            "encoder": encoder.init(key, x, real, train=False)["params"],
            "heads": {"mlm": head.init(key, x, jnp.zeros((vocab, width)))["params"]},
        }

    arrays, report = bert.import_bert(weights, shapes(make), "golden")
    assert not report.missing and len(report.loaded) == len(arrays)
    params = trees.unflatten(arrays)
    hidden = embedding.apply({"params": params["text"]}, ids, train=False)
    close(np.asarray(hidden)[mask], content["hidden0"][mask])
    hidden = encoder.apply(
        {"params": params["encoder"]}, hidden, jnp.asarray(mask), train=False
    )
    close(np.asarray(hidden)[mask], content["hidden3"][mask])
    logits = head.apply(
        {"params": params["heads"]["mlm"]}, hidden, params["text"]["word"]
    )
    close(np.asarray(logits)[mask], content["logits"][mask])


@pytest.mark.parametrize("canvas", [(43, 65), (64, 96)])
def test_resnext(canvas):
    weights, content = golden("resnext")
    module = ResNet((1, 1), (16, 32), (1, 2), (8, 16), 2, "conv7_pool", "frozen")
    image = content["image"].transpose(0, 2, 3, 1)
    height, width = image.shape[1:3]
    padded = np.zeros((1, *canvas, 3), np.float32)
    padded[:, :height, :width] = image
    size = jnp.array([[height, width]], jnp.int32)

    def make():
        made = module.init(jax.random.key(0), jnp.asarray(padded), size, train=False)
        return {c: {"backbone": made[c]} for c in ("params", "batch_stats")}

    arrays, report = resnet.import_resnet(
        weights, shapes(make), "golden", groups=2, norm="frozen"
    )
    assert not report.missing and len(report.loaded) == len(arrays)
    tree = trees.unflatten(arrays)
    variables = {c: tree[c]["backbone"] for c in ("params", "batch_stats")}
    features, valid = module.apply(variables, padded, size, train=False)
    wanted = content["stage2"].transpose(0, 2, 3, 1)
    assert valid.tolist() == [list(wanted.shape[1:3])]
    close(np.asarray(features)[:, : wanted.shape[1], : wanted.shape[2]], wanted)
