"""The mesh, where parameters and their optimizer's moments lie, groups that divide."""

import functools
import os
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import pretrain
from pixel_bert_jax import dry_run, trees
from pixel_bert_jax.config import resolve
from pixel_bert_jax.training import sharding, train_state
from pixel_bert_jax.types import InputError
from tests import small


@pytest.mark.parametrize(
    ("config", "devices", "shape"),
    [
        ({"data": -1, "fsdp": 1, "model": 1}, 8, (8, 1, 1)),
        ({"data": -1, "fsdp": 4}, 8, (2, 4, 1)),
        ({"data": 2, "fsdp": 2, "model": 2}, 8, (2, 2, 2)),
        ({"data": -1}, 1, (1, 1, 1)),
    ],
)
def test_mesh_has_the_sizes_asked_for(config, devices, shape):
    mesh = sharding.make_mesh(config, jax.devices()[:devices])
    assert mesh.axis_names == ("data", "fsdp", "model")
    assert tuple(mesh.shape.values()) == shape
    assert sharding.data_shards(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize(
    "config",
    [{"data": 3}, {"data": -1, "fsdp": -1}, {"date": 8}, {"data": 4}, {"data": 0}],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(config):
    with pytest.raises(InputError, match="mesh is"):
        sharding.make_mesh(config)


def test_groups_must_divide_over_micro_batches_and_shards():
    mesh = sharding.make_mesh({"data": -1})
    shards = sharding.data_shards(mesh)
    sharding.check_groups(32, 2, shards)
    with pytest.raises(InputError, match=r"groups = 40 .* nearest valid: 32, 48$"):
        sharding.check_groups(40, 2, shards)
    with pytest.raises(InputError, match=r"nearest valid: 16$"):
        sharding.check_groups(3, 2, shards)
    with pytest.raises(InputError, match=r"nearest valid: 16$"):
        sharding.check_groups(0, 2, shards)


def test_the_largest_dimension_that_divides_is_split():
    mesh = sharding.make_mesh({"fsdp": 4, "data": -1})
    shapes = {"a": (8, 16), "b": (16, 6), "c": (3,), "d": (16, 16), "e": (), "f": (4,)}
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
    rules = [("f", "replicate"), (".*", "fsdp")]
    got = sharding.parameter_shardings(params, mesh, rules)
    assert {name: tuple(s.spec) for name, s in got.items()} == {
        "a": (None, "fsdp"),
        "b": ("fsdp", None),
        "c": (),
        "d": ("fsdp", None),
        "e": (),
        "f": (),
    }
    with pytest.raises(InputError, match="'split'"):
        sharding.parameter_shardings(params, mesh, [(".*", "split")])


def test_products_are_split_by_what_they_yield_or_sum_over():
    sizes = {"data": 1, "fsdp": 2, "model": 3}
    shapes = {
        "columns": {"kernel": (4, 6, 5), "bias": (6, 5)},
        "rows": {"kernel": (6, 4), "bias": (4,)},
        "odd": {"kernel": (3, 7)},
    }
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    rules = [
        ("columns/kernel", "columns"),
        ("columns/bias", "rows"),
        ("(rows|odd)/kernel", "rows"),
        (".*", "fsdp"),
    ]
    got = sharding.parameter_specs(params, sizes, rules)
    assert {path: tuple(spec) for path, spec in got.items()} == {
        "columns/kernel": ("fsdp", "model", None),
        "columns/bias": ("model", None),
        "rows/kernel": ("model", "fsdp"),
        "rows/bias": ("fsdp",),
        "odd/kernel": ("model", None),
    }
    rules[2] = ("(rows|odd)/kernel", "columns")
    with pytest.raises(InputError, match=r"model = 3 .* axis 1 of odd/kernel"):
        sharding.parameter_specs({"odd": params["odd"]}, sizes, rules)
    whole = sharding.parameter_specs(params, {**sizes, "model": 1}, rules)
    assert tuple(whole["rows/kernel"]) == ("fsdp", None)


def test_state_is_born_where_the_rules_say_and_moments_lie_with_their_parameter():
    run = small.run(8, fsdp=4)
    state = train_state.create(run.task, run.optimizer, 0, run.target)
    jax.tree.map(
        lambda leaf, want: (leaf.sharding == want.sharding) or pytest.fail(str(want)),
        state,
        run.target,
    )
    params = trees.flatten(state.params)
    split = {p for p, x in params.items() if x.sharding.spec != PartitionSpec()}
    assert {"text/position", "encoder/layer0/hidden/kernel"} <= split
    moments = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]:
        name = getattr(path[-1], "key", "")
        if name in params:
            moments += 1
            assert leaf.sharding == params[name].sharding, name
    groups = list(run.optimizer.groups.values())
    assert moments == groups.count("cnn") + 2 * groups.count("transformer")
    for leaf in (state.step, state.rng, *jax.tree.leaves(state.batch_stats)):
        assert leaf.sharding.is_fully_replicated


@pytest.mark.slow
def test_first_parameters_do_not_depend_on_the_mesh():
    runs = [small.run(devices, fsdp=fsdp) for devices, fsdp in ((1, 1), (8, 4))]
    one, eight = (
        train_state.create(run.task, run.optimizer, 0, run.target) for run in runs
    )
    for path, leaf in trees.flatten(one.params).items():
        np.testing.assert_array_equal(leaf, trees.flatten(eight.params)[path], path)
    word = np.asarray(one.params["text"]["word"])
    # Cut at two standard deviations, as BERT's, a normal keeps 0.88 of its own.
    assert word.std() == pytest.approx(0.88 * 0.2, rel=0.1)


def test_micro_batches_are_rows_of_the_global_batch_in_order():
    mesh = sharding.make_mesh({"data": -1})
    rows = np.arange(32).reshape(2, 16)
    placed = sharding.place({"x": rows}, mesh, sharding.BATCH_SPEC)["x"]
    assert placed.sharding.spec == sharding.BATCH_SPEC
    np.testing.assert_array_equal(placed, rows)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 2)}


MESHES = {"data64": (64, {}), "fsdp64": (64, {"data": 1, "fsdp": -1})}
MESHES["data8_fsdp8"] = (64, {"fsdp": 8})
MESHES["data8_fsdp2_model4"] = (64, {"fsdp": 2, "model": 4})
PRESETS = {"r50": pretrain, "x152": pretrain}


@functools.cache
def shapes_of(name):
    return dry_run.Planned(resolve(PRESETS[name].get_config(name))).variable_shapes


def outline(name, mesh):
    """Returns a line for each kind of parameter: how many, shape, how it is split."""
    config = resolve(PRESETS[name].get_config(name))
    devices, changes = MESHES[mesh]
    sizes = sharding.mesh_sizes(vars(config.mesh) | changes, devices)
    params = shapes_of(name)["params"]
    specs = sharding.parameter_specs(params, sizes, config.sharding)
    sharding.check_spread(params, sizes, config.sharding, config.sharding_tolerance)
    lines = Counter(
        f"{re.sub('[0-9]+', 'N', path)} {leaf.shape} {dry_run.split_of(specs[path])}"
        for path, leaf in trees.flatten(params).items()
    )
    return "".join(f"{n} x {line}\n" for line, n in sorted(lines.items()))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["r50", pytest.param("x152", marks=pytest.mark.slow)])
def test_parameters_of_presets_lie_where_they_did(name, mesh):
    """PIXEL_BERT_WRITE_GOLDEN=1 writes the files anew; look at their difference."""
    file = Path(__file__).parent / "golden" / "sharding" / f"{name}_{mesh}.txt"
    found = outline(name, mesh)
    if os.environ.get("PIXEL_BERT_WRITE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found)
    assert found == file.read_text()


def test_too_much_that_lies_whole_is_refused_by_name():
    shapes = {"a": (64, 8), "b": (9, 5), "c": (7, 3)}
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
    rules = [(".*", "fsdp")]
    eight = {"data": 1, "fsdp": 8, "model": 1}
    sharding.check_spread(params, eight, rules, 0.12)
    sharding.check_spread(params, {**eight, "fsdp": 1}, rules, 0.0)
    with pytest.raises(InputError, match=r"11\.4% .* the largest is b with 45\."):
        sharding.check_spread(params, eight, rules, 0.11)
