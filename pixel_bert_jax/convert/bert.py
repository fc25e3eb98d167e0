"""BERT's published weights (Hugging Face's `BertModel`, `BertForPreTraining`, ...).

The segment embedding of text, token_type[0], is added to the position embeddings, as in
the paper's implementation (arXiv 2004.00849, section 3.1).
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
from pixel_bert_jax.convert.tensors import Tensor
from pixel_bert_jax.types import InputError

PREFIX = "bert."
POSITION, WORD = "text/position", "text/word"
SEGMENTS = "embeddings.token_type_embeddings.weight"
DECODER, DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
HEAD, BIAS = "cls.predictions.", "cls.predictions.bias"
NORM_NAMES = (("weight", "bias"), ("gamma", "beta"))  # the latter in old files


def _norm(source: str, path: str) -> list[Rule]:
    return [
        rule
        for scale, bias in NORM_NAMES
        for rule in (
            Rule(f"{source}.{scale}", f"{path}/scale"),
            Rule(f"{source}.{bias}", f"{path}/bias"),
        )
    ]


def _dense(source: str, path: str) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{path}/kernel", LINEAR),
        Rule(f"{source}.bias", f"{path}/bias", VECTOR),
    ]


_LAYER, _PATH = "encoder.layer.{n}.", "encoder/layer{n}/"
TABLE = Table(
    name="BERT",
    prefix=PREFIX,
    rules=(
        Rule("embeddings.word_embeddings.weight", WORD),
        Rule("embeddings.position_embeddings.weight", POSITION),
        *_norm("embeddings.LayerNorm", "text/norm"),
        *_dense(f"{_LAYER}attention.self.query", f"{_PATH}query"),
        *_dense(f"{_LAYER}attention.self.key", f"{_PATH}key"),
        *_dense(f"{_LAYER}attention.self.value", f"{_PATH}value"),
        *_dense(f"{_LAYER}attention.output.dense", f"{_PATH}attention_out"),
        *_norm(f"{_LAYER}attention.output.LayerNorm", f"{_PATH}attention_norm"),
        *_dense(f"{_LAYER}intermediate.dense", f"{_PATH}hidden"),
        *_dense(f"{_LAYER}output.dense", f"{_PATH}out"),
        *_norm(f"{_LAYER}output.LayerNorm", f"{_PATH}output_norm"),
        *_dense("cls.predictions.transform.dense", "heads/mlm/transform"),
        *_norm("cls.predictions.transform.LayerNorm", "heads/mlm/norm"),
        Rule("cls.predictions.bias", "heads/mlm/bias"),
        # Not used: the pooler, next-sentence prediction, a constant.
        Rule("pooler.dense.weight", ""),
        Rule("pooler.dense.bias", ""),
        Rule("cls.seq_relationship.weight", ""),
        Rule("cls.seq_relationship.bias", ""),
        Rule("embeddings.position_ids", ""),
    ),
    # Files of `BertModel` have no MLM head; `import_bert` rejects half a head.
    optional=(r"heads/mlm/.*",),
    cut=(POSITION,),
)
PARTS = r"(text|encoder|heads/mlm)/.*"


def import_bert(
    weights: Mapping[str, Tensor], target: Mapping[str, tuple[int, ...]], where: str
) -> tuple[dict[str, np.ndarray], Report]:
    """Converts BERT's weights; see `rules.import_weights`.

    Raises:
      InputError: as `import_weights`; also if the segment embeddings or a part of the
        MLM head are missing, or its decoder is not tied to the word embeddings.
    """
    weights = dict(weights)
    prefixed = {name.removeprefix(PREFIX): name for name in weights}
    if SEGMENTS not in prefixed:
        raise InputError(f"{where}: {SEGMENTS} is missing, which BERT's weights have")
    segments = weights.pop(prefixed[SEGMENTS])
    tied = {}
    if decoder := weights.pop(DECODER, None):
        tied[WORD] = decoder
    if DECODER_BIAS in weights:  # another name of BIAS; a file may have either or both
        tied["heads/mlm/bias"] = weights.pop(DECODER_BIAS)
        weights.setdefault(BIAS, tied["heads/mlm/bias"])
    head = [path for path in target if path.startswith("heads/")]
    if not head:  # the run has no MLM
        weights = {n: x for n, x in weights.items() if not n.startswith(HEAD)}
        tied.pop("heads/mlm/bias", None)
    arrays, report = import_weights(weights, TABLE, target, where)
    if report.missing and len(report.missing) < len(head):
        raise InputError(f"{where}: of its MLM head {report.missing[0]} is missing")
    width = arrays[POSITION].shape[1]
    if len(segments.shape) != 2 or not segments.shape[0] or segments.shape[1] != width:
        raise InputError(
            f"{where}: {SEGMENTS}: received {segments.shape}, expected (2, {width})"
        )
    arrays[POSITION] = arrays[POSITION] + np.asarray(segments.read()[0], np.float32)
    for path, tensor in tied.items():
        if not np.array_equal(np.asarray(tensor.read(), np.float32), arrays[path]):
            raise InputError(
                f"{where}: its decoder is not tied to {report.loaded[path]}"
            )
    return arrays, report


def export_bert(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns text embedding, encoder and MLM head under `BertForPreTraining`'s names.

    The segment embeddings are zero, because the positions include them.
    """
    out = {
        name.replace(PREFIX + "cls.", "cls."): array  # the head's names have no prefix
        for name, array in export_weights(arrays, TABLE).items()
    }
    out[PREFIX + SEGMENTS] = np.zeros((2, arrays[WORD].shape[1]), np.float32)
    return out
