"""Prints, as JSON, how gradients differ when a batch is split or permuted.

Run as a program, with the dtype as its argument: double precision holds for a whole
process.
"""

import json
import sys

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from tests import small  # noqa: E402

GROUPS, TEXTS, PARTS = 12, 3, 4


def as_type(tree, dtype):
    def one(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


def batch():
    """Micro-batches of very different numbers of texts, and so of masked tokens."""
    arrays = small.batch(GROUPS, TEXTS)
    arrays["example_mask"][: GROUPS // PARTS, 1:] = False
    return arrays


def main(dtype: str) -> None:
    arrays = batch()
    order = np.random.default_rng(1).permutation(GROUPS)
    run = small.run(model__dtype=dtype)
    state = as_type(run.state(), dtype)
    programs = {}

    def gradients(arrays, parts):
        placed = as_type(run.place(arrays, parts), dtype)
        if parts not in programs:
            programs[parts] = run.gradients(state, placed)
        found = jax.device_get(programs[parts](state, placed))
        return found.grads, float(found.metrics["loss"][0])

    whole, loss = gradients(arrays, 1)
    split, split_loss = gradients(arrays, PARTS)
    permuted, _ = gradients({k: x[order] for k, x in arrays.items()}, 1)
    views = run.task.views(
        {k: x for k, x in arrays.items() if k != "image"}, state.rng, state.step
    )
    (view,) = views.values()
    masked = np.asarray(view.masked.weights).reshape(PARTS, -1).sum(axis=1)
    figures = {
        "dtypes": sorted({str(g.dtype) for g in whole.values()}),
        "split": small.differences(split, whole),
        "permuted": small.differences(permuted, whole),
        "largest": {path: float(np.abs(g).max()) for path, g in whole.items()},
        "losses": [loss, split_loss],
        "masked_tokens": masked.tolist(),
        "swapped": int((~np.asarray(view.match)).sum()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
