"""One folder of checkpoints, each with a manifest of its files.

Orbax takes any folder with the right name for a complete checkpoint, and reads a
flipped bit as another number. Here a checkpoint counts only if its files match its
manifest.
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
DAMAGED = ".damaged"  # suffix of folders that were put aside
SPARE = 4 << 20  # bytes besides the arrays: records of the files, the config


class Store:
    """One folder of checkpoints.

    Attributes:
      folder: path of the folder.
      manager: Orbax's checkpoint manager.
    """

    def __init__(self, folder: Path, keep: int, read_only: bool, fallback: bool):
        """Opens the folder; for the arguments see `checkpointing.Checkpoints`."""
        self.folder, self._read_only, self._fallback = folder, read_only, fallback
        self._saving: int | None = None
        self._verified: int | None = None
        self.manager = ocp.CheckpointManager(
            folder,
            # Named here, so that a fresh process can read shapes before it restores.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                # Of a killed run. A reader keeps them: a run may be writing them now.
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._write_manifest
                ),
            ),
        )

    def newest_step(self) -> int | None:
        """Returns the newest step whose files match its manifest, or None.

        With `fallback`, damaged steps are put aside under another name.
        """
        self.manager.wait_until_finished()
        step = self._newest_whole() if hosts.first() else None
        step = hosts.agree(-1 if step is None else step)
        if hosts.several():
            self.manager.reload()  # process 0 may have put steps aside
        return None if step < 0 else step

    def _newest_whole(self) -> int | None:
        damaged: dict[int, str] = {}
        for step in sorted(self.manager.all_steps(), reverse=True):
            wrong = []
            if step != self._verified:
                wrong = manifest.faults(self.folder / str(step))
            if not wrong:
                self._verified = step
                break
            place = self.folder / str(step)
            damaged[step] = f"the checkpoint {place} is damaged: {'; '.join(wrong)}"
        else:
            step = None
        if not damaged:
            return step
        told = "; ".join(damaged.values())
        # A run can continue without a best checkpoint, but not without any.
        if step is None and self.folder.name == LATEST:
            raise InputError(f"{told}; no other is intact")
        if not self._fallback:
            raise InputError(
                f"{told}; --config.checkpoint.fallback=True continues from "
                f"{'none' if step is None else f'step {step}, which is intact'}"
            )
        print(f"{told}; continuing from step {step}", file=sys.stderr)
        if not self._read_only:
            for number in damaged:
                place = self.folder / str(number)
                taken = len(list(self.folder.glob(f"{number}{DAMAGED}*")))
                place.rename(place.with_suffix(f"{DAMAGED}{taken or ''}"))
            self.manager.reload()
        return step

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Starts writing a step in the background, unless it is saved."""
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
        """Raises the error of a background write that has ended."""
        if self._saving is not None and not self.manager.is_saving_in_progress():
            self._saving = None
            self.manager.wait_until_finished()

    def _write_manifest(self) -> None:
        """Called by Orbax once all files are written, before the folder is renamed."""
        if hosts.first():
            step = self._saving
            manifest.write(self.folder / f"{step}{TEMPORARY}")
            self._verified = step


def stored_fields(state: TrainState) -> dict[str, Any]:
    """Returns the fields of a state that are stored.

    `carried` is left out if it is empty, so that checkpoints from before this field
    existed can still be restored.
    """
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: x for name, x in fields.items() if name != "carried" or x}


def check_writable(root: Path) -> None:
    """Checks before the first step that checkpoints can be written.

    Raises:
      InputError: nothing can be written to `root`.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"0")
    except OSError as error:
        raise InputError(f"cannot write checkpoints to {root}: {error}") from error


def check_space(folder: Path, state: TrainState) -> None:
    """Refuses to start a checkpoint that would fill the disk.

    Raises:
      OSError: names the folder, the bytes needed and the bytes free.
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
