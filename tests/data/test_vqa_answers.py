"""The answers of VQA: vocabulary, soft targets, files."""

import json
import subprocess
import sys

import pytest

from pixel_bert_jax.data import vqa_answers
from pixel_bert_jax.evaluators import vqa_accuracy
from pixel_bert_jax.types import InputError


def test_soft_targets_are_the_accuracy_of_saying_it():
    vocabulary = vqa_answers.AnswerVocabulary(["red", "blue", "dark blue"])
    human = ["red"] * 4 + ["blue"] * 3 + ["dark blue"] * 2 + ["teal"]
    targets = vocabulary.targets(human)
    assert targets == {0: 1.0, 1: 0.9, 2: 0.6}
    annotation = {
        "answers": [{"answer": a, "answer_id": n} for n, a in enumerate(human)]
    }
    for answer, score in zip(vocabulary.answers, targets.values(), strict=True):
        official = vqa_accuracy.question_score(answer, annotation)
        assert official == pytest.approx(score)
    assert vocabulary.targets(["teal"] * 10) == {}
    for n in range(11):
        assert vqa_answers.soft_score(n) == pytest.approx(
            (n * min((n - 1) / 3, 1) + (10 - n) * min(n / 3, 1)) / 10 if n else 0
        )


def test_vocabulary_counts_normalised_answers():
    answers = ["Red."] * 5 + ["red"] * 4 + ["two"] * 9 + ["green"] * 8 + ["the cat"] * 9
    vocabulary = vqa_answers.count_vocabulary(answers)
    assert vocabulary.answers == ("red", "2", "cat")
    assert vqa_answers.count_vocabulary(answers, 8).answers[2] == "green"
    with pytest.raises(InputError, match="at least 10 of 35 questions"):
        vqa_answers.count_vocabulary(answers, 10)


def test_lists_in_both_forms(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(["yes", "no", "2"]))
    one = vqa_answers.read_vocabulary(path)
    path.write_text(json.dumps({"no": 1, "yes": 0, "2": 2}))
    other = vqa_answers.read_vocabulary(path)
    assert one.answers == other.answers == ("yes", "no", "2")
    assert one.fingerprint == other.fingerprint
    assert (
        one.fingerprint != vqa_answers.AnswerVocabulary(["no", "yes", "2"]).fingerprint
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["yes", "yes"]', "more than once"),
        ('{"yes": 0, "no": 2}', "classes 0 to 1, each once"),
        ("[1, 2]", "each a text"),
        ("[]", "at least one answer"),
        ("[", "cannot be read"),
        ("3", "answer list"),
    ],
)
def test_broken_lists(tmp_path, content, message):
    path = tmp_path / "answers.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        vqa_answers.read_vocabulary(path)


def test_one_command_counts_the_answers_of_several_files(tmp_path):
    files = []
    for name, answers in (("train", "yes yes 2 no"), ("val", "yes Two. no")):
        records = [{"multiple_choice_answer": a} for a in answers.split()]
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps({"annotations": records}))
    output = tmp_path / "answers.json"
    program = [sys.executable, "-m", "pixel_bert_jax.data.vqa_answers"]
    command = [*program, f"--output={output}", "--minimum=2"]

    def run(*paths):
        words = [*command, *map(str, paths)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    done = run(*files)
    assert done.returncode == 0, done.stderr
    assert "3 answers in" in done.stdout
    assert vqa_answers.load_answers(str(output), None).answers == ("yes", "2", "no")
    output.unlink()
    files[1].write_text('{"questions": []}')
    done = run(*files)
    assert done.returncode == 2 and "val.json: expected the annotations" in done.stderr
    assert not output.exists()


def test_the_published_list(real_data):
    folder = real_data / "vqa"
    one = vqa_answers.read_vocabulary(folder / "trainval_label2ans.json")
    other = vqa_answers.read_vocabulary(folder / "trainval_ans2label.json")
    assert len(one) == 3129
    assert one.fingerprint == other.fingerprint
    # Its entries are what our normalisation makes.
    assert all(vqa_answers.normalise(a) == a for a in one.answers if "," not in a)
