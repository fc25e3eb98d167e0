"""Exports the text part or the CNN of a model in the formats of other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pixel_bert_jax import trees
from pixel_bert_jax.convert import bert, resnet
from pixel_bert_jax.convert.pretrained import CONFIG, WEIGHTS, Pretrained, empty_folder
from pixel_bert_jax.convert.starting import BERT_FIELDS, BERT_FIXED, RESNET_FIXED
from pixel_bert_jax.types import InputError

LAYOUTS = ("hugging_face", "torchvision")


def export_text(pretrained: Pretrained, folder: str | Path) -> None:
    """Writes text embedding, encoder, MLM head and vocabulary as Hugging Face's BERT.

    `transformers.BertForMaskedLM.from_pretrained(folder)` loads the weights, or
    `BertModel` if the model has no MLM head; `AutoTokenizer` loads the vocabulary.

    Raises:
      InputError: the folder is not empty.
    """
    model = pretrained.config["model"]
    flat = trees.flatten(pretrained.variables["params"])
    head = any(path.startswith("heads/mlm/") for path in flat)
    config = {
        "architectures": ["BertForMaskedLM" if head else "BertModel"],
        "model_type": "bert",
        "vocab_size": pretrained.tokenizer.vocab_size,
        "max_position_embeddings": model["max_positions"],
        "type_vocab_size": 2,
        "hidden_dropout_prob": model["dropout"],
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": model["init_std"],
        "pad_token_id": pretrained.tokenizer.pad_id,
        **{theirs: model[ours] for theirs, ours in BERT_FIELDS.items()},
        **BERT_FIXED,
    }
    folder = empty_folder(folder)
    pretrained.tokenizer.save(folder)
    _write(folder, config, bert.export_bert(flat))


def export_cnn(pretrained: Pretrained, folder: str | Path, layout: str) -> None:
    """Writes the CNN under the names of another library.

    Args:
      pretrained: the model.
      folder: a new or empty folder.
      layout: "hugging_face" for `transformers.ResNetModel.from_pretrained`, or
        "torchvision" for the state dict of its `ResNet` without `fc`.

    Raises:
      InputError: the library has no such CNN, or the folder is not empty.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r}; valid: {', '.join(LAYOUTS)}")
    cnn = pretrained.config["model"]["backbone"]
    if cnn["name"] != "resnet":
        raise InputError(
            f"model.backbone.name is {cnn['name']!r}; only a resnet can be exported"
        )
    widths, inner, groups = cnn["widths"], tuple(cnn["inner"]), cnn["groups"]
    wanted = {
        "stem": (cnn["stem"], "conv7_pool"),
        "strides": (tuple(cnn["strides"]), (1, *(2,) * (len(widths) - 1))),
    }
    if layout == "hugging_face":
        wanted["groups"] = groups, 1
        if inner:
            wanted["inner"] = inner, tuple(width // 4 for width in widths)
    elif inner:  # torchvision has a single `width_per_group`, doubled at each stage
        wanted["inner"] = inner, tuple(inner[0] * 2**s for s in range(len(widths)))
    wrong = [
        f"model.backbone.{name} is {found!r}, expected {only!r}"
        for name, (found, only) in wanted.items()
        if found != only
    ]
    if wrong:
        raise InputError(f"{layout} has no such CNN: " + "; ".join(wrong))
    flat = trees.flatten(pretrained.variables)
    folder = empty_folder(folder)
    if layout == "hugging_face":
        config = {
            "architectures": ["ResNetModel"],
            "model_type": "resnet",
            "num_channels": 3,
            "embedding_size": 64,
            "hidden_sizes": list(widths),
            "depths": list(cnn["depths"]),
            "layer_type": "bottleneck" if inner else "basic",
            "downsample_in_first_stage": False,
            **RESNET_FIXED,
        }
        _write(folder, config, resnet.export_hugging_face(flat))
    else:
        _write(folder, None, resnet.export_torchvision(flat))


def _write(
    folder: Path, config: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes the weights and, if given, the config of a torch library."""
    counters = {  # torch's batch norms count their steps
        name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
        for name in arrays
        if name.endswith("running_mean")
    }
    if config is not None:
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file({**arrays, **counters}, folder / WEIGHTS, {"format": "pt"})
