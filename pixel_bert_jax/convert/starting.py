"""Starting weights of a run: `init.text` and `init.cnn`.

A weight names a file, a folder, or a model on the Hugging Face hub; see `hub.fetch`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax import trees
from pixel_bert_jax.convert import bert, resnet
from pixel_bert_jax.convert.hub import fetch
from pixel_bert_jax.convert.rules import Report
from pixel_bert_jax.convert.weights import FILES, open_weights
from pixel_bert_jax.data.text import VOCABULARY_FILE, load_tokenizer
from pixel_bert_jax.types import InputError

CONFIG = "config.json"
# Field of BERT's config.json -> field of config.model, and values that are built in.
BERT_FIELDS = {
    "hidden_size": "features",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
}
BERT_FIXED = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
RESNET_FIXED = {"hidden_act": "relu", "downsample_in_bottleneck": False}
PARAMS = "params" + trees.SEPARATOR
# Weights -> what is fetched with them, of a model that is split over files too.
WANTED = {
    file: (CONFIG, VOCABULARY_FILE, f"{file}*", f"{Path(file).stem}-*")
    for file in FILES
}


def load(
    init: Mapping[str, str],
    model: Mapping[str, Any],
    shapes: Mapping[str, Any],
    vocabulary: Sequence[str],
) -> tuple[dict[str, np.ndarray], dict[str, Report]]:
    """Loads the parts that `init.text` and `init.cnn` name.

    Args:
      init: config.init.
      model: config.model.
      shapes: {"params", "batch_stats"}, nested shapes of the whole model.
      vocabulary: tokens of the run's tokenizer.

    Returns:
      {path: array} with "params/..." and "batch_stats/..." paths, to replace those of a
      new model, and a report for each part that is named.

    Raises:
      InputError: something does not fit; nothing is returned then.
    """
    flat = {path: tuple(leaf.shape) for path, leaf in trees.flatten(shapes).items()}
    arrays: dict[str, np.ndarray] = {}
    reports = {}
    if init["text"]:
        path = fetch(init["text"], WANTED)
        _check_config(path, BERT_FIXED, BERT_FIELDS, model)
        _check_vocabulary(path, vocabulary)
        target = {
            name.removeprefix(PARAMS): shape
            for name, shape in flat.items()
            if re.fullmatch(PARAMS + bert.PARTS, name)
        }
        found, reports["text"] = bert.import_bert(
            open_weights(path), target, f"init.text = {init['text']}"
        )
        arrays |= {PARAMS + name: array for name, array in found.items()}
    if init["cnn"]:
        target = {n: s for n, s in flat.items() if re.fullmatch(resnet.PARTS, n)}
        path = fetch(init["cnn"], WANTED)
        _check_config(path, RESNET_FIXED)
        found, reports["cnn"] = resnet.import_resnet(
            open_weights(path),
            target,
            f"init.cnn = {init['cnn']}",
            groups=model["backbone"]["groups"],
            norm=model["norm"],
        )
        arrays |= found
    return arrays, reports


def _check_config(
    path: Path,
    fixed: Mapping[str, Any],
    fields: Mapping[str, str] | None = None,
    model: Mapping[str, Any] | None = None,
) -> None:
    """Compares what no shape tells, above all the number of heads.

    Args:
      path: a folder with config.json; a bare file says no more than its shapes.
      fixed: field there -> the only value that is built here.
      fields: field there -> field of config.model that must be equal.
      model: config.model.

    Raises:
      InputError: a folder without config.json, or another architecture.
    """
    if not path.is_dir():
        return
    file = path / CONFIG
    if not file.is_file():
        raise InputError(f"{path} has no {CONFIG}, which says what no shape tells")
    try:
        config = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged: {error}") from error
    wrong = [
        f"{there} is {config[there]}, model.{here} is {model[here]}"
        for there, here in (fields or {}).items()
        if there in config and config[there] != model[here]
    ]
    wrong += [
        f"{there} is {config[there]!r}, only {value!r} is built"
        for there, value in fixed.items()
        if config.get(there, value) != value
    ]
    if wrong:
        raise InputError(f"{file} is of another model: " + "; ".join(wrong))


def _check_vocabulary(path: Path, vocabulary: Sequence[str]) -> None:
    """Compares the tokens of a folder that lists them with those of the run.

    Raises:
      InputError: they differ.
    """
    file = path / VOCABULARY_FILE
    if not file.is_file():
        return
    there = load_tokenizer(file).vocabulary
    if list(there) != list(vocabulary):
        differing = sum(a != b for a, b in zip(there, vocabulary, strict=False))
        raise InputError(
            f"{file} has {len(there)} tokens, data.tokenizer {len(vocabulary)}, and "
            f"{differing} of the rows that both have differ"
        )
