"""Values become a config: types, ranges, names, defaults, configs of old."""

import dataclasses
import json

import ml_collections
import pytest

from configs import nlvr2, pretrain, retrieval, vqa
from pixel_bert_jax import config as package
from pixel_bert_jax.config import Config, flat, places, replace, resolve, schema
from pixel_bert_jax.objectives import complete
from pixel_bert_jax.types import InputError

PRESETS = [
    (file, name) for file in (pretrain, retrieval, vqa, nlvr2) for name in file.PRESETS
]


def refusal(values) -> list[str]:
    """Returns the lines of the message that refuses the values."""
    with pytest.raises(InputError) as raised:
        resolve(values)
    first, *faults = str(raised.value).splitlines()
    assert first == "the config cannot be used:"
    return [fault.strip() for fault in faults]


def test_all_faults_are_reported_at_once():
    values = {
        "model": {
            "norm": "bach",
            "heads": 5,
            "sample_pixels": -1,
            "max_positions": 48,
        },
        "checkpoint": {"best_mode": "maxx"},
        "log": {"every": 0},
        "masking": {"probability": 15, "warmup_probability": float("nan")},
        "data": {"max_text_length": 60, "bad_image_budget": 1.0},
        "optim": {
            "groups": {"cnn": {"kind": "sgd", "learning_rate": -0.1}},
            "warmup": "5 miles",
            "decays": ["1 epochs", ""],
        },
        "eval": {"every": "half"},
        "total": "5 %",
    }
    expected = [
        "checkpoint.best_mode is 'maxx' (did you mean 'max'?); valid: max, min",
        "data.bad_image_budget is 1.0, expected 0.0 to 0.99, such as 0.001",
        "eval.every: Expected a duration as",
        "log.every is 0, expected at least 1, such as 50",
        "masking.probability is 15.0, expected 0.0 to 1.0, such as 0.15",
        "masking.warmup_probability is nan, expected 0.0 to 1.0",
        "model.norm is 'bach' (did you mean 'batch'?); valid: batch, frozen",
        "model.sample_pixels is -1, expected at least 0",
        "optim.decays[1]: Expected a duration as",
        "optim.groups.cnn.learning_rate is -0.1, expected at least 0.0, such as 0.01",
        "optim.warmup: Expected a duration as",
        "total: Expected a duration as",
        "model.features is 768, which does not divide by model.heads = 5, expected a "
        "multiple such as 770",
        "data.max_text_length is 60, but there are only model.max_positions = 48",
    ]
    found = refusal(values)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"groups": 1.5}, "groups is 1.5, expected an integer, such as 832"),
        ({"groups": True}, "groups is True, expected an integer"),
        ({"seed": -1}, "seed is -1, expected 0 to 4294967295"),
        ({"eval": {"oracle": 1}}, "eval.oracle is 1, expected True or False"),
        ({"optim": {"clip_norm": "big"}}, "is 'big', expected a number, such as 10.0"),
        ({"preset": None}, "preset is None, expected a text"),
        ({"task": "vqa"}, "task is 'vqa', expected a mapping, such as {'name': "),
        ({"evals": ["probe"]}, "evals is ('probe',), expected a mapping"),
        ({"objectives": {"mlm": 1.0}}, "objectives.mlm is 1.0, expected a mapping"),
        ({"data": {"canvases": "96x96"}}, "'96x96', expected a sequence, such as ('"),
        ({"data": {"corpora": ["coco"]}}, "corpora[0] is 'coco', expected a mapping"),
        ({"data": {"source_canvases": [640, 0]}}, "source_canvases[1] is 0, expected"),
        ({"data": {"size_shares": [[1, 1]]}}, "expected a sequence of 3, such as (640"),
        ({"optim": {"rules": [[".*", 1]]}}, "optim.rules[0][1] is 1, expected a text"),
        (
            {"optim": {"groups": {"cnn": {"kind": "sdg"}}}},
            "optim.groups.cnn.kind is 'sdg' (did you mean 'sgd'?); valid: sgd, adamw",
        ),
        (
            {"optim": {"groups": {"cnn": {"kind": "adamw", "momentum": 0.9}}}},
            "no config field 'optim.groups.cnn.momentum'",
        ),
        ({"grops": 3}, "no config field 'grops' (did you mean 'groups'?)"),
        ({"accumulate": 3}, "'accumulate' (did you mean 'optim.accumulate'?)"),
        ({"data": {"accumulate": 3}}, "(did you mean 'optim.accumulate'?)"),
        ({"optim": {"acumulate": 3}}, "(did you mean 'optim.accumulate'?)"),
        (None, "config is None, expected a mapping"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(values, message):
    (line,) = refusal(values)
    assert message in line


def test_values_take_the_form_of_their_fields():
    config = resolve(
        {
            "objectives": {"mlm": {"weight": 1}, "itm": {"weights": [1, [2]]}},
            "optim": {"clip_norm": 5, "decays": ["5 %", 300]},
            "data": {"size_shares": [[640, 480, 1]]},
        }
    )
    assert type(config.optim.clip_norm) is float
    assert config.optim.decays == ("5 %", 300)
    assert config.data.size_shares == ((640, 480, 1.0),)
    # What is built in the order of names does not depend on how they were written.
    assert list(config.objectives) == ["itm", "mlm"]
    assert config.objectives["itm"] == {"weights": (1, (2,))}
    assert resolve(config) is config
    assert resolve(ml_collections.ConfigDict(config.to_dict())) == config


@pytest.mark.parametrize(("file", "name"), PRESETS)
def test_presets_resolve_and_survive_json(file, name):
    config = resolve(file.get_config(name))
    assert resolve(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_are_those_of_the_schema():
    assert resolve({}) == resolve(package.defaults()) == Config()
    # A section that is given in part keeps the rest.
    assert resolve({"model": {"layers": 3}}).model.heads == Config().model.heads


def test_the_published_models_config_is_that_of_its_preset(repository):
    text = (repository / "checkpoints/scenes_tiny_long/config.json").read_text()
    stored = json.loads(text)
    assert "name" not in stored["model"]["backbone"]
    del stored["image"]  # `convert.pretrained` writes and reads it
    config, preset = resolve(stored), resolve(pretrain.get_config("tiny_long"))
    assert config.model == preset.model
    assert (config.optim, config.masking) == (preset.optim, preset.masking)
    assert config.task == preset.task
    # It lacks fields that are newer than the model.
    assert complete(config.objectives) == complete(preset.objectives)


def test_a_config_of_an_earlier_version_is_read():
    stored = resolve(nlvr2.get_config("tiny")).to_dict()
    del stored["model"]["backbone"]["name"], stored["model"]["front_end"]["name"]
    del stored["evals"]
    stored["dry_run"]["images_per_group"] = 2
    before = json.dumps(stored)
    config = resolve(json.loads(before))
    assert config == resolve(nlvr2.get_config("tiny"))
    assert resolve(stored) == config and json.dumps(stored) == before


def test_fields_by_dotted_names():
    config = Config()
    names = flat(config)
    assert names["optim.accumulate"] == 1
    assert names["optim.groups.cnn.momentum"] == 0.9
    assert names["model.backbone.name"] == "resnet"
    changed = replace(
        config,
        {
            "optim.accumulate": 2,
            "optim.groups.cnn.momentum": 0,
            "objectives.image_words": {"weight": 0.2},
            "data.corpora": [{"source": "coco"}],
        },
    )
    differing = {n: v for n, v in flat(changed).items() if names.get(n) != v}
    assert differing == {
        "optim.accumulate": 2,
        "optim.groups.cnn.momentum": 0.0,
        "objectives.image_words.weight": 0.2,
        "data.corpora": ({"source": "coco"},),
    }
    assert flat(config) == names


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim.acumulate", 2, "did you mean 'optim.accumulate'?"),
        ("optm.accumulate", 2, "did you mean 'optim.accumulate'?"),
        ("seed.low", 2, "no config field 'seed.low'"),
        ("seed", -2, "seed is -2"),
    ],
)
def test_wrong_changes_are_refused(name, value, message):
    with pytest.raises(InputError) as raised:
        replace(Config(), {name: value})
    assert message in str(raised.value)


def test_places_are_not_what_is_trained():
    names = ("data.root", "data.index_dir", "data.feature_dir")
    assert places(Config()) == ("compile_cache", *names)


def test_every_section_can_only_be_made_by_name():
    """A value in the wrong place would be of the right type more often than not."""
    for section in vars(schema).values():
        if dataclasses.is_dataclass(section):
            with pytest.raises(TypeError):
                section(1)
            with pytest.raises(dataclasses.FrozenInstanceError):
                section().name = 1


def test_a_metric_that_no_evaluation_gives():
    package.check_metric("", ["scenes/match"])
    package.check_metric("scenes/match", ["scenes/match"])
    with pytest.raises(InputError, match=r"did you mean 'scenes/match'\?"):
        package.check_metric("scenes/mach", ["scenes/match"])
