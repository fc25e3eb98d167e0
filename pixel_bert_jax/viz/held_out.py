"""A figure of held-out images: masked words filled in, and match scores.

Each panel shows an image, one of its texts with the masked words as the model filled
them in (right ones green, wrong ones red with the truth behind them), and the
probability of a match for this text and for another image's text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixel_bert_jax.data.text import WordPiece

PANEL = 250  # pixels, width of a panel and side of its image
TEXT_HEIGHT, FOUND_HEIGHT = 118, 230
MARGIN = 10
LINE = 17
INK, RIGHT, WRONG, FAINT = (30, 30, 30), (0, 125, 50), (200, 30, 30), (120, 120, 120)


@dataclasses.dataclass(frozen=True)
class Panel:
    """What one panel shows.

    Attributes:
      image: uint8 [h, w, 3].
      words: words of the text, without special tokens.
      guesses: position in `words` -> the word that the model filled in.
      match: probability that the text belongs to the image, or None.
      other: a text of another image.
      other_match: its probability, or None.
    """

    image: np.ndarray
    words: list[str]
    guesses: dict[int, str]
    match: float | None
    other: list[str]
    other_match: float | None


def panels(
    batch: dict[str, np.ndarray], out: dict[str, np.ndarray], tokenizer: WordPiece
) -> list[Panel]:
    """Makes one panel per group, of its first text with a masked word.

    Args:
      batch: a batch of an evaluation stream.
      out: result of `tasks.pretrain.probe` for the batch.
      tokenizer: maps token ids to words.
    """
    made = []
    for g in range(len(batch["image"])):
        usable = batch["example_mask"][g] & out["weights"][g].any(-1)
        if not usable.any():
            continue
        k = int(np.argmax(usable))
        height, width = batch["source_size"][g, 0]
        chosen = out["weights"][g, k]
        positions = out["positions"][g, k][chosen]
        guesses = tokenizer.tokens(out["words_own"][g, k][chosen])
        match = out["match_own"][g, k] if "match_own" in out else (None, None)
        scores = [None if x is None else _sigmoid(float(x)) for x in match]
        made.append(
            Panel(
                image=batch["image"][g, 0, :height, :width],
                words=_words(batch, "text", g, k, tokenizer),
                # Positions count [CLS], words do not.
                guesses={
                    int(p) - 1: w for p, w in zip(positions, guesses, strict=True)
                },
                match=scores[0],
                other=_words(batch, "negative", g, k, tokenizer),
                other_match=scores[1],
            )
        )
    return made


def collect(
    stream: Iterable[Any],
    predict: Any,
    variables: Any,
    tokenizer: WordPiece,
    count: int,
) -> list[Panel]:
    """Returns the first `count` panels of an evaluation stream, one image each.

    Args:
      stream: result of `evaluate.Evaluation.stream`.
      predict: see `evaluators.base.Predict`.
      variables: parameters and running statistics.
      tokenizer: maps token ids to words.
      count: largest number of panels.
    """
    made: list[Panel] = []
    for step in stream:
        made += panels(step.batch, predict("probe", variables, step), tokenizer)
        if len(made) >= count:
            break
    return made[:count]


def draw(shown: list[Panel], path: Path, *, columns: int = 4) -> None:
    """Writes the figure as a PNG.

    Args:
      shown: at least one panel.
      path: path of the file; its folder is made if needed.
      columns: panels per row.
    """
    rows = math.ceil(len(shown) / columns)
    height = PANEL + TEXT_HEIGHT
    sheet = Image.new("RGB", (columns * PANEL, rows * height), "white")
    for number, panel in enumerate(shown):
        corner = (number % columns * PANEL, number // columns * height)
        _draw_panel(sheet, panel, corner)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


@dataclasses.dataclass(frozen=True)
class Found:
    """An image, the texts that fit it best, and a text with one word filled in.

    Attributes:
      image: uint8 [h, w, 3].
      texts: the texts, best first.
      right: whether each of them belongs to the image.
      words: words of a text of the image.
      place: position in `words` of the one that was masked.
      guess: the word that the model filled in.
      truth: the word that was masked.
    """

    image: np.ndarray
    texts: list[str]
    right: list[bool]
    words: list[str]
    place: int
    guess: str
    truth: str


def draw_found(shown: list[Found], path: Path, *, columns: int = 4) -> None:
    """Writes images with the texts found for them as a PNG; see `draw`."""
    rows, height = math.ceil(len(shown) / columns), PANEL + FOUND_HEIGHT
    sheet = Image.new("RGB", (columns * PANEL, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, one in enumerate(shown):
        corner = (number % columns * PANEL, number // columns * height)
        left, line, side = _paste(sheet, one.image, corner)
        for text, right in zip(one.texts, one.right, strict=True):
            words = [(word, RIGHT if right else WRONG) for word in text.split()]
            line = _flow(pen, words, left, line, side) + 3
        pieces = [(word, INK) for word in one.words]
        good = one.guess == one.truth
        pieces[one.place] = (one.guess, RIGHT if good else WRONG)
        if not good:
            pieces.insert(one.place + 1, (f"({one.truth})", FAINT))
        _flow(pen, pieces, left, line + 4, side)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _paste(
    sheet: Image.Image, image: np.ndarray, corner: tuple[int, int]
) -> tuple[int, int, int]:
    """Draws a panel's image; returns left and top of its text, and their width."""
    left, top = corner[0] + MARGIN, corner[1] + MARGIN
    side = PANEL - 2 * MARGIN
    photo = Image.fromarray(image)
    scale = side / max(photo.size)
    size = tuple(max(round(n * scale), 1) for n in photo.size)
    photo = photo.resize(size, Image.Resampling.BICUBIC)
    sheet.paste(photo, (left + (side - size[0]) // 2, top + (side - size[1]) // 2))
    return left, top + side + 6, side


def _draw_panel(sheet: Image.Image, panel: Panel, corner: tuple[int, int]) -> None:
    left, line, side = _paste(sheet, panel.image, corner)
    pen = ImageDraw.Draw(sheet)
    pieces = []
    for position, word in enumerate(panel.words):
        guess = panel.guesses.get(position)
        if guess is None:
            pieces.append((word, INK))
        elif guess == word:
            pieces.append((word, RIGHT))
        else:
            pieces += [(guess, WRONG), (f"({word})", FAINT)]
    line = _flow(pen, pieces, left, line, side)
    if panel.match is not None:
        line = _flow(pen, [(f"match {panel.match:.2f}", INK)], left, line, side)
        other = [(word, FAINT) for word in panel.other]
        other.append((f"match {panel.other_match:.2f}", INK))
        _flow(pen, other, left, line + 4, side)


def _flow(
    pen: ImageDraw.ImageDraw,
    pieces: list[tuple[str, tuple[int, int, int]]],
    left: int,
    top: int,
    width: int,
) -> int:
    """Writes coloured words with line breaks; returns where the next line starts."""
    font = ImageFont.load_default(13)
    x = 0.0
    for word, colour in pieces:
        length = pen.textlength(word + " ", font=font)
        if x and x + length > width:
            x, top = 0.0, top + LINE
        pen.text((left + x, top), word, fill=colour, font=font)
        x += length
    return top + LINE


def _words(
    batch: dict[str, np.ndarray], prefix: str, g: int, k: int, tokenizer: WordPiece
) -> list[str]:
    ids, mask = batch[f"{prefix}_ids"][g, k], batch[f"{prefix}_mask"][g, k]
    return tokenizer.tokens(ids[mask][1:-1])


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))
