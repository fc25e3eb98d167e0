"""Checkpoints: the newest for resuming, the best for using, each complete in itself.

Two Orbax managers keep them apart, since one manager with a metric deletes the newest
step as soon as its metric is worse. A checkpoint holds the state and a `meta` record:
resolved config, plan fingerprint, tokenizer, format version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from pixel_bert_jax import trees
from pixel_bert_jax.checks import check_metric
from pixel_bert_jax.train_state import TrainState
from pixel_bert_jax.types import InputError

FORMAT = 1
FOLDER = "checkpoints"  # in the workdir
LATEST, BEST = "latest", "best"

# Fields that a relaunch may change; everything else must be as it was.
MAY_CHANGE = (
    "checkpoint",
    "compile_cache",
    "dry_run",
    "eval",
    "log",
    "mesh",
    "total",
    "data/root",
    "data/index_dir",
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
    ):
        """Opens `workdir`/checkpoints, making it if needed.

        Args:
          workdir: of the run; resolved to an absolute path.
          keep: how many of the newest checkpoints stay.
          metric: name of the evaluation figure that decides what is best, or "".
          mode: "max" or "min" of that figure.
          read_only: change nothing there: a run may be writing at this moment.
        """
        root = Path(workdir).expanduser().resolve() / FOLDER
        self.metric = metric
        self.sign = {"max": 1.0, "min": -1.0}[mode]
        self.latest = _manager(root / LATEST, keep, read_only)
        self.best = _manager(root / BEST, 1, read_only)

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Starts writing the newest checkpoint in the background, unless it is there.

        An error of an earlier background write is raised here.
        """
        _save(self.latest, state, meta)

    def save_if_best(
        self, state: TrainState, meta: Mapping[str, Any], figures: Mapping[str, float]
    ) -> bool:
        """Saves the state as best if its figure beats the best one so far.

        Raises:
          InputError: `checkpoint.best_metric` is not among the figures.
        """
        if not self.metric:
            return False
        check_metric(self.metric, list(figures))
        value = figures[self.metric]
        step = self.best.latest_step()
        if step is not None:
            old = self.read_meta(BEST)["figures"][self.metric]
            if self.sign * value <= self.sign * old:
                return False
        if step == int(state.step):
            # A retaken step (after a crash) with another figure: replace it.
            self.best.delete(step)
        _save(self.best, state, {**meta, "figures": dict(figures)})
        return True

    def newest_step(self, which: str = LATEST) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._of(which).latest_step()

    def read_meta(self, which: str = LATEST) -> dict[str, Any]:
        """Returns the `meta` record of the newest checkpoint.

        Raises:
          InputError: another version of this program wrote it, in another format.
        """
        manager = self._of(which)
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = dict(manager.restore(manager.latest_step(), args=args)["meta"])
        if meta.get("format") != FORMAT:
            raise InputError(
                f"the checkpoint in {manager.directory} has the format "
                f"{meta.get('format')}, this version reads {FORMAT}"
            )
        return meta

    def restore(self, target: TrainState, which: str = LATEST) -> TrainState:
        """Reads the newest checkpoint onto the devices that `target` names.

        Raises:
          InputError: the checkpoint holds another architecture; names the first paths
            with both shapes.
        """
        manager = self._of(which)
        step = manager.latest_step()
        stored = manager.item_metadata(step)["state"]
        _check_shapes(stored, target, step)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return manager.restore(step, args=args)["state"]

    def wait(self) -> None:
        """Waits for background writes and raises their errors."""
        self.latest.wait_until_finished()
        self.best.wait_until_finished()

    def close(self) -> None:
        """Waits and releases both managers."""
        self.latest.close()
        self.best.close()

    def _of(self, which: str) -> ocp.CheckpointManager:
        return {LATEST: self.latest, BEST: self.best}[which]


def _manager(folder: Path, max_to_keep: int, read_only: bool) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        folder,
        # Named here, so that a fresh process can ask for shapes before it restores.
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            create=not read_only,
            # What a killed run left; of a running one it would be its newest step.
            cleanup_tmp_directories=not read_only,
        ),
    )


def _save(
    manager: ocp.CheckpointManager, state: TrainState, meta: Mapping[str, Any]
) -> None:
    step = int(jax.device_get(state.step))
    if step in manager.all_steps():
        return
    saved = manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
        ),
        force=True,
    )
    if not saved:
        raise RuntimeError(
            f"the checkpoint of step {step} was not written to {manager.directory}; "
            f"steps there: {manager.all_steps()}"
        )


def _check_shapes(stored: Any, target: TrainState, step: int) -> None:
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
    """Returns the shape that a leaf has on disk, where a key is its raw bits."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape)


def digest(state: Any) -> str:
    """Returns the SHA-256 of a state: the identity of a checkpoint.

    Taken over the leaves sorted by path: path, dtype, shape and little-endian bytes.
    """
    total = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    for name, leaf in sorted((trees.key_path(path), leaf) for path, leaf in leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(jax.device_get(leaf))
        array = array.astype(array.dtype.newbyteorder("<"))
        total.update(f"{name} {array.dtype.name} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def check_same_config(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str
) -> None:
    """Refuses to go on with another config than the checkpoint's.

    Args:
      old: config of the checkpoint.
      new: config of this launch.
      where: names the checkpoint in the message.

    Raises:
      InputError: lists every difference outside of MAY_CHANGE.
    """
    before, after = (trees.flatten(_plain(c)) for c in (old, new))
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


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turns tuples into lists, as JSON does, so that configs compare."""
    return json.loads(json.dumps(config))


def truncate_log(path: Path, step: int) -> None:
    """Removes the lines of later steps from a metrics.jsonl, keeping the file whole.

    Args:
      path: of a file with one JSON object a line, each with "step"; may be absent.
      step: of the restored checkpoint; lines up to it stay.
    """
    if not path.exists():
        return
    kept, content = [], path.read_text()
    for line in content.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the torn last line of a killed process
    wanted = "".join(line + "\n" for line in kept)
    if wanted != content:
        copy = path.with_suffix(".tmp")
        copy.write_text(wanted)
        copy.replace(path)
