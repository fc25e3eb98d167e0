"""Accuracy and consistency of NLVR2 (lil-lab/nlvr, nlvr2/eval/metrics.py).

Consistency is the share of distinct sentences that are judged correctly for all their
pairs of images (Suhr et al., arXiv 1811.00491).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pixel_bert_jax.types import InputError

LABELS = ("False", "True")  # class 0 and 1
SHOWN = 10  # identifiers in a message


class Scores(NamedTuple):
    """Right judgements.

    Attributes:
      right: identifier -> whether its statement was judged correctly.
      consistent: sentence -> whether all its statements were.
    """

    right: dict[str, bool]
    consistent: dict[str, bool]

    @property
    def accuracy(self) -> float:
        """Share of statements, from 0 to 1."""
        return sum(self.right.values()) / len(self.right)

    @property
    def consistency(self) -> float:
        """Share of sentences, from 0 to 1."""
        return sum(self.consistent.values()) / len(self.consistent)


def sentence_of(identifier: str) -> str:
    """Returns the part of an identifier that all pairs of one sentence share.

    Identifiers are split-set-pair-sentence; the pair is left out.

    Raises:
      InputError: the identifier has fewer than three parts.
    """
    parts = identifier.split("-")
    if len(parts) < 3:
        raise InputError(
            f"expected an identifier such as dev-850-0-1, received {identifier!r}"
        )
    parts[2] = ""
    return "-".join(parts)


def set_of(name: str) -> str:
    """Returns the part of an identifier or sentence that all of its images share."""
    return "-".join(name.split("-")[:2])


def scores(
    predictions: Mapping[str, str], examples: Sequence[Mapping[str, Any]]
) -> Scores:
    """Scores predictions of all examples.

    Args:
      predictions: identifier -> "True" or "False", in any case.
      examples: records of the official file, with identifier and label.

    Raises:
      InputError: an example has no prediction, a prediction no example, or a
        prediction is neither of the two; names the first.
    """
    check_predictions(predictions, [example["identifier"] for example in examples])
    right: dict[str, bool] = {}
    consistent: dict[str, bool] = {}
    for example in examples:
        name = example["identifier"]
        hit = predictions[name].lower() == str(example["label"]).lower()
        sentence = sentence_of(name)
        consistent[sentence] = consistent.get(sentence, True) and hit
        right[name] = hit
    return Scores(right, consistent)


def check_predictions(
    predictions: Mapping[str, str], identifiers: Sequence[str]
) -> None:
    """Checks that predictions fit their examples.

    Raises:
      InputError: missing, foreign or unreadable predictions, or duplicate identifiers.
    """
    known = set(identifiers)
    if not known or len(known) != len(identifiers):
        twice = sorted({i for i in identifiers if identifiers.count(i) > 1})[:SHOWN]
        raise InputError(
            f"identifiers given more than once: {twice}"
            if known
            else "no examples to score"
        )
    valid = [label.lower() for label in LABELS]
    odd = [n for n, p in predictions.items() if str(p).lower() not in valid]
    for what, names in (
        ("examples without a prediction", known - predictions.keys()),
        ("predictions of other examples", predictions.keys() - known),
        ("predictions that are neither True nor False", odd),
    ):
        if names:
            raise InputError(f"{len(names)} {what}: {sorted(names)[:SHOWN]}")


def write_csv(path: Path, predictions: Mapping[str, str]) -> None:
    """Writes the official format: one line `identifier,prediction` per example."""
    path.write_text("".join(f"{name},{p}\n" for name, p in predictions.items()))


def read_csv(path: Path) -> dict[str, str]:
    """Reads what `write_csv` writes; the format has no header.

    Raises:
      InputError: a line of another form, or a duplicate identifier.
    """
    out: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        parts = line.strip().split(",")
        if len(parts) != 2 or parts[0] in out:
            raise InputError(
                f"{path}:{number}: expected identifier,prediction with an identifier "
                f"that is new, received {line!r}"
            )
        out[parts[0]] = parts[1]
    return out
