"""A model with fewer word pieces: half of a small model may be its word table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixel_bert_jax import trees
from pixel_bert_jax.convert.pretrained import Pretrained
from pixel_bert_jax.data.text import SPECIAL_TOKENS, WordPiece
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.types import InputError

# Parameters with a row for each token.
ROWS = (
    "params/text/word",
    "params/heads/mlm/bias",
    "params/heads/image_words/bias",
)


def read_tokens(file: str | Path) -> list[str]:
    """Reads a token from each line of a text file in UTF-8.

    Raises:
      InputError: the file cannot be read, or has no token.
    """
    try:
        text = Path(file).expanduser().read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    tokens = [line.removesuffix("\r") for line in text.split("\n")]
    if not any(tokens):
        raise InputError(f"{file} has no tokens, expected one on each line")
    return [token for token in tokens if token]


def keep_tokens(found: Pretrained, tokens: Sequence[str]) -> Pretrained:
    """Returns a model that knows only some tokens, in its own order of them.

    What it computes for a text of these tokens is unchanged; of a masked word, the
    probabilities are shared among them alone. A word that needs another token is split
    into smaller ones, or becomes [UNK]: keep single letters ("a", "##a") to avoid that.
    To train it further, give `data.tokenizer` the folder that it is saved to.

    Args:
      found: the model.
      tokens: tokens to keep; the special tokens are always kept.

    Raises:
      InputError: the model does not have a token.
    """
    old = found.tokenizer
    if unknown := sorted(set(tokens) - set(old.vocabulary)):
        raise InputError(
            f"the model does not have {len(unknown)} of the tokens, such as "
            f"{', '.join(map(repr, unknown[:5]))}"
        )
    wanted = {*tokens, *SPECIAL_TOKENS}
    kept = [n for n, token in enumerate(old.vocabulary) if token in wanted]
    arrays = trees.flatten(found.variables)
    for path in ROWS:
        if path in arrays:
            arrays[path] = np.asarray(arrays[path])[kept]
    tokenizer = WordPiece([old.vocabulary[n] for n in kept], lower_case=old.lower_case)
    return dataclasses.replace(
        found,
        model=PixelBert(found.model.config, tokenizer.vocab_size),
        variables=trees.unflatten(arrays),
        tokenizer=tokenizer,
    )
