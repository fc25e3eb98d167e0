"""Answers of VQA 2.0: how they are normalised, counted and turned into targets.

Normalisation is the official evaluator's (GT-Vision-Lab/VQA, vqaEval.py), its oddities
included, since figures are compared with published ones to the last digit. Vocabulary
and soft targets are those of the 2017 challenge winner that everyone has used since
(Teney et al., arXiv 1708.02711; answers with at least 9 occurrences, 3,129 on the
official train and val files).
"""

from __future__ import annotations

import collections
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pixel_bert_jax.types import InputError

MINIMUM_OCCURRENCES = 9

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
ARTICLES = ("a", "an", "the")
# A word that is one of these but for one missing apostrophe gets it back.
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
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round

_DIGITS_AROUND_COMMA = re.compile(r"\d,\d")
# Meant to keep the period of a number such as ".5" or "3.", the official expression
# keeps only one that a digit follows.
_PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = (
    32  # removed: it passes re.UNICODE, which is 32, as their greatest number
)


def clean(answer: str) -> str:
    """Replaces line ends and tabs by spaces and strips them, which is always done."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalise(answer: str) -> str:
    """Returns an answer as the official evaluator compares it when people disagree.

    Punctuation goes, or becomes a space; lower case; number words up to ten become
    digits; articles go; missing apostrophes come back.
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
      answers: the A answers in the order of the classes.
      fingerprint: SHA-256 (hex) of answers and order.
    """

    def __init__(self, answers: Sequence[str]):
        """Keeps the answers.

        Raises:
          InputError: none, an answer that is no text or is given twice.
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
        """Returns {class: soft target} of a question's human answers, raw.

        1 - the share of left-one-out judges that find less than three others saying
        so: 0.3, 0.6, 0.9 and 1 for 1, 2, 3 and more people. Answers outside of the
        vocabulary have no class; a question may be left without any.
        """
        counts = collections.Counter(human)
        return {
            self.index[answer]: soft_score(n)
            for answer, n in counts.items()
            if answer in self.index
        }


def soft_score(people: int) -> float:
    """Returns the official accuracy of an answer that n of ten people gave."""
    return min(people * 3, 10) / 10


def count_vocabulary(
    most_common_answers: Iterable[str], minimum: int = MINIMUM_OCCURRENCES
) -> AnswerVocabulary:
    """Makes the vocabulary of a training set.

    Args:
      most_common_answers: `multiple_choice_answer` of every question.
      minimum: questions that an answer must belong to.

    Returns:
      The answers, normalised, in the order of their first question.

    Raises:
      InputError: no answer is frequent enough.
    """
    counts = collections.Counter(
        normalise(answer).replace(",", "") for answer in most_common_answers
    )
    kept = [answer for answer, n in counts.items() if n >= minimum]
    if not kept:
        raise InputError(
            f"no answer belongs to at least {minimum} of {counts.total()} questions; "
            f"the most frequent is {counts.most_common(1)}"
        )
    return AnswerVocabulary(kept)


def load_answers(name: str, root: Path | None) -> AnswerVocabulary:
    """Returns the answers of that name.

    Args:
      name: "scenes", the answers to questions about rendered scenes, or a json file.
      root: what a relative path starts from.

    Raises:
      InputError: see `read_vocabulary`.
    """
    if name == "scenes":
        from pixel_bert_jax.data.sources.scenes.questions import ANSWERS

        return AnswerVocabulary(ANSWERS)
    return read_vocabulary((root or Path()) / Path(name).expanduser())


def read_vocabulary(path: Path) -> AnswerVocabulary:
    """Reads a list of answers, or {answer: class}, from a json file.

    Raises:
      InputError: the file is damaged, or its classes are not 0 to A - 1.
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
