"""Checkpoints: bit-equal restores, refusals that name what differs, the digest."""

import copy
import json
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax.checkpoints import (
    checkpointing,
    manifest,
)
from pixel_bert_jax.checkpoints import (
    store as checkpoint_store,
)
from pixel_bert_jax.checkpoints.checkpointing import BEST, Checkpoints
from pixel_bert_jax.trees import digest
from pixel_bert_jax.types import InputError
from tests import small

META = {"format": 1, "config": {"a": [1, 2]}, "plan": "p"}


def saved(folder, run, step=3):
    state = run.state().replace(step=jnp.int32(step))
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(state, META)
    checkpoints.close()
    return state


@pytest.mark.runs
@pytest.mark.parametrize(
    "first",
    [
        pytest.param((1, 1, 1), marks=pytest.mark.slow),
        pytest.param((8, 1, 1), marks=pytest.mark.slow),
        (8, 2, 2),
    ],
)
def test_a_restore_is_bit_equal_on_any_mesh(tmp_path, first):
    state = saved(tmp_path, small.run(*first))
    for mesh in ((8, 1, 1), (8, 8, 1), (4, 1, 1), (4, 1, 2), (1, 1, 1)):
        run = small.run(*mesh)
        checkpoints = Checkpoints(tmp_path, keep=2)
        assert checkpoints.newest_step() == 3
        assert checkpoints.read_meta() == META
        back = checkpoints.restore(run.target)
        checkpoints.close()
        assert digest(back) == digest(state)
        for leaf, want in zip(
            jax.tree.leaves(back), jax.tree.leaves(run.target), strict=True
        ):
            assert leaf.sharding == want.sharding
            assert leaf.dtype == want.dtype


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"model__hidden": 48}, "hidden", "stored (32,), wanted (48,)"),
        ({"model__layers": 2}, "encoder/layer1", "stored nothing, wanted (16,)"),
        (
            {"model__backbone__depths": (1, 2)},
            "backbone/stage2_block1",
            "stored nothing, wanted (12,)",
        ),
    ],
)
def test_another_architecture_is_refused_with_path_and_both_shapes(
    tmp_path, changes, path, message
):
    saved(tmp_path, small.run())
    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.raises(InputError, match="another architecture") as error:
        checkpoints.restore(small.run(**changes).target)
    checkpoints.close()
    assert path in str(error.value)
    assert message in str(error.value)


def test_another_format_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(small.run().state(), META | {"format": 0})
    checkpoints.wait()
    with pytest.raises(InputError, match="has the format 0, this version reads 1"):
        checkpoints.read_meta()
    checkpoints.close()


def test_digest_is_stable_and_notices_every_change():
    state = small.run().state()
    first = digest(state)
    assert first == digest(copy.copy(state)) == digest(jax.device_get(state))
    head = state.params["heads"]["itm"]["classifier"]["bias"]
    params = copy.deepcopy(jax.device_get(state.params))
    params["heads"]["itm"]["classifier"]["bias"] = np.nextafter(head, np.float32(9))
    others = [
        state.replace(step=state.step + 1),
        state.replace(rng=jax.random.key(1)),
        state.replace(params=params),
        state.replace(skipped=state.skipped.astype(jnp.uint32)),
    ]
    assert len({first, *map(digest, others)}) == 5
    # The place of a value counts, and its shape.
    assert digest({"a": np.zeros(2), "b": np.ones(2)}) != (
        digest({"a": np.ones(2), "b": np.zeros(2)})
    )
    assert digest({"a": np.zeros((2, 1))}) != digest({"a": np.zeros(2)})


def test_latest_and_best_are_kept_apart(tmp_path):
    run = small.run()
    state = run.state()
    checkpoints = Checkpoints(tmp_path, keep=1, metric="itm")
    for step, figure, better in ((1, 0.5, True), (2, 0.7, True), (3, 0.6, False)):
        state = state.replace(step=jnp.int32(step))
        checkpoints.save(state, META)
        assert checkpoints.save_if_best(state, META, {"itm": figure}) == better
    checkpoints.wait()
    assert checkpoints.newest_step() == 3
    assert checkpoints.newest_step(BEST) == 2
    assert checkpoints.read_meta(BEST)["figures"] == {"itm": 0.7}
    assert digest(checkpoints.restore(run.target)) == digest(state)
    # Evaluations of other periods do not give it.
    assert not checkpoints.save_if_best(state, META, {"mlm": 1.0})
    assert checkpoints.newest_step(BEST) == 2
    # Once an image is missing its name says so, and it decides all the same.
    state = state.replace(step=jnp.int32(4))
    assert checkpoints.save_if_best(state, META, {"itm@missing": 0.8})
    state = state.replace(step=jnp.int32(5))
    assert not checkpoints.save_if_best(state, META, {"itm": 0.75})
    checkpoints.close()


def test_another_config_is_refused_by_every_field_that_differs():
    old = {"seed": 1, "total": "3 epochs", "model": {"layers": 2, "widths": (1, 2)}}
    same = {"seed": 1, "total": "9 epochs", "model": {"layers": 2, "widths": [1, 2]}}
    checkpointing.check_same_config(old, same, "here")
    new = {"seed": 2, "total": "3 epochs", "model": {"layers": 4, "extra": 1}}
    with pytest.raises(InputError) as error:
        checkpointing.check_same_config(old, new, "the checkpoint in w")
    text = str(error.value)
    assert "the checkpoint in w was made with another config" in text
    assert "seed: 1 -> 2" in text
    assert "model.layers: 2 -> 4" in text
    assert "model.extra: None -> 1" in text
    assert "total" not in text


def test_a_manifest_lists_every_file(tmp_path):
    saved(tmp_path, small.run())
    (folder,) = (tmp_path / "checkpoints" / "latest").iterdir()
    listed = json.loads((folder / manifest.FILE).read_text())["files"]
    there = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name != manifest.FILE
    }
    # Orbax adds a marker when all is done, and completes a record.
    assert there.keys() - listed.keys() == {"commit_success.txt"}
    del there["commit_success.txt"], there[manifest.RECORD]
    del listed[manifest.RECORD]
    assert {name: entry["bytes"] for name, entry in listed.items()} == there
    assert len(there) > 5 and manifest.faults(folder) == []


def files_of_a_checkpoint(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damaged_in_every_way(folder, step):
    """Yields what was done to a copy of a workdir's step, each time to another file."""
    place = folder / "checkpoints" / "latest" / str(step)
    kinds = set()
    for path in files_of_a_checkpoint(place):
        if path.name == "commit_success.txt":  # of no use to anybody
            continue
        kind = (path.parent.name, path.suffix, len(path.name) > 30)
        if kind in kinds or not path.stat().st_size:
            continue
        kinds.add(kind)
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 4
        for content in (bytes(flipped), whole[:-1], None):
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            yield path.relative_to(place).as_posix()
            path.write_bytes(whole)


def two_saved(folder):
    """Saves steps 3 and 4, of different states."""
    run, states = small.run(), {}
    checkpoints = Checkpoints(folder, keep=2)
    for step in (3, 4):
        states[step] = run.state(step).replace(step=jnp.int32(step))
        checkpoints.save(states[step], META)
    checkpoints.close()
    return run, states


def test_damage_of_any_file_is_noticed_and_an_older_one_still_loads(tmp_path):
    run, states = two_saved(tmp_path)
    trials = 0
    for name in damaged_in_every_way(tmp_path, 4):
        trials += 1
        again = Checkpoints(tmp_path, keep=2, read_only=True)
        for look in (again.newest_step, again.read_meta):
            with pytest.raises(InputError, match="latest/4 is damaged") as error:
                look()
        with pytest.raises(InputError, match="step 3, which is intact"):
            again.restore(run.target)
        assert name.split("/")[-1] in str(error.value)
        again.close()
    assert trials >= 15
    # Whole again, it is the newest.
    again = Checkpoints(tmp_path, keep=2, read_only=True)
    assert again.newest_step() == 4
    assert digest(again.restore(run.target)) == digest(states[4])
    again.close()


def test_with_fallback_a_damaged_checkpoint_is_put_aside(tmp_path, capsys):
    run, states = two_saved(tmp_path)
    next(damaged_in_every_way(tmp_path, 4))
    checkpoints = Checkpoints(tmp_path, keep=2, fallback=True)
    assert checkpoints.newest_step() == 3
    said = capsys.readouterr().err
    assert "warning: the checkpoint " in said and "continuing from step 3" in said
    assert digest(checkpoints.restore(run.target)) == digest(states[3])
    # The run comes to that step again.
    checkpoints.save(states[4], META)
    checkpoints.close()
    names = {p.name for p in (tmp_path / "checkpoints" / "latest").iterdir()}
    assert names == {"3", "4", "4.damaged"}
    # It happens once more.
    next(damaged_in_every_way(tmp_path, 4))
    checkpoints = Checkpoints(tmp_path, keep=2, fallback=True)
    assert checkpoints.newest_step() == 3
    checkpoints.save(states[4], META)
    checkpoints.close()
    names = {p.name for p in (tmp_path / "checkpoints" / "latest").iterdir()}
    assert names == {"3", "4", "4.damaged", "4.damaged1"}
    again = Checkpoints(tmp_path, keep=2)
    assert digest(again.restore(run.target)) == digest(states[4])
    again.close()


def test_a_run_goes_on_without_a_best_checkpoint_that_is_damaged(tmp_path):
    run = small.run()
    state = run.state().replace(step=jnp.int32(3))
    checkpoints = Checkpoints(tmp_path, keep=1, metric="itm")
    checkpoints.save(state, META)
    assert checkpoints.save_if_best(state, META, {"itm": 0.5})
    checkpoints.close()
    for name in ("latest", "best"):
        (file,) = (tmp_path / "checkpoints" / name / "3").glob(manifest.FILE)
        file.write_text("{}")
    checkpoints = Checkpoints(tmp_path, keep=1, metric="itm")
    with pytest.raises(InputError, match=r"fallback=True continues from none"):
        checkpoints.newest_step(BEST)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1, metric="itm", fallback=True)
    assert checkpoints.newest_step(BEST) is None
    assert checkpoints.save_if_best(state, META, {"itm": 0.1})
    # But not without any: it would start anew.
    with pytest.raises(InputError, match=r"latest/3 is damaged: .* no other is intact"):
        checkpoints.newest_step()
    checkpoints.close()


def test_folders_that_are_no_checkpoints(tmp_path):
    run = small.run()
    state = saved(tmp_path, run)
    latest = tmp_path / "checkpoints" / "latest"
    # What a killed write leaves is invisible; what only looks complete is told.
    (latest / "9.orbax-checkpoint-tmp").mkdir()
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest_step() == 3
    checkpoints.close()
    (latest / "7").mkdir()
    checkpoints = Checkpoints(tmp_path, keep=2, read_only=True)
    with pytest.raises(InputError, match=r"latest/7 is damaged: it has no manifest"):
        checkpoints.newest_step()
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=2, fallback=True)
    assert digest(checkpoints.restore(run.target)) == digest(state)
    checkpoints.close()


def test_a_full_disk_is_noticed_before_a_save(tmp_path, monkeypatch):
    run = small.run()
    saved(tmp_path, run)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checkpoint_store.shutil, "disk_usage", lambda path: usage)
    checkpoints = Checkpoints(tmp_path, keep=1)
    state = run.state().replace(step=jnp.int32(4))
    with pytest.raises(OSError, match=r"no space .*latest: [\d,]+ bytes .* 1,000 are"):
        checkpoints.save(state, META)
    assert checkpoints.newest_step() == 3
    checkpoints.close()


def test_an_error_in_the_background_comes_up(tmp_path, monkeypatch):
    run = small.run()
    saved(tmp_path, run)

    def fail(folder):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=2)
    monkeypatch.setattr(checkpoint_store.manifest, "write", fail)
    checkpoints.save(run.state().replace(step=jnp.int32(4)), META)
    with pytest.raises(OSError, match="No space left"):
        for _ in range(600):  # as steps of training that go on meanwhile
            checkpoints.check()
            time.sleep(0.1)
    monkeypatch.undo()
    again = Checkpoints(tmp_path, keep=2)
    assert again.newest_step() == 3
    again.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write to"):
        Checkpoints(tmp_path, keep=1)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        Checkpoints(tmp_path, keep=1)
