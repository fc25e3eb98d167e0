"""State that an objective carries: born, updated, kept, saved and restored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax import dry_run, objectives, trees
from pixel_bert_jax.checkpoints.checkpointing import Checkpoints
from pixel_bert_jax.objectives.base import Loss, Objective
from pixel_bert_jax.training import train_step
from pixel_bert_jax.trees import digest
from pixel_bert_jax.types import InputError
from tests import small

GROUPS, TEXTS, MICRO = 16, 2, 2
FIELDS = {"itm": {"weight": 1.0}, "slow": {"weight": 0.5}}
META = {"format": 1}


@dataclasses.dataclass(frozen=True)
class Slow(Objective):
    """Momentum weights of the encoder, and a queue of the last batch's texts."""

    name = "slow"

    def carried(self, model, text, params):
        shape = GROUPS, TEXTS, text.max_text_length
        queue = jnp.zeros(shape, jnp.int32)
        return {"encoder": params["encoder"], "queue": queue}

    def loss(self, inputs):
        queued = jnp.sum(inputs.carried["queue"]).astype(jnp.float32)
        pooled = inputs.passes["fused"].pooled
        metrics = {"queued": (queued, jnp.ones(()))}
        updates = {"queue": inputs.view.text_ids}
        return Loss(jnp.sum(pooled[:, 0]), self.count(inputs.view), metrics, updates)

    def carry(self, carried, updates, params):
        def follow(old, new):
            return 0.75 * old + 0.25 * new

        return {
            "encoder": jax.tree.map(follow, carried["encoder"], params["encoder"]),
            "queue": updates["queue"].reshape(carried["queue"].shape),
        }


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "slow", Slow)


@pytest.fixture(scope="module")
def compiled():
    """The run on eight devices that split the parameters, a state, and the step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(objectives.OBJECTIVES, "slow", Slow)
        run = small.run(8, fsdp=4, objectives=FIELDS)
        state = run.state()
        return run, state, run.step(state, batch(run, 0)[1])


def batch(run, seed):
    arrays = small.batch(GROUPS, TEXTS, seed=seed)
    return arrays, run.place(arrays, MICRO)


def test_it_takes_what_every_micro_batch_gave(compiled):
    run, state, step = compiled
    arrays, placed = batch(run, 0)
    after, sums = step(state, placed)
    carried = after.carried["slow"]
    np.testing.assert_array_equal(carried["queue"], arrays["text_ids"])
    old, new, got = (
        trees.flatten(jax.device_get(tree))
        for tree in (
            state.carried["slow"]["encoder"],
            after.params["encoder"],
            carried["encoder"],
        )
    )
    for path, value in got.items():
        wanted = 0.75 * old[path] + 0.25 * new[path]
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-8, err_msg=path)
    # A loss reads what the step before has left.
    assert float(sums["slow/queued"][0]) == 0
    _, sums = step(after, batch(run, 1)[1])
    assert float(sums["slow/queued"][0]) == MICRO * arrays["text_ids"].sum()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_updates_are_stacked_however_many_there_are(monkeypatch, accumulate):
    shapes = []

    def carry(self, carried, updates, params):
        shapes.append(updates["queue"].shape)
        return carried

    monkeypatch.setattr(Slow, "carry", carry)
    run = small.run(objectives=FIELDS)
    step = train_step.build(run.task, run.optimizer, run.mesh, run.config)
    jax.eval_shape(step, run.target, run.place(small.batch(GROUPS, TEXTS), accumulate))
    assert shapes == [(accumulate, GROUPS // accumulate, TEXTS, small.LENGTH)]


def test_momentum_weights_follow_the_weights_that_a_run_starts_from():
    config = small.config(objectives=FIELDS, dry_run__vocab_size=small.VOCAB)
    planned = dry_run.Planned(config)
    path = "encoder/layer0/hidden/bias"
    state = planned.create_state({f"params/{path}": np.full(32, 0.7, np.float32)})
    params = trees.flatten(state.params)
    assert float(params[path][3]) == np.float32(0.7)
    for name, value in trees.flatten(state.carried["slow"]["encoder"]).items():
        np.testing.assert_array_equal(value, params[f"encoder/{name}"], name)


def test_it_begins_as_the_objective_says_and_lies_with_its_parameter(compiled):
    run, *_ = compiled
    initial = jax.eval_shape(run.task.init, jax.random.key(0))["params"]
    carried = run.target.carried["slow"]
    assert trees.flatten(carried["encoder"]).keys() == (
        trees.flatten(initial["encoder"]).keys()
    )
    params = trees.flatten(run.target.params["encoder"])
    split = 0
    for path, leaf in trees.flatten(carried["encoder"]).items():
        assert leaf.sharding == params[path].sharding, path
        split += not leaf.sharding.is_fully_replicated
    assert split > 5
    assert carried["queue"].sharding.is_fully_replicated


def test_an_update_that_is_not_finite_keeps_it(compiled):
    run, state, step = compiled
    good, _ = step(state, batch(run, 0)[1])
    arrays, _ = batch(run, 1)
    arrays["image"][0, 0, 0, 0] = np.nan
    bad, _ = step(good, run.place(arrays, MICRO))
    assert int(bad.skipped) == 1
    assert digest(bad.carried) == digest(good.carried)
    after, _ = step(good, batch(run, 1)[1])
    assert digest(after.carried) != digest(good.carried)


@pytest.mark.runs
@pytest.mark.parametrize("fsdp", [4, 1])
def test_a_run_goes_on_bit_for_bit(compiled, tmp_path, fsdp):
    run, state, step = compiled
    first, _ = step(state, batch(run, 0)[1])
    straight, _ = step(first, batch(run, 1)[1])
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(first, META)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1)
    target = small.run(8, fsdp=fsdp, objectives=FIELDS).target
    back = checkpoints.restore(target)
    checkpoints.close()
    assert digest(back) == digest(first)
    same = jax.tree.map(lambda x, want: x.sharding == want.sharding, back, target)
    assert all(jax.tree.leaves(same))
    if fsdp == 4:
        again, _ = step(back, batch(run, 1)[1])
        assert digest(again) == digest(straight)


def test_a_checkpoint_from_before_has_none_of_it(compiled, tmp_path):
    run, *_ = compiled
    old = small.run(8, fsdp=4, objectives={"itm": {"weight": 1.0}})
    state = old.state()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state, META)
    checkpoints.wait()
    # Nothing is stored of what is not carried, and nothing missed.
    (folder,) = (tmp_path / "checkpoints" / "latest").iterdir()
    assert "carried" not in (folder / "state" / "_METADATA").read_text()
    back = checkpoints.restore(old.target)
    assert back.carried == {} and digest(back) == digest(state)
    with pytest.raises(InputError, match=r"carried/slow/.*: stored nothing"):
        checkpoints.restore(run.target)
    checkpoints.close()


def test_a_loss_of_the_whole_batch_is_not_split(monkeypatch):
    whole = type("Whole", (Slow,), {"whole_batch": True})
    monkeypatch.setitem(objectives.OBJECTIVES, "slow", whole)
    small.task(objectives=FIELDS)
    with pytest.raises(InputError, match=r"objectives\.slow .* received 2"):
        small.task(objectives=FIELDS, optim__accumulate=2)
