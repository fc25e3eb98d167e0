"""Questions and statements about scenes: right, balanced, in the fixed vocabulary."""

import collections
import itertools
import re

import numpy as np
import pytest

from pixel_bert_jax.data import text
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import EvaluationPlan, TrainPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.sources.scenes.questions import ANSWERS, VALUES, fits, value
from pixel_bert_jax.data.sources.scenes.tasks import ScenesQuestions, ScenesStatements
from pixel_bert_jax.data.sources.scenes.text import relation
from pixel_bert_jax.data.sources.scenes.words import NUMBERS, PLURALS
from pixel_bert_jax.data.targets import AnswerTargets, TruthTargets
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary
from pixel_bert_jax.evaluators.vqa_accuracy import question_score
from pixel_bert_jax.types import InputError

SINGULAR = {plural: noun for noun, plural in PLURALS.items()}
SETTINGS = {
    "seed": 3,
    "groups": 4,
    "short": 96,
    "long": 112,
    "canvases": [(96, 112), (112, 96), (96, 96), (112, 112)],
    "source_canvases": [112],
}


def parsed(words):
    """The attributes that words name, whatever their order."""
    words = [SINGULAR.get(word, word) for word in words]
    return {n: w for n, v in VALUES.items() for w in words if w in v}


def answer_of(scene, question):
    """Answers a question by taking its words apart, unlike what drew it."""
    words = question.removesuffix(" ?").split()
    things = scene.objects
    link = [n for n, w in enumerate(words) if w in ("left", "right", "above", "below")]
    if link:
        one, other = words[: link[0]], words[link[0] + 1 :]
        (a,), (b,) = ([t for t in things if fits(t, parsed(x))] for x in (one, other))
        return "yes" if words[link[0]] in relation(scene, a, b) else "no"
    found = [thing for thing in things if fits(thing, parsed(words))]
    if words[:2] == ["how", "many"]:
        return NUMBERS[len(found)]
    if words[0] in ("is", "do"):
        return "yes" if found else "no"
    asked = {
        "color": "colour",
        "shape": "shape",
        "big": "size",
        "size": "size",
        "texture": "texture",
        "pattern": "texture",
    }
    (thing,) = found
    return value(thing, asked[words[1]])


def test_questions_are_answered_rightly():
    source = ScenesQuestions(split="train", num_scenes=150)
    kinds = collections.Counter()
    for key, question, annotation in source.texts():
        scene = source.scene(int(key))
        right = annotation["multiple_choice_answer"]
        assert answer_of(scene, question) == right, question
        assert question_score(right, annotation) == 1.0
        assert len(annotation["answers"]) == 10
        kinds[annotation["question_type"]] += 1
    assert kinds.total() == 450
    assert len(kinds) == 7 and min(kinds.values()) > 10


def truth_of(pair, sentence):
    """Judges a sentence by taking its words apart."""
    words = sentence.split()
    phrase = parsed(words)
    left, right = (sum(fits(t, phrase) for t in s.objects) for s in pair)
    if ("in" in words and "total" in words) or "contain" in words:
        number = next(NUMBERS.index(w) for w in words if w in NUMBERS)
        return left + right >= number
    if "more" in words:
        first = next(w for w in words if w in ("left", "right"))
        return left > right if first == "left" else right > left
    if "and" in words:
        parts = sentence.split(" and ")
        a, b = (parsed(part.split()) for part in parts)
        has = [[any(fits(t, p) for t in s.objects) for p in (a, b)] for s in pair]
        return (has[0][0] and has[1][1]) or (has[1][0] and has[0][1])
    if words[0] in ("both", "each"):
        return left > 0 and right > 0
    if words[0] in ("neither", "no"):
        return left == right == 0
    if words[0] in ("exactly", "only"):
        return (left > 0) != (right > 0)
    return (left if words[1] == "left" else right) > 0


def test_statements_are_judged_rightly_and_half_are_true():
    source = ScenesStatements(split="train", num_scenes=320)
    sentences = collections.defaultdict(list)
    starts = collections.Counter()
    for keys, sentence, annotation in source.texts():
        pair = [source.scene(int(key)) for key in keys]
        label = annotation["label"] == "True"
        assert truth_of(pair, sentence) == label, sentence
        assert re.fullmatch(r"train-\d+-[0-3]-\d", annotation["identifier"])
        split, number, _, s = annotation["identifier"].split("-")
        sentences[split, number, s].append(label)
        starts[" ".join(sentence.split()[:2])] += 1
    assert len(sentences) == 160
    # A sentence is true of two of its four pairs: it tells nothing by itself.
    assert all(sorted(x) == [False, False, True, True] for x in sentences.values())
    assert len(starts) > 8


def test_a_question_alone_tells_little():
    """The best answer to the same words, or the same type, of other scenes."""
    known = collections.defaultdict(collections.Counter)
    train = ScenesQuestions(split="train", num_scenes=700)
    for _, question, annotation in train.texts():
        for name in (question, annotation["question_type"]):
            known[name][annotation["multiple_choice_answer"]] += 1
    held_out = ScenesQuestions(split="evaluate", num_scenes=300)
    scores = []
    for _, question, annotation in held_out.texts():
        guess = known[question] or known[annotation["question_type"]]
        scores.append(question_score(guess.most_common(1)[0][0], annotation))
    assert len(scores) == 900
    assert np.mean(scores) < 0.4  # a reader of the scenes has 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ScenesQuestions, ScenesStatements])
def test_ten_thousand_are_in_the_vocabulary(kind):
    source = kind(split="train", num_scenes=5000)
    tokenizer = text.load_tokenizer("scenes")
    items = list(itertools.islice(source.texts(), 10_000))
    assert len(items) == 10_000
    ids, cut = tokenizer.encode([item[1] for item in items], 22)
    assert not cut
    assert not any((row == tokenizer.unk_id).any() for row in ids)


def test_answers_are_in_the_vocabulary():
    tokenizer = text.load_tokenizer("scenes")
    ids, _ = tokenizer.encode(ANSWERS, 3)
    assert not any((row == tokenizer.unk_id).any() for row in ids)
    assert len(set(ANSWERS)) == 28


def test_they_are_functions_of_seed_and_number():
    few, many = (list(ScenesQuestions(num_scenes=n).texts()) for n in (5, 9))
    assert many[: len(few)] == few
    assert list(ScenesQuestions(num_scenes=5, seed=1).texts()) != few
    few, many = (list(ScenesStatements(num_scenes=n).texts()) for n in (16, 31))
    assert many[: len(few)] == few
    with pytest.raises(InputError, match="number of scenes"):
        ScenesStatements(num_scenes=7)


@pytest.fixture
def build(tmp_path):
    def build(name, scenes, **fields):
        config = {"name": "scenes", "train_scenes": scenes, **fields}
        source = SOURCES[name](config, "train", None)
        tokenizer = text.load_tokenizer("scenes")
        folder = tmp_path / name
        build_or_open([source], tokenizer, 22, folder)
        return build_or_open([source], tokenizer, 22, folder)  # opened again

    return build


def test_batches_carry_soft_targets(build):
    index = build("scenes_vqa", 20, questions_per_scene=4)
    vocabulary = AnswerVocabulary(ANSWERS)
    plan = TrainPlan([index.plan_corpus(0)], index.sizes, texts_per_group=3, **SETTINGS)
    targets = AnswerTargets(vocabulary)
    seen = set()
    with Stream(plan, index, stop=plan.steps_per_epoch, targets=targets) as stream:
        for step in stream:
            scores = step.batch["answer_scores"]
            assert scores.shape == (4, 3, len(ANSWERS)) and scores.dtype == np.float32
            for g, k in np.ndindex(4, 3):
                if not step.batch["example_mask"][g, k]:
                    assert not scores[g, k].any()
                    continue
                row = int(step.batch["example_id"][g, k, 1])
                annotation = index.annotation(0, row)
                best = annotation["multiple_choice_answer"]
                assert scores[g, k, vocabulary.index[best]] == 1.0
                seen.add(annotation["question_id"])
    assert len(seen) == 80


def test_a_control_without_images_reads_none(build):
    index = build("scenes_vqa", 20)
    index.sources[0].read = None
    plan = TrainPlan([index.plan_corpus(0)], index.sizes, texts_per_group=3, **SETTINGS)
    with Stream(plan, index, stop=2, blank_images=True) as stream:
        for step in stream:
            assert step.batch["example_mask"].any()
            for key in ("image", "image_size", "source_size"):
                assert not step.batch[key].any()


def test_pairs_of_images_share_a_batch(build):
    index = build("scenes_nlvr2", 32)
    corpus = index.plan_corpus(0)
    assert corpus.set_images.shape == (16, 2)
    plan = EvaluationPlan(
        [corpus], index.sizes, texts_per_group=4, partners=False, **SETTINGS
    )
    seen = {}
    with Stream(plan, index, targets=TruthTargets()) as stream:
        for step in stream:
            batch = step.batch
            assert "other_image" not in batch
            assert batch["image"].shape == (4, 2, 112, 112, 3)
            for g, k in zip(*batch["example_mask"].nonzero(), strict=True):
                row = int(batch["example_id"][g, k, 1])
                annotation = index.annotation(0, row)
                assert batch["label"][g, k] == (annotation["label"] == "True")
                pair = int(annotation["identifier"].split("-")[2])
                number = int(annotation["identifier"].split("-")[1])
                left = number * 8 + 2 * pair
                assert batch["image_id"][g].tolist() == [left, left + 1]
                height, width = batch["source_size"][g, 1]
                np.testing.assert_array_equal(
                    batch["image"][g, 1, :height, :width], index.read(left + 1)
                )
                seen[annotation["identifier"]] = row
    assert len(seen) == 64
