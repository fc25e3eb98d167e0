"""Checkpoints: the newest for resuming, the best for use.

They have an Orbax manager each, because a single manager with a metric deletes the
newest step as soon as its metric is worse. A checkpoint holds the state, a `meta`
record (resolved config, plan fingerprint, tokenizer, format version) and a manifest of
its files, which is checked before anything is restored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from pixel_bert_jax import trees
from pixel_bert_jax.checkpoints.store import (
    BEST,
    LATEST,
    Store,
    check_writable,
    stored_fields,
)
from pixel_bert_jax.config import Checkpoint
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import InputError

FORMAT = 1
FOLDER = "checkpoints"  # in the workdir

# Fields of the config that may change when a run is resumed.
MAY_CHANGE = (
    "checkpoint",
    "compile_cache",
    "dry_run",
    "eval",
    "evals",
    "log",
    "mesh",
    "sharding",
    "sharding_tolerance",
    "total",
    "watchdog",
    "data/on_bad_image",  # a run that stopped at a broken photo can resume
    "data/bad_image_budget",
    "data/allow_overlap",
    "data/root",
    "data/index_dir",
    "data/feature_dir",
    "data/workers",
    "data/prefetch",
    "data/size_shares",
)


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int,
        metric: str = "",
        mode: str = "max",
        read_only: bool = False,
        fallback: bool = False,
    ):
        """Opens `workdir`/checkpoints and creates it if needed.

        Args:
          workdir: folder of the run.
          keep: number of newest checkpoints to keep.
          metric: name of the evaluation metric that selects the best checkpoint, or "".
          mode: whether the "max" or the "min" of that metric is best.
          read_only: change nothing in the folder: a run may be writing to it.
          fallback: use an older checkpoint if the newest is damaged.

        Raises:
          InputError: the folder cannot be written to.
        """
        root = Path(workdir).expanduser().resolve() / FOLDER
        self.metric = metric
        self.sign = {"max": 1.0, "min": -1.0}[mode]
        if not read_only:
            check_writable(root)
        self.latest = Store(root / LATEST, keep, read_only, fallback)
        self.best = Store(root / BEST, 1, read_only, fallback)

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Starts writing a checkpoint in the background, unless its step is saved.

        Raises:
          OSError: too little disk space is left, or an earlier write failed.
        """
        self.latest.save(state, meta)

    def save_if_best(
        self, state: TrainState, meta: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> bool:
        """Saves the state as best if its metric is better than the best one so far.

        Returns:
          Whether it was saved; False if `checkpoint.best_metric` is not in `metrics`.
        """
        value = self._value(metrics)
        if value is None:
            return False
        step = self.best.newest_step()
        if step is not None:
            old = self._value(self.read_meta(BEST)["figures"])
            better = hosts.agree(self.sign * value > self.sign * old)
            # After a crash a step may be repeated that has been saved already.
            if not better or step == int(state.step):
                return False
        self.best.save(state, {**meta, "figures": dict(metrics)})
        return True

    def _value(self, metrics: Mapping[str, float]) -> float | None:
        """Returns the metric that selects the best checkpoint, if it is there.

        It has another name where images are missing, see docs/data.md.
        """
        for name in (self.metric, f"{self.metric}@missing"):
            if name in metrics:
                return metrics[name]
        return None

    def newest_step(self, which: str = LATEST) -> int | None:
        """Returns the step of the newest complete checkpoint, or None.

        Raises:
          InputError: it is damaged; the message names its damaged files and the newest
            intact checkpoint.
        """
        return self._of(which).newest_step()

    def read_meta(self, which: str = LATEST) -> dict[str, Any]:
        """Returns the `meta` record of the newest checkpoint.

        Raises:
          InputError: it is damaged, or of another format.
        """
        store = self._of(which)
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = dict(store.manager.restore(store.newest_step(), args=args)["meta"])
        if meta.get("format") != FORMAT:
            raise InputError(
                f"the checkpoint in {store.folder} has the format "
                f"{meta.get('format')}, this version reads {FORMAT}"
            )
        return meta

    def restore(self, target: TrainState, which: str = LATEST) -> TrainState:
        """Reads the newest checkpoint with the shardings of `target`.

        Raises:
          InputError: the checkpoint is damaged, or is of another architecture; the
            message gives the first paths that differ, with both shapes.
        """
        store = self._of(which)
        step = store.newest_step()
        stored = store.manager.item_metadata(step)["state"]
        wanted = stored_fields(target)
        _check_shapes(stored, wanted, step)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        return target.replace(**store.manager.restore(step, args=args)["state"])

    def check(self) -> None:
        """Raises the error of a background write that has failed, without waiting."""
        self.latest.check()
        self.best.check()

    def wait(self) -> None:
        """Waits for background writes and raises their errors."""
        self.latest.manager.wait_until_finished()
        self.best.manager.wait_until_finished()

    def close(self) -> None:
        """Waits for background writes and closes both managers."""
        self.latest.manager.close()
        self.best.manager.close()

    def _of(self, which: str) -> Store:
        return {LATEST: self.latest, BEST: self.best}[which]


def options(config: Checkpoint) -> dict[str, Any]:
    """Returns the keyword arguments of `Checkpoints` for `config.checkpoint`."""
    return {
        "keep": config.keep,
        "metric": config.best_metric,
        "mode": config.best_mode,
        "fallback": config.fallback,
    }


def _check_shapes(stored: Any, target: Any, step: int) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {
            trees.key_path(path): _stored_shape(leaf)
            for path, leaf in leaves
            if getattr(leaf, "shape", None) is not None
        }

    have, want = shapes(stored), shapes(target)
    wrong = [
        f"{path}: stored {have.get(path, 'nothing')}, "
        f"wanted {want.get(path, 'nothing')}"
        for path in sorted(have.keys() | want.keys())
        if have.get(path) != want.get(path)
    ]
    if wrong:
        shown = "; ".join(wrong[:5])
        raise InputError(
            f"the checkpoint of step {step} is of another architecture: {len(wrong)} "
            f"leaves differ: {shown}"
        )


def _stored_shape(leaf: Any) -> tuple[int, ...]:
    """Returns the shape of a leaf on disk, where a random key is its raw data."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape)


def check_same_config(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str
) -> None:
    """Checks that a run is resumed with the config of its checkpoint.

    Args:
      old: config of the checkpoint.
      new: config of this launch.
      where: names the checkpoint in the message.

    Raises:
      InputError: fields outside of MAY_CHANGE differ; all are listed.
    """
    # Through JSON, as the checkpoint's config: it turns tuples into lists.
    before, after = (trees.flatten(json.loads(json.dumps(c))) for c in (old, new))
    lines = [
        f"  {path.replace('/', '.')}: {before.get(path)!r} -> {after.get(path)!r}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
        and not any(path == p or path.startswith(p + "/") for p in MAY_CHANGE)
    ]
    if lines:
        raise InputError(
            f"{where} was made with another config:\n" + "\n".join(lines) + "\n"
            "Give the old values, or another --workdir."
        )
