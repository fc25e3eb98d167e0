"""One language: flags, the shorthand behind a preset, and `load` give the same."""

import shlex

import pytest
from absl import flags

from pixel_bert_jax.config import load
from pixel_bert_jax.config.command_line import parse
from pixel_bert_jax.types import InputError

CHANGES = {
    "groups": 16,
    "optim.accumulate": 2,
    "optim.clip_norm": 2,
    "total": "900 steps",
    "data.canvases": ("96x96", "112x112"),
    "data.tokenizer": "a/b=c.txt",
    "sharding": ((".*,x=1", "fsdp"), (".*", "replicate")),
    "data.corpora": ({"source": "coco", "splits": {"train": ("a", "b")}, "k": 1},),
    "eval.oracle": True,
    "optim.groups.cnn": {"kind": "sgd", "momentum": 0.5},
    "evals": {"recall": {"type": "retrieval"}},
}


@pytest.fixture(autouse=True)
def at_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


def launch(*words):
    return parse(["program", *words], flags.FlagValues())[0]


def tiny(changes="", **fields):
    fields = {name.replace("__", "."): value for name, value in fields.items()}
    return load(f"configs/pretrain.py:tiny{changes}", fields)


def refusal(*words) -> str:
    with pytest.raises(InputError) as raised:
        launch(*words)
    return str(raised.value)


def test_three_ways_give_the_same():
    config = "--config=configs/pretrain.py:tiny"
    words = [f"{name}={value}" for name, value in CHANGES.items()]
    by_flags = launch(config, *(f"--config.{word}" for word in words)).config
    by_shorthand = launch(",".join([config, *words])).config
    assert by_flags == by_shorthand == load("configs/pretrain.py:tiny", CHANGES)
    assert by_flags.groups == 16 and by_flags.optim.clip_norm == 2.0
    assert by_flags.data.canvases == CHANGES["data.canvases"]
    assert by_flags.data.corpora == CHANGES["data.corpora"]
    assert by_flags.data.tokenizer == "a/b=c.txt"
    assert by_flags.eval.oracle is True
    assert by_flags.optim.groups["cnn"].momentum == 0.5
    assert by_flags.evals == CHANGES["evals"]


def test_every_spelling_of_flags_is_read():
    config = launch(
        *("--config", "configs/pretrain.py:tiny,seed=1,data.canvases=('1x1',)"),
        *("--config.groups", "32"),
        "--config.eval.oracle",
        "--noconfig.data.blank_images",
        "--config.data.corpora[0].name=other",
        "--config.data.canvases=('96x96',)",
        "--config.seed=2",
        "--config.total=",
        "--config.total=7 steps",
    ).config
    assert config.groups == 32 and config.eval.oracle
    assert config.data.corpora[0]["name"] == "other"
    # The last one counts, and what stands behind the preset comes first.
    assert config.data.canvases == ("96x96",)
    assert (config.seed, config.total) == (2, "7 steps")


def test_a_text_stays_a_text():
    config = tiny(total=900, data__tokenizer="3", init__model="None")
    assert (config.total, config.data.tokenizer) == ("900", "3")
    assert config.init.model == "None"


def test_presets_do_not_share_what_an_override_changes():
    name = "--config.data.corpora[0].name=changed"
    changed = launch("--config=configs/pretrain.py:tiny", name)
    assert changed.config.data.corpora[0]["name"] == "changed"
    assert changed.preset == tiny() and tiny().data.corpora[0]["name"] == "scenes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("tinny", "no preset 'tinny' (did you mean 'tiny'?); valid: tiny, "),
        ("tiny,grops=3", "no config field 'grops' (did you mean 'groups'?)"),
        ("tiny,accumulate=2", "(did you mean 'optim.accumulate'?)"),
        ("tiny,objectives.mlm.wieght=2", "(did you mean 'objectives.mlm.weight'?)"),
        ("tiny,optim=2", "optim is a section, expected its fields one by one, such as"),
        ("tiny,model.remat={'encoder': 'full'}", "such as --config.model.remat.backb"),
        ("tiny,groups=1.5", "'1.5'; expected an integer such as 16"),
        ("tiny,groups=True", "'True'; expected an integer such as 16"),
        ("tiny,eval.oracle=maybe", "expected True or False such as False"),
        ("tiny,optim.clip_norm=big", "'big'; expected a number such as 10.0"),
        ("tiny,data.canvases=96", "data.canvases[0] is 96, expected a text, such as"),
        (
            "tiny,data.canvases=('96x96', groups=3",
            "; expected a Python literal such as",
        ),
        ("tiny,data.corpora=(dict(source='jsonl'),)", "such as {'source': 'scenes', "),
        ("tiny,data.corpora[0].nam=x", "no such element of a --config.FIELD: 'nam'"),
        ("tiny,data.corpora[1].name=x", "no such element of a --config.FIELD: tuple"),
        ("tiny,total=", 'total: Expected a duration as "40 epochs"'),
        (
            "tiny,optim.groups.cnn=3",
            "expected a Python literal such as {'kind': 'adamw'",
        ),
        ("tiny,fast", "expected key=value after the preset, received 'fast'"),
        ("tiny,", "expected key=value after the preset, received ''"),
    ],
)
def test_wrong_overrides_are_refused(changes, message):
    assert message in refusal(f"--config=configs/pretrain.py:{changes}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing; for example --config=configs/pretrain.py:tiny"),
        (["--config.seed=1"], "--config is missing"),
        (["--config"], "Missing value for flag --config"),
        (["--config=configs/pretrian.py:tiny"], "did you mean 'configs/pretrain.py'?"),
        (["--config=nowhere/x.py"], "no file 'nowhere/x.py'"),
        (["--config.seed=1", "--config=configs/pretrain.py"], "before a value for"),
        (["--config=configs/pretrain.py"] * 2, "--config is given twice"),
        (["--config=configs/pretrain.py", "--moed=train"], "'moed'"),
    ],
)
def test_wrong_command_lines_are_refused(words, message):
    assert message in refusal(*words)


def test_a_config_file_is_run_once(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from pathlib import Path\n"
        "with (Path(__file__).parent / 'runs').open('a') as file:\n"
        "    file.write('x')\n"
        "def get_config():\n"
        "    return {'groups': 8, 'optim': {'clip_norm': 4}}\n"
    )
    config = launch(f"--config={file}", "--config.seed=3").config
    assert (config.groups, config.optim.clip_norm, config.seed) == (8, 4.0, 3)
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'grops': 8}", "no config field 'grops' (did you mean 'groups'?)"),
        ("config = defaults(); config.sed = 3", "line 3: AttributeError: "),
        ("return 1 / 0", "line 3: ZeroDivisionError"),
        ("return", "config is None, expected a mapping"),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path, body, message):
    file = tmp_path / "own.py"
    start = "from pixel_bert_jax.config import defaults\ndef get_config():\n"
    file.write_text(f"{start}    {body}\n")
    text = refusal(f"--config={file}")
    assert message in text and str(file) in text


def test_the_command_of_a_launch_gives_the_same_again():
    first = launch(
        "--config=configs/pretrain.py:tiny",
        "--config.total=3 steps",
        "--config.data.root=/mnt/my data",
        *(f"--config.{name}={value}" for name, value in CHANGES.items()),
    )
    command = first.command
    start = "python -m pixel_bert_jax.main --config=configs/pretrain.py:tiny"
    assert shlex.split(command)[:4] == start.split()
    assert "data.root" not in command and "index_dir" not in command
    assert "model" not in command  # as in the preset
    again = launch(*shlex.split(command)[3:], "--config.data.root=/mnt/my data")
    assert again.config == first.config
    assert str(again.workdir) == "runs/pretrain_tiny"
