"""What a run would need, without data, tokenizer or weights.

Prints the parameter table, the plan's statistics for pictures of the config's size
shares, and the memory of one compiled step: largest canvas, one device's micro-batch,
one CPU device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pixel_bert_jax import objectives, trees
from pixel_bert_jax.data import fields, geometry
from pixel_bert_jax.data.plan import Corpus, TrainPlan
from pixel_bert_jax.data.targets import AnswerTargets, TruthTargets
from pixel_bert_jax.objectives.base import TextSpec
from pixel_bert_jax.ops.masking import Vocabulary
from pixel_bert_jax.tasks import TASKS
from pixel_bert_jax.tasks.base import Task
from pixel_bert_jax.training import optim, sharding, train_state, train_step
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import Batch, InputError


def run(config: Mapping[str, Any]) -> None:
    """Prints everything; trains nothing.

    Raises:
      InputError: the config does not fit together.
    """
    task = task_of(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    plan = _plan(config)
    total = 10**6  # only percentages read it, and no step is taken
    optimizer = optim.build(
        config["optim"],
        shapes["params"],
        frozen=task.frozen,
        steps_per_epoch=plan.steps_per_epoch,
        total=total,
    )
    mesh = sharding.mesh_sizes(config["mesh"], config["dry_run"]["shards"])
    specs = sharding.parameter_specs(shapes["params"], mesh, config["sharding"])
    print(f"mesh {mesh}")
    print(parameter_table(shapes["params"], optimizer.groups, specs))
    sharding.check_spread(
        shapes["params"],
        mesh,
        config["sharding"],
        config["sharding_tolerance"],
    )
    statistics = plan.statistics()
    print(f"\nplan of {config['dry_run']['images']:,} pictures: {statistics}")
    print(statistics.table())
    print(f"\n{_step_memory(config, task, optimizer)}")


def parameter_table(
    params: Mapping[str, Any], groups: Mapping[str, str], specs: Mapping[str, Any]
) -> str:
    """Formats the parameters, then totals.

    Args:
      params: nested dict of arrays or shapes.
      groups: of `optim.Optimizer`.
      specs: of `sharding.parameter_specs`: how each is split over the mesh.
    """
    flat = trees.flatten(params)
    width = max(map(len, flat))
    lines = [
        f"{path:<{width}}  {leaf.size:>12,}  {groups[path]:<12} {leaf.shape!s:<20} "
        f"{split_of(specs[path])}"
        for path, leaf in flat.items()
    ]
    totals: dict[str, int] = {}
    for path, leaf in flat.items():
        part = path.split("/")[0]
        totals[part] = totals.get(part, 0) + leaf.size
    lines += [f"{part:<{width}}  {number:>12,}" for part, number in totals.items()]
    lines.append(f"{'all parameters':<{width}}  {sum(totals.values()):>12,}")
    return "\n".join(lines)


def split_of(spec: Any) -> str:
    """Formats a spec, such as "-, fsdp", or "whole"."""
    return ", ".join("-" if axis is None else axis for axis in spec) or "whole"


def task_of(config: Mapping[str, Any]) -> Task:
    """Returns the config's task over an invented vocabulary of the right size."""
    size = config["dry_run"]["vocab_size"]
    vocabulary = Vocabulary(
        (0, 1, 2, 3, 4), 4, np.arange(5, size, dtype=np.int32), np.zeros(size, bool)
    )
    length, answers = config["data"]["max_text_length"], config["dry_run"]["answers"]
    text = TextSpec(size, length, vocabulary, answers)
    return TASKS[config["task"]["name"]](config, text)


def _plan(config: Mapping[str, Any]) -> TrainPlan:
    """Plans an epoch of invented pictures with the config's shares of sizes."""
    data, images = config["data"], config["dry_run"]["images"]
    texts = config["texts_per_group"]
    if not data["size_shares"]:
        raise InputError("data.size_shares is empty: the dry run needs picture sizes")
    shares = np.array([share for *_, share in data["size_shares"]], float)
    borders = np.round(np.cumsum(shares / shares.sum()) * images).astype(int)
    kinds = np.searchsorted(borders, np.arange(images), side="right")
    known = np.array([(h, w) for w, h, _ in data["size_shares"]], np.int32)
    corpus = Corpus(
        name="pictures",
        weight=1.0,
        unit_images=np.arange(images)[:, None],
        text_unit=np.repeat(np.arange(images), texts),
        pictures=np.arange(images),
    )
    return TrainPlan(
        [corpus],
        known[kinds],
        seed=config["seed"],
        groups=config["groups"],
        texts_per_group=texts,
        short=data["short_side"],
        long=data["long_side"],
        canvases=[geometry.parse_canvas(c) for c in data["canvases"]],
        source_canvases=list(data["source_canvases"]),
    )


def _step_memory(
    config: Mapping[str, Any], task: Task, optimizer: optim.Optimizer
) -> str:
    """Compiles a step for the largest canvas and reports what it holds."""
    accumulate = config["optim"]["accumulate"]
    sizes = sharding.mesh_sizes(config["mesh"], config["dry_run"]["shards"])
    shards = sizes["data"] * sizes["fsdp"]
    if config["groups"] % (accumulate * shards):
        raise InputError(
            f"groups = {config['groups']} does not divide by optim.accumulate "
            f"({accumulate}) x data shards of the mesh ({shards})"
        )
    groups = config["groups"] // (accumulate * shards)
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    lowered, _, _ = lower_step(config, task, optimizer, groups, mesh)
    compiled = lowered.compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    megabytes = {
        name: getattr(memory, f"{name}_size_in_bytes") / 2**20
        for name in ("argument", "output", "temp")
    }
    shown = ", ".join(f"{name} {size:,.1f} MB" for name, size in megabytes.items())
    return (
        f"step of {groups} groups on one device, canvas "
        f"{geometry.format_canvas(largest_canvas(config))} (XLA:CPU, not TPU): "
        f"{shown}, "
        f"{cost['flops'] / 1e9:,.1f} GFLOP"
    )


def largest_canvas(config: Mapping[str, Any]) -> tuple[int, int]:
    """Returns (height, width) of the config's canvas of most pixels."""
    canvases = map(geometry.parse_canvas, config["data"]["canvases"])
    return max(canvases, key=math.prod)


def lower_step(
    config: Mapping[str, Any],
    task: Task,
    optimizer: optim.Optimizer,
    groups: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Any, TrainState, Batch]:
    """Lowers one training step on the largest canvas, one micro-batch.

    Args:
      config: of the run.
      task: of the config.
      optimizer: over the task's parameters.
      groups: G of the batch.
      mesh: what state and batch lie on.

    Returns:
      The lowered step, and the shapes and shardings of its state and of its batch.
    """
    state = train_state.abstract(
        task, optimizer, config["seed"], mesh, config["sharding"]
    )
    batch = _batch_shapes(config, groups, largest_canvas(config), mesh)
    step = train_step.build(task, optimizer, mesh, config)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    return jitted.lower(state, batch), state, batch


def _batch_shapes(
    config: Mapping[str, Any], groups: int, canvas: tuple[int, int], mesh: Any
) -> Batch:
    texts = config["texts_per_group"]
    texts *= 1 + objectives.negatives(config["objectives"])
    length = config["data"]["max_text_length"]
    images, answers = (config["dry_run"][n] for n in ("images_per_group", "answers"))
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH_SPEC)
    held = dict(fields.FIELDS)
    for objective, targets in (("answers", AnswerTargets), ("truth", TruthTargets)):
        if objective in config["objectives"]:
            held |= targets.fields
    sizes = {"M": images, "K": texts, "L": length, "A": answers}
    sizes |= {"H": canvas[0], "W": canvas[1]}
    return {
        name: jax.ShapeDtypeStruct((1, groups, *shape), dtype, sharding=split)
        for name, (shape, dtype) in fields.shapes(fields.prepared(held), sizes).items()
    }
