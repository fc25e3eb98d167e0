"""The step: accumulation, permutation, frozen parameters, updates that are skipped."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax import trees
from pixel_bert_jax.training import train_step
from tests import small

GROUPS = 8
# The stem and its norm stay as they are; so does one table of the other optimizer.
RULES = [
    (r"backbone/stem.*", "frozen"),
    (r"text/position", "frozen"),
    (r"backbone/.*", "cnn"),
    (r".*", "transformer"),
]


def gradient_figures(repository, dtype):
    """Runs tests/float64_gradients.py, on one device as a user has."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.float64_gradients", dtype],
        cwd=repository,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout)
    assert figures["dtypes"] == [dtype]
    assert max(figures["masked_tokens"]) > 2 * min(figures["masked_tokens"]) > 0
    assert figures["swapped"] > 0
    return figures


@pytest.mark.runs
def test_split_or_permuted_batches_give_the_same_gradients(repository):
    figures = gradient_figures(repository, "float64")
    assert min(figures["largest"].values()) > 0
    assert max(figures["split"].values()) <= 1e-6
    assert max(figures["permuted"].values()) <= 1e-6
    np.testing.assert_allclose(*figures["losses"], rtol=1e-12)


@pytest.mark.slow
def test_split_or_permuted_batches_give_nearly_the_same_gradients_in_float32(
    repository,
):
    figures = gradient_figures(repository, "float32")
    largest = max(figures["largest"].values())
    for name in ("split", "permuted"):
        for path, figure in figures[name].items():
            if path.endswith("key/bias"):
                # Attention does not depend on it: its gradient is 0 but for rounding.
                assert figures["largest"][path] < 1e-6 * largest
            else:
                assert figure <= 1e-4, path


@functools.cache
def compiled():
    run = small.run(model__norm="batch", optim__rules=RULES)
    state = run.state()
    return run, state, run.step(state, run.place(small.batch(GROUPS), 2))


def bytes_of(tree):
    """Returns {path: bytes} of a tree of arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(k): np.asarray(x).tobytes() for k, x in leaves}


def test_frozen_parameters_stay_to_the_bit_and_all_others_move():
    run, state, step = compiled()
    before = bytes_of(state.params)
    for seed in range(3):
        state, _ = step(state, run.place(small.batch(GROUPS, seed=seed), 2))
    after = bytes_of(state.params)
    same = {path for path in before if before[path] == after[path]}
    frozen = {
        "".join(f"['{name}']" for name in path.split("/"))
        for path, group in run.optimizer.groups.items()
        if group == "frozen"
    }
    assert same == frozen
    assert len(frozen) == 4


@pytest.mark.runs
def test_the_schedule_multiplies_the_update():
    moves = []
    for factor in (0.25, 0.5):
        run = small.run(optim__warmup_factor=factor)
        state = run.state()
        arrays = run.place(small.batch(GROUPS))
        after, _ = run.step(state, arrays)(state, arrays)
        move = jax.tree.map(jnp.subtract, after.params, state.params)
        moves.append(trees.flatten(jax.device_get(move)))
    for path in run.optimizer.trainable:
        if path.endswith("key/bias"):  # its gradient is 0 but for rounding
            continue
        quarter, half = (move[path] for move in moves)
        np.testing.assert_allclose(half, 2 * quarter, rtol=0.01, atol=1e-6)
        assert np.abs(half).max() > 1e-5, path


def test_frozen_parameters_have_neither_gradient_nor_optimizer_state():
    run, state, _ = compiled()
    trained = set(run.optimizer.trainable)
    assert trained == {p for p, g in run.optimizer.groups.items() if g != "frozen"}
    paths = bytes_of(state.opt_state)
    for path, group in run.optimizer.groups.items():
        entries = [p for p in paths if f"'{path}'" in p]
        # Momentum alone, or both of Adam's moments.
        assert len(entries) == {"frozen": 0, "cnn": 1, "transformer": 2}[group], path
    batch = run.place(small.batch(GROUPS), 2)
    gradients = train_step.build_gradients(
        run.task, run.optimizer, run.mesh, run.config.sharding
    )
    found = jax.eval_shape(gradients, state, batch)
    assert set(found.grads) == trained


def test_an_update_that_is_not_finite_changes_only_the_step():
    run, state, step = compiled()
    arrays = small.batch(GROUPS)
    good, sums = step(state, run.place(arrays, 2))
    assert int(good.skipped) == 0
    assert int(good.step) == 1
    assert float(sums[train_step.NOT_FINITE][0]) == -1
    bad = good
    for value in (np.nan, np.inf):
        arrays["image"] = arrays["image"].copy()
        arrays["image"][0, 0, 0, 0] = value
        bad, sums = step(bad, run.place(arrays, 2))
    assert int(bad.step) == 3
    assert int(bad.skipped) == 2
    assert float(sums["skipped_in_a_row"][0]) == 2
    # The image spoils the CNN's gradients, and these come first.
    first = sorted(run.optimizer.trainable)[int(sums[train_step.NOT_FINITE][0])]
    assert first.startswith("backbone/")
    for name in ("params", "batch_stats", "opt_state"):
        assert bytes_of(getattr(bad, name)) == bytes_of(getattr(good, name))
    again, _ = step(bad, run.place(small.batch(GROUPS), 2))
    assert int(again.skipped) == 0
    assert bytes_of(again.params) != bytes_of(good.params)


def test_a_batch_without_a_word_to_predict_and_a_group_of_nothing():
    """Means of nothing are no NaN: only matching is learned, from what is there."""
    run, state, step = compiled()
    arrays = small.batch(GROUPS)
    length = np.arange(small.LENGTH)
    arrays["text_ids"][:] = np.where(length == 0, 2, np.where(length == 1, 3, 0))
    arrays["text_mask"][:] = length < 2  # [CLS] and [SEP]
    # A hole as the pipeline leaves it: no token and no image.
    arrays["text_ids"][0], arrays["text_mask"][0] = 0, False
    arrays["image"] = arrays["image"].copy()
    arrays["image"][0], arrays["image_size"][0] = 0, 0
    arrays["example_mask"][0] = False
    after, sums = step(state, run.place(arrays, 2))
    assert tuple(map(float, sums["mlm/loss"])) == (0, 0)
    assert np.isfinite(sums["loss"][0]) and float(sums["loss"][0]) > 0
    assert float(sums[train_step.NOT_FINITE][0]) == -1 and int(after.skipped) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_metrics_are_sums_over_the_whole_batch():
    run, state, step = compiled()
    arrays = small.batch(GROUPS)
    _, sums = jax.device_get(step(state, run.place(arrays, 2)))
    pairs = arrays["example_mask"].sum()
    assert sums["itm/loss"][1] == sums["itm/accuracy"][1] == pairs
    assert sums["itm/without_partner"][1] == pairs
    figures = {name: total / count for name, (total, count) in sums.items()}
    np.testing.assert_allclose(
        figures["loss"], figures["itm/loss"] + figures["mlm/loss"], rtol=1e-6
    )
    assert sums["mlm/accuracy"][1] < sums["mlm/loss"][1]  # matched pairs only
    assert sums["rate_factor"] == (np.float32(1 / 3), 1)


def test_running_statistics_are_those_of_the_whole_batch():
    run, state, step = compiled()
    arrays = small.batch(GROUPS)
    after, _ = step(state, run.place(arrays, 2))
    kernel = state.params["backbone"]["stem"]["conv"]["kernel"]
    stem = jax.lax.conv_general_dilated(
        jnp.asarray(arrays["image"][:, 0]),
        kernel,
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    size = -(-arrays["image_size"][:, 0] // 2)
    cells = np.concatenate(
        [
            np.asarray(x)[:height, :width].reshape(-1, 8)
            for x, (height, width) in zip(stem, size, strict=True)
        ]
    ).astype(np.float64)
    got, old = (s.batch_stats["backbone"]["stem_norm"] for s in (after, state))
    for name, value in (("mean", cells.mean(0)), ("var", cells.var(0, ddof=1))):
        want = 0.9 * np.asarray(old[name]) + 0.1 * value
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6)
    assert trees.flatten(after.batch_stats).keys() == (
        trees.flatten(state.batch_stats).keys()
    )
