"""Several evaluators in one run, each with its own split and period."""

import json

import pytest

from pixel_bert_jax.checkpoints.checkpointing import BEST, Checkpoints
from pixel_bert_jax.evaluate import compare_with_training, evaluations
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.trained import training_indexes
from pixel_bert_jax.types import InputError
from tests import runs
from tests.data.conftest import encoded, photo

EVALS = {
    "held": {"type": "probe", "every": "4 steps"},
    "seen": {"type": "probe", "split": "train", "every": "6 steps"},
}


@pytest.mark.runs
def test_evaluators_have_splits_and_periods_of_their_own(straight, tmp_path):
    metric = "trained_on/seen/scenes/match"
    fields = {"evals": EVALS, "checkpoint__best_metric": metric}
    config = runs.FILE + runs.argument(**fields)
    flags = runs.place(tmp_path, straight.index_dir)
    outcome = runs.Process(runs.command(*flags, config=config)).finish()
    assert outcome.code == 0, outcome.output
    assert outcome.digest == straight.digest  # training knows nothing of them
    found = {
        line["step"]: line["evaluation"]
        for line in runs.log(tmp_path)
        if "evaluation" in line
    }
    names = {
        step: {name.partition("/scenes/")[0] for name in x} for step, x in found.items()
    }
    held, seen = "held", "trained_on/seen"
    assert names == {4: {held}, 6: {seen}, 8: {held}, 12: {held, seen}}
    # 8 scenes and 48, of two captions each.
    assert found[12]["held/scenes/texts"] == 16
    assert found[12]["trained_on/seen/scenes/texts"] == 96
    (alone,) = [x for x in straight.lines if x["step"] == 12 and "evaluation" in x]
    for name, value in alone["evaluation"].items():
        assert found[12][f"held/{name}"] == value, name
    checkpoints = Checkpoints(tmp_path, keep=1, metric=metric, read_only=True)
    best = checkpoints.read_meta(BEST)["figures"]
    step = max((6, 12), key=lambda step: found[step][metric])
    assert checkpoints.newest_step(BEST) == step
    assert best[metric] == pytest.approx(found[step][metric])
    checkpoints.close()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "prob"}, r"evals\.x\.type is 'prob' \(did you mean 'probe'"),
        ({"split": "trian"}, r"evals\.x\.split is 'trian' \(did you mean 'train'"),
        ({"grups": 3}, "evals.x.grups"),
        ({"groups": 0}, r"evals\.x\.groups is 0"),
        ({"seed": 3}, "evals.x has no field 'seed'"),
    ],
)
def test_an_entry_that_cannot_be_meant(entry, message):
    config = runs.config(evals={"x": {"type": "probe"} | entry})
    with pytest.raises(InputError, match=message):
        evaluations(Experiment(config))


def test_photos_that_are_trained_on_are_refused_or_named(tmp_path):
    for n in range(12):
        (tmp_path / f"{n}.jpg").write_bytes(encoded(photo(40, 50, n)))
    lines = [json.dumps({"image": f"{n}.jpg", "texts": ["a red"]}) for n in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = {"source": "jsonl", "name": "own", "annotations": "a.jsonl"}
    fields = {
        "data__corpora": (corpus,),
        "data__root": str(tmp_path),
        "data__index_dir": str(tmp_path / "index"),
        "groups": 4,
    }
    experiment = Experiment(runs.config(**fields))
    trained = training_indexes(experiment, [experiment.config], set())
    (one,) = evaluations(experiment)
    with pytest.raises(InputError, match=r"12 of the 12 held-out photos .* trained on"):
        one.compare(trained)
    experiment = Experiment(runs.config(**fields, data__allow_overlap=("evaluate",)))
    (one,) = evaluations(experiment)
    one.compare(trained)
    assert one.gives("trained_on/own/match") and not one.gives("own/match")
    # Photos of an earlier training are reported, and may be evaluated.
    (again,) = evaluations(Experiment(runs.config(**fields)))
    again.compare([one._replace(earlier=True) for one in trained])
    assert again.gives("own/match")


def test_scenes_that_are_trained_on_are_named_after_training_as_well():
    """As `--mode=evaluate` does, with the config that a model was trained with."""
    fields = {"evals": {"seen": {"type": "probe", "split": "train"}}}
    experiment = Experiment(runs.config(**fields))
    old = runs.config(model__dropout=0.2)
    (one,) = found = evaluations(experiment)
    compare_with_training(found, experiment, [old])
    assert one.prefix == "trained_on/seen/"
    (one,) = found = evaluations(Experiment(runs.config()))
    compare_with_training(found, experiment, [old])
    assert one.prefix == ""


@pytest.mark.slow
def test_a_best_metric_that_does_not_come_ends_the_run(straight, tmp_path):
    # With `eval.oracle` there would be such a metric.
    fields = {"checkpoint__best_metric": "scenes/match_oracle", "eval__every": 1}
    config = runs.FILE + runs.argument(**fields)
    flags = runs.place(tmp_path, straight.index_dir)
    outcome = runs.Process(runs.command(*flags, config=config)).finish()
    assert outcome.code == 2, outcome.output
    assert "this evaluation gave scenes/texts, scenes/match," in outcome.output
