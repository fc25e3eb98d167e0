"""The model in `checkpoints/`: whole, fitting its preset, and as good as it says."""

import jax
import pytest

from configs import pretrain, retrieval, vqa
from pixel_bert_jax import evaluate, trained, trees
from pixel_bert_jax.config import replace, resolve
from pixel_bert_jax.convert.pretrained import from_pretrained
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.types import InputError

NAME = "scenes_tiny_long"


@pytest.fixture(scope="module")
def folder(repository):
    return repository / "checkpoints" / NAME


def test_it_is_whole_and_small(folder):
    exported = from_pretrained(folder)
    record = exported.provenance
    assert trees.digest(exported.variables) == record["variables_sha256"]
    assert record["command"].endswith("--config=configs/pretrain.py:tiny_long")
    assert exported.config["preset"] == "tiny_long"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 12e6


def test_it_answers_on_scenes_never_trained_on(folder, tmp_path):
    """Some of the scenes of docs/results.md; bounds leave five standard errors."""
    config = pretrain.get_config("tiny_long").to_dict()
    config["data"]["scenes"] |= {"seed": 1001, "evaluate_scenes": 64}
    config["data"]["index_dir"] = str(tmp_path)
    config["mesh"] = {"data": -1}
    experiment, exported = trained.from_model(resolve(config), folder)
    (probe,) = evaluate.evaluations(experiment, oracle=False)
    figures = dict(probe.run(evaluate.functions(experiment), exported.variables))
    assert len(jax.devices()) == 8
    assert figures["scenes/texts"] == 320
    assert figures["scenes/match"] > 0.85
    assert figures["scenes/match_blanked"] < 0.6
    for kind in ("colour", "shape"):
        assert figures[f"scenes/{kind}"] > figures[f"scenes/{kind}_blanked"] + 0.4


def test_its_own_config_builds(folder, tmp_path):
    """It lacks fields that are newer than the model."""
    config = resolve(from_pretrained(folder).config)
    small = {"data.scenes.evaluate_scenes": 4, "data.index_dir": str(tmp_path)}
    (probe,) = evaluate.evaluations(Experiment(replace(config, small)))
    with probe.stream() as stream:
        assert sum(step.batch["example_mask"].sum() for step in stream) == 20


@pytest.mark.slow
def test_pre_training_alone_retrieves_in_another_precision(folder, tmp_path):
    """A model is evaluated by any task that one of its heads suits."""
    config = replace(
        resolve(retrieval.get_config("tiny")),
        {
            "model.dtype": "bfloat16",
            "model.dropout": 0.3,
            "model.sample_pixels": 5,
            "model.norm": "batch",
            "data.scenes.evaluate_scenes": 16,
            "data.corpora": ({"source": "scenes", "name": "scenes"},),
            "data.index_dir": str(tmp_path),
        },
    )
    experiment, exported = trained.from_model(config, folder)
    assert set(experiment.task.heads) == {"mlm", "itm", "image_words"}
    (one,) = evaluate.evaluations(experiment)
    found = one.run(evaluate.functions(experiment), exported.variables)
    assert found["scenes/text_r1"] > 50 and found["scenes/image_r1"] > 30  # chance: 6
    with pytest.raises(InputError, match=r"model.layers is \d, expected 7"):
        trained.from_model(replace(config, {"model.layers": 7}), folder)


def test_a_task_that_no_head_suits_is_refused(folder):
    experiment, _ = trained.from_model(resolve(vqa.get_config("tiny")), folder)
    (one,) = evaluate.evaluations(experiment)
    with pytest.raises(InputError, match="needs a model with the objective answers"):
        one.check()
