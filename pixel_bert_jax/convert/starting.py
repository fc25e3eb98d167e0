"""Starting weights of a run: `init.text` and `init.cnn`.

A weight names a file, a folder, or a model on the Hugging Face hub (`org/name`, or
`org/name@revision`), of which the file with the weights and the config are fetched;
`HF_HUB_OFFLINE=1` looks into the hub's cache alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from pixel_bert_jax import trees
from pixel_bert_jax.convert import bert, resnet
from pixel_bert_jax.convert.rules import Report
from pixel_bert_jax.convert.weights import FILES, INDEX, open_weights
from pixel_bert_jax.types import InputError

CONFIG = "config.json"
# Field of BERT's config.json -> field of config.model, and values that are built in.
BERT_FIELDS = {
    "hidden_size": "features",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
}
BERT_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
PARAMS = "params" + trees.SEPARATOR


def load(
    init: Mapping[str, str], model: Mapping[str, Any], shapes: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Report]]:
    """Loads the parts that `init.text` and `init.cnn` name.

    Args:
      init: config.init.
      model: config.model.
      shapes: {"params", "batch_stats"}, nested shapes of the whole model.

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
        path = fetch(init["text"])
        _check_bert(path, model)
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
        found, reports["cnn"] = resnet.import_resnet(
            open_weights(fetch(init["cnn"])), target, f"init.cnn = {init['cnn']}"
        )
        arrays |= found
    return arrays, reports


def fetch(name: str) -> Path:
    """Returns the file or folder that a name stands for; fetches it from the hub.

    Raises:
      InputError: it is neither on this machine nor to be had from the hub.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    repository, _, revision = name.partition("@")
    if repository.count("/") > 1 or path.suffix or name.startswith(("/", "~", ".")):
        raise InputError(f"no weights at {path}: neither a file nor a folder")
    # The first kind of file that is there; not the same weights twice.
    for file in FILES:
        try:
            folder = huggingface_hub.snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=[CONFIG, f"{file}*", f"{Path(file).stem}-*"],
            )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise InputError(
                f"{name!r} is no file or folder here, and the hub has no such model "
                f"for us: {error}"
            ) from error
        if (Path(folder) / file).exists() or (Path(folder) / (file + INDEX)).exists():
            return Path(folder)
    raise InputError(f"{name!r} on the hub has none of {', '.join(FILES)}")


def _check_bert(path: Path, model: Mapping[str, Any]) -> None:
    """Compares what no shape tells, above all the number of heads.

    Raises:
      InputError: a folder without config.json, or another architecture.
    """
    if not path.is_dir():
        return  # a bare file says no more than its shapes
    file = path / CONFIG
    if not file.is_file():
        raise InputError(f"{path} has no {CONFIG}, which says how many heads it has")
    try:
        config = dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged: {error}") from error
    wrong = [
        f"{there} is {config[there]}, model.{here} is {model[here]}"
        for there, here in BERT_FIELDS.items()
        if there in config and config[there] != model[here]
    ]
    wrong += [
        f"{there} is {config[there]!r}, only {value!r} is built"
        for there, value in BERT_FIXED.items()
        if config.get(there, value) != value
    ]
    if wrong:
        raise InputError(f"{file} is of another model: " + "; ".join(wrong))
