"""Initial weights of a run: `init.text`, `init.cnn` and `init.model`.

Each names a file, a folder, or a model on the Hugging Face hub; see `hub.fetch`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pixel_bert_jax import trees
from pixel_bert_jax.config import Init, Model, resolve
from pixel_bert_jax.convert import bert, efficientnet_lite, resnet
from pixel_bert_jax.convert.hub import fetch
from pixel_bert_jax.convert.pretrained import (
    CONFIG,
    Pretrained,
    check_fits,
    read_object,
)
from pixel_bert_jax.convert.rules import Report
from pixel_bert_jax.convert.weights import FILES, open_weights
from pixel_bert_jax.data.text import VOCABULARY_FILE, load_tokenizer
from pixel_bert_jax.types import InputError, Params

# Field of BERT's config.json -> field of config.model.
BERT_FIELDS = {
    "hidden_size": "features",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
}
# Field of BERT's config.json -> the only supported value.
BERT_FIXED = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
# Fields of config.model that must equal those of the trained model.
ARCHITECTURE = (
    *("backbone", "front_end", "features", "layers", "heads", "hidden"),
    "max_positions",
)
RESNET_FIXED = {"hidden_act": "relu", "downsample_in_bottleneck": False}
CNN_PARTS = r"(params|batch_stats)/backbone/.*"


class CnnConverter(NamedTuple):
    """Converts published weights of one kind of CNN.

    Attributes:
      convert: (weights, target, where, config.model) -> arrays and report; see
        `rules.import_weights`.
      fixed: field of a config.json beside the weights -> the only supported value.
    """

    convert: Callable[..., tuple[dict[str, np.ndarray], Report]]
    fixed: Mapping[str, Any] = MappingProxyType({})


# `config.model.backbone.name` -> converter.
CNNS = {
    "resnet": CnnConverter(
        lambda weights, target, where, model: resnet.import_resnet(
            weights, target, where, groups=model.backbone["groups"], norm=model.norm
        ),
        RESNET_FIXED,
    ),
    "efficientnet_lite": CnnConverter(
        lambda weights, target, where, model: (
            efficientnet_lite.import_efficientnet_lite(weights, target, where)
        )
    ),
}
PARAMS = "params" + trees.SEPARATOR
# Our path -> (path in the trained model, function that maps its array to ours).
Inherits = Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]
# Weights -> patterns of the files to fetch; weights may be split over several files.
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
      {path: array} with paths "params/..." and "batch_stats/...", and the reports of
      the loaded parts, by "text" and "cnn".

    Raises:
      InputError: a file is missing or damaged, or does not fit the model or the
        vocabulary.
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
        target = {n: s for n, s in flat.items() if re.fullmatch(CNN_PARTS, n)}
        path = fetch(init.cnn, WANTED)
        kind, where = model.backbone["name"], f"init.cnn = {init.cnn}"
        if kind not in CNNS:
            raise InputError(
                f"{where}: there is no converter for the CNN {kind!r}; there are some "
                f"for {', '.join(CNNS)}"
            )
        _check_config(path, CNNS[kind].fixed)
        weights = open_weights(path)
        found, reports["cnn"] = CNNS[kind].convert(weights, target, where, model)
        arrays |= found
    return arrays, reports


def from_trained(
    found: Pretrained,
    model: Model,
    shapes: Params,
    where: str,
    *,
    inherits: Inherits | None = None,
) -> tuple[dict[str, np.ndarray], Report]:
    """Returns the parameters of a trained model for a run, perhaps of another task.

    Everything except the heads has to fit. Heads of both models are copied. A head that
    only the run has keeps its initial values, except for the paths in `inherits`.

    Args:
      found: the trained model.
      model: config.model of the run.
      shapes: {"params", "batch_stats"}, nested shapes of the run's model.
      where: names the trained model in messages.
      inherits: our path -> (path in the trained model, function that maps its array to
        ours); used if the trained model has that path and lacks ours.

    Returns:
      {our path: array}, and the report.

    Raises:
      InputError: the architecture or a shape differs.
    """
    check_architecture(resolve(found.config).model, model, where)
    have, want = trees.flatten(found.variables), trees.flatten(shapes)
    heads = {_head_of(path) for path in want} & {_head_of(path) for path in have}
    taken = {path: x for path, x in have.items() if _head_of(path) in heads}
    target = {path: x for path, x in want.items() if _head_of(path) in heads}
    loaded = {path: path for path in target}
    for path, (source, function) in (inherits or {}).items():
        if path in want and path not in loaded and source in have:
            taken[path], loaded[path] = function(have[source]), source
            target[path] = want[path]
    check_fits(trees.unflatten(taken), trees.unflatten(target), where)
    report = Report(
        loaded=loaded,
        reshaped=[],
        unused=[path for path in have if path not in loaded.values()],
        missing=[path for path in want if path not in loaded],
    )
    return taken, report


def check_architecture(theirs: Model, ours: Model, where: str) -> None:
    """Compares what decides shapes and operations; everything else may differ.

    The dtype of products, recomputation, dropout, the number of sampled pixels, norms
    that are live or frozen, and initial values do not change which model it is.

    Args:
      theirs: `config.model` of a trained model.
      ours: that of this run.
      where: names the trained model in the message.

    Raises:
      InputError: another architecture; lists the differences.
    """
    old, new = _architecture(theirs), _architecture(ours)
    differences = [
        f"model.{path.replace(trees.SEPARATOR, '.')} is {old.get(path)}, expected "
        f"{new.get(path)}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    if differences:
        raise InputError(f"{where} is of another model: " + "; ".join(differences))


def _architecture(model: Model) -> dict[str, Any]:
    """Returns the fields that decide shapes and operations, {path: value}."""
    fields = {
        name: value for name, value in model.to_dict().items() if name in ARCHITECTURE
    }
    fields["backbone"].pop("frozen_stages", None)  # affects only the training
    return trees.flatten(fields)


def _head_of(path: str) -> str:
    """Returns the name of the head that a parameter belongs to, "" if to none."""
    parts = path.split(trees.SEPARATOR)
    return parts[2] if parts[:2] == ["params", "heads"] else ""


def _check_config(
    path: Path,
    fixed: Mapping[str, Any],
    fields: Mapping[str, str] | None = None,
    model: Model | None = None,
) -> None:
    """Compares what shapes do not show, such as the number of attention heads.

    Args:
      path: a folder with config.json; a file is not checked.
      fixed: field of config.json -> the only supported value.
      fields: field of config.json -> field of config.model that must be equal.
      model: config.model.

    Raises:
      InputError: config.json is missing or damaged, or the architecture differs.
    """
    if not path.is_dir():
        return
    file = path / CONFIG
    if not file.is_file():
        raise InputError(f"{path} has no {CONFIG}, which says what shapes do not show")
    config = read_object(file)
    wrong = [
        f"{theirs} is {config[theirs]}, model.{ours} is {getattr(model, ours)}"
        for theirs, ours in (fields or {}).items()
        if theirs in config and config[theirs] != getattr(model, ours)
    ]
    wrong += [
        f"{field} is {config[field]!r}, only {value!r} is supported"
        for field, value in fixed.items()
        if config.get(field, value) != value
    ]
    if wrong:
        raise InputError(f"{file} is of another model: " + "; ".join(wrong))


def _check_vocabulary(path: Path, vocabulary: Sequence[str]) -> None:
    """Raises InputError if the folder has a vocabulary other than that of the run."""
    file = path / VOCABULARY_FILE
    if not file.is_file():
        return
    theirs = load_tokenizer(file).vocabulary
    if list(theirs) != list(vocabulary):
        differing = sum(a != b for a, b in zip(theirs, vocabulary, strict=False))
        raise InputError(
            f"{file} has {len(theirs)} tokens, data.tokenizer {len(vocabulary)}, and "
            f"{differing} of the rows that both have differ"
        )
