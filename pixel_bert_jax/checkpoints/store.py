"""One folder of checkpoints, each with a manifest of its files.

Orbax treats any folder with a step's name as a complete checkpoint, and reads a flipped
bit as another number. Here a checkpoint counts only if its files match its manifest.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from pixel_bert_jax.checkpoints import manifest
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import InputError

LATEST, BEST = "latest", "best"  # folder names
TEMPORARY = ".orbax-checkpoint-tmp"  # suffix of folders that are not complete
DAMAGED = ".damaged"  # suffix of damaged checkpoints that were renamed
SPARE = 4 << 20  # bytes for what a checkpoint holds besides arrays, such as the config


class Store:
    """One folder of checkpoints.

    Attributes:
      folder: path of the folder.
      manager: Orbax's checkpoint manager.
    """

    def __init__(self, folder: Path, keep: int, read_only: bool, fallback: bool):
        """Opens the folder; see `checkpointing.Checkpoints` for the arguments."""
        self.folder, self._read_only, self._fallback = folder, read_only, fallback
        self._saving: int | None = None
        self._verified: int | None = None
        self.manager = ocp.CheckpointManager(
            folder,
            # Given here, so that a new process can read shapes before it restores.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                # A killed run leaves them behind. When reading they are kept, because a
                # run may be writing them.
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._write_manifest
                ),
            ),
        )

    def newest_step(self) -> int | None:
        """Returns the newest step whose files match its manifest, or None.

        With `fallback`, the folders of damaged newer steps are renamed.

        Raises:
          InputError: a step is damaged and there is no `fallback`, or all are damaged
            and this is the folder of the latest checkpoints.
        """
        self.manager.wait_until_finished()
        step = self._newest_whole() if hosts.first() else None
        step = hosts.agree(-1 if step is None else step)
        if hosts.several():
            self.manager.reload()  # process 0 may have renamed damaged steps
        return None if step < 0 else step

    def _newest_whole(self) -> int | None:
        damaged: dict[int, str] = {}
        for step in sorted(self.manager.all_steps(), reverse=True):
            place = self.folder / str(step)
            wrong = [] if step == self._verified else manifest.faults(place)
            if not wrong:
                self._verified = step
                break
            damaged[step] = f"the checkpoint {place} is damaged: {'; '.join(wrong)}"
        else:
            step = None
        if not damaged:
            return step
        message = "; ".join(damaged.values())
        # A run can continue without a best checkpoint, but not without a latest one.
        if step is None and self.folder.name == LATEST:
            raise InputError(f"{message}; no other is intact")
        found = "none" if step is None else f"step {step}, which is intact"
        if not self._fallback:
            raise InputError(
                f"{message}; --config.checkpoint.fallback=True continues from {found}"
            )
        print(f"warning: {message}; continuing from {found}", file=sys.stderr)
        if not self._read_only:
            for number in damaged:
                place = self.folder / str(number)
                taken = len(list(self.folder.glob(f"{number}{DAMAGED}*")))
                place.rename(place.with_suffix(f"{DAMAGED}{taken or ''}"))
            self.manager.reload()
        return step

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Starts writing a step in the background, unless it is saved already.

        Raises:
          OSError: too little disk space is left, or an earlier write failed.
          RuntimeError: Orbax did not write the checkpoint.
        """
        step = int(jax.device_get(state.step))
        if step in self.manager.all_steps():
            return
        self.manager.wait_until_finished()
        check_space(self.folder, state)
        self._saving = step
        saved = self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(stored_fields(state)),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
            force=True,
        )
        if not saved:
            raise RuntimeError(
                f"the checkpoint of step {step} was not written to {self.folder}; "
                f"steps there: {self.manager.all_steps()}"
            )

    def check(self) -> None:
        """Raises the error of a background write that has failed, without waiting."""
        if self._saving is not None and not self.manager.is_saving_in_progress():
            self._saving = None
            self.manager.wait_until_finished()

    def _write_manifest(self) -> None:
        """Orbax calls this once all files are written, before it renames the folder."""
        if hosts.first():
            step = self._saving
            manifest.write(self.folder / f"{step}{TEMPORARY}")
            self._verified = step


def stored_fields(state: TrainState) -> dict[str, Any]:
    """Returns the fields of a state that are stored.

    An empty `carried` is left out, so that checkpoints that were written before this
    field existed can be restored.
    """
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: x for name, x in fields.items() if name != "carried" or x}


def check_writable(root: Path) -> None:
    """Checks that files can be written to `root`, creating it if needed.

    Raises:
      InputError: they cannot.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"0")
    except OSError as error:
        raise InputError(f"cannot write to {root}: {error}") from error


def check_space(folder: Path, state: TrainState) -> None:
    """Checks before a checkpoint is written that the disk has space for it.

    Raises:
      OSError: the disk has too little space.
    """
    needed = sum(
        math.prod(leaf.shape) * getattr(leaf.dtype, "itemsize", 8)
        for leaf in jax.tree.leaves(state)
    )
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed + SPARE:
        raise OSError(
            f"no space for a checkpoint in {folder}: {needed:,} bytes and {SPARE:,} "
            f"to spare are needed, {free:,} are free; existing checkpoints are kept"
        )
