"""Cells of a study: real processes of the micro config."""

import json
import signal
import subprocess
import sys
import time

import pytest

from pixel_bert_jax.config import load
from pixel_bert_jax.study.__main__ import collect
from pixel_bert_jax.study.cells import Cell, Failed, Runner, run_all
from pixel_bert_jax.types import InputError
from tests import runs

STUDY = """
def get_study(name):
    cells = {
        "first": dict(config=%r),
        "second": dict(config=%r, start="first"),
    }
    return dict(
        cells=cells,
        rows={name: {"ITM": (name, "scenes/match")} for name in cells},
        claims=[dict(text="a", better="second", worse="first", published={"ITM": 1})],
    )
"""
SHORT = runs.argument(total="4 steps", eval__every="100 %", checkpoint__best_metric="")


def test_cells_start_from_others_and_not_in_circles(tmp_path):
    for start in ("none", "b"):
        cells = {"a": Cell("x", start="b"), "b": Cell("x", start="a"), "c": Cell("x")}
        if start == "none":
            cells = {"a": Cell("x", start="none")}
        with pytest.raises(InputError, match=f"cell 'a' starts from {start}"):
            Runner(cells, tmp_path)


def test_a_cell_that_fails_is_told_and_its_followers_are_left_out(tmp_path):
    config = str(runs.ROOT / "configs/pretrain.py:tyni")
    cells = {"bad": Cell(config), "after": Cell(config, start="bad")}
    runner = Runner(cells, tmp_path)
    with pytest.raises(Failed, match=r"bad, seed 3: exit code 2, see .*bad-3\.log"):
        runner.run("bad", 3)
    assert "no preset 'tyni'" in (tmp_path / "logs/bad-3.log").read_text()
    (failure,) = run_all(runner, range(3, 4))
    assert "bad, seed 3" in failure
    assert runner.result("after", 3) is None
    assert (tmp_path / "logs/bad-3.log").read_text().count("error: ") == 1  # one launch
    assert run_all(runner, range(3, 4), only="bad", skip="b") == []


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study of two cells and one seed, and the command that made it."""
    folder = tmp_path_factory.mktemp("study")
    config = str(runs.ROOT / (runs.FILE + SHORT))
    (folder / "study.py").write_text(STUDY % (config, config))
    command = [
        *(sys.executable, "-m", "pixel_bert_jax.study", "--seeds=1", "--first_seed=5"),
        *(f"--study={folder / 'study.py'}:any", f"--workdir={folder / 'work'}"),
        f"--config.data.index_dir={folder / 'index'}",
    ]
    # Interrupted in its first cell: the run saves its state, and the study goes on.
    process = subprocess.Popen(command, cwd=runs.ROOT, stderr=subprocess.PIPE)
    log = folder / "work/logs/first-5.log"
    while not (log.is_file() and "\nstep 2/4" in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "work", command, done


@pytest.mark.runs
def test_it_resumes_and_keeps_each_cell(study):
    folder, command, done = study
    log = (folder / "logs/first-5.log").read_text()
    assert "SIGTERM: saved step" in log and "resuming from step" in log
    records = {
        name: json.loads((folder / f"results/{name}-5.json").read_text())
        for name in ("first", "second")
    }
    assert records["second"]["config"]["init"]["model"] == str(folder / "runs/first-5")
    assert records["second"]["config"]["seed"] == 5
    value = records["second"]["metrics"]["scenes/match"]
    assert f"| second | {value:.4g} |" in done.stdout
    assert "starting from the model in" in (folder / "logs/second-5.log").read_text()
    again = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    assert again.stdout == done.stdout and "second, seed" not in again.stderr
    # Of both launches.
    spent = json.loads((folder / "logs/first-5.json").read_text())
    assert records["first"]["wall_seconds"] == spent["wall_seconds"] > 0
    # Finished cells are not taken for those of another config.
    other = [*command, "--config.optim.clip_norm=3"]
    done = subprocess.run(other, cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "first, seed 5, is finished with another config: optim.clip_norm" in (
        done.stderr
    )


@pytest.mark.runs
def test_one_config_over_several_seeds(straight, tmp_path):
    config = runs.FILE + SHORT + ",seed=7"
    flags = ("--seeds=2", *runs.place(tmp_path / "work", straight.index_dir))
    outcome = runs.Process(runs.command(*flags, config=config)).finish()
    assert outcome.code == 0, outcome.output
    found = [
        json.loads((tmp_path / f"work/results/seed-{n}.json").read_text())
        for n in (7, 8)
    ]
    assert [record["config"]["seed"] for record in found] == [7, 8]
    assert found[0]["sha256"] != found[1]["sha256"]
    mean = sum(record["metrics"]["scenes/match"] for record in found) / 2
    table = (tmp_path / "work/table.md").read_text()
    assert f"| scenes/match | {mean:.4g}" in table and "over 2 seeds" in table
    assert table in outcome.output


def test_results_of_another_config_and_missing_metrics_are_told(tmp_path):
    config = str(runs.ROOT / "configs/pretrain.py:tiny")
    runner = Runner({"a": Cell(config)}, tmp_path)
    preset = load(config, {"seed": 4}).to_dict()
    metrics = {"trained_on/scenes/match": 0.5, "scenes/colour": None, "scenes/shape": 1}
    path = tmp_path / "results/a-4.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"config": preset, "metrics": metrics}))
    assert runner.run("a", 4)["metrics"] == metrics
    columns = {
        name: ("a", f"scenes/{name}", 100) for name in ("match", "colour", "shape")
    }
    rows, missing = collect({"rows": {"row": columns}}, runner, range(4, 6))
    assert rows["row"]["shape"].value == 100
    assert [rows["row"][name].seeds for name in columns] == [0, 0, 1]
    assert "a, seed 4, has no scenes/match; has trained_on/scenes/match" in missing[0]
    changed = Runner({"a": Cell(config)}, tmp_path, ["--config.model.layers=3"])
    with pytest.raises(InputError, match="another config: model"):
        changed.run("a", 4)


@pytest.mark.runs
def test_a_cell_run_again_from_its_config_is_the_same(study):
    folder, command, _ = study
    done = subprocess.run(
        [*command, "--again=second-5"], cwd=runs.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "second-5: nothing differs" in done.stdout
    path = folder / "results/second-5.json"
    record = json.loads(path.read_text())
    record["metrics"]["scenes/match"] += 1e-12
    path.write_text(json.dumps(record))
    runner = Runner({"second": Cell("x")}, folder)
    with pytest.raises(InputError, match="remove it to run again"):
        runner.run_again("second", 5)
