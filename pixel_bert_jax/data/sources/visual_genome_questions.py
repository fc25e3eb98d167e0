"""Visual Genome's questions, which VQA's training may add (as UNITER and ClipBERT do).

`question_answers.json`: [{"id", "qas": [{"qa_id", "image_id", "question", "answer"},
...]}, ...], and `image_data.json` as for the region descriptions. A question has one
answer, a short sentence such as "Two."; it counts as if all ten people had given it, in
VQA's normal form. Answers that the vocabulary does not have teach what they are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import files, visual_genome
from pixel_bert_jax.data.vqa_answers import clean, normalise

PEOPLE = 10


class VisualGenomeQuestions(visual_genome.VisualGenomeSource):
    """Questions of the whole photo, for training alone.

    Attributes:
      names_answers: they do not count for the vocabulary of answers, which is VQA's.
    """

    entries = "qas"
    annotated = True
    names_answers = False

    def _of(
        self, record: Mapping[str, Any], where: str
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        number = record["id"]
        key, _, _ = self._photos[number]
        for n, entry in enumerate(record["qas"]):
            if not _is_question(entry):
                self.problems.add(
                    "broken question (expected integers qa_id and image_id, a "
                    "question and an answer)",
                    f"{where}, qas[{n}]: {str(entry)[:120]}",
                )
                continue
            what = f"{self.annotations[0]}, qa_id {entry['qa_id']}, {key}"
            answer = normalise(clean(entry["answer"]))
            if entry["image_id"] != number:
                self.problems.add(
                    "question of another image", f"{what}: image_id {entry['image_id']}"
                )
            elif not entry["question"].strip() or not answer:
                self.left_out.add("question or answer without text, left out", what)
            elif self.is_caption(entry["question"], f"qa_id {entry['qa_id']}"):
                yield (
                    key,
                    entry["question"],
                    {
                        "question_id": entry["qa_id"],
                        "image_id": number,
                        "question_type": "visual genome",
                        "answer_type": "other",
                        "multiple_choice_answer": answer,
                        "answers": [{"answer": answer}] * PEOPLE,
                    },
                )


def build(
    config: Mapping[str, Any], split: str, root: Path | None
) -> visual_genome.VisualGenomeSource:
    """Makes the source as `visual_genome.build`, of `question_answers.json`."""
    return visual_genome.build(config, split, root, VisualGenomeQuestions)


def _is_question(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(files.is_integer(entry.get(f)) for f in ("qa_id", "image_id"))
        and all(isinstance(entry.get(f), str) for f in ("question", "answer"))
    )
