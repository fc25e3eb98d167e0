"""The device mesh, and which parameter lies how on it.

Axes: `data` replicates parameters and splits the batch, `fsdp` splits both, `model`
splits the products of the transformer (Shoeybi et al., Megatron-LM, arXiv 1909.08053,
section 3): heads and hidden units lie apart, the rest is computed on all of its
devices. The group axis of a batch is split over (`data`, `fsdp`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pixel_bert_jax import trees
from pixel_bert_jax.types import InputError, Params

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")
# Leaves are delivered as [accumulate, groups / accumulate, ...].
BATCH_SPEC = PartitionSpec(None, BATCH_AXES)
# Evaluation batches have no accumulation axis.
EVAL_SPEC = PartitionSpec(BATCH_AXES)


def make_mesh(
    config: Mapping[str, int], devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Makes the mesh of `config.mesh` over all devices, or over some.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh(
        tuple(mesh_sizes(config, len(devices)).values()),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=devices,
    )


def mesh_sizes(config: Mapping[str, int], devices: int) -> dict[str, int]:
    """Returns the size of every axis; one of `config` may be -1 ("the rest").

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    unknown = set(config) - set(AXES)
    sizes = [config.get(axis, 1) for axis in AXES]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if unknown or sizes.count(-1) > 1 or fixed < 1 or devices % fixed:
        raise InputError(
            f"mesh is {dict(config)} on {devices} devices; expected axes "
            f"{', '.join(AXES)} whose sizes multiply to {devices}, at most one of "
            "them -1"
        )
    found = {
        axis: devices // fixed if size == -1 else size
        for axis, size in zip(AXES, sizes, strict=True)
    }
    if int(np.prod(list(found.values()))) != devices:
        raise InputError(
            f"mesh is {found}: {np.prod(list(found.values()))} devices, but {devices} "
            "are here"
        )
    return found


def data_shards(mesh: Mesh) -> int:
    """Returns into how many parts a batch's group axis is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_groups(groups: int, accumulate: int, shards: int) -> None:
    """Refuses a batch that does not divide over micro-batches and the mesh.

    Args:
      groups: G of the global batch.
      accumulate: A, micro-batches.
      shards: parts that the group axis is split into; see `data_shards`.

    Raises:
      InputError: with the nearest valid values.
    """
    unit = accumulate * shards
    if groups <= 0 or groups % unit:
        raise InputError(
            f"groups = {groups} does not divide by optim.accumulate ({accumulate}) x "
            f"data shards of the mesh ({shards}); {_nearest_valid(groups, unit)}"
        )


def _nearest_valid(groups: int, unit: int) -> str:
    below = max(groups, 0) // unit * unit
    valid = [str(value) for value in (below, below + unit) if value]
    return f"nearest valid: {', '.join(valid)}"


def parameter_specs(
    params: Params, sizes: Mapping[str, int], rules: Sequence[tuple[str, str]]
) -> dict[str, PartitionSpec]:
    """Says how every parameter is split, by ordered rules over its path.

    A rule's value is
      "replicate",
      "fsdp": the largest dimension that the `fsdp` axis divides is split over it
        (none: replicated),
      "columns": the second dimension, of a kernel what its product yields, is split
        over `model`, and one of the others as by "fsdp",
      "rows": likewise the first, of a kernel what its product sums over.

    Args:
      params: nested dict of arrays or shapes.
      sizes: of the mesh's axes, by name.
      rules: [(pattern, value)], first match wins.

    Raises:
      InputError: an unknown value, or a dimension that `model` does not divide.
    """
    flat = trees.flatten(params)
    tactics = trees.match_rules(rules, flat)
    return {
        path: _spec(path, leaf.shape, tactics[path], sizes)
        for path, leaf in flat.items()
    }


def parameter_shardings(
    params: Params, mesh: Mesh, rules: Sequence[tuple[str, str]]
) -> Params:
    """Returns the nesting of `params` with NamedSharding leaves; see the specs."""
    specs = parameter_specs(params, mesh.shape, rules)
    return trees.unflatten(
        {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
    )


def gathered(params: Params, mesh: Mesh, rules: Sequence[tuple[str, str]]) -> Params:
    """Brings together what `fsdp` splits, inside a compiled function.

    What `model` splits stays so. Left to itself, the compiler splits activations by
    features and moves visual tokens.
    """
    whole = {**mesh.shape, "fsdp": 1}
    specs = parameter_specs(params, whole, rules)
    return trees.unflatten(
        {
            path: jax.lax.with_sharding_constraint(
                leaf, NamedSharding(mesh, specs[path])
            )
            for path, leaf in trees.flatten(params).items()
        }
    )


def check_spread(
    params: Params,
    sizes: Mapping[str, int],
    rules: Sequence[tuple[str, str]],
    tolerance: float,
) -> None:
    """Refuses a model of which too much lies whole on each device, though it is split.

    Args:
      params: nested dict of arrays or shapes.
      sizes: of the mesh's axes, by name.
      rules: as of `parameter_specs`.
      tolerance: share of all parameters that may be replicated.

    Raises:
      InputError: more is; names the largest of these parameters.
    """
    specs = parameter_specs(params, sizes, rules)
    numbers = {path: leaf.size for path, leaf in trees.flatten(params).items()}
    whole = {path: n for path, n in numbers.items() if specs[path] == PartitionSpec()}
    share = sum(whole.values()) / sum(numbers.values())
    if sizes["fsdp"] == 1 or share <= tolerance:
        return
    worst = max(whole, key=whole.get)
    raise InputError(
        f"{share:.1%} of the parameters lie whole on each device of the mesh's axis "
        f"fsdp, more than sharding_tolerance = {tolerance:.1%}; the largest is {worst} "
        f"with {whole[worst]:,}. Change mesh or sharding."
    )


TACTICS = ("replicate", "fsdp", "columns", "rows")


def _spec(
    path: str, shape: tuple[int, ...], tactic: str, sizes: Mapping[str, int]
) -> PartitionSpec:
    if tactic not in TACTICS:
        raise InputError(f"sharding tactic {tactic!r}; valid: {', '.join(TACTICS)}")
    axes: list[str | None] = [None] * len(shape)
    if tactic in ("columns", "rows") and sizes["model"] > 1:
        split = 1 if tactic == "columns" else 0
        if len(shape) <= split or shape[split] % sizes["model"]:
            raise InputError(
                f"mesh.model = {sizes['model']} does not divide axis {split} of "
                f"{path} {shape}, whose sharding is {tactic!r}"
            )
        axes[split] = "model"
    fsdp = 1 if tactic == "replicate" else sizes["fsdp"]
    divisible = [
        axis
        for axis, n in enumerate(shape)
        if axes[axis] is None and n % fsdp == 0 and n >= fsdp
    ]
    if fsdp > 1 and divisible:
        axes[max(divisible, key=lambda axis: (shape[axis], -axis))] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def state_shardings(state: Any, params: Params, mesh: Mesh) -> Any:
    """Gives every leaf of a train state a sharding.

    A leaf follows the parameter whose path ends its own (optimizer moments do);
    counters, keys and norm statistics are replicated.

    Args:
      state: a pytree of shapes.
      params: the shardings of `parameter_shardings`.
      mesh: of `make_mesh`.
    """
    flat = trees.flatten(params)
    replicated = NamedSharding(mesh, PartitionSpec())

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = trees.key_path(path).split(trees.SEPARATOR)
        for start in range(len(names)):
            sharding = flat.get("/".join(names[start:]))
            if sharding is not None and len(sharding.spec) <= len(leaf.shape):
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(one, state)


def local_groups(groups: int, accumulate: int, mesh: Mesh) -> np.ndarray:
    """Returns which groups of a global batch this process's devices hold.

    A batch is cut into micro-batches first and then over the mesh, so these are as many
    pieces; together, in this order, they are what `place` wants.

    Args:
      groups: G.
      accumulate: A, micro-batches.
      mesh: of `make_mesh`.
    """
    part = groups // accumulate
    pieces = NamedSharding(mesh, EVAL_SPEC).addressable_devices_indices_map((part,))
    bounds = {index[0].indices(part)[:2] for index in pieces.values()}
    own = np.concatenate([np.arange(*bound) for bound in sorted(bounds)])
    return (np.arange(accumulate)[:, None] * part + own).reshape(-1)


def place(batch: Params, mesh: Mesh, spec: PartitionSpec) -> Params:
    """Puts this process's part of a batch onto its devices, split by `spec`."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )


def place_whole(batch: Params, mesh: Mesh, spec: PartitionSpec) -> Params:
    """Puts a batch that every process has whole onto the mesh, split by `spec`."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), batch
    )
