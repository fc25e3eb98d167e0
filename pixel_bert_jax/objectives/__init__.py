"""Objectives by name: a new one is one file here and one line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixel_bert_jax.objectives.answers import Answers
from pixel_bert_jax.objectives.base import Objective
from pixel_bert_jax.objectives.image_words import ImageWords
from pixel_bert_jax.objectives.itm import ImageTextMatching
from pixel_bert_jax.objectives.mlm import MaskedLanguageModelling
from pixel_bert_jax.objectives.retrieval import Retrieval
from pixel_bert_jax.objectives.truth import Truth
from pixel_bert_jax.types import InputError, nearest

OBJECTIVES = {
    "mlm": MaskedLanguageModelling,
    "itm": ImageTextMatching,
    "image_words": ImageWords,
    "answers": Answers,
    "truth": Truth,
    "retrieval": Retrieval,
}


def build(config: Mapping[str, Mapping[str, Any]]) -> tuple[Objective, ...]:
    """Builds the objectives of `config.objectives`: name -> its fields.

    Raises:
      InputError: for an unknown name or an empty table.
    """
    for name in config:
        if name not in OBJECTIVES:
            raise InputError(
                f"objectives.{name} is not an objective{nearest(name, OBJECTIVES)}; "
                f"valid: {', '.join(OBJECTIVES)}"
            )
    if not config:
        raise InputError("objectives is empty: at least one objective is needed")
    return tuple(OBJECTIVES[name](**fields) for name, fields in config.items())


def negatives(config: Mapping[str, Mapping[str, Any]]) -> int:
    """Returns how many texts of other pictures `config.objectives` asks for."""
    return Retrieval(**config["retrieval"]).negatives if "retrieval" in config else 0
