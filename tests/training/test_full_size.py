"""The paper's own sizes on this machine: real photos, true geometry, two precisions."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain
from pixel_bert_jax import trees
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.train import place
from pixel_bert_jax.training import train_step

pytestmark = pytest.mark.slow

GROUPS = ("backbone", "front_end", "encoder", "heads")


def config(real_data, tmp_path_factory, preset, **changes):
    """A full-size preset on two COCO photos a step, from scratch, on one device."""
    config = pretrain.get_config(preset)
    corpus = dict(
        source="coco",
        name="coco",
        weight=1.0,
        annotations="annotations/captions_val2014.json",
        images="val2014",
    )
    config.data.corpora = (corpus,)
    config.data.root = str(real_data / "coco")
    config.data.index_dir = str(tmp_path_factory.mktemp("index"))
    config.data.tokenizer = str(real_data / "bert" / "vocab.txt")
    config.data.canvases = ("1344x1344",)
    config.data.source_canvases = (640,)
    config.init.allow_scratch = True
    config.groups = 2
    config.model.dropout = 0.0
    config.model.dtype = "float32"
    for path, value in changes.items():
        *parents, name = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[name] = value
    return config.to_dict()


def first_batch(run):
    """Returns the first step's batch, [1, G, ...] with prepared images."""
    with Stream(run.train_plan, run.train_index, stop=1) as stream:
        return place(next(iter(stream)), run)


def one_device(config):
    """An experiment on the first of the tests' eight devices."""
    return Experiment(config, devices=jax.devices()[:1])


def test_resnet_50_learns_a_batch_at_800_x_1344(real_data, tmp_path_factory):
    made = config(
        real_data,
        tmp_path_factory,
        "r50",
        data__canvases=("1344x800", "800x1344"),
        optim__warmup="0 steps",
        model__backbone__frozen_stages=-1,
    )
    run = one_device(made)
    state, batch = run.create_state(), first_batch(run)
    assert sorted(batch["image"].shape) == [1, 1, 2, 3, 800, 1344]
    gradients = train_step.build_gradients(
        run.task, run.optimizer, run.mesh, run.config.sharding
    )
    grads = jax.jit(lambda s, b: gradients(s, b).grads)(state, batch)
    assert float(jnp.abs(grads["backbone/stem/conv/kernel"]).max()) > 0
    losses, began = [], time.monotonic()
    for _ in range(10):
        state, sums = run.train_step(state, batch)
        losses.append(float(sums["loss"][0]))
    print(f"losses {losses}, {(time.monotonic() - began) / 10:.1f} s a step")
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


def test_a_frozen_stem_has_no_gradient(real_data, tmp_path_factory):
    run = one_device(config(real_data, tmp_path_factory, "r50"))
    trained = set(run.optimizer.trainable)
    assert not any(p.startswith(("backbone/stem", "backbone/stage1_")) for p in trained)
    assert "backbone/stage2_block0/conv1/conv/kernel" in trained


@pytest.mark.parametrize("preset", ["x152", "x152_32x4d"])
def test_resnext_152_steps_at_192_x_192(real_data, tmp_path_factory, preset):
    made = config(
        real_data,
        tmp_path_factory,
        preset,
        data__short_side=192,
        data__long_side=192,
        data__canvases=("192x192",),
    )
    run = one_device(made)
    state, batch = run.create_state(), first_batch(run)
    state, sums = run.train_step(state, batch)
    assert np.isfinite(float(sums["loss"][0]))
    assert float(sums["gradient_norm"][0]) > 0


def test_resnext_152_runs_forward_at_600_x_1024(real_data, tmp_path_factory):
    made = config(
        real_data, tmp_path_factory, "x152", data__canvases=("1024x600", "600x1024")
    )
    run = one_device(made)
    state, batch = run.create_state(), first_batch(run)
    core = {"params": dict(state.params), "batch_stats": state.batch_stats}
    core["params"].pop("heads")
    encode = jax.jit(
        lambda image, size: run.task.model.apply(
            core, image, size, method="encode_images"
        )
    )
    visual = encode(batch["image"][0], batch["image_size"][0])
    assert visual.grid in ((9, 16), (16, 9))
    assert visual.features.shape[-1] == 768
    assert np.isfinite(np.asarray(visual.features)).all()


def test_bfloat16_agrees_with_float32(real_data, tmp_path_factory):
    """Losses within 1 %, gradients' cosine above 0.99 for each part of the model.

    Through a live norm the gradient of random weights is ill-conditioned: rounding the
    photos once changes it as much (docs/history.md). So the norm is frozen, and the
    residual branches are as small beside their shortcuts as in trained networks.
    """
    results = {}
    for dtype in ("float32", "bfloat16"):
        made = config(
            real_data,
            tmp_path_factory,
            "r50",
            groups=4,
            data__short_side=224,
            data__long_side=320,
            data__canvases=("320x224", "224x320"),
            model__dtype=dtype,
            model__norm="frozen",
            model__backbone__frozen_stages=-1,
        )
        run = one_device(made)
        scales = r"params/backbone/stage.*/norm3/scale"
        shapes = trees.flatten(run.variable_shapes)
        state = run.create_state(
            {
                path: np.full(leaf.shape, 0.2, np.float32)
                for path, leaf in shapes.items()
                if re.fullmatch(scales, path)
            }
        )
        batch = first_batch(run)
        gradients = train_step.build_gradients(
            run.task, run.optimizer, run.mesh, run.config.sharding
        )
        # The backward pass of JAX's own attention mixes types, which our tests forbid.
        with jax.numpy_dtype_promotion("standard"):
            found = jax.jit(gradients)(state, batch)
        assert all(g.dtype == jnp.float32 for g in found.grads.values())
        parts = {
            part: np.concatenate(
                [
                    np.asarray(g, np.float64).ravel()
                    for path, g in found.grads.items()
                    if path.split(trees.SEPARATOR)[0] == part
                ]
            )
            for part in GROUPS
        }
        results[dtype] = float(found.metrics["loss"][0]), parts
    (full, exact), (half, rounded) = results["float32"], results["bfloat16"]
    print(f"losses {full:.5f} {half:.5f}")
    assert abs(half - full) <= 0.01 * full
    for part in GROUPS:
        a, b = exact[part], rounded[part]
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        print(f"{part}: cosine {cosine:.5f}")
        assert cosine > 0.99, part
