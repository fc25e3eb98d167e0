"""Both optimizers against their closed forms, and against torch where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pixel_bert_jax.training import optim
from pixel_bert_jax.types import InputError
from tests import small

PARAMS = {
    "backbone": {"kernel": np.array([[0.5, -2.0], [1.5, 0.1]], np.float32)},
    "text": {"word": np.array([1.0, -1.0, 3.0], np.float32)},
}
SGD = {"lr": 1e-2, "decay": 5e-4, "momentum": 0.9}
ADAMW = {"lr": 1e-3, "decay": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-6}
STEPS = 6


def build(params=PARAMS, steps_per_epoch=10, total=100, **changes):
    fields = small.config(**{f"optim__{k}": v for k, v in changes.items()}).optim
    return optim.build(fields, params, steps_per_epoch=steps_per_epoch, total=total)


def gradients():
    random = np.random.default_rng(0)
    return [
        {
            "backbone/kernel": random.normal(0, 3, (2, 2)).astype(np.float32),
            "text/word": random.normal(0, 1e-3, 3).astype(np.float32),
        }
        for _ in range(STEPS)
    ]


def train(optimizer, grads=None, factors=None):
    """Returns the parameters after each step of the optimizer."""
    params = {"backbone/kernel": PARAMS["backbone"]["kernel"]}
    params |= {"text/word": PARAMS["text"]["word"]}
    params = jax.tree.map(jnp.asarray, params)
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.transform.init(params)
        update = jax.jit(optimizer.transform.update)
        for step, grad in enumerate(gradients() if grads is None else grads):
            updates, state = update(grad, state, params)
            factor = 1.0 if factors is None else factors[step]
            params = {path: p + factor * updates[path] for path, p in params.items()}
    return {path: np.asarray(p) for path, p in params.items()}


def closed_form(grads, factors):
    """Torch's SGD and AdamW, written out in float64."""
    kernel = PARAMS["backbone"]["kernel"].astype(np.float64)
    word = PARAMS["text"]["word"].astype(np.float64)
    momentum, first, second = np.zeros_like(kernel), 0.0, 0.0
    for t, (grad, factor) in enumerate(zip(grads, factors, strict=True), 1):
        # L2 joins the gradient, then the momentum.
        g = grad["backbone/kernel"] + SGD["decay"] * kernel
        momentum = SGD["momentum"] * momentum + g
        kernel = kernel - factor * SGD["lr"] * momentum
        # Decoupled decay, bias-corrected moments, epsilon outside of the root.
        g = grad["text/word"].astype(np.float64)
        first = ADAMW["beta1"] * first + (1 - ADAMW["beta1"]) * g
        second = ADAMW["beta2"] * second + (1 - ADAMW["beta2"]) * g**2
        root = np.sqrt(second / (1 - ADAMW["beta2"] ** t))
        adam = first / (1 - ADAMW["beta1"] ** t) / (root + ADAMW["eps"])
        word = word - factor * ADAMW["lr"] * (adam + ADAMW["decay"] * word)
    return {"backbone/kernel": kernel, "text/word": word}


def test_sgd_and_adamw_follow_their_closed_forms():
    factors = [1 / 3, 2 / 3, 1.0, 1.0, 0.1, 0.01]
    got = train(build(clip_norm=0.0), factors=factors)
    want = closed_form(gradients(), factors)
    for path in want:
        np.testing.assert_allclose(got[path], want[path], rtol=2e-6)


def test_sgd_and_adamw_equal_torch():
    torch = pytest.importorskip("torch")
    kernel = torch.nn.Parameter(torch.tensor(PARAMS["backbone"]["kernel"]))
    word = torch.nn.Parameter(torch.tensor(PARAMS["text"]["word"]))
    sgd = torch.optim.SGD(
        [kernel], lr=SGD["lr"], momentum=SGD["momentum"], weight_decay=SGD["decay"]
    )
    adamw = torch.optim.AdamW(
        [word],
        lr=ADAMW["lr"],
        betas=(ADAMW["beta1"], ADAMW["beta2"]),
        eps=ADAMW["eps"],
        weight_decay=ADAMW["decay"],
    )
    for grad in gradients():
        kernel.grad = torch.tensor(grad["backbone/kernel"])
        word.grad = torch.tensor(grad["text/word"])
        sgd.step()
        adamw.step()
    got = train(build(clip_norm=0.0))
    np.testing.assert_allclose(
        got["backbone/kernel"], kernel.detach().numpy(), rtol=2e-6
    )
    np.testing.assert_allclose(got["text/word"], word.detach().numpy(), rtol=2e-6)


def test_clipping_measures_all_gradients_together():
    grads = gradients()
    clipped = []
    for grad in grads:
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grad.values()))
        scale = min(1.0, 0.5 / norm)
        assert scale < 0.5
        clipped.append({path: g * scale for path, g in grad.items()})
    got = train(build(clip_norm=0.5))
    want = closed_form(clipped, np.ones(STEPS))
    for path in want:
        np.testing.assert_allclose(got[path], want[path], rtol=1e-5)


def test_schedule_warms_up_and_decays_by_steps():
    optimizer = build(warmup="4 steps", warmup_factor=0.25, decays=["2 epochs", "50 %"])
    got = [float(optimizer.schedule(jnp.int32(step))) for step in range(100)]
    want = [
        (0.25 + 0.75 * min(step / 4, 1)) * 0.1 ** ((step >= 20) + (step >= 50))
        for step in range(100)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got[0] == 0.25
    assert got[4] == got[19] == 1.0


def test_schedule_without_warm_up_or_decay_is_one():
    optimizer = build(warmup="0 steps", decays=[])
    got = [float(optimizer.schedule(jnp.int32(step))) for step in (0, 1, 99)]
    assert got == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_schedules_to_zero(kind):
    optimizer = build(schedule=kind, warmup="20 %", warmup_factor=0.25, decays=())
    got = [float(optimizer.schedule(jnp.int32(step))) for step in range(101)]
    if kind == "linear":
        fall = optax.linear_schedule(1.0, 0.0, 80, transition_begin=20)
    else:
        cosine = optax.cosine_decay_schedule(1.0, 80)
        fall = lambda step: cosine(max(step - 20, 0))  # noqa: E731
    warm = [0.25 + 0.75 * min(step / 20, 1) for step in range(101)]
    want = [w * float(fall(step)) for step, w in enumerate(warm)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert got[20] == 1.0 and got[100] == pytest.approx(0, abs=1e-7)
    assert got[99] > 0
    with pytest.raises(InputError, match="falls to zero without"):
        build(schedule=kind, decays=("50 %",))


def test_frozen_parameters_have_no_state():
    rules = [(r"backbone/.*", "frozen"), (r".*", "transformer")]
    optimizer = build(rules=rules)
    assert optimizer.trainable == ("text/word",)
    assert optimizer.groups["backbone/kernel"] == "frozen"
    state = optimizer.transform.init({"text/word": jnp.ones(3)})
    assert {leaf.shape for leaf in jax.tree.leaves(state)} == {(), (3,)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": [(r".*", "transfromer")]}, "did you mean 'transformer'"),
        ({"rules": [(r"backbone/.*", "cnn")]}, "'text/word'"),
        (
            {"rules": [(r"backbon/.*", "cnn"), (r".*", "transformer")]},
            "'backbon/.*' decide no parameter",
        ),
    ],
)
def test_a_wrong_rule_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build(**changes)


def test_a_wrong_kind_is_refused():
    fields = {"kind": "sdg", "learning_rate": 1.0, "weight_decay": 0.0, "momentum": 0}
    with pytest.raises(InputError, match=r"cnn\.kind is 'sdg' .*; valid: sgd, adamw"):
        build(groups={"cnn": fields}, rules=[(".*", "cnn")])
