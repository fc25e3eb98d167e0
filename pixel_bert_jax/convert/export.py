"""A trained model as a folder of common formats, without optimizer state.

`model.safetensors` holds every variable under its path ("params/encoder/...",
"batch_stats/backbone/..."), `config.json` the resolved config, `vocab.txt` and
`tokenizer_config.json` the tokenizer, `provenance.json` where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pixel_bert_jax import trees
from pixel_bert_jax.data.text import VOCABULARY_FILE, WordPiece, load_tokenizer
from pixel_bert_jax.types import InputError, Params

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
SHOWN = 5  # offending paths in a message


class Exported(NamedTuple):
    """What a folder holds."""

    variables: Params  # {"params", "batch_stats"}, numpy float32
    config: dict[str, Any]
    tokenizer: WordPiece
    provenance: dict[str, Any]


def save(
    folder: Path,
    variables: Params,
    config: Mapping[str, Any],
    tokenizer: WordPiece,
    provenance: Mapping[str, Any],
) -> None:
    """Writes the folder, making it if needed.

    Args:
      folder: where.
      variables: {"params", "batch_stats"}.
      config: resolved config of the run.
      tokenizer: of the run.
      provenance: plain values: step, SHA-256 of the state, seed, command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flat = trees.flatten(variables)
    arrays = {path: np.asarray(jax.device_get(leaf)) for path, leaf in flat.items()}
    save_file(arrays, folder / WEIGHTS)
    tokenizer.save(folder)
    for name, content in ((CONFIG, config), (PROVENANCE, provenance)):
        (folder / name).write_text(json.dumps(dict(content), indent=2) + "\n")


def load(folder: Path) -> Exported:
    """Reads a folder that `save` wrote.

    Raises:
      InputError: a file is missing or damaged.
    """
    for name in (WEIGHTS, CONFIG, VOCABULARY_FILE, PROVENANCE):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is no exported model: {name} is missing; expected a folder "
                "written by --mode=export"
            )
    try:
        flat = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS} is damaged: {error}") from error
    records = []
    for name in (CONFIG, PROVENANCE):
        try:
            records.append(json.loads((folder / name).read_text()))
        except ValueError as error:
            raise InputError(f"{folder / name} is damaged: {error}") from error
    variables = {"params": {}, "batch_stats": {}} | trees.unflatten(flat)
    return Exported(variables, records[0], load_tokenizer(folder), records[1])


def check_fits(variables: Params, target: Params, where: str) -> None:
    """Refuses variables of another architecture.

    Args:
      variables: nested arrays, as loaded.
      target: nested shapes of the model that they are for.
      where: names the origin in the message.

    Raises:
      InputError: with the first offending paths and both shapes.
    """
    have, want = trees.flatten(variables), trees.flatten(target)
    wrong = [
        f"{path}: there {_shape(have.get(path))}, wanted {_shape(want.get(path))}"
        for path in sorted(have.keys() | want.keys())
        if _shape(have.get(path)) != _shape(want.get(path))
    ]
    if wrong:
        raise InputError(
            f"{where} is of another architecture: {len(wrong)} tensors differ: "
            + "; ".join(wrong[:SHOWN])
        )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return None if leaf is None else tuple(leaf.shape)
