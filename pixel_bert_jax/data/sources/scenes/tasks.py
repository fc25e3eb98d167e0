"""Questions and two-image statements about rendered scenes, as sources.

Like the scenes, both are pure functions of (split, seed, number). Their annotations
have the fields of the official files of VQA 2.0 and NLVR2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources.scenes.questions import (
    Question,
    draw_question,
    human_answers,
)
from pixel_bert_jax.data.sources.scenes.source import ScenesSource, check_range, make
from pixel_bert_jax.data.sources.scenes.statements import PAIRS, draw_statement

# Random streams of a scene in addition to those of `source.py`.
_QUESTIONS, _STATEMENTS = 3, 4
VERSION = 1
IDS_A_SCENE = 1000  # as in VQA: question id = image id x 1000 + number
SCENES_A_SET = 2 * PAIRS


class ScenesQuestions(ScenesSource):
    """Questions with ten answers each, `questions_per_scene` for every scene."""

    annotated = True
    word_classes: Mapping[str, frozenset[str]] = {}

    def __init__(self, *, questions_per_scene: int = 3, **options: Any):
        """Checks the options; see `ScenesSource`."""
        super().__init__(**options)
        check_range("questions_per_scene", questions_per_scene, 1, 50)
        self.questions_per_scene = int(questions_per_scene)
        self.identity = {
            **self.identity,
            "questions": [VERSION, self.questions_per_scene],
        }

    def questions(self, number: int) -> list[tuple[Question, list[str]]]:
        """Returns the distinct questions of a scene, each with ten answers."""
        generator = self.generator(number, _QUESTIONS)
        scene, found = self.scene(number), {}
        while len(found) < self.questions_per_scene:
            question = draw_question(scene, generator)
            answers = human_answers(question, generator)
            found.setdefault(question.text, (question, answers))
        return list(found.values())

    def texts(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yields (image key, question, annotation with the fields of VQA 2.0)."""
        for number in range(self.num_scenes):
            for n, (question, answers) in enumerate(self.questions(number)):
                annotation = {
                    "question_id": number * IDS_A_SCENE + n,
                    "image_id": number,
                    "question_type": question.kind,
                    "answer_type": question.answer_type,
                    "multiple_choice_answer": question.answer,
                    "answers": [
                        {"answer": a, "answer_confidence": "yes", "answer_id": i}
                        for i, a in enumerate(answers, 1)
                    ],
                }
                yield str(number), question.text, annotation


class ScenesStatements(ScenesSource):
    """Statements about pairs of scenes, in sets of eight scenes.

    A set has four pairs, and each of its sentences is true of exactly two of them. The
    scenes of an incomplete last set have no statement.
    """

    annotated = True
    word_classes: Mapping[str, frozenset[str]] = {}
    images_per_text = 2

    def __init__(self, *, statements_per_set: int = 4, **options: Any):
        """Checks the options; see `ScenesSource`."""
        super().__init__(**options)
        check_range("statements_per_set", statements_per_set, 1, 50)
        check_range("number of scenes", self.num_scenes, SCENES_A_SET, 2**31 - 1)
        self.statements_per_set = int(statements_per_set)
        self.identity = {
            **self.identity,
            "statements": [VERSION, self.statements_per_set],
        }

    def statements(self, number: int) -> list[tuple[str, list[bool]]]:
        """Returns the distinct sentences of a set, each with a label for every pair."""
        first = number * SCENES_A_SET
        scenes = [self.scene(first + n) for n in range(SCENES_A_SET)]
        pairs = list(zip(scenes[::2], scenes[1::2], strict=True))
        generator, found = self.generator(number, _STATEMENTS), {}
        while len(found) < self.statements_per_set:
            text, labels = draw_statement(pairs, generator)
            found.setdefault(text, labels)
        return list(found.items())

    def texts(self) -> Iterator[tuple[tuple[str, str], str, dict[str, Any]]]:
        """Yields ((left key, right key), sentence, annotation as in NLVR2)."""
        split = {"train": "train", "evaluate": "dev"}[self.split]
        for number in range(self.num_scenes // SCENES_A_SET):
            for s, (text, labels) in enumerate(self.statements(number)):
                for pair, label in enumerate(labels):
                    left = number * SCENES_A_SET + 2 * pair
                    yield (
                        (str(left), str(left + 1)),
                        text,
                        {
                            "identifier": f"{split}-{number}-{pair}-{s}",
                            "label": str(label),
                        },
                    )


def build_questions(
    config: Mapping[str, Any], split: str, root: Path | None
) -> ScenesQuestions:
    """Makes the source; as `scenes.build`, but with the field questions_per_scene."""
    del root
    return make(ScenesQuestions, {"questions_per_scene": 3}, config, split)


def build_statements(
    config: Mapping[str, Any], split: str, root: Path | None
) -> ScenesStatements:
    """Makes the source; as `scenes.build`, but with the field statements_per_set."""
    del root
    return make(ScenesStatements, {"statements_per_set": 4}, config, split)
