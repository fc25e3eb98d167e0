"""Bad data and bad settings: a clear message each, never a silent substitute.

Wrong command lines are in `test_main`, single faults of annotations in `data`.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax import resuming, train
from pixel_bert_jax.checkpoints.checkpointing import Checkpoints
from pixel_bert_jax.config import load
from pixel_bert_jax.data.images import ImageError
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.run import open_stream
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import InputError
from tests import runs

COUNT = 48


class Photos:
    """A folder of small photos with COCO captions; change `content` and `write()`."""

    def __init__(self, root: Path):
        (root / "photos").mkdir(parents=True)
        self.root = root
        self.file = root / "captions.json"
        self.content: dict[str, list] = {"images": [], "annotations": []}
        random = np.random.default_rng(0)
        for n in range(COUNT):
            name = f"{n:03d}.jpg"
            pixels = random.integers(0, 256, (96, 112, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.photo(n))
            self.content["images"].append(
                {"id": n, "file_name": name, "height": 96, "width": 112}
            )
            for k in range(2):
                caption = f"a {('red', 'blue')[k]} circle and a green square"
                self.content["annotations"].append(
                    {"id": 2 * n + k, "image_id": n, "caption": caption}
                )
        self.write()

    def photo(self, n: int) -> Path:
        return self.root / "photos" / f"{n:03d}.jpg"

    def write(self) -> None:
        self.file.write_text(json.dumps(self.content))

    def truncate(self, n: int) -> None:
        """Cuts a photo off in the middle; its header stays whole."""
        self.photo(n).write_bytes(self.photo(n).read_bytes()[:2000])

    @property
    def changes(self) -> dict:
        """Changes of the micro config that train on these photos."""
        corpus = dict(source="coco", name="photos", weight=1.0)
        corpus |= dict(annotations="captions.json", images="photos")
        return {
            "data__corpora": (corpus,),
            "data__root": str(self.root),
            "data__index_dir": str(self.root / "index"),
        }


@pytest.fixture
def photos(tmp_path) -> Photos:
    return Photos(tmp_path / "data")


def experiment(photos: Photos, **changes) -> Experiment:
    return Experiment(runs.config(**photos.changes, **changes))


def check_index_refused(photos: Photos, *texts: str) -> None:
    with pytest.raises(InputError) as raised:
        _ = experiment(photos).train_index
    for text in texts:
        assert text in str(raised.value)


def test_missing_image(photos):
    photos.photo(7).unlink()
    check_index_refused(photos, "1 x missing image file", str(photos.photo(7)))


def test_empty_caption(photos):
    photos.content["annotations"][5]["caption"] = "  "
    photos.write()
    check_index_refused(photos, "1 x empty caption", str(photos.file), "id 5")


def test_broken_record(photos):
    del photos.content["annotations"][3]["image_id"]
    photos.content["images"][4]["height"] = "tall"
    photos.write()
    check_index_refused(
        photos, "1 x broken annotation", "annotations[3]", "broken image", "images[4]"
    )


def test_json_that_ends_too_early(photos):
    photos.file.write_text(photos.file.read_text()[:-40])
    check_index_refused(photos, str(photos.file), "broken json at line 1")


def test_a_caption_of_10_000_characters_is_cut_and_reported(photos, capfd):
    photos.content["annotations"][0]["caption"] = "a red circle " * 770
    photos.write()
    index = experiment(photos).train_index
    assert index.truncated == {"photos": 1}
    assert "1 cut to 22 tokens" in capfd.readouterr().err
    ids, mask = index.texts(0, np.array([0]))
    assert ids.shape == (1, 22) and mask.all()


def test_truncated_image(photos):
    photos.truncate(7)
    check_index_refused(photos, "1 x broken image file", "007.jpg: not a whole JPEG")


def test_image_truncated_later_stops_the_stream_with_its_name(photos):
    run = experiment(photos)
    _ = run.train_index
    photos.truncate(7)
    with pytest.raises(ImageError) as raised:
        read_epoch(run, photos.root)
    assert "007.jpg" in str(raised.value)


def test_truncated_images_are_skipped_counted_and_listed(photos):
    photos.truncate(5)
    run = experiment(photos, data__on_bad_image="skip", data__bad_image_budget=0.5)
    assert [key for _, key, _ in run.train_index.left_out] == ["005.jpg"]
    photos.truncate(7)  # after it was indexed
    assert read_epoch(run, photos.root) == 1
    lines = (photos.root / resuming.BAD_IMAGES).read_text().splitlines()
    found = [(x["step"] >= 0, x["key"]) for x in map(json.loads, lines)]
    assert found == [(False, "005.jpg"), (True, "007.jpg")]


def read_epoch(run: Experiment, workdir: Path) -> int:
    steps = run.train_plan.steps_per_epoch
    with open_stream(run, workdir, 0, steps) as stream:
        for _ in stream:
            pass
        return stream.bad_images


def test_unknown_policy_for_bad_images(photos):
    with pytest.raises(InputError, match=r"on_bad_image .*did you mean 'skip'"):
        experiment(photos, data__on_bad_image="skp")


@pytest.mark.runs
@pytest.mark.parametrize(
    "policy", [pytest.param("error", marks=pytest.mark.slow), "skip"]
)
def test_exit_code_of_bad_images(photos, policy):
    for n in range(COUNT // 4):
        photos.truncate(n)
    changes = photos.changes | {"data__on_bad_image": policy, "eval__every": "0 steps"}
    config = runs.FILE + runs.argument(**changes)
    workdir = photos.root / "run"
    process = runs.Process(runs.command(f"--workdir={workdir}", config=config))
    outcome = process.finish()
    assert "Traceback" not in outcome.output, outcome.output
    if policy == "error":
        assert outcome.code == 2
        assert "12 x broken image file" in outcome.output
    else:
        assert outcome.code == 4
        assert "12 of 48 images are missing or broken, more than" in outcome.output
    assert ".jpg: not a whole JPEG" in outcome.output


@pytest.mark.runs
def test_a_photo_deleted_after_indexing_ends_the_run_with_its_name(photos):
    changes = photos.changes | {"eval__every": "0 steps"}
    _ = experiment(photos, eval__every="0 steps").train_index
    photos.photo(7).unlink()
    config = runs.FILE + runs.argument(**changes)
    flag = f"--workdir={photos.root / 'run'}"
    outcome = runs.Process(runs.command(flag, config=config)).finish()
    assert outcome.code == 1
    last = outcome.output.splitlines()[-1]
    assert last.startswith("error: ") and "007.jpg" in last
    assert "Traceback" not in outcome.output


@pytest.mark.runs
def test_a_run_that_stopped_at_a_broken_photo_goes_on_without_it(photos, tmp_path):
    workdir = tmp_path / "run"
    changes = photos.changes | {
        "total": "5 steps",
        "checkpoint__every": "100 %",
        "checkpoint__best_metric": "trained_on/photos/match",
        "eval__every": "100 %",
        "data__allow_overlap": ("evaluate",),
    }
    run = Experiment(runs.config(**changes))
    _ = run.corpora.index("evaluate")
    in_time = {row for n in (0, 1) for row in run.train_plan.batch(n).images.flat}
    (broken, *_) = (row for row in run.train_plan.batch(2).images.flat if row >= 0)
    assert broken not in in_time
    photos.truncate(broken)
    with pytest.raises(ImageError, match=f"{broken:03d}.jpg"):
        train.train_and_evaluate(runs.config(**changes), workdir)
    checkpoints = Checkpoints(workdir, keep=1, read_only=True)
    assert checkpoints.newest_step() == 2  # of which it had learned
    checkpoints.close()
    changes |= {"data__on_bad_image": "skip", "data__bad_image_budget": 0.5}
    state = train.train_and_evaluate(runs.config(**changes), workdir)
    assert int(state.step) == 5
    (line,) = (workdir / resuming.BAD_IMAGES).read_text().splitlines()
    assert json.loads(line)["step"] == 2
    checkpoints = Checkpoints(workdir, keep=1, read_only=True)
    figures = checkpoints.read_meta("best")["figures"]
    checkpoints.close()
    assert figures["trained_on/photos/images_missing"] == 1
    assert figures["trained_on/photos/texts_missing"] == 2
    assert figures["trained_on/photos/texts@missing"] == 2 * COUNT - 2
    assert 0 <= figures["trained_on/photos/match@missing"] <= 1
    assert "photos/match" not in figures


def test_a_figure_that_no_evaluation_gives(tmp_path):
    config = runs.config(
        checkpoint__best_metric="scenes/mach", data__index_dir=str(tmp_path / "index")
    )
    with pytest.raises(InputError, match=r"'scenes/mach' \(did you mean 'scenes/match"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.runs
def test_too_many_updates_that_are_not_finite(tmp_path):
    changes = {
        "optim__groups__transformer__learning_rate": 1e38,
        "optim__non_finite_budget": 2,
        "log__every": 10,  # noticed between log lines too
        "eval__every": "0 steps",
        "checkpoint__best_metric": "",
    }
    config = runs.FILE + runs.argument(**changes)
    flags = runs.place(tmp_path / "run", tmp_path / "index")
    outcome = runs.Process(runs.command(*flags, config=config)).finish()
    assert outcome.code == 3, outcome.output
    told = outcome.output.splitlines()[-1]
    assert "optim.non_finite_budget = 2" in told
    named = re.search(r"the first gradient that is not finite: (\S+)", told)[1]
    assert re.match(r"(backbone|encoder|front_end|heads|text)/", named)
    # What was good last is kept.
    (kept,) = (tmp_path / "run/checkpoints/latest").iterdir()
    assert kept.name.isdigit() and 3 <= int(kept.name) <= 10
    config = runs.config(**changes, data__index_dir=str(tmp_path / "index"))
    checkpoints = Checkpoints(tmp_path / "run", keep=2, read_only=True)
    state = checkpoints.restore(Experiment(config, devices=jax.devices()[:1]).target)
    checkpoints.close()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    (last,) = [x for x in runs.log(tmp_path / "run") if x["skipped_in_a_row"] == 3]
    assert last["step"] < 10


@pytest.mark.parametrize(("groups", "valid"), [(17, "16, 32"), (7, "16"), (0, "16")])
def test_groups_that_do_not_divide(groups, valid):
    # Eight devices here, two micro-batches.
    with pytest.raises(InputError) as raised:
        _ = Experiment(runs.config(groups=groups)).train_plan
    text = str(raised.value)
    assert f"groups = {groups} does not divide" in text
    assert text.endswith(f"nearest valid: {valid}")


def test_data_smaller_than_one_batch(photos):
    with pytest.raises(InputError) as raised:
        _ = experiment(photos, groups=64).train_plan
    for text in ("groups=64", f"received {COUNT} groups", f"groups={COUNT}"):
        assert text in str(raised.value)


def test_empty_selection(tmp_path):
    root = tmp_path / "flickr8k"
    (root / "Images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(root / "Images" / "1.jpg")
    image = {"filename": "1.jpg", "imgid": 0, "split": "test", "sentences": []}
    image["sentences"] = [{"raw": "a red circle", "sentid": 0}]
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": [image]}))
    config = load(
        f"{runs.ROOT}/configs/pretrain.py:flickr8k,data.tokenizer=scenes",
        {"data.root": root, "data.index_dir": tmp_path},
    )
    with pytest.raises(InputError, match=r"no image of the splits train; .*test \(1\)"):
        _ = Experiment(config).train_index


def test_unknown_names_in_a_config():
    config = runs.config(task__name="pretrian")
    with pytest.raises(InputError, match="did you mean 'pretrain'"):
        Experiment(config)
    corpora = ({"source": "scene", "name": "scenes"},)
    config = runs.config(data__corpora=corpora)
    with pytest.raises(InputError, match="did you mean 'scenes'"):
        _ = Experiment(config).train_index


@pytest.mark.runs
def test_a_relaunch_with_another_config_lists_the_difference(straight):
    config = runs.config(
        data__index_dir=straight.index_dir,
        optim__groups__cnn__learning_rate=0.5,
        model__norm="frozen",
        log__every=2,
    )
    with pytest.raises(InputError) as raised:
        train.train_and_evaluate(config, straight.workdir)
    lines = str(raised.value).splitlines()
    assert lines[1:-1] == [
        "  model.norm: 'batch' -> 'frozen'",
        "  optim.groups.cnn.learning_rate: 0.05 -> 0.5",
    ]
    assert str(straight.workdir) in lines[0]


def zeros(target: TrainState) -> TrainState:
    """Returns a state of these shapes without compiling what would make it."""

    def zero(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        value = jax.random.key(0) if is_key else np.zeros(leaf.shape, leaf.dtype)
        return jax.device_put(value, leaf.sharding)

    return jax.tree.map(zero, target)


@pytest.mark.runs
def test_other_data_under_the_same_workdir(photos, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    metric = "trained_on/photos/match"  # the same photos are held out
    changes = photos.changes | {"data__allow_overlap": ("evaluate",)}
    config = runs.config(**changes, checkpoint__best_metric=metric)
    run = Experiment(config)
    checkpoints = Checkpoints(workdir, keep=2, metric=metric)
    checkpoints.save(zeros(run.target), run.meta)
    checkpoints.close()
    annotations = photos.content["annotations"]
    # Another text leaves the plan as it is.
    annotations[0]["caption"] = "a blue circle and a red square"
    for what in ("index", "plan"):
        photos.write()
        with pytest.raises(InputError) as raised:
            train.train_and_evaluate(config, workdir)
        assert str(photos.file) in str(raised.value)
        assert "--rebuild_index" in str(raised.value)
        with pytest.raises(InputError, match=f"trained on other data: its {what} is"):
            train.train_and_evaluate(config, workdir, rebuild_index=True)
        annotations.pop()
