"""The model in `checkpoints/`: whole, fitting its preset, and as good as it says."""

import jax
import pytest

from configs import pretrain
from pixel_bert_jax import evaluate, trained, trees
from pixel_bert_jax.config import resolve
from pixel_bert_jax.convert.pretrained import from_pretrained

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
    """A tenth of the scenes of docs/results.md; bounds leave five standard errors."""
    config = pretrain.get_config("tiny_long").to_dict()
    config["data"]["scenes"] |= {"seed": 1001, "evaluate_scenes": 96}
    config["data"]["index_dir"] = str(tmp_path)
    config["mesh"] = {"data": -1}
    experiment, exported = trained.from_model(resolve(config), folder)
    (probe,) = evaluate.evaluations(experiment, oracle=False)
    figures = dict(probe.run(evaluate.Predictor(experiment), exported.variables))
    assert len(jax.devices()) == 8
    assert figures["scenes/texts"] == 480
    assert figures["scenes/match"] > 0.85
    assert figures["scenes/match_blanked"] < 0.6
    for kind in ("colour", "shape"):
        assert figures[f"scenes/{kind}"] > figures[f"scenes/{kind}_blanked"] + 0.4
