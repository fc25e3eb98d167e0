"""The device mesh, and how each parameter is split over it.

Axes: `data` replicates parameters and splits the batch, `fsdp` splits both, `model`
splits the products of the transformer (Shoeybi et al., Megatron-LM, arXiv 1909.08053,
section 3): each of its devices has some heads and hidden units, and computes everything
else as well. The group axis of a batch is split over (`data`, `fsdp`).
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
# Leaves of a training batch are [accumulate, groups / accumulate, ...].
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
    """Returns the size of every axis; one in `config` may be -1 ("the rest").

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
            f"mesh is {found}: {np.prod(list(found.values()))} devices, but there "
            f"are {devices}"
        )
    return found


def data_shards(mesh: Mesh) -> int:
    """Returns the number of parts that a batch's group axis is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_groups(groups: int, accumulate: int, shards: int) -> None:
    """Refuses a batch that does not divide evenly over micro-batches and mesh.

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
    """Returns how every parameter is split, by ordered rules over its path.

    A rule's value is
      "replicate",
      "fsdp": the largest dimension that the `fsdp` axis divides is split over it
        (none: replicated),
      "columns": the second dimension (a kernel's outputs) is split over `model`, and
        one of the others as by "fsdp",
      "rows": likewise the first (a kernel's inputs, which its product sums over).

    Args:
      params: nested dict of arrays or shapes.
      sizes: number of devices along each mesh axis.
      rules: [(pattern, value)], first match wins.

    Raises:
      InputError: an unknown value, or a dimension that `model` does not divide.
    """
    flat = trees.flatten(params)
    matched = trees.match_rules(rules, flat)
    return {
        path: _spec(path, leaf.shape, matched[path], sizes)
        for path, leaf in flat.items()
    }


def parameter_shardings(
    params: Params, mesh: Mesh, rules: Sequence[tuple[str, str]]
) -> Params:
    """Returns `params` with NamedSharding leaves; see `parameter_specs`."""
    specs = parameter_specs(params, mesh.shape, rules)
    return trees.unflatten(
        {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
    )


def gathered(params: Params, mesh: Mesh, rules: Sequence[tuple[str, str]]) -> Params:
    """Gathers what `fsdp` splits, inside a compiled function.

    What `model` splits stays split. Left to itself, the compiler would split
    activations by features instead, and move visual tokens.
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
    """Refuses rules that leave too many parameters whole on a mesh with `fsdp`.

    Args:
      params: nested dict of arrays or shapes.
      sizes: number of devices along each mesh axis.
      rules: see `parameter_specs`.
      tolerance: share of all parameters that may be replicated.

    Raises:
      InputError: more are; names the largest of these parameters.
    """
    specs = parameter_specs(params, sizes, rules)
    numbers = {path: leaf.size for path, leaf in trees.flatten(params).items()}
    whole = {path: n for path, n in numbers.items() if specs[path] == PartitionSpec()}
    share = sum(whole.values()) / sum(numbers.values())
    if sizes["fsdp"] == 1 or share <= tolerance:
        return
    worst = max(whole, key=whole.get)
    raise InputError(
        f"{share:.1%} of the parameters are replicated over the mesh's axis fsdp, more "
        f"than sharding_tolerance = {tolerance:.1%}; the largest is {worst} "
        f"with {whole[worst]:,}. Change mesh or sharding."
    )


PARTITION_RULES = ("replicate", "fsdp", "columns", "rows")


def _spec(
    path: str, shape: tuple[int, ...], rule: str, sizes: Mapping[str, int]
) -> PartitionSpec:
    if rule not in PARTITION_RULES:
        raise InputError(f"sharding rule {rule!r}; valid: {', '.join(PARTITION_RULES)}")
    axes: list[str | None] = [None] * len(shape)
    # `model` first: which dimension it splits follows from the product.
    if rule in ("columns", "rows") and sizes["model"] > 1:
        split = 1 if rule == "columns" else 0
        if len(shape) <= split or shape[split] % sizes["model"]:
            raise InputError(
                f"mesh.model = {sizes['model']} does not divide axis {split} of "
                f"{path} {shape}, whose sharding is {rule!r}"
            )
        axes[split] = "model"
    # `fsdp` may split any other dimension, as parameters are gathered before use.
    fsdp = 1 if rule == "replicate" else sizes["fsdp"]
    divisible = [
        axis
        for axis, n in enumerate(shape)
        if axes[axis] is None and n % fsdp == 0 and n >= fsdp
    ]
    if fsdp > 1 and divisible:
        # The largest one; of equals, the first.
        axes[max(divisible, key=lambda axis: (shape[axis], -axis))] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def state_shardings(state: Any, params: Params, mesh: Mesh) -> Any:
    """Returns a sharding for every leaf of a train state.

    A leaf follows the parameter whose path ends its own (optimizer moments do);
    counters, keys and norm statistics are replicated.

    Args:
      state: a pytree of shapes.
      params: result of `parameter_shardings`.
      mesh: the mesh of these shardings.
    """
    flat = trees.flatten(params)
    replicated = NamedSharding(mesh, PartitionSpec())

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        # The path of an optimizer moment ends with that of its parameter.
        names = trees.key_path(path).split(trees.SEPARATOR)
        for start in range(len(names)):
            sharding = flat.get("/".join(names[start:]))
            if sharding is not None and len(sharding.spec) <= len(leaf.shape):
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(one, state)


def local_groups(groups: int, accumulate: int, mesh: Mesh) -> np.ndarray:
    """Returns the numbers of the groups that this process's devices hold.

    A batch is split into micro-batches first and then over the mesh, so these groups
    are one piece per micro-batch; in the order returned they are what `place` takes.

    Args:
      groups: G of the global batch.
      accumulate: A, micro-batches.
      mesh: mesh that the batch is split over.
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
    """Puts a batch, of which every process has all, onto the mesh, split by `spec`."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), batch
    )
