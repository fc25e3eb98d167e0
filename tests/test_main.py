"""The command line: what is wrong in it is said at once, and a run is quiet."""

import re
import subprocess
import sys

import pytest

from pixel_bert_jax import trained
from pixel_bert_jax.checkpoints import checkpointing
from pixel_bert_jax.types import InputError
from tests import runs

TINY = "--config=configs/pretrain.py:tiny"


def start(*flags, python=(), cwd=runs.ROOT, **environment):
    """Runs the program with these flags, for command lines that end at once."""
    return runs.Process(
        [sys.executable, *python, "-m", "pixel_bert_jax.main", *flags],
        cwd=cwd,
        **environment,
    ).finish()


def check_refused(outcome, *texts):
    assert outcome.code == 2, outcome.output
    assert "Traceback" not in outcome.output
    assert outcome.output.count("error:") == 1, outcome.output
    for text in texts:
        assert text in outcome.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing"),
        ([TINY, "--wrokdir=x"], "Did you mean: workdir"),
        ([TINY, "--mode=trian"], "train|evaluate"),
        ([TINY, "here"], "unexpected arguments: here"),
        ([TINY, "--config.optim.foo=1"], "no config field 'optim.foo'"),
        ([TINY, "--config.optim.acumulate=1"], "did you mean 'optim.accumulate'?"),
        ([TINY, "--config.groups=many"], "'many'; expected an integer such as 16"),
        ([TINY, "--config.model.norm=bach"], "did you mean 'batch'?"),
        (
            [TINY, "--config.data.corpora=(dict(source='jsonl'),)"],
            "data.corpora[0] is \"(dict(source='jsonl'),)\", expected a mapping, such",
        ),
        ([TINY + ",grops=3"], "no config field 'grops' (did you mean 'groups'?)"),
        (["--config=configs/pretrain.py:tinny"], "did you mean 'tiny'?"),
        (["--config=configs/pretrian.py:tiny"], "did you mean 'configs/pretrain.py'?"),
        (["--config=nowhere/x.py"], "no file 'nowhere/x.py'"),
        ([TINY, "--workdir=gs://bucket/run"], "is an address; expected a folder"),
        ([TINY, "--mode=predict"], "--mode=predict needs --output=FILE"),
        ([TINY, "--process_id=1"], "need --coordinator_address=HOST:PORT"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_command_lines_are_refused(flags, message):
    check_refused(start(*flags), message)


def test_a_refusal_comes_before_jax_is_imported():
    outcome = start(TINY, "--config.optim.foo=1", python=["-X", "importtime"])
    assert outcome.code == 2
    assert re.search(r"\| +ml_collections$", outcome.output, re.M)
    assert not re.search(r"\| +(jax|tensorflow|orbax)\b", outcome.output)


@pytest.mark.runs
@pytest.mark.parametrize("data", ["", "/no/such/folder"])
def test_the_papers_own_size_says_what_it_needs(data):
    outcome = start("--config=configs/pretrain.py", PIXEL_BERT_DATA=data)
    check_refused(
        outcome,
        "configs/pretrain.py:tiny",
        "dataset_coco.json",
        "region_descriptions.json",
        "cocodataset.org",
        data or "unset",
    )


@pytest.mark.runs
def test_flickr8k_without_data_says_what_it_needs(tmp_path):
    flags = ("--config=configs/pretrain.py:flickr8k", f"--workdir={tmp_path / 'run'}")
    outcome = start(*flags, PIXEL_BERT_DATA="")
    expected = ("PIXEL_BERT_DATA", "--config.data.root", "dataset_flickr8k.json")
    check_refused(outcome, *expected, "Images")
    outcome = start(*flags, PIXEL_BERT_DATA=str(tmp_path))
    check_refused(outcome, *expected, "Images", str(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.runs
def test_a_config_is_found_from_any_working_directory(tmp_path):
    config = f"--config={runs.ROOT / 'configs' / 'pretrain.py'}"
    environment = {"PYTHONPATH": str(runs.ROOT)}
    outcome = start(config, cwd=tmp_path, **environment)
    check_refused(outcome, "The preset 'r50' needs data")
    outcome = start(f"{config}:tiny", "--config.grops=1", cwd=tmp_path, **environment)
    check_refused(outcome, "did you mean 'groups'?")


def test_help_lists_the_flags():
    output = start("--help").output
    for name in ("--config", "--workdir", "--mode", "--[no]dry_run", "--figure"):
        assert name in output


@pytest.mark.runs
def test_a_run_is_quiet(straight):
    """No line of absl, Orbax, TensorFlow or XLA; each step has its line."""
    for line in straight.output.splitlines():
        assert not re.match(r"[IWEF]\d{4} |\d{4}-\d\d-\d\d|WARNING", line), line
        assert not re.search(r"orbax|tensorflow|oneDNN|cuda", line, re.I), line
    steps = re.findall(r"^step (\d+)/12 \| .*ETA", straight.output, re.M)
    assert steps == [str(n) for n in range(1, runs.STEPS + 1)]


@pytest.mark.runs
def test_evaluation_of_a_checkpoint_needs_no_training_data(straight):
    """Unseen scenes, far too few of them to train on, and figures of every kind."""
    outcome = runs.run(
        *runs.place(straight.workdir, straight.index_dir),
        "--mode=evaluate",
        "--config.data.scenes.seed=5",
        "--config.data.scenes.train_scenes=1",
    )
    assert outcome.code == 0, outcome.output
    best = straight.workdir / "checkpoints" / checkpointing.BEST
    (step,) = [folder.name for folder in best.iterdir() if folder.name.isdecimal()]
    assert f"step {step} of {straight.workdir}" in outcome.output
    for name in ("match", "match_blanked", "colour", "colour_other", "words_oracle"):
        assert re.search(rf"^ +scenes/{name} +[\d.]+( ±|$)", outcome.output, re.M), name
    assert re.search(r"scenes/texts +16\.0", outcome.output)


@pytest.mark.runs
def test_evaluation_of_another_model_is_refused(straight):
    config = runs.config(model__layers=2)
    with pytest.raises(InputError, match=r"model\.layers is 1, expected 2"):
        trained.from_workdir(config, straight.workdir)


def test_evaluation_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no checkpoint in"):
        trained.from_workdir(runs.config(), tmp_path)


def test_the_module_does_nothing_when_it_is_imported():
    code = "import sys, pixel_bert_jax.main; print('jax' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True
    )
    assert process.stdout == "False\n", process.stderr
