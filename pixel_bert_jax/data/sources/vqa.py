"""VQA 2.0's official json: questions, and answers where they are known.

{"questions": [{"image_id", "question", "question_id"}, ...], "data_subtype"} and
{"annotations": [{"question_id", "image_id", "question_type", "answer_type",
"multiple_choice_answer", "answers": [{"answer", "answer_confidence", "answer_id"} x
10]}, ...]}. Photos are DATA_SUBTYPE/COCO_DATA_SUBTYPE_000000000042.jpg.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import base, files
from pixel_bert_jax.types import InputError

PHOTO = "{subtype}/COCO_{subtype}_{image_id:012d}.jpg"
SPLITS = ("train", "evaluate", "predict")
ANNOTATION = ("question_type", "answer_type", "multiple_choice_answer", "answers")


class VqaSource(files.AnnotatedPhotos):
    """Questions of one or several pairs of files; an image's key is its path.

    Attributes:
      questions: the files of questions.
      answers: those of annotations in the same order, or none.
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
        self.questions, self.answers, self.photo = (
            tuple(questions),
            tuple(answers),
            photo,
        )
        self.identity = {**self.identity, "photo": photo, "answers": bool(answers)}
        self._found: list[tuple[str, str, dict[str, Any]]] | None = None
        self._images: dict[str, files.Listed] = {}

    def _listed(self) -> Iterator[files.Listed]:
        self._load()
        yield from self._images.values()

    def _texts(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        self._load()
        yield from self._found or ()

    def _load(self) -> None:
        """Reads all files once; reports every fault of theirs."""
        if self._found is not None:
            return
        self._found = []
        seen: set[int] = set()
        for n, path in enumerate(self.questions):
            content = files.read_json(path)
            known = self._annotations(self.answers[n]) if self.answers else None
            subtype = content.get("data_subtype") if isinstance(content, dict) else None
            if not isinstance(subtype, str):
                raise InputError(f"{path}: expected a text 'data_subtype'")
            for place, question in enumerate(files.records(content, "questions", path)):
                self._add(question, path, place, subtype, known, seen)
            for number in sorted((known or {}).keys() - seen):
                self.problems.add(
                    "annotation of a question that is not listed",
                    f"{self.answers[n]}: question id {number}",
                )

    def _add(
        self,
        question: Any,
        path: Path,
        place: int,
        subtype: str,
        known: Mapping[int, dict[str, Any]] | None,
        seen: set[int],
    ) -> None:
        where = f"{path}, questions[{place}]"
        if not (
            isinstance(question, dict)
            and all(
                files.is_integer(question.get(f)) for f in ("image_id", "question_id")
            )
            and "question" in question
        ):
            self.problems.add(
                "broken question (expected integers question_id and image_id, a "
                "question)",
                f"{where}: {str(question)[:120]}",
            )
            return
        number, image_id = question["question_id"], question["image_id"]
        if number in seen:
            self.problems.add("repeated question id", f"{where}: {number}")
            return
        seen.add(number)
        annotation: dict[str, Any] = {"question_id": number, "image_id": image_id}
        if known is not None:
            if number not in known:
                self.problems.add("question without annotation", f"{where}: {number}")
                return
            annotation |= known[number]
        if self.is_caption(question["question"], f"questions[{place}]", path):
            key = self.photo.format(subtype=subtype, image_id=image_id)
            coco_id = image_id if files.coco_id(key) == image_id else None
            self._images[key] = files.Listed(key, image_id, None, coco_id)
            self._found.append((key, question["question"], annotation))

    def _annotations(self, path: Path) -> dict[int, dict[str, Any]]:
        known: dict[int, dict[str, Any]] = {}
        for n, record in enumerate(
            files.records(files.read_json(path), "annotations", path)
        ):
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
      config: name; questions and answers: a file, or several, for each split,
        {"train": ..., "evaluate": ..., "predict": ...}, without answers where they are
        not known; images: the folder that holds train2014, val2014, test2015; photo:
        pattern of a photo's path in it.
      split: "train", "evaluate" or "predict".
      root: what relative paths start from.

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
    """Returns the files of a field that has one or several for each split."""
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
    if not isinstance(record, dict) or not files.is_integer(record.get("question_id")):
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
