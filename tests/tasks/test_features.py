"""A frozen CNN over the photos of an index: what is kept is what it computes."""

import dataclasses

import jax
import numpy as np
import pytest

from pixel_bert_jax import trees
from pixel_bert_jax.data import images
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.tasks import features
from pixel_bert_jax.types import InputError
from tests import runs

FROZEN = ((r"backbone/.*", "frozen"), (r".*", "transformer"))


def experiment(folder, **changes):
    usual = {
        "optim__rules": FROZEN,
        "model__norm": "frozen",
        "data__cache_features": True,
        "data__feature_dir": str(folder),
        "data__index_dir": str(folder / "index"),
        # Scenes of three shapes, on canvases larger than the scenes.
        "data__canvases": ("112x96", "96x128", "96x96"),
        "optim__accumulate": 1,
        "groups": 8,
    }
    return Experiment(runs.config(**(usual | changes)))


def random_variables(run, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: np.exp(random.normal(0, 0.3, s.shape)).astype(np.float32),
        run.variable_shapes,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    run = experiment(folder)
    variables = random_variables(run)
    return folder, run, variables, run.features(variables, run.train_index)


def batches(run, found):
    """The same three steps with pixels and with features."""
    for step in range(3):
        pair = []
        for one in (None, found):
            with Stream(
                run.train_plan, run.train_index, start=step, features=one
            ) as stream:
                pair.append(next(stream))
        yield pair


def test_batches_hold_what_the_cnn_gives(made):
    _, run, variables, found = made
    canvases = set()
    for pixels, kept in batches(run, found):
        canvases.add(pixels.canvas)
        image = features.prepare_images(
            jax.tree.map(jax.numpy.asarray, pixels.batch), canvas=pixels.canvas
        )
        wanted, cells = run.task.model.apply(
            variables,
            image["image"],
            image["image_size"],
            method=PixelBert.cnn_features,
        )
        inside = np.zeros(wanted.shape[:4], bool)
        for place in np.ndindex(inside.shape[:2]):
            height, width = cells[place]
            inside[place][:height, :width] = True
        np.testing.assert_array_equal(kept.batch["features_size"], cells)
        scale = np.asarray(wanted)[inside].std()
        assert scale > 0
        np.testing.assert_allclose(
            kept.batch["features"][inside],
            np.asarray(wanted)[inside],
            atol=1e-5 * scale,
            rtol=1e-5,
        )
        assert not kept.batch["features"][~inside].any()
        assert "image" not in kept.batch and "source_size" not in kept.batch
        rest = pixels.batch.keys() & kept.batch.keys()
        assert len(rest) == len(pixels.batch) - 2
        for name in rest:
            np.testing.assert_array_equal(pixels.batch[name], kept.batch[name], name)
    assert len(canvases) > 1


@pytest.mark.runs
def test_all_objectives_get_the_same_from_features(made):
    _, run, variables, found = made
    task, key, step = run.task, jax.random.key(0), jax.numpy.zeros((), "int32")

    @jax.jit
    def losses(batch):
        views = task.views(batch, key, step)
        return task.losses(variables, {}, batch, views, key, step, micro=0).totals

    for pixels, kept in batches(run, found):
        totals = [
            losses(features.prepare_images(one.batch, canvas=one.canvas))
            for one in (pixels, kept)
        ]
        assert totals[0].keys() == {"mlm", "itm", "image_words"}
        for name, total in totals[0].items():
            np.testing.assert_allclose(totals[1][name], total, rtol=1e-5)


def test_nothing_is_computed_twice(made, monkeypatch):
    _, run, variables, found = made
    monkeypatch.setattr(features._Worker, "_compute", None)  # would raise if called
    again = run.features(variables, run.train_index)
    assert again.names == found.names and len(found.names) == 48
    assert again.store.folder == found.store.folder


def test_other_weights_and_sizes_are_computed_anew(made, tmp_path):
    folder, run, variables, found = made
    # The transformer's weights change nothing, the CNN's do.
    other = random_variables(run, seed=1)
    mixed = trees.unflatten(
        {
            path: x if "/backbone/" in path else trees.flatten(other)[path]
            for path, x in trees.flatten(variables).items()
        }
    )
    same = run.features(mixed, run.train_index)
    assert same.store.folder == found.store.folder
    assert run.features(other, run.train_index).store.folder != found.store.folder
    smaller = experiment(folder, data__short_side=80, data__long_side=96)
    names = smaller.features(variables, run.train_index).names.values()
    assert not set(names) & set(found.names.values())


def test_what_was_interrupted_goes_on(made, tmp_path):
    _, run, variables, found = made
    config = dataclasses.replace(
        run.config,
        data=dataclasses.replace(run.config.data, feature_dir=str(tmp_path)),
    )
    calls = []

    def alive(what):
        calls.append(what)
        if len(calls) == 2:
            raise KeyboardInterrupt

    arguments = config, run.cnn, variables, run.train_index
    with pytest.raises(KeyboardInterrupt):
        features.compute(*arguments, alive=alive)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.bin")}
    assert 0 < len(before) < 48
    again = features.compute(*arguments)
    assert len(list(tmp_path.rglob("*.bin"))) == 48
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())
    for row in range(48):
        np.testing.assert_allclose(again.read(row), found.read(row), rtol=1e-5)


def test_processes_share_the_work(made, tmp_path):
    _, run, variables, _ = made
    config = dataclasses.replace(
        run.config,
        data=dataclasses.replace(run.config.data, feature_dir=str(tmp_path)),
    )
    arguments = config, run.cnn, variables, run.train_index
    seen = []

    def wait():
        seen.append(len(list(tmp_path.rglob("*.bin"))))
        if len(seen) == 1:  # while the first waits, the second does its share
            features.compute(*arguments, process=(1, 2), wait=wait)

    found = features.compute(*arguments, process=(0, 2), wait=wait)
    assert seen == [24, 48]
    assert len(found.names) == 48


def test_a_broken_photo_follows_the_policy(made, monkeypatch, tmp_path):
    folder, run, variables, _ = made
    index, broken = run.train_index, 5
    real = type(index).read

    def read(self, row):
        return b"\xff\xd8\xff no photo" if row == broken else real(self, row)

    monkeypatch.setattr(type(index), "read", read)
    with pytest.raises(images.ImageError, match="image '5': not a whole JPEG"):
        run.features(variables, index)
    skipping = experiment(folder, data__on_bad_image="skip")
    found = skipping.features(variables, index)
    assert set(found.failed) == {broken} and len(found.names) == 47
    plan = run.train_plan
    step = next(s for s in range(6) if (plan.batch(s).images == broken).any())
    with Stream(
        plan,
        index,
        start=step,
        features=found,
        on_bad_image="skip",
        bad_image_budget=0.5,
    ) as stream:
        batch = next(stream).batch
        assert list(stream.missing) == [broken]
    place = (plan.batch(step).images == broken).any(axis=1)
    assert not batch["features"][place].any() and not batch["example_mask"][place].any()
    assert (batch["image_id"][place] == -1).all()


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"optim__rules": ((r".*", "transformer"),)}, "the CNN is trained"),
        ({"model__norm": "batch"}, "its batch norms follow the batch"),
        ({"data__mirror": True}, "photos are changed at random"),
        ({"data__random_short_side": 80}, "photos are changed at random"),
    ],
)
def test_what_training_changes_is_not_kept(tmp_path, change, fault):
    with pytest.raises(InputError, match=f"data.cache_features needs.*{fault}"):
        experiment(tmp_path, **change).check_features()


def test_frozen_stages_are_enough(tmp_path):
    # Other norms than the CNN's may follow the batch.
    run = experiment(
        tmp_path,
        optim__rules=((r".*", "transformer"),),
        model__norm="batch",
        model__backbone__frozen_stages=3,
        model__front_end__norm="batch",
    )
    run.check_features()


@pytest.mark.runs
def test_faults_of_kept_features_by_the_command_line(tmp_path):
    kept, index = tmp_path / "features", tmp_path / "index"
    short = (
        "--config.total=1 steps",
        "--config.optim.warmup=1 steps",
        "--config.eval.every=0 steps",
        "--config.checkpoint.best_metric=",
    )
    # A CNN to freeze: one that nothing has trained is refused.
    assert runs.run(*runs.place(tmp_path / "model", index), *short).code == 0

    def launch(name, folder=kept):
        rules = "(('backbone/.*', 'frozen'), ('.*', 'transformer'))"
        return runs.run(
            *runs.place(tmp_path / name, index),
            *short,
            f"--config.init.model={tmp_path / 'model'}",
            "--config.data.cache_features=True",
            f"--config.data.feature_dir={folder}",
            "--config.model.norm=frozen",
            f"--config.optim.rules={rules}",
        )

    good = launch("good")
    assert good.code == 0, good.output
    files = sorted(kept.rglob("*.bin"))
    assert len(files) == 48
    content = files[5].read_bytes()
    files[5].write_bytes(content[:-3])
    cut = launch("cut")
    assert cut.code == 2 and "Traceback" not in cut.output
    assert f"{files[5]} are damaged: {len(content) - 3} bytes" in cut.output
    for file in files:  # of the same length: noticed when it is read
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    files[5].write_bytes(content[:-1] + b"?")
    changed = launch("changed")
    assert changed.code == 2 and "Traceback" not in changed.output
    assert "their SHA-256 is not the one in the file" in changed.output
    (tmp_path / "file").write_text("")
    place = launch("place", tmp_path / "file")
    assert place.code == 2 and "data.feature_dir names another folder" in place.output
    about = next(kept.rglob("about.json"))
    about.write_text("{}")
    other = launch("other")
    assert other.code == 2 and "holds features of another CNN" in other.output
