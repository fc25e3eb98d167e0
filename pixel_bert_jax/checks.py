"""Values of a config that no run could use, all told at once before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_bert_jax.training import durations
from pixel_bert_jax.types import InputError, nearest

# Fields that say where files lie on a machine, not what is trained.
PLACES = ("compile_cache", "data/root", "data/index_dir")

CHOICES = {
    "model.norm": ("batch", "frozen"),
    "model.attention_init": ("independent", "similar"),
    "model.dtype": ("float32", "bfloat16", "float64"),
    "data.on_bad_image": ("error", "skip"),
    "checkpoint.best_mode": ("max", "min"),
}

LENGTHS = ("optim.warmup", "checkpoint.every", "eval.every")

# (least, greatest) of numbers, inclusive.
RANGES = {
    "texts_per_group": (1, math.inf),
    "seed": (0, 2**32 - 1),
    "masking.probability": (0.0, 1.0),
    "masking.warmup_probability": (0.0, 1.0),
    "masking.warmup_steps": (0, math.inf),
    "masking.slots": (0, math.inf),
    "model.sample_pixels": (0, math.inf),
    "model.layers": (1, math.inf),
    "model.heads": (1, math.inf),
    "model.dropout": (0.0, 0.999),
    "model.norm_momentum": (0.0, 1.0),
    "model.init_std": (0.0, math.inf),
    "data.max_text_length": (3, math.inf),  # [CLS], a word, [SEP]
    "data.bad_image_budget": (0.0, 0.99),  # of 1 a run would learn from nothing
    "data.workers": (0, math.inf),  # 0: as many as the machine has cores
    "data.prefetch": (1, math.inf),
    "optim.clip_norm": (0.0, math.inf),
    "optim.warmup_factor": (0.0, 1.0),
    "optim.decay_factor": (0.0, 1.0),
    "optim.accumulate": (1, math.inf),
    "optim.non_finite_budget": (0, math.inf),
    "checkpoint.keep": (1, math.inf),
    "eval.groups": (1, math.inf),
    "log.every": (1, math.inf),
    "watchdog.warn": (0.0, math.inf),
    "watchdog.limit": (0.0, math.inf),
}


def check_values(config: Mapping[str, Any]) -> None:
    """Refuses values that cannot be meant.

    Args:
      config: the whole config, as a plain dict.

    Raises:
      InputError: names every such field, what it may be and what it is.
    """
    faults = []
    for path, valid in CHOICES.items():
        value = _value(config, path)
        if value is not None and value not in valid:
            faults.append(
                f"{path} is {value!r}{nearest(str(value), valid)}; valid: "
                f"{', '.join(valid)}"
            )
    for path, (least, greatest) in RANGES.items():
        value = _value(config, path)
        # NaN is in no range. A model of an earlier version may lack a newer field.
        if value is not None and not least <= value <= greatest:
            limit = f"at least {least}"
            if greatest != math.inf:
                limit = f"{least} to {greatest}"
            faults.append(f"{path} is {value}, expected {limit}")
    model, length = config["model"], config["data"]["max_text_length"]
    if model["heads"] > 0 and model["features"] % model["heads"]:
        faults.append(
            f"model.features is {model['features']}, which does not divide by "
            f"model.heads = {model['heads']}"
        )
    if length > model["max_positions"]:
        faults.append(
            f"data.max_text_length is {length}, but there are only "
            f"model.max_positions = {model['max_positions']} position embeddings"
        )
    for name, group in config["optim"]["groups"].items():
        if not group["learning_rate"] >= 0:
            faults.append(
                f"optim.groups.{name}.learning_rate is {group['learning_rate']}, "
                "expected at least 0"
            )
    faults += _faults_of_lengths(config)
    if faults:
        raise InputError("\n  ".join(["the config cannot be used:", *faults]))


def _faults_of_lengths(config: Mapping[str, Any]) -> list[str]:
    """Says which lengths of training are of no form that `durations` reads."""
    lengths = {"total": config["total"]}
    lengths |= {path: _value(config, path) for path in LENGTHS}
    lengths |= {
        f"optim.decays[{n}]": x for n, x in enumerate(config["optim"]["decays"])
    }
    faults = []
    for path, value in lengths.items():
        # Any length of a run and of an epoch serves to read the form.
        total = None if path == "total" else 1
        if value is None:  # a model of an earlier version
            continue
        try:
            durations.steps(value, steps_per_epoch=1, total=total)
        except InputError as error:
            faults.append(f"{path}: {error}")
    return faults


def check_metric(metric: str, figures: Sequence[str]) -> str:
    """Returns the name of `checkpoint.best_metric` among an evaluation's figures.

    That is the metric itself, or where images are missing that of the others.

    Args:
      metric: the name, "" for none.
      figures: names of the figures of an evaluation.

    Raises:
      InputError: with the nearest name.
    """
    if metric and f"{metric}@missing" in figures:
        return f"{metric}@missing"
    if metric and metric not in figures:
        raise InputError(
            f"checkpoint.best_metric is {metric!r}{nearest(metric, figures)}; the "
            f"evaluation gives {', '.join(sorted(figures))}"
        )
    return metric


def _value(config: Mapping[str, Any], path: str) -> Any:
    """Returns the field at a dotted path, None if there is none."""
    value: Any = config
    for name in path.split("."):
        if name not in value:
            return None
        value = value[name]
    return value
