"""Visual Genome's questions, as additional training data of VQA.

UNITER and ClipBERT train on them as well. `question_answers.json` is [{"id", "qas":
[{"qa_id", "image_id", "question", "answer"}, ...]}, ...]; `image_data.json` is that of
the region descriptions. The one answer of a question, such as "Two.", is normalised by
VQA's official rules and counts as if ten people had given it. If it is not in the
vocabulary, the targets of all classes are 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pixel_bert_jax.data.sources import files, visual_genome
from pixel_bert_jax.data.vqa_answers import clean, normalise

PEOPLE = 10


class VisualGenomeQuestions(visual_genome.VisualGenomeSource):
    """Questions for training only; the vocabulary of answers is that of VQA."""

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
                        "answers": [
                            {"answer": answer, "answer_id": n} for n in range(PEOPLE)
                        ],
                    },
                )


def build(
    config: Mapping[str, Any], split: str, root: Path | None
) -> visual_genome.VisualGenomeSource:
    """Makes the source; as `visual_genome.build`, but from `question_answers.json`."""
    return visual_genome.build(config, split, root, VisualGenomeQuestions)


def _is_question(entry: Any) -> bool:
    return files.has_integers(entry, "qa_id", "image_id") and all(
        isinstance(entry.get(field), str) for field in ("question", "answer")
    )
