"""Answers of VQA 2.0: how they are normalised, counted and turned into targets.

Normalisation is that of the official evaluator (GT-Vision-Lab/VQA, vqaEval.py) with its
quirks, so that metrics agree with published ones to the last digit. Vocabulary and soft
targets are those of the winner of the 2017 challenge (Teney et al., arXiv 1708.02711),
which are commonly used: answers with at least 9 occurrences, 3,129 on the official
train and val files. To count them, for `config.data.answers`:

    python -m pixel_bert_jax.data.vqa_answers --output=answers.json \
      v2_mscoco_train2014_annotations.json v2_mscoco_val2014_annotations.json
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pixel_bert_jax.data import durable
from pixel_bert_jax.types import EXIT_BAD_INPUT, InputError

MINIMUM_OCCURRENCES = 9

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0", **{word: str(n) for n, word in enumerate(WORDS.split())}}
ARTICLES = ("a", "an", "the")
# A word that lacks only one apostrophe of one of these is replaced by it.
WITH_APOSTROPHES = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't
hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd
it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll
why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd
you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in WITH_APOSTROPHES.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # key and value are exchanged in the official table

_DIGITS_AROUND_COMMA = re.compile(r"\d,\d")
# The official expression is meant to keep the period of a number such as ".5" or "3.",
# but keeps only a period that is followed by a digit.
_PERIOD = re.compile(r"\.(?!\d)")
# The official evaluator passes re.UNICODE, which is 32, as the number of periods to
# remove.
MOST_PERIODS = 32


def clean(answer: str) -> str:
    """Replaces newlines and tabs by spaces and strips the answer; always applied."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise(answer: str) -> str:
    """Normalises an answer, as the official evaluator does if not all people agree.

    Punctuation is removed or becomes a space, the text is lower-cased, number words up
    to ten become digits, articles are removed, missing apostrophes are restored.
    """
    has_comma = _DIGITS_AROUND_COMMA.search(answer) is not None
    out = answer
    for mark in PUNCTUATION:
        beside_space = mark + " " in answer or " " + mark in answer
        out = out.replace(mark, "" if beside_space or has_comma else " ")
    out = _PERIOD.sub("", out, count=MOST_PERIODS)
    words = (NUMBERS.get(word, word) for word in out.lower().split())
    kept = (word for word in words if word not in ARTICLES)
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


class AnswerVocabulary:
    """The answers that a model can give.

    Attributes:
      answers: the A answers in the order of their classes.
      index: {answer: class}.
      fingerprint: SHA-256 (hex) of the answers in their order.
    """

    def __init__(self, answers: Sequence[str]):
        """Checks the answers.

        Raises:
          InputError: there is none, or one is not a string or is given twice.
        """
        if not answers or not all(isinstance(a, str) for a in answers):
            raise InputError("expected a list of at least one answer, each a text")
        repeated = [a for a, n in collections.Counter(answers).items() if n > 1]
        if repeated:
            raise InputError(f"answers given more than once: {repeated[:10]}")
        self.answers = tuple(answers)
        self.index = {answer: n for n, answer in enumerate(self.answers)}
        self.fingerprint = hashlib.sha256(json.dumps(self.answers).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.answers)

    def targets(self, human: Iterable[str]) -> dict[int, float]:
        """Returns {class: soft target} of a question's human answers, see `soft_score`.

        Args:
          human: the answers of all ten people, not normalised. Answers that are not in
            the vocabulary are left out, so that the result may be empty.
        """
        counts = collections.Counter(human)
        return {
            self.index[answer]: soft_score(n)
            for answer, n in counts.items()
            if answer in self.index
        }


def soft_score(people: int) -> float:
    """Returns the official accuracy of an answer that `people` of ten people gave.

    It is the mean of min(n / 3, 1) over the ten sets of nine people, of whom n gave the
    answer: 0.3, 0.6, 0.9 and 1 for 1, 2, 3 and more people
    (https://visualqa.org/evaluation.html).
    """
    return min(people * 3, 10) / 10


def count_vocabulary(
    most_common_answers: Iterable[str], minimum: int = MINIMUM_OCCURRENCES
) -> AnswerVocabulary:
    """Makes the vocabulary of a training set.

    Args:
      most_common_answers: `multiple_choice_answer` of every question.
      minimum: smallest number of questions that an answer has to belong to.

    Returns:
      The normalised answers, in the order of their first question.

    Raises:
      InputError: no answer is frequent enough.
    """
    counts = collections.Counter(
        normalise(answer).replace(",", "") for answer in most_common_answers
    )
    kept = [answer for answer, n in counts.items() if n >= minimum]
    if not kept:
        raise InputError(
            f"no answer belongs to at least {minimum} of {counts.total()} questions "
            f"(data.answer_minimum); the most frequent is {counts.most_common(1)}"
        )
    return AnswerVocabulary(kept)


def load_answers(name: str, root: Path | None) -> AnswerVocabulary:
    """Loads a vocabulary of answers.

    Args:
      name: "scenes", the answers to questions about rendered scenes, or a JSON file.
      root: folder that a relative path starts from; None: the current folder.

    Raises:
      InputError: see `read_vocabulary`.
    """
    if name == "scenes":
        from pixel_bert_jax.data.sources.scenes.questions import ANSWERS

        return AnswerVocabulary(ANSWERS)
    return read_vocabulary((root or Path()) / Path(name).expanduser())


def read_vocabulary(path: Path) -> AnswerVocabulary:
    """Reads a list of answers, or {answer: class}, from a JSON file.

    Raises:
      InputError: the file cannot be read, its classes are not 0 to A - 1, or an answer
        is not a string or is given twice.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"answer list {path} cannot be read: {error}") from error
    if isinstance(content, Mapping):
        if sorted(content.values(), key=str) != sorted(range(len(content)), key=str):
            raise InputError(
                f"answer list {path}: expected classes 0 to {len(content) - 1}, each "
                "once"
            )
        content = sorted(content, key=content.get)
    try:
        return AnswerVocabulary(content)
    except (InputError, TypeError) as error:
        raise InputError(f"answer list {path}: {error}") from error


def annotated_answers(paths: Iterable[Path]) -> Iterator[str]:
    """Yields `multiple_choice_answer` of every question of official annotation files.

    Raises:
      InputError: a file is missing or has another form.
    """
    for path in paths:
        try:
            records = json.loads(path.read_text("utf-8"))["annotations"]
            yield from (record["multiple_choice_answer"] for record in records)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: expected the annotations of VQA 2.0, "
                f'{{"annotations": [{{"multiple_choice_answer": ...}}]}}: {error!r}'
            ) from error


def main() -> int:
    """Counts the answers of annotation files and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pixel_bert_jax.data.vqa_answers",
        description="Writes the answers of VQA 2.0 that are frequent enough.",
    )
    parser.add_argument("annotations", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True, help="a JSON list")
    parser.add_argument(
        "--minimum",
        type=int,
        default=MINIMUM_OCCURRENCES,
        help="questions that an answer belongs to; default: %(default)s",
    )
    given = parser.parse_args()
    try:
        found = count_vocabulary(annotated_answers(given.annotations), given.minimum)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    durable.write(given.output, json.dumps(found.answers, indent=0) + "\n")
    print(f"{len(found):,} answers in {given.output}, SHA-256 {found.fingerprint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
