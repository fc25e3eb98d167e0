"""Speed, remaining time and what is written where."""

import math
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.util import tensor_util

from pixel_bert_jax import metrics


def test_clock_measures_between_ticks(monkeypatch):
    monkeypatch.setattr(metrics.time, "monotonic", lambda: 100.0)
    clock = metrics.Clock(10, 70)
    first = clock.tick(20, waited=1.0, moment=105.0)
    assert (first.rate, first.wait_share, first.remaining) == (2.0, 0.2, 25.0)
    second = clock.tick(40, waited=3.0, moment=109.0)
    assert (second.rate, second.wait_share, second.remaining) == (5.0, 0.5, 6.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0m00s"), (61, "1m01s"), (3723.9, "1h02m03s"), (math.inf, "?")],
)
def test_clock_time(seconds, text):
    assert metrics.clock_time(seconds) == text


def test_projection_is_that_of_the_measured_rate():
    text = metrics.projection(seconds=5.0, done=25, left=600)
    assert "last 25 steps took 5.0 s" in text and "600 take 2m00s" in text


def test_a_metric_that_counted_nothing_is_left_out():
    assert metrics.means({"a": (6.0, 4.0), "b": (0.0, 0.0)}) == {"a": 1.5}


def write(workdir, first, steps):
    writer = metrics.Writer(workdir, total_steps=9, first_step=first)
    for step in steps:
        figures = {"loss": float(step + first), "mlm/loss": math.nan}
        writer.train(
            step, figures, examples="x", pairs=2.0, waited=0.0, moment=float(step)
        )
    writer.evaluation(steps[-1], {"a/match": 0.5})
    writer.close()


def test_a_resumed_run_replaces_the_later_steps_in_tensorboard(tmp_path, capsys):
    write(tmp_path, 0, [1, 2, 3, 4])
    time.sleep(1.1)  # no run is started again within the second of its first start
    write(tmp_path, 2, [3, 4, 5])
    shown = plugin_event_accumulator.EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}
    ).Reload()
    points = shown.Tensors("train/loss")
    assert [p.step for p in points] == [1, 2, 3, 4, 5]
    values = [tensor_util.make_ndarray(p.tensor_proto).item() for p in points]
    assert values == [1.0, 2.0, 5.0, 6.0, 7.0]
    assert [p.step for p in shown.Tensors("evaluation/a/match")] == [5]
    console = capsys.readouterr().err
    assert "step 5/9 | loss 7.000 mlm/loss nan |" in console
    assert "evaluation at step 5: a/match 0.5000" in console
    assert metrics.evaluations(tmp_path).get(5) is not None
    assert metrics.evaluations(tmp_path).get(3) is None
    lines = (tmp_path / metrics.FILE).read_text().splitlines()
    assert '"mlm/loss": null' in lines[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full device")
def test_a_log_that_cannot_be_written_is_reported_once(tmp_path, capsys):
    (tmp_path / metrics.FILE).symlink_to("/dev/full")
    writer = metrics.Writer(tmp_path, total_steps=3, first_step=0)
    for step in (1, 2):
        writer.evaluation(step, {"accuracy": 0.5})
    writer.close()
    told = capsys.readouterr().err
    assert told.count("cannot be written") == 1
    assert f"{tmp_path / metrics.FILE} cannot" in told and "No space left" in told
    assert told.count("evaluation at step") == 2


def test_log_lines_of_later_steps_go(tmp_path):
    log = tmp_path / "metrics.jsonl"
    metrics.truncate_log(log, 3)  # absent: nothing to do
    assert not log.exists()
    lines = [f'{{"step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3, 4, 5)]
    log.write_text("".join(lines) + '{"step": 6, "lo')
    metrics.truncate_log(log, 3)
    assert log.read_text() == "".join(lines[:3])
    metrics.truncate_log(log, -1)
    assert log.read_text() == ""
    assert list(tmp_path.iterdir()) == [log]
