import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from pixel_bert_jax.data import fields, geometry, images
from pixel_bert_jax.data.fields import EVALUATION_FIELDS, FIELDS
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.pipeline import BUDGET_AFTER, Stream
from pixel_bert_jax.data.plan import EvaluationPlan, TrainPlan
from pixel_bert_jax.types import BadImageBudgetError, InputError

SETTINGS = {
    "seed": 3,
    "groups": 4,
    "texts_per_group": 2,
    "short": 64,
    "long": 128,
    "canvases": [(64, 128), (128, 64)],
    "source_canvases": [56, 128],
}
LENGTH = 8


@pytest.fixture
def index(photos, tokenizer, tmp_path):
    return build_or_open([photos.source()], tokenizer, LENGTH, tmp_path / "index")


def _plan(index, kind=TrainPlan, **settings):
    corpora = [index.plan_corpus(c) for c in range(len(index.corpora))]
    return kind(corpora, index.sizes, **(SETTINGS | settings))


def _steps(plan, index, stop, **options):
    with Stream(plan, index, stop=stop, **options) as stream:
        return list(stream)


def _assert_same(one, two):
    assert (one.step, one.canvas) == (two.step, two.canvas)
    assert list(one.batch) == list(two.batch)
    for key, array in one.batch.items():
        assert array.dtype == two.batch[key].dtype
        np.testing.assert_array_equal(array, two.batch[key], err_msg=key)


def _assert_described(batch, held, planned):
    """The arrays have the names, order, types and shapes that `fields` gives."""
    sizes = {"M": 1, "K": 2, "L": LENGTH, "S": planned.bucket.source}
    expected = fields.shapes(held, sizes)
    found = {key: (array.shape[1:], array.dtype) for key, array in batch.items()}
    assert found == expected and list(found) == list(expected)
    assert {len(array) for array in batch.values()} == {SETTINGS["groups"]}


def test_a_batch_holds_what_the_plan_says(index):
    plan = _plan(index)
    steps = _steps(plan, index, 2 * plan.steps_per_epoch, workers=2)
    assert [s.step for s in steps] == list(range(2 * plan.steps_per_epoch))
    assert len({s.canvas for s in steps}) == 2
    for step in steps:
        planned, batch = plan.batch(step.step), step.batch
        assert step.canvas == planned.bucket.canvas
        _assert_described(batch, FIELDS, planned)
        np.testing.assert_array_equal(batch["corpus"], planned.corpus)
        np.testing.assert_array_equal(batch["example_id"], planned.example_id)
        np.testing.assert_array_equal(batch["example_mask"], planned.texts >= 0)
        for g, row in enumerate(planned.images[:, 0]):
            size, image = batch["source_size"][g, 0], batch["image"][g, 0]
            if row < 0:
                assert not size.any() and not image.any()
                assert not batch["image_size"][g].any()
                assert batch["image_id"][g, 0] == -1
                continue
            assert batch["image_id"][g, 0] == index.image_ids[row]
            assert size.tolist() == index.sizes[row].tolist()
            np.testing.assert_array_equal(
                batch["image_size"][g, 0], geometry.target_sizes(size, 64, 128)
            )
            pixels = images.decode(index.read(row))
            np.testing.assert_array_equal(image[: size[0], : size[1]], pixels)
            assert image.astype(int).sum() == pixels.astype(int).sum()
            ids, mask = index.texts(0, planned.texts[g])
            np.testing.assert_array_equal(batch["text_ids"][g], ids)
            np.testing.assert_array_equal(batch["text_mask"][g], mask)


def test_large_images_are_shrunk_once(index):
    plan = _plan(index, source_canvases=[30])
    (step,) = _steps(plan, index, 1)
    row = plan.batch(0).images[0, 0]
    expected = np.zeros((30, 30, 3), np.uint8)
    size = images.lay(images.decode(index.read(row)), expected)
    np.testing.assert_array_equal(step.batch["image"][0, 0], expected)
    assert tuple(step.batch["source_size"][0, 0]) == size
    # The target is that of the original, not of the shrunk copy.
    target = geometry.target_sizes(index.sizes[row], 64, 128)
    np.testing.assert_array_equal(step.batch["image_size"][0, 0], target)


def test_bytes_do_not_depend_on_the_number_of_threads(index, monkeypatch):
    plan = _plan(index)
    one = _steps(plan, index, 8, workers=1, prefetch=1)
    read = index.read

    def slow(row):
        time.sleep(0.02 * ((7 * row) % 3))  # images come in another order
        return read(row)

    monkeypatch.setattr(index, "read", slow)
    for a, b in zip(one, _steps(plan, index, 8, workers=5, prefetch=4), strict=True):
        _assert_same(a, b)


def test_a_start_at_a_step_equals_running_to_it(index):
    plan, stop = _plan(index), 9
    assert plan.steps_per_epoch < 7  # the start lies in the second epoch
    whole = _steps(plan, index, stop)
    for start in range(1, stop):
        late = _steps(_plan(index), index, stop, start=start)
        assert len(late) == stop - start
        for a, b in zip(whole[start:], late, strict=True):
            _assert_same(a, b)
    assert _steps(plan, index, 3, start=3) == []


def test_processes_read_their_rows_of_the_same_batch(index):
    plan = _plan(index)
    whole = _steps(plan, index, 3)
    for rows in (slice(0, 2), slice(2, 4)):
        for a, b in zip(whole, _steps(plan, index, 3, rows=rows), strict=True):
            for key in FIELDS:
                np.testing.assert_array_equal(a.batch[key][rows], b.batch[key])


def test_evaluation_shows_every_text_once_with_its_negatives(index):
    plan = _plan(index, EvaluationPlan)
    with Stream(plan, index) as stream:  # ends by itself
        steps = list(stream)
    assert len(steps) == plan.num_batches
    shown = [s.batch["example_id"][..., 1][s.batch["example_mask"]] for s in steps]
    assert sorted(np.concatenate(shown)) == list(range(index.num_texts(0)))
    for step in steps:
        planned, batch = plan.batch(step.step), step.batch
        _assert_described(batch, {**FIELDS, **EVALUATION_FIELDS}, planned)
        ids, mask = index.texts(0, planned.negatives.reshape(-1))
        np.testing.assert_array_equal(batch["negative_ids"].reshape(-1, LENGTH), ids)
        np.testing.assert_array_equal(batch["negative_mask"].reshape(-1, LENGTH), mask)
        for g, row in enumerate(planned.other_images[:, 0]):
            height, width = batch["other_source_size"][g, 0]
            assert [height, width] == (
                index.sizes[row].tolist() if row >= 0 else [0, 0]
            )
            if row >= 0:
                np.testing.assert_array_equal(
                    batch["other_image"][g, 0, :height, :width],
                    images.decode(index.read(row)),
                )


def _cut(path):
    path.write_bytes(path.read_bytes()[:300])


def _page(path):
    path.write_bytes(b"<html>404</html>")


def _grow(path):
    path.write_bytes(path.with_name("COCO_val2014_000000000007.jpg").read_bytes())


FAULTS = [_cut, _page, _grow, os.unlink]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_is_an_error_that_names_it(photos, index, fault):
    path = photos.file(photos.name(4))
    fault(path)
    began = time.monotonic()
    with Stream(_plan(index), index) as stream:
        with pytest.raises(images.ImageError, match=path.name):
            for _ in range(20):
                next(stream)
        with pytest.raises(StopIteration):
            next(stream)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("fault", FAULTS)
def test_a_skipped_image_masks_its_group_and_is_listed(photos, index, tmp_path, fault):
    plan = _plan(index)
    good = _steps(plan, index, plan.steps_per_epoch)
    fault(photos.file(photos.name(4)))
    options = {"on_bad_image": "skip", "bad_image_budget": 0.2}
    options["bad_image_list"] = tmp_path / "bad.jsonl"
    with Stream(plan, index, stop=plan.steps_per_epoch, **options) as stream:
        steps = list(stream)
        assert stream.bad_images == sum(_shows(plan, s, 4) for s in steps)
    seen = stream.seen_images
    options["images_before"] = seen  # the budget is that of both together
    with Stream(plan, index, stop=plan.steps_per_epoch, workers=3, **options) as second:
        again = list(second)
        assert second.bad_images == 2 * stream.bad_images
        assert second.seen_images == 2 * seen
    masked = 0
    for before, after, replay in zip(good, steps, again, strict=True):
        _assert_same(after, replay)
        failed = plan.batch(after.step).images[:, 0] == 4
        masked += failed.sum()
        for key, array in after.batch.items():
            expected = before.batch[key].copy()
            if key in ("image", "source_size", "image_size", "example_mask"):
                expected[failed] = 0
            elif key == "image_id":
                expected[failed] = -1
            np.testing.assert_array_equal(array, expected, err_msg=key)
    assert masked > 0
    lines = [json.loads(x) for x in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * stream.bad_images  # it is appended to
    assert lines[0]["corpus"] == "photos" and lines[0]["key"] == photos.name(4)
    assert _shows(plan, steps[lines[0]["step"]], 4) and lines[0]["reason"]


def _shows(plan, step, row):
    return bool((plan.batch(step.step).images == row).any())


def test_too_many_bad_images_end_the_run(photos, index):
    _page(photos.file(photos.name(4)))
    with Stream(_plan(index), index, on_bad_image="skip", bad_image_budget=0.05) as s:
        with pytest.raises(BadImageBudgetError, match=r"bad_image_budget=0\.05"):
            for _ in range(200):
                next(s)
        assert s.seen_images >= BUDGET_AFTER
        assert s.bad_images > 0.05 * s.seen_images
    with Stream(_plan(index), index, on_bad_image="skip", bad_image_budget=0.2) as s:
        for _ in range(60):
            next(s)


def test_evaluation_skips_and_says_what_is_missing(photos, index, capsys):
    plan = _plan(index, EvaluationPlan)
    good = _steps(plan, index, None)
    _page(photos.file(photos.name(4)))
    with Stream(plan, index) as stream, pytest.raises(images.ImageError):
        list(stream)
    capsys.readouterr()
    with Stream(plan, index, on_bad_image="skip", bad_image_budget=0.5) as stream:
        steps = list(stream)
    assert list(stream.missing) == [4] and "html" in stream.missing[4]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and photos.name(4) in said[0] and "left out" in said[0]
    masked = lost = 0
    for before, after in zip(good, steps, strict=True):
        planned = plan.batch(after.step)
        failed = planned.images[:, 0] == 4
        others = planned.other_images[:, 0] == 4
        masked, lost = masked + failed.sum(), lost + others.sum()
        for key, array in after.batch.items():
            expected = before.batch[key].copy()
            if key in ("image", "source_size", "image_size", "example_mask"):
                expected[failed] = 0
            elif key == "image_id":
                expected[failed] = -1
            elif key in ("other_image", "other_source_size", "other_image_size"):
                expected[others] = 0
            np.testing.assert_array_equal(array, expected, err_msg=key)
    assert masked > 0 and lost > 0


def test_the_end_of_an_evaluation_is_held_against_the_budget(photos, index):
    _page(photos.file(photos.name(4)))
    plan = _plan(index, EvaluationPlan)
    with Stream(plan, index, on_bad_image="skip", bad_image_budget=0.02) as stream:
        with pytest.raises(BadImageBudgetError, match="COCO_val2014_000000000011"):
            list(stream)
        assert stream.seen_images < BUDGET_AFTER


def test_a_jpeg_with_a_warning_is_shown_and_said_once(photos, index, capsys):
    path = photos.file(photos.name(4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\x55" * 99 + whole[-2:])
    plan = _plan(index)
    _assert_same(*(_steps(plan, index, 8)[7] for _ in range(2)))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # by each stream once
    assert path.name in said[0] and "extraneous bytes" in said[0]


def test_a_bad_image_is_reported_by_nobody_else(photos, index, capfd):
    """TensorFlow prints the traceback of an error that passes through it."""
    _page(photos.file(photos.name(4)))
    with Stream(_plan(index), index) as stream, pytest.raises(images.ImageError):
        list(stream)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_any_error_of_a_reader_comes_out_as_it_was(index, monkeypatch):
    def read(row):
        raise OSError(5, "Input/output error", f"photo-{row}")

    monkeypatch.setattr(index, "read", read)
    for policy in ("error", "skip"):  # not a fault of the bytes: never skipped
        options = {"on_bad_image": policy, "bad_image_budget": 1.0}
        with Stream(_plan(index), index, **options) as stream:
            with pytest.raises(OSError, match="photo-") as error:
                next(stream)
            assert "while reading corpus 'photos'" in error.value.__notes__[0]


def test_waiting_is_measured(index, monkeypatch):
    read = index.read
    monkeypatch.setattr(index, "read", lambda row: (time.sleep(0.1), read(row))[1])
    with Stream(_plan(index), index, workers=1) as stream:
        began = time.perf_counter()
        next(stream)
        assert 0.1 <= stream.wait_seconds <= time.perf_counter() - began


def test_close_does_not_wait_for_images_that_do_not_come(index, monkeypatch):
    release, read, calls = threading.Event(), index.read, []

    def first_batch_alone(row):
        calls.append(row)
        if len(calls) > 4:  # groups of a batch
            release.wait(60)
        return read(row)

    monkeypatch.setattr(index, "read", first_batch_alone)
    stream = Stream(_plan(index), index, workers=2)
    next(stream)
    while len(calls) < 6:  # the second batch is on its way
        time.sleep(0.01)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 10
    release.set()


def test_close_stops_all_threads(index):
    def readers():
        return [t for t in threading.enumerate() if t.name.startswith("read-images")]

    stream = Stream(_plan(index), index, workers=3)
    next(stream)
    assert readers()
    stream.close()
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    deadline = time.monotonic() + 5
    while readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not readers()


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("pass", marks=pytest.mark.runs),
        pytest.param("stream.close()", marks=pytest.mark.slow),
        pytest.param("raise SystemExit(3)", marks=pytest.mark.slow),
    ],
)
def test_the_interpreter_exits_with_a_stream_alive(tmp_path, ending):
    script = f"""
        import sys, time
        from pixel_bert_jax.data import index, pipeline, plan, text
        from pixel_bert_jax.data.sources import scenes
        source = scenes.ScenesSource(num_scenes=30)
        tokenizer = text.load_tokenizer("scenes")
        read, folder = source.read, {str(tmp_path / "index")!r}
        source.read = lambda key: (time.sleep(0.02), read(key))[1]  # work at exit
        opened = index.build_or_open([source], tokenizer, 32, folder)
        made = plan.TrainPlan([opened.plan_corpus(0)], opened.sizes, seed=0, groups=8,
            texts_per_group=5, short=64, long=128, canvases=[(128, 128)],
            source_canvases=[160])
        stream = pipeline.Stream(made, opened)
        next(stream)
        print(time.time(), flush=True)
        {ending}
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    left = time.time() - float(run.stdout)
    assert run.returncode == (3 if "3" in ending else 0), run.stderr
    assert left < 15


def test_arguments_are_checked(index):
    with pytest.raises(InputError, match=r"'skpi' \(did you mean 'skip'\?\)"):
        Stream(_plan(index), index, on_bad_image="skpi")
    with pytest.raises(InputError, match="share from 0 to 1"):
        Stream(_plan(index), index, on_bad_image="skip", bad_image_budget=5)
    with pytest.raises(InputError, match=f"max_text_length {LENGTH}"):
        Stream(_plan(index), index, max_text_length=16)


def test_real_photos_stream(real_data, tokenizer, tmp_path):
    from pixel_bert_jax.data.sources import SOURCES

    config = {"source": "coco", "name": "coco", "images": "coco/val2014"}
    config["annotations"] = "coco/annotations/captions_val2014.json"
    source = SOURCES["coco"](config, "train", real_data)
    index = build_or_open([source], tokenizer, 32, tmp_path / "index")
    canvases = [geometry.parse_canvas(c) for c in ("1344x800", "800x1344")]
    canvases += [geometry.parse_canvas(c) for c in ("1088x800", "800x1088", "1216x800")]
    settings = {"short": 800, "long": 1333, "canvases": canvases, "groups": 16}
    plan = _plan(index, EvaluationPlan, **settings, source_canvases=[640, 1344])
    with Stream(plan, index) as stream:
        shown = sum(int(step.batch["example_mask"].sum()) for step in stream)
    assert shown == 795
