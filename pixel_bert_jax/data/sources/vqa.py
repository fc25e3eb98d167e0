"""VQA 2.0's official JSON format: questions, and answers where they are known.

{"questions": [{"image_id", "question", "question_id"}, ...], "data_subtype"} and
{"annotations": [{"question_id", "image_id", "question_type", "answer_type",
"multiple_choice_answer", "answers": [{"answer", "answer_confidence", "answer_id"} x
10]}, ...]}. Photos are DATA_SUBTYPE/COCO_DATA_SUBTYPE_000000000042.jpg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files, numbers
from pixel_bert_jax.types import InputError

PHOTO = "{subtype}/COCO_{subtype}_{image_id:012d}.jpg"
SPLITS = ("train", "evaluate", "predict")
ANNOTATION = ("question_type", "answer_type", "multiple_choice_answer", "answers")


class VqaSource(files.JsonPhotos):
    """Questions of one or more pairs of files; an image's key is its path.

    Attributes:
      questions: the files of questions.
      answers: the files of annotations in the same order, or none.
      photo: format string of a photo's path, with `subtype` and `image_id`.
    """

    annotated = True

    def __init__(
        self,
        name: str,
        questions: Sequence[Path],
        answers: Sequence[Path],
        folder: Path,
        photo: str = PHOTO,
    ):
        super().__init__(name, [*questions, *answers], folder)
        self.questions, self.answers = tuple(questions), tuple(answers)
        self.photo = photo
        self.identity = {**self.identity, "photo": photo, "answers": bool(answers)}

    def _parse(self) -> None:
        seen: set[int] = set()
        images: dict[str, files.Listed] = {}
        for n, path in enumerate(self.questions):
            content = files.read_json(path)
            known = self._annotations(self.answers[n]) if self.answers else None
            subtype = content.get("data_subtype") if isinstance(content, dict) else None
            if not isinstance(subtype, str):
                raise InputError(f"{path}: expected a text 'data_subtype'")
            for place, question in enumerate(files.records(content, "questions", path)):
                where = f"questions[{place}]"
                annotation = self._annotation(question, f"{path}, {where}", known, seen)
                if annotation and self.is_caption(question["question"], where, path):
                    number = question["image_id"]
                    key = self.photo.format(subtype=subtype, image_id=number)
                    coco_id = number if numbers.coco_id(key) == number else None
                    images[key] = files.Listed(key, number, None, coco_id)
                    self.captions.append((key, question["question"], annotation))
            for number in sorted((known or {}).keys() - seen):
                self.problems.add(
                    "annotation of a question that is not listed",
                    f"{self.answers[n]}: question id {number}",
                )
        self.listed = list(images.values())

    def _annotation(
        self,
        question: Any,
        where: str,
        known: Mapping[int, dict[str, Any]] | None,
        seen: set[int],
    ) -> dict[str, Any] | None:
        """Returns what to store of a question; None after a fault."""
        if not (
            files.has_integers(question, "image_id", "question_id")
            and "question" in question
        ):
            self.problems.add(
                "broken question (expected integers question_id and image_id, a "
                "question)",
                f"{where}: {str(question)[:120]}",
            )
            return None
        number = question["question_id"]
        if number in seen:
            self.problems.add("repeated question id", f"{where}: {number}")
            return None
        seen.add(number)
        annotation = {"question_id": number, "image_id": question["image_id"]}
        if known is None:
            return annotation
        if number not in known:
            self.problems.add("question without annotation", f"{where}: {number}")
            return None
        return annotation | known[number]

    def _annotations(self, path: Path) -> dict[int, dict[str, Any]]:
        """Returns {question id: annotation} of a file."""
        known: dict[int, dict[str, Any]] = {}
        records = files.records(files.read_json(path), "annotations", path)
        for n, record in enumerate(records):
            where = f"{path}, annotations[{n}]"
            if not _is_annotation(record):
                self.problems.add(
                    "broken annotation (expected an integer question_id, texts "
                    "question_type, answer_type and multiple_choice_answer, and "
                    "answers with an answer each)",
                    f"{where}: {str(record)[:120]}",
                )
            elif record["question_id"] in known:
                self.problems.add(
                    "repeated annotation",
                    f"{where}: question id {record['question_id']}",
                )
            else:
                known[record["question_id"]] = {f: record[f] for f in ANNOTATION}
        return known


def build(config: Mapping[str, Any], split: str, root: Path | None) -> VqaSource:
    """Makes the source from one element of `config.data.corpora`.

    Args:
      config: name; questions: one or more files for each split, {"train": ...,
        "evaluate": ..., "predict": ...}; answers: the same, except for "predict";
        images: the folder that contains train2014, val2014 and test2015; photo: format
        string of a photo's path in it (default: `PHOTO`).
      split: "train", "evaluate" or "predict".
      root: folder to which relative paths are relative.

    Raises:
      InputError: a field or a file is missing, or a field is unknown.
    """
    base.only(config, ["name", "questions", "images"], ["answers", "photo"])
    questions = _paths(config, "questions", split, root)
    answers = _paths(config, "answers", split, root) if split != "predict" else []
    if answers and len(answers) != len(questions):
        raise InputError(
            f"Corpus {config['name']!r}: {len(questions)} files of questions and "
            f"{len(answers)} of answers for the split {split!r}."
        )
    if split != "predict" and not answers:
        raise InputError(
            f"Corpus {config['name']!r}: no answers for the split {split!r}."
        )
    return VqaSource(
        name=config["name"],
        questions=questions,
        answers=answers,
        folder=files.resolve(config, "images", split, root),
        photo=config.get("photo") or PHOTO,
    )


def _paths(
    config: Mapping[str, Any], field: str, split: str, root: Path | None
) -> list[Path]:
    """Returns the files of a field that has one or more for each split."""
    value = config.get(field) or {}
    if not isinstance(value, Mapping) or split not in value:
        raise InputError(
            f"Corpus {config.get('name')!r}: {field!r} has no files for the split "
            f"{split!r}; expected {{{split!r}: FILE or FILES}}, received {value!r}."
        )
    names = value[split]
    names = list(names) if isinstance(names, list | tuple) else [names]
    return [
        files.resolve({**config, field: name}, field, split, root) for name in names
    ]


def _is_annotation(record: Any) -> bool:
    if not files.has_integers(record, "question_id"):
        return False
    answers = record.get("answers")
    return (
        all(isinstance(record.get(field), str) for field in ANNOTATION[:3])
        and isinstance(answers, list)
        and bool(answers)
        and all(
            isinstance(a, dict) and isinstance(a.get("answer"), str) for a in answers
        )
    )
