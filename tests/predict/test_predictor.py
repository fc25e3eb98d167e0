"""Predictor: the results of an evaluation, from photos and texts as users have them."""

import concurrent.futures
import dataclasses
import functools
import gc
import weakref

import jax
import numpy as np
import pytest

from configs import nlvr2, pretrain, retrieval, vqa
from pixel_bert_jax import Predictor, evaluate, trees
from pixel_bert_jax.convert import starting
from pixel_bert_jax.convert.pretrained import Pretrained, from_pretrained
from pixel_bert_jax.data.images import ImageError
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.tasks import PREDICTIONS
from pixel_bert_jax.types import InputError

# Several programs are compiled; `test_program.py` uses Predictor among the quick tests.
pytestmark = pytest.mark.runs
EXAMPLES = 200
CHECKPOINT = "checkpoints/scenes_tiny_long"
CANVASES = ("112x112",)  # for scenes of every shape: fewer programs to compile


def load(repository):
    found = from_pretrained(repository / CHECKPOINT)
    data = found.config["data"] | {"canvases": CANVASES}
    return dataclasses.replace(found, config=found.config | {"data": data})


@pytest.fixture(scope="module")
def published(repository):
    return Predictor(load(repository))


@pytest.fixture(scope="module")
def scenes():
    """Photos of scenes with their captions, as an index gives them."""
    config = pretrain.get_config("tiny_long").to_dict()
    config["data"]["scenes"]["evaluate_scenes"] = 12
    index = Experiment(config).corpora.index("evaluate")
    rows = range(12)
    captions = [index.caption(0, 5 * row) for row in rows]
    return [index.read(row) for row in rows], captions


def made(repository, module, **objectives):
    """A predictor with the published model under new heads, and its experiment."""
    config = module.get_config("tiny").to_dict()
    (corpus,) = config["data"]["corpora"]
    config["data"]["corpora"] = [corpus | {"evaluate_scenes": 40}]
    config["data"]["canvases"] = CANVASES
    config["eval"]["groups"] = 8
    if objectives:
        config["objectives"] = objectives
    run = Experiment(config, devices=jax.devices()[:1])
    found = from_pretrained(repository / CHECKPOINT)
    shapes = run.variable_shapes
    arrays, _ = starting.from_trained(found, run.config.model, shapes, "published")
    start = trees.flatten(jax.device_get(run.create_state().variables))
    random = np.random.default_rng(0)
    for path, x in start.items():  # heads that tell examples apart
        if path not in arrays:
            start[path] = random.normal(0, 0.2, x.shape).astype(np.float32)
    variables = trees.unflatten(start | arrays)
    record = run.config.to_dict()
    pretrained = Pretrained.of(variables, record, run.tokenizer, {}, run.answers)
    return Predictor(pretrained), run, variables


def evaluated(run, variables, name):
    """Yields (batch, result of a predict function, image rows, index)."""
    (one,) = evaluate.evaluations(run, oracle=False)
    predict = evaluate.functions(run)
    with one.stream() as stream:
        for step in stream:
            rows = one.plan.batch(step.step).images
            yield step.batch, predict(name, variables, step), rows, one.index


def texts_of(batch, index):
    """Yields (group, slot, number of the text) of the real slots of a batch."""
    for g, k in np.argwhere(batch["example_mask"]):
        yield g, k, int(batch["example_id"][g, k, 1])


def test_answers_are_those_of_the_evaluation(repository):
    predictor, run, variables = made(repository, vqa)
    photos, questions, wanted = [], [], []
    for batch, out, rows, index in evaluated(run, variables, "answer"):
        for g, k, text in texts_of(batch, index):
            photos.append(index.read(int(rows[g, 0])))
            questions.append(index.caption(0, text))
            wanted.append((out["answer"][g, k], out["confidence"][g, k]))
    found = predictor.answer(photos[:EXAMPLES], questions[:EXAMPLES])
    assert len(found) > 100
    for (best,), (answer, confidence) in zip(found, wanted, strict=False):
        assert best.answer == run.answers.answers[answer]
        assert best.probability == pytest.approx(confidence, abs=1e-5)
    assert len({best.answer for (best,) in found}) > 3
    (one,) = predictor.answer(photos[3], questions[3])
    assert one.answer == found[3][0].answer
    assert one.probability == pytest.approx(found[3][0].probability, abs=1e-5)
    several = predictor.answer(photos[3], questions[3:8], top_k=3)
    assert [len(answers) for answers in several] == [3] * 5
    assert several[0][0].answer == one.answer
    odds = [a.probability for a in several[0]]
    assert odds == sorted(odds, reverse=True)


def test_statements_are_judged_as_in_the_evaluation(repository):
    predictor, run, variables = made(repository, nlvr2)
    left, right, statements, wanted = [], [], [], []
    for batch, out, rows, index in evaluated(run, variables, "judge"):
        for g, k, text in texts_of(batch, index):
            left.append(index.read(int(rows[g, 0])))
            right.append(index.read(int(rows[g, 1])))
            statements.append(index.caption(0, text))
            wanted.append(1 / (1 + np.exp(-out["log_odds"][g, k])))
    found = predictor.true_or_false(left, right, statements)
    assert len(found) > 30 and np.ptp(found) > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for count in (1, 3, 5, 13):  # numbers that need padding
        some = predictor.true_or_false(left[:count], right[:count], statements[:count])
        np.testing.assert_allclose(some, found[:count], atol=1e-5)
    one = predictor.true_or_false(left[1], right[1], statements[1])
    assert one == pytest.approx(found[1], abs=1e-5)
    swapped = predictor.true_or_false(right[1], left[1], statements[1])
    assert abs(swapped - one) > 1e-4  # which photo is which is part of the question


@pytest.mark.parametrize("head", ["retrieval", "contrast"])
def test_rankings_are_those_of_the_evaluation(repository, head):
    predictor, run, variables = made(repository, retrieval, **{head: {"weight": 1.0}})
    (one,) = evaluate.evaluations(run, oracle=False)
    predict = evaluate.functions(run)
    with one.stream() as stream:
        (scores,) = one.evaluator().predictions(predict, variables, stream, one.index)
    photos = [one.index.read(row) for row in range(20)]
    texts = [one.index.caption(0, n) for n in range(70)]
    found = predictor.rank(photos, texts)
    np.testing.assert_allclose(found.scores, scores[:20, :70], atol=2e-5)
    assert (np.diff(np.take_along_axis(found.scores, found.texts, 1)) <= 0).all()
    for text, images in enumerate(found.images):
        assert (np.diff(found.scores[images, text]) <= 0).all()
    alone = predictor.rank(photos[4], texts[7])
    assert alone.scores == pytest.approx(scores[4, 7], abs=2e-5)


def test_words_and_matches_are_those_of_the_evaluation(repository, published):
    config = pretrain.get_config("tiny_long").to_dict()
    config["data"]["scenes"]["evaluate_scenes"] = 40
    config["data"]["canvases"] = CANVASES
    run = Experiment(config, devices=jax.devices()[:1])
    variables = from_pretrained(repository / CHECKPOINT).variables
    tokenizer = run.tokenizer
    photos, texts, matches, words, wanted = [], [], [], [], []
    for batch, out, rows, index in evaluated(run, variables, "probe"):
        for g, k, text in texts_of(batch, index):
            photos.append(index.read(int(rows[g, 0])))
            texts.append(index.caption(0, text))
            matches.append(1 / (1 + np.exp(-out["match_own"][g, k, 0])))
            positions = out["positions"][g, k][out["weights"][g, k]]
            # The probe replaces some tokens by others; here all become [MASK].
            if len(positions) == 1:
                ids = batch["text_ids"][g, k].copy()
                ids[positions] = tokenizer.mask_id
                inside = tokenizer.tokens(ids[batch["text_mask"][g, k]])[1:-1]
                words.append((len(photos) - 1, " ".join(inside)))
                wanted.append(tokenizer.vocabulary[out["words_own"][g, k, 0]])
    found = published.match(photos[:EXAMPLES], texts[:EXAMPLES])
    np.testing.assert_allclose(found, matches[:EXAMPLES], atol=1e-5)
    assert min(found) < 0.5 < max(found)
    filled = published.fill_mask([photos[n] for n, _ in words], [t for _, t in words])
    assert len(filled) > 20
    same = [best[0].word == w for (best,), w in zip(filled, wanted, strict=True)]
    assert np.mean(same) > 0.85  # 80 % of the probe's texts have [MASK] there, too


def test_a_batch_gives_what_single_photos_give(published, scenes):
    photos, captions = scenes
    together = published.match(photos[:5], captions[:5])
    alone = [published.match(*pair) for pair in zip(photos[:5], captions, strict=False)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    one_photo = published.match(photos[0], captions[:5])
    one_text = published.match(photos[:5], captions[0])
    assert one_photo[0] == pytest.approx(one_text[0], abs=1e-5)
    ranked = published.rank(photos[:5], captions[:5]).scores
    np.testing.assert_allclose(1 / (1 + np.exp(-ranked[0])), one_photo, atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-ranked[:, 0])), one_text, atol=1e-5)
    tokens = published.encode(photos[:2])
    np.testing.assert_allclose(tokens[1], published.encode(photos[1]), atol=1e-5)
    assert tokens[0].shape[1] == 128 and len(tokens[0]) >= 36


def test_every_mask_is_filled(published, scenes):
    photos, _ = scenes
    texts = ["a [MASK] ring", "a [MASK] [MASK] left of a [MASK] disc"]
    found = published.fill_mask(photos[:2], texts, top_k=4)
    assert [len(masks) for masks in found] == [1, 3]
    single = published.fill_mask(photos[1], texts[1], top_k=4)
    for ours, theirs in zip(single, found[1], strict=True):
        assert [w.word for w in ours] == [w.word for w in theirs]
        chances = [w.probability for w in ours]
        assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1


def test_several_devices_give_what_one_gives(repository, published, scenes):
    photos, captions = scenes
    spread = Predictor(load(repository), devices=jax.devices())
    want, got = (p.match(photos[:3], captions[:3]) for p in (published, spread))
    np.testing.assert_allclose(got, want, atol=1e-5)
    want, got = (p.rank(photos[:3], captions[:5]).scores for p in (published, spread))
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_threads_share_it(published, scenes):
    photos, captions = scenes
    want = [published.match(p, c) for p, c in zip(photos, captions, strict=True)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            assert list(pool.map(published.match, photos, captions)) == want


def test_the_functions_go_under_a_jit_of_ones_own(published, scenes):
    photos, captions = scenes
    batch = published.pretrained.inputs(photos[:2], captions[:2])
    match = functools.partial(PREDICTIONS["match"], published.task)
    found = jax.jit(match)(published.variables, batch)["log_odds"][:, 0]
    want = published.match(photos[:2], captions[:2])
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), want, atol=1e-5)


def test_a_folder_is_all_it_needs(repository, published, scenes):
    loaded = Predictor.from_pretrained(str(repository / CHECKPOINT))
    photos, captions = scenes  # on the smallest canvas that holds the photo
    found = loaded.match(photos[0], captions[0])
    assert found == pytest.approx(published.match(photos[0], captions[0]), abs=1e-5)


def test_what_it_refuses(published, scenes, tmp_path):
    photo = scenes[0][0]
    for call, message in (
        (lambda: published.answer(photo, "what?"), r"no head answers.*configs/vqa\.py"),
        (lambda: published.true_or_false(photo, photo, "x"), "no head truth"),
        (lambda: published.rank(photo, "a", by="contrast"), "no head contrast"),
        (lambda: published.rank(photo, "a", by="cosine"), "by is 'cosine', expected"),
        (lambda: published.fill_mask(photo, "a ring"), r"with \[MASK\].*'a ring'"),
        (lambda: published.match(photo, " "), "received an empty one"),
        (lambda: published.match(photo, []), "at least one text"),
        (lambda: published.match(photo, "red " * 2500), "more than 22 tokens"),
        (lambda: published.match([photo] * 3, ["a", "b"]), "3 photos and 2 texts"),
        (lambda: published.match([], "a"), "at least one photo"),
        (lambda: published.rank([], ["a", "b"]), "at least one photo"),
        (lambda: published.encode([]), "at least one photo"),
        (lambda: published.match(photo, None), "received NoneType"),
        (lambda: published.match(photo, [3]), "received int"),
        (lambda: published.match(photo, "a \ud800"), "half a character"),
        (lambda: published.fill_mask(photo, "a [MASK]", top_k=0), "top_k is 0"),
        (lambda: published.fill_mask(photo, "a [MASK]", top_k=1.5), "top_k is 1.5"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    broken = tmp_path / "empty.jpg"
    broken.write_bytes(b"")
    with pytest.raises(ImageError):
        published.match(broken, "a ring")
    with pytest.raises(ImageError, match=r"photos\[1\]: the file is empty"):
        published.rank([photo, broken], "a ring")


def test_a_config_may_sample_pixels_in_its_evaluations(repository, published, scenes):
    found = load(repository)
    evaluation = found.config["eval"] | {"sample_pixels": 5}
    other = dataclasses.replace(found, config=found.config | {"eval": evaluation})
    photos, captions = scenes
    assert Predictor(other).match(photos[0], captions[0]) == pytest.approx(
        published.match(photos[0], captions[0]), abs=1e-6
    )


def test_heads_that_the_config_names_have_to_be_there(repository):
    found = load(repository)
    objectives = found.config["objectives"] | {"contrast": {"weight": 1.0}}
    other = dataclasses.replace(found, config=found.config | {"objectives": objectives})
    with pytest.raises(InputError, match="objective contrast, its variables have no"):
        Predictor(other)


def test_what_is_not_used_any_more_is_freed(repository):
    predictor = Predictor(load(repository))
    predictor.encode(np.zeros((112, 96, 3), np.uint8))
    task = weakref.ref(predictor.task)
    del predictor
    gc.collect()
    assert task() is None
