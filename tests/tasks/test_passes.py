"""Passes: each runs once and sees what it should; heads are made where used."""

import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixel_bert_jax import objectives, trees
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.objectives.base import Loss, Objective
from pixel_bert_jax.objectives.views import VIEWS
from pixel_bert_jax.tasks import passes
from pixel_bert_jax.types import InputError
from tests import small

GROUPS, TEXTS, CELLS, KEPT = 3, 2, 24, 9
BOTH = {"mlm": {"weight": 1.0, "on_swapped": True}, "itm": {"weight": 1.0}}
KEY, STEP = jax.random.key(5), jnp.zeros((), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Plain(Objective):
    """An objective without a head, on texts and images as they are."""

    name = "plain"
    needs = ("fused", "text_alone", "pixels_alone")

    def loss(self, inputs):
        results = inputs.passes
        assert results.keys() == set(self.needs)
        assert results["fused"].visual.shape[1] == KEPT
        pooled = results["fused"].pooled
        return Loss(jnp.sum(pooled), self.count(inputs.view))


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "plain", Plain)


def forward(task, variables, arrays, **options):
    """Returns a step of training that has run nothing yet."""
    views = {"clean": VIEWS["clean"](arrays, KEY, STEP, task.settings)}
    return passes.Forward(task.model, variables, arrays, views, KEY, STEP, **options)


def test_a_pass_runs_once_however_many_objectives_need_it(monkeypatch):
    calls = collections.Counter()
    for name, one in passes.PASSES.items():

        def counted(forward, *view, name=name, run=one.run):
            calls[(name, *view)] += 1
            return run(forward, *view)

        monkeypatch.setitem(passes.PASSES, name, one._replace(run=counted))
    fields = {"image_words": {"weight": 1.0}, "plain": {"weight": 1.0}}
    task = small.task(objectives=BOTH | fields)
    variables = jax.eval_shape(task.init, KEY)
    calls.clear()

    def losses(variables, arrays):
        views = task.views(arrays, KEY, STEP)
        return task.losses(variables, {}, arrays, views, KEY, STEP, micro=0)

    out = jax.eval_shape(losses, variables, small.batch(GROUPS, TEXTS))
    assert out.totals.keys() == {"mlm", "itm", "image_words", "plain"}
    assert calls == {
        ("pixels",): 1,
        ("sampled",): 1,
        ("pixels_alone",): 1,
        ("text_alone", "clean"): 1,
        ("fused", "clean"): 1,
        ("fused", "swapped_masked"): 1,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"needs": ("fussed",)}, "pass 'fussed' (did you mean 'fused'?)"),
        ({"view": "masqued"}, "view 'masqued' (did you mean 'masked'?)"),
    ],
)
def test_what_does_not_exist_is_refused(monkeypatch, fields, message):
    wrong = type("Wrong", (Plain,), fields)
    monkeypatch.setitem(objectives.OBJECTIVES, "plain", wrong)
    with pytest.raises(
        InputError, match=re.escape(f"objectives.plain cannot read the {message}")
    ):
        small.task(objectives={"plain": {"weight": 1.0}})


@functools.cache
def run():
    """Returns a run of pre-training, its state and a batch with padding."""
    run = small.run()
    return run, run.state(), small.batch(GROUPS, TEXTS)


@pytest.mark.parametrize(
    ("name", "own", "foreign"),
    [
        ("text_alone", ("text", "encoder"), ("backbone", "front_end", "image")),
        ("pixels_alone", ("backbone", "front_end", "encoder", "image"), ("text",)),
    ],
)
def test_one_modality_alone_has_no_gradient_in_the_other(name, own, foreign):
    made, state, arrays = run()

    def total(given):
        params = {n: x for n, x in given.items() if n != "image"}
        variables = {"params": params, "batch_stats": state.batch_stats}
        batch = arrays | {"image": given["image"]}
        out = forward(made.task, variables, batch).result(name, "clean")
        # Layer norm keeps a sum of features: of it nothing could be learned.
        return jnp.sum(jnp.where(out.mask[..., None], out.features, 0)[..., 0])

    given = {**state.params, "image": jnp.asarray(arrays["image"])}
    gradient = jax.jit(jax.grad(total)).lower(given).compile(small.QUICK)(given)

    def largest(part):
        return max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient[part]))

    assert all(largest(part) > 0 for part in own)
    assert all(largest(part) == 0 for part in foreign)


def test_alone_is_fused_with_nothing():
    made, state, arrays = run()

    def results(variables):
        step = forward(made.task, variables, arrays)
        view, kept = step.views["clean"], step.result("sampled", "")
        no_pixel = jax.tree.map(lambda x: x[:, :, :0], kept)
        fuse = functools.partial(step.apply, PixelBert.fuse, view.text_ids)
        return {
            "texts": step.result("text_alone", "clean"),
            "pixels": step.result("pixels_alone", ""),
            "no_pixel": fuse(view.text_mask, no_pixel),
            "no_word": fuse(jnp.zeros_like(view.text_mask), kept),
            "cells": step.result("pixels", "").features,
        }

    compiled = jax.jit(results).lower(state.variables).compile(small.QUICK)
    out = compiled(state.variables)
    assert out["cells"].shape == (GROUPS, 1, CELLS, 16)
    texts, pixels = out["texts"], out["pixels"]
    fused = np.asarray(out["no_pixel"].text).reshape(texts.features.shape)
    mask = np.asarray(texts.mask)
    np.testing.assert_allclose(texts.features[mask], fused[mask], atol=1e-5)
    # Every text is masked, so that it does not matter which one it is.
    fused = np.asarray(out["no_word"].visual).reshape(GROUPS, 1, TEXTS, KEPT, 16)
    mask = np.asarray(pixels.mask)
    assert 0 < mask.sum() < mask.size
    for k in range(TEXTS):
        np.testing.assert_allclose(
            pixels.features[mask], fused[:, :, k][mask], atol=1e-5
        )


def test_every_pass_has_dropout_of_its_own():
    made, state, arrays = run()

    def bits(number, **options):
        step = forward(made.task, state.variables, arrays, **options)
        keys = [step.dropout_rngs()["dropout"] for _ in range(number)]
        return [tuple(jax.random.key_data(key).tolist()) for key in keys]

    assert len({*bits(3), *bits(3, micro=1)}) == 6
    assert bits(3) == bits(3)


def shapes(**fields):
    return jax.eval_shape(small.task(objectives=fields).init, KEY)


def test_every_head_is_made_and_the_core_whatever_is_needed():
    whole = shapes(**BOTH)
    assert set(whole) == {"params", "batch_stats"}
    core = trees.flatten(whole)
    heads = {path for path in core if path.startswith("params/heads/")}
    assert {path.split("/")[2] for path in heads} == {"mlm", "itm"}
    assert "params/heads/itm/classifier/bias" in heads
    # Needs the pixels alone; the transformer is there all the same.
    pixels = trees.flatten(shapes(image_words={"weight": 1.0}))
    assert pixels.keys() - core.keys() == {"params/heads/image_words/bias"}
    assert core.keys() - pixels.keys() == heads
    plain = trees.flatten(shapes(plain={"weight": 1.0}))
    assert plain.keys() == core.keys() - heads
    assert small.task(objectives={"plain": {"weight": 1.0}}).heads == {}
