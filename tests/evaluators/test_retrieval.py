"""Retrieval with the published model: each image once, all pairs, two stages."""

import functools
import types

import jax
import numpy as np
import pytest

from configs import retrieval
from pixel_bert_jax import evaluate, resuming, trees
from pixel_bert_jax.commands.predict import write_predictions
from pixel_bert_jax.convert import starting
from pixel_bert_jax.convert.pretrained import from_pretrained
from pixel_bert_jax.evaluators import pair_scores, recall
from pixel_bert_jax.evaluators.base import to_host
from pixel_bert_jax.evaluators.retrieval import FOLDER
from pixel_bert_jax.evaluators.shortlist import Words
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.tasks.functions import PredictFunctions
from pixel_bert_jax.types import InputError

SCENES, TEXTS = 11, 55


def experiment(devices=1, objectives=None, blank=False, **options):
    """A run on a few scenes; one canvas is one program to compile."""
    config = retrieval.get_config("tiny").to_dict()
    config["data"]["canvases"] = ("112x112",)
    (corpus,) = config["data"]["corpora"]
    config["data"]["corpora"] = [corpus | {"evaluate_scenes": SCENES}]
    config["eval"] |= {"groups": 4, "texts": 30} | options
    config["objectives"] = objectives or config["objectives"]
    config["data"]["blank_images"] = blank
    return Experiment(config, devices=jax.devices()[:devices])


def published(repository, run):
    """The published model's variables, as far as the run has them."""
    found = from_pretrained(repository / "checkpoints/scenes_tiny_long")
    arrays, _ = starting.from_trained(
        found,
        run.config.model,
        run.variable_shapes,
        "published",
        inherits=resuming.inherited(run.task),
    )
    return arrays


@functools.cache
def model(repository):
    """The published model's variables with a score made of its matches."""
    return trees.unflatten(published(repository, experiment()))


def test_the_score_starts_as_class_one_of_matching(repository):
    found = from_pretrained(repository / "checkpoints/scenes_tiny_long").variables
    there = found["params"]["heads"]["itm"]["classifier"]
    here = model(repository)["params"]["heads"]["retrieval"]["score"]
    np.testing.assert_array_equal(here["kernel"][:, 0], there["kernel"][:, 1])
    np.testing.assert_array_equal(here["bias"], there["bias"][1:])


class Counting(PredictFunctions):
    """Counts the images that pass the CNN, and stops after some of them."""

    def __init__(self, run, most=10**9):
        super().__init__(run.task, run.mesh, run.config.sharding)
        self.images, self.most = 0, most

    def place(self, step):
        self.images += int(step.batch["example_mask"].any(axis=1).sum())
        if self.images > self.most:
            raise KeyboardInterrupt
        return super().place(step)


def matrix(run, variables, predict=None, workdir=None):
    one = evaluation(run)
    evaluator, predict = one.evaluator(workdir), predict or evaluate.functions(run)
    with one.stream() as stream:
        (scores,) = evaluator.predictions(predict, variables, stream, one.index)
    return scores


def evaluation(run):
    (one,) = evaluate.evaluations(run, oracle=False)
    return one


def metrics(run, variables):
    one = evaluation(run)
    out = one.run(evaluate.functions(run), variables)
    assert all(map(one.gives, out))
    assert not any(map(one.gives, ("scenes/text_r2", "scenes/r1", "coco/text_r1")))
    return {name.removeprefix("scenes/"): value for name, value in out.items()}


@pytest.fixture(scope="module")
def whole(repository):
    """The scores on one device."""
    return matrix(experiment(), model(repository))


@pytest.mark.slow
def test_scores_are_those_of_single_pairs(repository, whole):
    run = experiment(groups=1, texts=1)
    variables = model(repository)
    task, index = run.task, evaluation(run).index
    gallery = pair_scores.Gallery(index)
    predict = evaluate.functions(run)
    with evaluation(run).stream() as stream:
        for step in stream:
            (image,) = gallery.shown(step)
            batch = predict.place(step)
            for text in range(0, TEXTS, 9):
                ids, mask = index.texts(0, np.array([text]))
                alone = {**batch, "text_ids": ids[None], "text_mask": mask[None]}
                encoded, heads = task.encode(variables, alone)
                score = float(heads["retrieval"](encoded.pooled)[0])
                assert score == pytest.approx(whole[image, text], abs=1e-4)
            if step.step == 2:
                break
    assert whole.shape == (SCENES, TEXTS)
    assert np.array_equal(gallery.text_image, np.repeat(np.arange(SCENES), 5))


@pytest.mark.parametrize(
    ("devices", "groups", "texts"),
    [
        (2, 3, 7),
        (8, 11, 55),
        pytest.param(3, 7, 13, marks=pytest.mark.slow),
        pytest.param(8, 1, 64, marks=pytest.mark.slow),
        pytest.param(5, 6, 1, marks=pytest.mark.slow),
    ],
)
def test_metrics_do_not_depend_on_devices_and_portions(
    repository, whole, devices, groups, texts
):
    run = experiment(devices, groups=groups, texts=texts)
    predict = Counting(run)
    scores = matrix(run, model(repository), predict)
    np.testing.assert_allclose(scores, whole, atol=2e-5)
    assert predict.images == SCENES  # each image passes the CNN once
    text_image = np.repeat(np.arange(SCENES), 5)
    found, wanted = (
        recall.metrics(recall.ranks(s, text_image)) for s in (scores, whole)
    )
    assert found == wanted
    # Far above chance, 9 %: the score starts from matches.
    assert wanted["image_r1"] > 60 and wanted["text_r1"] > 60


@pytest.mark.runs
def test_it_goes_on_where_it_was_stopped(repository, whole, tmp_path):
    run, variables = experiment(), model(repository)
    with pytest.raises(KeyboardInterrupt):
        matrix(run, variables, Counting(run, most=7), tmp_path)
    (folder,) = (tmp_path / FOLDER).iterdir()
    parts = sorted(folder.iterdir())
    assert [file.name for file in parts] == ["000000.npy", "000001.npy"]
    before = sum(len(np.load(file)) for file in parts)
    assert 0 < before < SCENES
    # What another model left is not taken; it lies elsewhere.
    changed = jax.tree.map(lambda x: x * np.float32(1.5), variables)
    with pytest.raises(KeyboardInterrupt):
        matrix(run, changed, Counting(run, most=7), tmp_path)
    other = set((tmp_path / FOLDER).iterdir()) - {folder}
    assert len(other) == 1
    predict = Counting(run)
    scores = matrix(run, variables, predict, tmp_path)
    assert predict.images == SCENES - before
    np.testing.assert_array_equal(scores, whole)
    assert set((tmp_path / FOLDER).iterdir()) == other


def test_scores_without_images_are_other_scores(repository, whole, tmp_path):
    run, variables = experiment(), model(repository)
    blind = experiment(blank=True)
    with pytest.raises(KeyboardInterrupt):
        matrix(blind, variables, Counting(blind, most=7), tmp_path)
    np.testing.assert_array_equal(matrix(run, variables, None, tmp_path), whole)


def test_a_damaged_part_is_made_again(repository, whole, tmp_path):
    run, variables = experiment(), model(repository)
    with pytest.raises(KeyboardInterrupt):
        matrix(run, variables, Counting(run, most=7), tmp_path)
    part, good = sorted((tmp_path / FOLDER).glob("*/*.npy"))
    kept = len(np.load(good))
    part.write_bytes(part.read_bytes()[:-9])
    predict = Counting(run)
    np.testing.assert_array_equal(matrix(run, variables, predict, tmp_path), whole)
    assert predict.images == SCENES - kept


def test_an_image_that_comes_twice_is_no_evaluation(repository):
    run = experiment()
    gallery = pair_scores.Gallery(evaluation(run).index)
    with evaluation(run).stream() as stream:
        steps = list(stream)
    list(pair_scores.once(steps, gallery))
    for wrong in (steps[1:], [*steps, steps[0]]):
        with pytest.raises(RuntimeError, match="images were not seen"):
            list(pair_scores.once(wrong, gallery))


def test_two_stages_with_long_lists_are_the_whole(repository):
    variables = model(repository)
    wanted = metrics(experiment(), variables)
    found = metrics(experiment(shortlist=TEXTS), variables)
    for name in ("text_lost", "text_lost_se", "image_lost", "image_lost_se"):
        assert found.pop(f"two_stage_{name}") == 0
    assert found.pop("two_stage_pairs_scored") == 100
    for name in ("images", "texts"):
        assert found.pop(name) == wanted.pop(name)
    assert found == {f"two_stage_{name}": value for name, value in wanted.items()}


def test_two_stages_rank_what_is_listed(repository, whole):
    run, variables = experiment(shortlist=10), model(repository)
    found = metrics(run, variables)
    assert not {"text_r1", "image_r1"} & set(found)  # always told apart
    # The first stage by hand, from which words each image shows.
    predict, gallery = (
        evaluate.functions(run),
        pair_scores.Gallery(evaluation(run).index),
    )
    first = Words(predict, variables, gallery, run.tokenizer)
    logits = np.zeros((SCENES, run.tokenizer.vocab_size))
    with evaluation(run).stream() as stream:
        for step in stream:
            visual = predict.run("pixels", variables, predict.place(step))
            images = gallery.shown(step)
            first.add(visual, images)
            out = to_host(predict.run("words", variables, visual))["log_odds"]
            logits[images[images >= 0]] = out[: len(images)][images >= 0]
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    coarse = np.zeros((SCENES, TEXTS))
    for t in range(TEXTS):
        ids, mask = evaluation(run).index.texts(0, np.array([t]))
        words = set(ids[mask].tolist()) - set(run.tokenizer.special_ids.tolist())
        for w in sorted(words):
            coarse[:, t] += np.log(probability[:, w] / probability[:, w].mean())
    np.testing.assert_allclose(first.scores(), coarse, atol=1e-3)
    own = np.arange(SCENES)[:, None] == gallery.text_image
    for_images = np.argsort(-coarse, axis=1)[:, :10]
    lost = np.mean([not own[i, row].any() for i, row in enumerate(for_images)])
    assert found["two_stage_text_lost"] == pytest.approx(100 * lost)
    # Ten of eleven images: at most one is missed beside each text.
    worst = np.argmin(coarse, axis=0)
    lost = np.mean(worst == gallery.text_image)
    assert found["two_stage_image_lost"] == pytest.approx(100 * lost)
    assert 80 < found["two_stage_pairs_scored"] < 100
    best = [max(row, key=lambda t: whole[i, t]) for i, row in enumerate(for_images)]
    hits = np.mean([own[i, t] for i, t in enumerate(best)])
    assert found["two_stage_text_r1"] == pytest.approx(100 * hits)


CONTRAST = {"itm": {"weight": 1.0}, "contrast": {"weight": 1.0}}


@functools.cache
def contrastive(repository):
    """The published model with a contrast head that leaves the encoder's outputs."""
    run = experiment(objectives=CONTRAST)
    found = trees.flatten(jax.device_get(run.create_state().variables))
    return run, trees.unflatten(found | published(repository, run))


@pytest.mark.parametrize("devices", [1, 3])
def test_vectors_score_all_pairs(repository, devices):
    run, variables = contrastive(repository)
    options = {"score": "contrast", "groups": 4}
    scores = matrix(experiment(devices, objectives=CONTRAST, **options), variables)
    # By hand: a pair at a time, from the transformer's outputs.
    task, index = run.task, evaluation(run).index
    with evaluation(run).stream() as stream:
        step = next(iter(stream))
    images = pair_scores.Gallery(index).shown(step)
    batch = evaluate.functions(run).place(step)
    apply = functools.partial(task.model.apply, variables)
    visual = apply(batch["image"], batch["image_size"], method="encode_images")
    pixels = apply(visual, method="encode_pixels")
    for text in range(0, TEXTS, 6):
        ids, mask = index.texts(0, np.array([text]))
        words = apply(ids[None], mask[None], method="encode_texts")

        def unit(x):
            return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)

        inside = unit(words.features[0, 0])[1 : mask.sum() - 1]
        for g in np.flatnonzero(images >= 0):
            seen = unit(pixels.features[g, 0])[np.asarray(pixels.mask[g, 0])]
            wanted = (inside @ seen.T).max(axis=1).mean()
            assert scores[images[g], text] == pytest.approx(wanted, abs=1e-4)
    assert scores.shape == (SCENES, TEXTS)


def test_vectors_make_shortlists(repository):
    _, variables = contrastive(repository)
    whole = metrics(experiment(objectives=CONTRAST), variables)  # by the fused score
    run = experiment(objectives=CONTRAST, shortlist=TEXTS)
    assert evaluation(run).evaluator().first == "contrast"
    found = metrics(run, variables)
    assert found["two_stage_text_r1"] == whole["text_r1"]
    assert found["two_stage_image_r1"] == whole["image_r1"]


def test_folds_are_told_beside_the_whole(repository):
    run = experiment(fold=11)
    found = metrics(run, model(repository))
    assert found["fold_text_r1"] == found["text_r1"]
    with pytest.raises(InputError, match="a divisor of the 11 images"):
        evaluation(experiment(fold=4)).check()


def test_an_npz_file_of_all_scores(repository, whole, tmp_path):
    run, path = experiment(), tmp_path / "scores.npz"
    one, variables = evaluation(run), model(repository)
    count, name = write_predictions(one, variables, path, tmp_path)
    assert (count, name) == (SCENES, "scenes")
    with np.load(path) as file:
        np.testing.assert_array_equal(file["scores"], whole)
        assert file["texts"][7] == evaluation(run).index.caption(0, 7)
        assert file["images"].tolist() == [str(n) for n in range(SCENES)]
        assert file["text_image"].tolist() == [n // 5 for n in range(TEXTS)]
    with pytest.raises(InputError, match=r"ends in \.npz"):
        write_predictions(one, variables, tmp_path / "scores.csv", tmp_path)


def test_what_cannot_be_evaluated():
    alone = {"retrieval": {"weight": 1.0}}
    message = "shortlist_by is '', expected one of the objectives contrast, image_words"
    with pytest.raises(InputError, match=message):
        evaluation(experiment(shortlist=10, objectives=alone)).check()
    message = "eval.score is 'itm', expected one of .*; the model has retrieval"
    with pytest.raises(InputError, match=message):
        evaluation(experiment(score="itm", objectives=alone)).check()
    run = experiment(shortlist=10, score="contrast", objectives=CONTRAST)
    with pytest.raises(InputError, match="for retrieval or itm to score"):
        evaluation(run).check()
    for options, message in (
        ({"shortlist": 9}, "at least 10, the longest list"),
        ({"texts": 0}, "eval.texts is 0, expected at least 1"),
        ({"shortlist": 10, "fold": 11}, "do not go together"),
    ):
        with pytest.raises(InputError, match=message):
            evaluation(experiment(**options)).check()
    index = types.SimpleNamespace(corpora=("coco", "flickr"))
    with pytest.raises(InputError, match="one corpus, received coco, flickr"):
        pair_scores.Gallery(index)
