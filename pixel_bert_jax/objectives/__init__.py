"""Objectives by name: a new one is one file here and one line below."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pixel_bert_jax.objectives.answers import Answers
from pixel_bert_jax.objectives.base import Objective
from pixel_bert_jax.objectives.contrast import Contrast
from pixel_bert_jax.objectives.image_words import ImageWords
from pixel_bert_jax.objectives.itm import ImageTextMatching
from pixel_bert_jax.objectives.mlm import MaskedLanguageModelling
from pixel_bert_jax.objectives.retrieval import Retrieval
from pixel_bert_jax.objectives.truth import Truth
from pixel_bert_jax.types import InputError, nearest

OBJECTIVES: dict[str, type[Objective]] = {
    "mlm": MaskedLanguageModelling,
    "itm": ImageTextMatching,
    "image_words": ImageWords,
    "contrast": Contrast,
    "answers": Answers,
    "truth": Truth,
    "retrieval": Retrieval,
}


def build(config: Mapping[str, Mapping[str, Any]]) -> tuple[Objective, ...]:
    """Builds the objectives of `config.objectives`: name -> fields.

    Raises:
      InputError: an unknown name or field, or no objective at all.
    """
    if not config:
        raise InputError("objectives is empty: at least one objective is needed")
    found = []
    for name, fields in config.items():
        if name not in OBJECTIVES:
            raise InputError(
                f"objectives.{name} is not an objective{nearest(name, OBJECTIVES)}; "
                f"valid: {', '.join(OBJECTIVES)}"
            )
        kind = OBJECTIVES[name]
        known = [f.name for f in dataclasses.fields(kind)]
        required = [f.name for f in dataclasses.fields(kind) if _is_required(f)]
        for field in fields:
            if field not in known:
                raise InputError(
                    f"objectives.{name} has no field {field!r}{nearest(field, known)}; "
                    f"valid: {', '.join(known)}"
                )
        for field in required:
            if field not in fields:
                raise InputError(f"objectives.{name} needs the field {field!r}")
        found.append(kind(**fields))
    return tuple(found)


def complete(config: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns `config.objectives` with the defaults of fields that it leaves out."""
    return {
        objective.name: dataclasses.asdict(objective) for objective in build(config)
    }


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def common(objectives: Sequence[Objective], what: str, default: int) -> int:
    """Returns the value of "images" or "negatives" that all objectives can read.

    Args:
      objectives: objectives of a run.
      what: name of the attribute.
      default: value if every objective can read any.

    Raises:
      InputError: objectives that read different batches.
    """
    values = {o.name: n for o in objectives if (n := getattr(o, what)) is not None}
    if len(set(values.values())) > 1:
        raise InputError(
            f"objectives that read batches of different {what} per text do not go "
            f"together: {', '.join(f'{n} {v}' for n, v in values.items())}"
        )
    return next(iter(values.values()), default)


def targets(objectives: Sequence[Objective], answers: Any) -> Any:
    """Returns what makes the targets, or None if no objective has any.

    Raises:
      InputError: more than one objective has targets.
    """
    made = {o.name: t for o in objectives if (t := o.targets(answers)) is not None}
    if len(made) > 1:
        raise InputError(
            f"the objectives {', '.join(made)} read different annotations of a text; "
            "expected at most one of them"
        )
    return next(iter(made.values()), None)
