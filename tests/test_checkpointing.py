"""Checkpoints: bit-equal restores, refusals that name what differs, the digest."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax import checkpointing
from pixel_bert_jax.checkpointing import BEST, Checkpoints, digest
from pixel_bert_jax.types import InputError
from tests import small

META = {"format": 1, "config": {"a": [1, 2]}, "plan": "p"}


def saved(folder, run, step=3):
    state = run.state().replace(step=jnp.int32(step))
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(state, META)
    checkpoints.close()
    return state


def test_a_restore_is_bit_equal_on_one_and_on_eight_devices(tmp_path):
    one, eight = small.run(1), small.run(8, fsdp=8)
    state = saved(tmp_path, one)
    for run in (one, eight):
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


def test_another_architecture_is_refused_with_path_and_both_shapes(tmp_path):
    saved(tmp_path, small.run())
    wider = small.run(model__hidden=48)
    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.raises(InputError, match="another architecture") as error:
        checkpoints.restore(wider.target)
    checkpoints.close()
    assert "hidden" in str(error.value)
    assert "stored (32,), wanted (48,)" in str(error.value)


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
    with pytest.raises(InputError, match=r"best_metric is 'itm'.* gives mlm"):
        checkpoints.save_if_best(state, META, {"mlm": 1.0})
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


def test_log_lines_of_later_steps_go(tmp_path):
    log = tmp_path / "metrics.jsonl"
    checkpointing.truncate_log(log, 3)  # absent: nothing to do
    assert not log.exists()
    lines = [f'{{"step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3, 4, 5)]
    log.write_text("".join(lines) + '{"step": 6, "lo')
    checkpointing.truncate_log(log, 3)
    assert log.read_text() == "".join(lines[:3])
    checkpointing.truncate_log(log, -1)
    assert log.read_text() == ""
    assert list(tmp_path.iterdir()) == [log]
