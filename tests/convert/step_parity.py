"""Prints, as JSON, how three training steps differ from those of a torch composition.

    python -m tests.convert.step_parity [--dtype=float64] [--norm=frozen] [--groups=1]
    python -m tests.convert.step_parity --full

Both start from the same weights and get the same photos, sampled cells, masks and
swaps. Double precision holds for a whole process. Needs torch.
"""

import argparse
import json
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from configs import pretrain  # noqa: E402
from pixel_bert_jax import trees  # noqa: E402
from pixel_bert_jax.models.front_ends import sample_pixels  # noqa: E402
from pixel_bert_jax.objectives.mlm import masked_word_logits  # noqa: E402
from pixel_bert_jax.ops import keys as example_keys  # noqa: E402
from pixel_bert_jax.training import train_step  # noqa: E402
from tests import small  # noqa: E402
from tests.convert import torch_pixel_bert  # noqa: E402
from tests.float64_gradients import as_type  # noqa: E402

STEPS = 3
SMALL = {
    "model__backbone": {
        "name": "resnet",
        "depths": (1, 2),
        "widths": (32, 64),
        "strides": (1, 2),
        "inner": (8, 16),
        "groups": 1,
        "stem": "conv7_pool",
        "frozen_stages": 0,
    },
    "model__layers": 2,
    "optim__clip_norm": 1.0,
    "optim__warmup": "2 steps",
    "optim__decays": ["2 steps"],
}
GROUPS, TEXTS, CANVAS = 6, 3, (96, 128)
FULL_GROUPS, FULL_TEXTS, FULL_CANVAS = 2, 2, (640, 672)
FULL_SIZES = np.array([[[427, 641]], [[640, 480]]], np.int32)
FULL_VOCAB = 30_522


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--norm", default="frozen")
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    figures = compare(options)
    print(json.dumps(figures | {"seconds": time.monotonic() - began}))


def changes_of(options):
    """Returns changes of `small.CONFIG`."""
    changes = SMALL | {"model__dtype": options.dtype, "model__norm": options.norm}
    changes["model__backbone"] = SMALL["model__backbone"] | {"groups": options.groups}
    if options.full:
        model = pretrain.get_config("r50").to_dict()["model"]
        for name in ("backbone", "features", "heads", "layers", "hidden"):
            changes[f"model__{name}"] = model[name]
        changes["model__max_positions"] = 64
        changes["model__sample_pixels"] = model["sample_pixels"]
    return changes


def batch(options, seed):
    """Random photos of odd sizes, or of the whole canvas for live norms."""
    if options.full:
        groups, texts, canvas, sizes = FULL_GROUPS, FULL_TEXTS, FULL_CANVAS, FULL_SIZES
    else:
        groups, texts, canvas, sizes = GROUPS, TEXTS, CANVAS, None
    random = np.random.default_rng(seed)
    arrays = small.batch(groups, texts, seed=seed)
    if sizes is None:
        sizes = random.integers([33, 40], [97, 129], (groups, 1, 2))
        sizes[arrays["image_size"] == 0] = 0
    if options.norm == "batch":
        sizes = np.tile(canvas, (groups, 1, 1))
        arrays["example_mask"][:, 0] = True
        low = np.arange(groups * texts).reshape(groups, texts)
        arrays["example_id"] = np.stack([low * 0, low], axis=-1).astype(np.uint32)
    arrays["image_size"] = sizes.astype(np.int32)
    rows = np.arange(canvas[0])[:, None] < arrays["image_size"][..., 0, None, None]
    columns = np.arange(canvas[1]) < arrays["image_size"][..., 1, None, None]
    pixels = random.normal(0, 1, (groups, 1, *canvas, 3))
    arrays["image"] = np.where((rows & columns)[..., None], pixels, 0)
    if options.full:
        arrays["image_id"] = np.arange(groups, dtype=np.int32)[:, None]
        arrays["corpus"][:] = 0
        arrays["example_mask"][:] = True
        low = np.arange(groups * texts).reshape(groups, texts)
        arrays["example_id"] = np.stack([low * 0, low], axis=-1).astype(np.uint32)
    return arrays


def variables(run, dtype):
    """Random weights; the branches of a deep CNN are small, as trained ones are."""
    random = np.random.default_rng(0)
    out = {}
    target = {"params": run.target.params, "batch_stats": run.target.batch_stats}
    for path, leaf in trees.flatten(target).items():
        shape = leaf.shape
        if path.endswith(("/scale", "/var")):
            value = random.uniform(0.5, 1.5, shape)
            if path.endswith("norm3/scale"):
                value *= 0.3
        elif "/backbone/" in path and path.endswith("/kernel"):
            value = random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        elif len(shape) > 1:
            value = random.normal(0, shape[-1] ** -0.5 / 2, shape)
        else:
            value = random.normal(0, 0.1, shape)
        out[path] = value.astype(dtype)
    return out


def compare(options):
    """Returns the figures."""
    changes = changes_of(options)
    if options.full:
        small.VOCAB = FULL_VOCAB
    run = small.run(**changes)
    flat = variables(run, options.dtype)
    nested = trees.unflatten(flat)
    state = as_type(run.state(), options.dtype).replace(
        params=jax.tree.map(jnp.asarray, nested["params"]),
        batch_stats=jax.tree.map(jnp.asarray, nested["batch_stats"]),
    )
    config = small.config(**changes)
    kind = getattr(torch, options.dtype)
    theirs = torch_pixel_bert.PixelBert(config.model, small.VOCAB).to(kind)
    torch_pixel_bert.load(theirs, flat)
    frozen_stages = config.model.backbone["frozen_stages"]
    theirs.train(options.norm == "batch")
    # What is frozen keeps its running statistics.
    theirs.cnn.bn1.eval()
    for n in range(1, frozen_stages + 1):
        getattr(theirs.cnn, f"layer{n}").eval()
    optim = config.optim.to_dict() | {"warmup": 2, "decays": [2]}
    both, schedules, trained = torch_pixel_bert.optimizers(theirs, optim, frozen_stages)

    arrays = as_type(batch(options, 0), options.dtype)
    placed = run.place(arrays)
    compiling = None if options.full else small.QUICK
    step_function = compiled(
        train_step.build(run.task, run.optimizer, run.mesh, config),
        state,
        placed,
        compiling,
    )
    gradient_function = compiled(
        train_step.build_gradients(run.task, run.optimizer, run.mesh, config.sharding),
        state,
        placed,
        compiling,
    )
    forward = compiled(
        lambda state, arrays: outputs(run, state, arrays), state, arrays, compiling
    )
    figures = {"clipped": []}
    for number in range(STEPS):
        arrays = as_type(batch(options, number), options.dtype)
        placed = run.place(arrays)
        seen = jax.device_get(forward(state, arrays))
        their_step = step_inputs(arrays, seen, kind)
        for one in both:
            one.zero_grad()
        result = torch_pixel_bert.losses(theirs, their_step)
        weights = run.task.weights
        total = weights["mlm"] * result["mlm"] + weights["itm"] * result["itm"]
        total.backward()
        if number == 0:
            figures |= first_step(
                run, gradient_function(state, placed), seen, result, theirs
            )
        norm = torch.nn.utils.clip_grad_norm_(trained, optim["clip_norm"])
        figures["clipped"].append(bool(norm > optim["clip_norm"]))
        state, _ = step_function(state, placed)
        for one, schedule in zip(both, schedules, strict=True):
            one.step()
            schedule.step()
    ours = trees.flatten(jax.device_get(state.variables))
    figures["parameters"], figures["updates"] = parameters(flat, ours, theirs)
    return figures


def compiled(function, state, arrays, options):
    """Compiles a function for these arguments."""
    return jax.jit(function).lower(state, arrays).compile(options)


def outputs(run, state, arrays):
    """Our view, sampled cells and logits of a step, as `tasks/pretrain.py` has them."""
    task = run.task
    small_arrays = {k: x for k, x in arrays.items() if k != "image"}
    (view,) = task.views(small_arrays, state.rng, state.step).values()
    variables, heads = state.variables, task.bind(state.variables)
    pixels, _ = task.model.apply(
        variables,
        arrays["image"],
        arrays["image_size"],
        train=True,
        method="encode_images",
        mutable=["moments"],
    )
    key = example_keys.tagged(state.rng, example_keys.SAMPLE, state.step)
    sample_keys = example_keys.per_image(key, arrays["example_id"], 1)
    kept = sample_pixels(pixels, sample_keys, task.model.config.sample_pixels)
    encoded = task.model.apply(
        variables, view.text_ids, view.text_mask, kept, method="fuse"
    )
    slots = view.masked.positions.shape[-1]
    words = masked_word_logits(
        heads, encoded.text, view.masked.positions.reshape(-1, slots)
    )
    return {
        "view": view,
        "cells": kept.index[:, 0],
        "cell_mask": kept.mask[:, 0],
        "columns": jnp.asarray(kept.grid[1]),
        "words": words,
        "match": heads["itm"](encoded.pooled),
    }


def step_inputs(arrays, seen, kind):
    """What torch needs of a step; photos are cut out of their canvas."""
    view = seen["view"]
    photos = []
    for image, (height, width) in zip(
        arrays["image"][:, 0], arrays["image_size"][:, 0], strict=True
    ):
        photo = torch.tensor(image[:height, :width].transpose(2, 0, 1), dtype=kind)
        photos.append(photo if height else None)
    return {
        "photos": photos,
        "columns": int(seen["columns"]),
        **{
            name: torch.tensor(np.asarray(x))
            for name, x in {
                "cells": seen["cells"],
                "cell_mask": seen["cell_mask"],
                "ids": view.text_ids,
                "mask": view.text_mask,
                "match": view.match,
                "real": view.mask,
                "positions": view.masked.positions.astype(np.int64),
                "labels": view.masked.labels.astype(np.int64),
                "weights": view.masked.weights,
            }.items()
        },
    }


def first_step(run, gradients, seen, result, theirs):
    """Compares logits, losses and all gradients."""
    grads, sums, *_ = jax.device_get(gradients)
    view = seen["view"]
    weights = np.asarray(view.masked.weights).reshape(len(seen["words"]), -1)
    real = np.asarray(view.mask).reshape(-1)
    their_words = result["words"].detach().numpy()
    their_match = result["match"].detach().numpy()
    # Frozen parameters have no gradient on either side.
    wanted = {
        name: p.grad.numpy()
        for name, p in theirs.named_parameters()
        if p.grad is not None
    }
    full = {f"params/{path}": g for path, g in grads.items()}
    found = torch_pixel_bert.named(full)
    assert set(found) == set(wanted), set(found) ^ set(wanted)
    differences = small.differences(found, wanted)
    parts = {}
    for name, value in differences.items():
        part = {"cnn": "backbone", "bert": "transformer"}.get(
            name.partition(".")[0], "front end and ITM head"
        )
        if name.endswith("key.bias"):
            part = (
                "key biases"  # a softmax does not change with them: 0 but for rounding
            )
        parts[part] = max(parts.get(part, 0.0), value)
    return {
        "dtype": str(their_words.dtype),
        "tensors": len(wanted),
        "predicted": len(their_words),
        "swapped": int((~np.asarray(view.match)).sum()),
        "dropped_cells": int((~seen["cell_mask"]).sum()),
        "words": relative(seen["words"][weights], their_words),
        "match": relative(seen["match"][real], their_match[real]),
        "losses": [
            [float(sums[f"{n}/loss"][0] / sums[f"{n}/loss"][1]), result[n].item()]
            for n in ("mlm", "itm")
        ],
        "gradients": parts,
    }


def parameters(start, ours, theirs):
    """Compares what three steps made, beside each tensor and beside its change."""
    have, began = torch_pixel_bert.named(ours), torch_pixel_bert.named(start)
    want = theirs.state_dict()
    whole, change = 0.0, 0.0
    largest = max(float(np.abs(want[n].numpy() - x).max()) for n, x in began.items())
    for name, x in have.items():
        y = want[name].numpy()
        error = float(np.abs(x - y).max())
        whole = max(whole, error / float(np.abs(y).max()))
        moved = float(np.abs(y - began[name]).max())
        change = max(change, error / max(moved, 1e-6 * largest))
    return whole, change


def relative(ours, theirs):
    """max|d| in units of the reference's deviation."""
    return float(np.abs(ours - theirs).max() / max(theirs.std(), 1e-12))


if __name__ == "__main__":
    main()
