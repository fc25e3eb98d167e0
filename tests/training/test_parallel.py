"""The same step on one device, on eight, and on eight that split the parameters."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pixel_bert_jax import trees
from pixel_bert_jax.ops.image import prepare_images
from pixel_bert_jax.training import sharding
from tests import small
from tests.hlo import collectives

GROUPS, TEXTS = 32, 2
STEPS = 5
TOKEN_IDS = GROUPS * TEXTS * small.LENGTH
# No feature map, visual token or image of even a single group is as small as this;
# statistics of a norm and sums of metrics are.
FEW = 64


@functools.cache
def compiled(devices, fsdp, model, accumulate):
    """Returns the run, its first state and its compiled step."""
    changes = {"model__norm": "batch", "objectives__image_words": {"weight": 0.2}}
    run = small.run(devices, fsdp, model, **changes)
    state = run.state()
    batch = run.place(small.batch(GROUPS, TEXTS), accumulate)
    return run, state, run.step(state, batch)


@functools.cache
def losses(devices, fsdp, model=1, accumulate=1):
    run, state, step = compiled(devices, fsdp, model, accumulate)
    out = []
    for seed in range(STEPS):
        batch = run.place(small.batch(GROUPS, TEXTS, seed=seed), accumulate)
        state, sums = step(state, batch)
        out.append([float(sums[name][0]) for name in ("loss", "gradient_norm")])
    return np.array(out)


def shape_class(shape):
    """A parameter keeps it when it is transposed."""
    return tuple(sorted(n for n in shape if n > 1))


def moved(text, parameters=()):
    """Lists collectives that carry more than parameters, token ids or a few sums."""
    parameters = {shape_class(shape) for shape in parameters}

    def harmless(collective, dtype, shape):
        number = math.prod(shape)
        if "all-to-all" in collective.kind:
            number *= len(collective.shapes)  # one part for each device
        elif shape_class(shape) in parameters:
            return True
        whole = dtype == "pred" or dtype[0] in "su"
        return number <= (TOKEN_IDS if whole else FEW)

    return [
        collective
        for collective in collectives(text)
        if not all(harmless(collective, *array) for array in collective.shapes)
    ]


@pytest.mark.runs
@pytest.mark.parametrize(
    ("fsdp", "model"),
    [*(pytest.param(*x, marks=pytest.mark.slow) for x in ((1, 1), (8, 1))), (2, 2)],
)
def test_eight_devices_train_as_one(fsdp, model):
    got, want = losses(8, fsdp, model), losses(1, 1)
    assert np.ptp(want[:, 0]) > 0.01  # it does train
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.runs
@pytest.mark.parametrize(
    ("fsdp", "accumulate"),
    [
        (1, 1),
        pytest.param(8, 1, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.slow),
        (8, 2),
    ],
)
def test_no_collective_carries_images_or_visual_tokens(fsdp, accumulate):
    run, _, step = compiled(8, fsdp, 1, accumulate)
    shapes = [leaf.shape for leaf in trees.flatten(run.target.params).values()]
    shapes.append((small.LENGTH, 16))  # the position embeddings of this length
    text = step.as_text()
    assert len(collectives(text)) > 5  # gradients at least: the reader sees them
    assert moved(text, shapes) == []


@functools.cache
def contrasted(devices, similarity):
    """Returns the run, its first state and its compiled step; contrast alone."""
    fields = {"weight": 1.0, "similarity": similarity}
    run = small.run(devices, 1, 1, objectives={"contrast": fields})
    state = run.state()
    return run, state, run.step(state, run.place(small.batch(GROUPS, TEXTS), 1))


@pytest.mark.runs
@pytest.mark.parametrize("similarity", ["max_mean", "cosine", "scan_t2i_lse"])
def test_texts_travel_and_pixels_stay(similarity):
    run, _, step = contrasted(8, similarity)
    shapes = [leaf.shape for leaf in trees.flatten(run.target.params).values()]
    shapes += [(small.LENGTH, 16), (16, 2, 8), (2, 8, 16), (2, 8)]  # split heads
    texts = GROUPS, TEXTS, small.LENGTH
    flat = GROUPS * TEXTS, small.LENGTH
    shapes += [(*texts, 16), (*flat, 16), flat, (*flat, small.LENGTH), (flat[0], 16)]
    assert moved(step.as_text(), shapes) == []


@pytest.mark.runs
def test_contrast_on_eight_devices_is_that_on_one():
    found = []
    for devices in (1, 8):
        run, _, step = contrasted(devices, "max_mean")
        values = []
        for seed in range(3):  # always from the first state: rounding would add up
            batch = run.place(small.batch(GROUPS, TEXTS, seed=seed), 1)
            _, sums = step(run.state(), batch)
            values.append([float(sums[n][0]) for n in ("loss", "gradient_norm")])
        found.append(values)
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.runs
def test_model_splits_each_encoder_layer_and_sums_its_two_parts():
    """The two sums forward of Megatron-LM (arXiv 1909.08053, figure 3), nothing else.

    Images, feature maps and visual tokens stay where they are here, too.
    """
    run, state, step = compiled(8, 2, 2, 1)
    layer = state.params["encoder"]["layer0"]
    parts = {
        name: layer[name]["kernel"].sharding.spec
        for name in ("query", "attention_out", "hidden", "out")
    }
    assert parts == {
        "query": PartitionSpec("fsdp", "model", None),
        "attention_out": PartitionSpec("model", "fsdp"),
        "hidden": PartitionSpec("fsdp", "model"),
        "out": PartitionSpec("model", "fsdp"),
    }
    tokens = (GROUPS * TEXTS // 4, small.LENGTH + 9, 16)  # of a shard of four
    sums = [c for c in moved(step.as_text()) if ("f32", tokens) in c.shapes]
    assert {c.kind for c in sums} == {"all-reduce"}
    forward = [c.name for c in sums if "transpose" not in c.name]
    assert sorted(name.split("/")[-2] for name in forward) == ["attention_out", "out"]
    assert all("/encoder/layer0/" in c.name for c in sums)
    shapes = [leaf.shape for leaf in trees.flatten(run.target.params).values()]
    halves = [leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(layer)]
    shapes += [(small.LENGTH, 16), tokens, *halves, (16, 1, 8), (8, 16)]
    assert moved(step.as_text(), shapes) == []


def move_by_feature(tokens):
    mesh = sharding.make_mesh({"data": -1})
    return jax.lax.with_sharding_constraint(
        tokens, NamedSharding(mesh, PartitionSpec(None, None, None, "data"))
    )


MOVES = {
    "gather": lambda x: x[jnp.arange(GROUPS) * 3 % GROUPS],
    "roll": lambda x: jnp.roll(x, 1, axis=0),
    "mean": lambda x: x - x.mean(axis=0),
    "split_by_features": move_by_feature,
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_the_check_notices_visual_tokens_that_move(move):
    mesh = sharding.make_mesh({"data": -1})
    split = NamedSharding(mesh, sharding.EVAL_SPEC)
    tokens = jax.ShapeDtypeStruct((GROUPS, 1, 9, 16), jnp.float32, sharding=split)
    assert moved(jax.jit(move).lower(tokens).compile().as_text())


def test_preparing_images_moves_nothing():
    mesh = sharding.make_mesh({"data": -1})
    split = NamedSharding(mesh, sharding.BATCH_SPEC)

    def leaf(*shape, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((2, 16, 1, *shape), dtype, sharding=split)

    batch = {
        "image": leaf(40, 40, 3, dtype=jnp.uint8),
        "source_size": leaf(2),
        "image_size": leaf(2),
    }
    program = prepare_images.lower(batch, canvas=small.CANVAS).compile()
    assert collectives(program.as_text()) == []
    assert program.output_shardings["image"].spec == split.spec
