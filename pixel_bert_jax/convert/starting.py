"""Starting weights of a run: `init.text`, `init.cnn` and `init.model`.

Each names a file, a folder, or a model on the Hugging Face hub; see `hub.fetch`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax import trees
from pixel_bert_jax.config import Init, Model, resolve
from pixel_bert_jax.convert import bert, resnet
from pixel_bert_jax.convert.hub import fetch
from pixel_bert_jax.convert.pretrained import Pretrained, check_fits
from pixel_bert_jax.convert.rules import Report
from pixel_bert_jax.convert.weights import FILES, open_weights
from pixel_bert_jax.data.text import VOCABULARY_FILE, load_tokenizer
from pixel_bert_jax.types import InputError, Params

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
# Fields of config.model that a trained model shares with what goes on from it.
ARCHITECTURE = (
    *("backbone", "front_end", "features", "layers", "heads", "hidden"),
    "max_positions",
)
RESNET_FIXED = {"hidden_act": "relu", "downsample_in_bottleneck": False}
PARAMS = "params" + trees.SEPARATOR
# Weights -> what is fetched with them, of a model that is split over files too.
WANTED = {
    file: (CONFIG, VOCABULARY_FILE, f"{file}*", f"{Path(file).stem}-*")
    for file in FILES
}


def load(
    init: Init,
    model: Model,
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
    if init.text:
        path = fetch(init.text, WANTED)
        _check_config(path, BERT_FIXED, BERT_FIELDS, model)
        _check_vocabulary(path, vocabulary)
        target = {
            name.removeprefix(PARAMS): shape
            for name, shape in flat.items()
            if re.fullmatch(PARAMS + bert.PARTS, name)
        }
        found, reports["text"] = bert.import_bert(
            open_weights(path), target, f"init.text = {init.text}"
        )
        arrays |= {PARAMS + name: array for name, array in found.items()}
    if init.cnn:
        target = {n: s for n, s in flat.items() if re.fullmatch(resnet.PARTS, n)}
        path = fetch(init.cnn, WANTED)
        _check_config(path, RESNET_FIXED)
        found, reports["cnn"] = resnet.import_resnet(
            open_weights(path),
            target,
            f"init.cnn = {init.cnn}",
            groups=model.backbone["groups"],
            norm=model.norm,
        )
        arrays |= found
    return arrays, reports


def adopt(
    found: Pretrained,
    model: Model,
    shapes: Params,
    where: str,
    *,
    inherits: Mapping[str, tuple[str, Callable[[Any], Any]]],
) -> tuple[dict[str, np.ndarray], Report]:
    """Takes over a trained model, perhaps for another task.

    All but the heads has to fit. A head that both have is taken over; one that only
    the new task has starts anew, but for what it inherits from another head.

    Args:
      found: the trained model.
      model: config.model of the run.
      shapes: {"params", "batch_stats"}, nested shapes of the run's model.
      where: names the trained model in messages.
      inherits: path -> (path of the trained model, function of that array), for
        parameters of heads that the trained model does not have.

    Returns:
      {path: array} and what became of everything.

    Raises:
      InputError: another architecture; lists the differences.
    """
    there, here = (_architecture(m) for m in (resolve(found.config).model, model))
    differences = [
        f"model.{path.replace(trees.SEPARATOR, '.')} is {there.get(path)}, wanted "
        f"{here.get(path)}"
        for path in sorted(there.keys() | here.keys())
        if there.get(path) != here.get(path)
    ]
    if differences:
        raise InputError(f"{where} is of another model: " + "; ".join(differences))
    have, want = trees.flatten(found.variables), trees.flatten(shapes)
    heads = {_head_of(path) for path in want} & {_head_of(path) for path in have}
    taken = {path: x for path, x in have.items() if _head_of(path) in heads}
    target = {path: x for path, x in want.items() if _head_of(path) in heads}
    check_fits(trees.unflatten(taken), trees.unflatten(target), where)
    loaded = {path: path for path in target}
    for path, (source, function) in inherits.items():
        if path in want and path not in loaded and source in have:
            taken[path], loaded[path] = function(have[source]), source
    report = Report(
        loaded=loaded,
        reshaped=[],
        unused=[path for path in have if path not in loaded.values()],
        missing=[path for path in want if path not in loaded],
    )
    return taken, report


def _architecture(model: Model) -> dict[str, Any]:
    """Returns what config.model says of shapes and operations, {path: plain value}."""
    fields = {
        name: value for name, value in model.to_dict().items() if name in ARCHITECTURE
    }
    fields["backbone"].pop("frozen_stages")  # how much is trained is another matter
    return trees.flatten(fields)


def _head_of(path: str) -> str:
    """Returns the name of the head that a path belongs to, "" if to none."""
    parts = path.split(trees.SEPARATOR)
    return parts[2] if parts[:2] == ["params", "heads"] else ""


def _check_config(
    path: Path,
    fixed: Mapping[str, Any],
    fields: Mapping[str, str] | None = None,
    model: Model | None = None,
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
        f"{there} is {config[there]}, model.{here} is {getattr(model, here)}"
        for there, here in (fields or {}).items()
        if there in config and config[there] != getattr(model, here)
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
