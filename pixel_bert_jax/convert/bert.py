"""BERT's published weights (Hugging Face's `BertModel`, `BertForPreTraining`, ...).

The segment vector of text folds into the positions, as the paper says of its own
implementation (section 3.1): position + token_type[0].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pixel_bert_jax.convert.rules import (
    LINEAR,
    VECTOR,
    Report,
    Rule,
    Table,
    export_weights,
    import_weights,
)
from pixel_bert_jax.convert.weights import Tensor
from pixel_bert_jax.types import InputError

PREFIX = "bert."
POSITION, WORD = "text/position", "text/word"
SEGMENTS = "embeddings.token_type_embeddings.weight"
DECODER = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
EPSILON_NAMES = (("weight", "bias"), ("gamma", "beta"))  # of layer norms, old files too


def _norm(there: str, here: str) -> list[Rule]:
    return [
        rule
        for scale, bias in EPSILON_NAMES
        for rule in (
            Rule(f"{there}.{scale}", f"{here}/scale"),
            Rule(f"{there}.{bias}", f"{here}/bias"),
        )
    ]


def _dense(there: str, here: str) -> list[Rule]:
    return [
        Rule(f"{there}.weight", f"{here}/kernel", LINEAR),
        Rule(f"{there}.bias", f"{here}/bias", VECTOR),
    ]


_LAYER, _HERE = "encoder.layer.{n}.", "encoder/layer{n}/"
TABLE = Table(
    name="BERT",
    prefix=PREFIX,
    rules=(
        Rule("embeddings.word_embeddings.weight", WORD),
        Rule("embeddings.position_embeddings.weight", POSITION),
        *_norm("embeddings.LayerNorm", "text/norm"),
        *_dense(f"{_LAYER}attention.self.query", f"{_HERE}query"),
        *_dense(f"{_LAYER}attention.self.key", f"{_HERE}key"),
        *_dense(f"{_LAYER}attention.self.value", f"{_HERE}value"),
        *_dense(f"{_LAYER}attention.output.dense", f"{_HERE}attention_out"),
        *_norm(f"{_LAYER}attention.output.LayerNorm", f"{_HERE}attention_norm"),
        *_dense(f"{_LAYER}intermediate.dense", f"{_HERE}hidden"),
        *_dense(f"{_LAYER}output.dense", f"{_HERE}out"),
        *_norm(f"{_LAYER}output.LayerNorm", f"{_HERE}output_norm"),
        *_dense("cls.predictions.transform.dense", "heads/mlm/transform"),
        *_norm("cls.predictions.transform.LayerNorm", "heads/mlm/norm"),
        Rule("cls.predictions.bias", "heads/mlm/bias"),
        # Of no use here: the pooler, next-sentence prediction, what is tied or fixed.
        Rule("pooler.dense.weight", ""),
        Rule("pooler.dense.bias", ""),
        Rule("cls.seq_relationship.weight", ""),
        Rule("cls.seq_relationship.bias", ""),
        Rule("embeddings.position_ids", ""),
    ),
    # Files of the bare encoder have no MLM head.
    optional=(r"heads/mlm/.*",),
    cut=(POSITION,),
)
PARTS = r"(text|encoder|heads/mlm)/.*"


def import_bert(
    weights: Mapping[str, Tensor], target: Mapping[str, tuple[int, ...]], where: str
) -> tuple[dict[str, np.ndarray], Report]:
    """Converts BERT's weights; see `rules.import_weights`.

    Raises:
      InputError: as there, or no segment embedding, or an MLM head whose decoder is not
        the word embedding.
    """
    weights = dict(weights)
    prefixed = {name.removeprefix(PREFIX): name for name in weights}
    if SEGMENTS not in prefixed:
        raise InputError(f"{where}: {SEGMENTS} is missing, which BERT's weights have")
    segments = weights.pop(prefixed[SEGMENTS])
    decoder = {name: weights.pop(name) for name in DECODER if name in weights}
    arrays, report = import_weights(weights, TABLE, target, where)
    if segments.shape[1:] != arrays[POSITION].shape[1:]:
        raise InputError(
            f"{where}: {SEGMENTS} is {segments.shape}, wanted (2, "
            f"{arrays[POSITION].shape[1]})"
        )
    arrays[POSITION] = arrays[POSITION] + np.asarray(segments.read()[0], np.float32)
    for name, path in zip(DECODER, (WORD, "heads/mlm/bias"), strict=True):
        tied = name not in decoder or path not in arrays
        if not tied and not np.array_equal(decoder[name].read(), arrays[path]):
            raise InputError(f"{where}: {name} is not tied to {report.loaded[path]}")
    return arrays, report


def export_bert(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns text embedding, encoder and MLM head under `BertForPreTraining`'s names.

    The segment vectors are zero: they are part of the positions.
    """
    out = {}
    for name, array in export_weights(arrays, TABLE).items():
        # The head's names have no prefix.
        bare = name.removeprefix(PREFIX)
        out[bare if bare.startswith("cls.") else name] = array
    out[PREFIX + SEGMENTS] = np.zeros((2, arrays[WORD].shape[1]), np.float32)
    return out
