"""One folder of checkpoints, each with a manifest of its files.

Orbax takes a folder of the right name for a complete checkpoint and reads a flipped bit
as another number; here a checkpoint counts once its files are as the manifest says.
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

LATEST, BEST = "latest", "best"  # names of the folders of a workdir
TEMPORARY = ".orbax-checkpoint-tmp"  # ends the name of a folder that is not complete
DAMAGED = ".damaged"  # ends that of one that was put aside
SPARE = 4 << 20  # bytes beside the arrays: records of the files, the config


class Store:
    """One folder of checkpoints.

    Attributes:
      folder: where they lie.
      manager: Orbax's.
    """

    def __init__(self, folder: Path, keep: int, read_only: bool, fallback: bool):
        """Opens the folder; arguments as of `checkpointing.Checkpoints`."""
        self.folder, self._read_only, self._fallback = folder, read_only, fallback
        self._saving: int | None = None
        self._verified: int | None = None
        self.manager = ocp.CheckpointManager(
            folder,
            # Named here, so that a fresh process can ask for shapes before it restores.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                # What a killed run left; of a running one it would be its newest step.
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._write_manifest
                ),
            ),
        )

    def newest_step(self) -> int | None:
        """Returns the newest step, once its files are compared with the manifest.

        With `fallback` a damaged one is put aside, under another name.
        """
        self.manager.wait_until_finished()
        step = self._newest_whole() if hosts.first() else None
        step = hosts.agree(-1 if step is None else step)
        if hosts.several():
            self.manager.reload()  # process 0 may have put some aside
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
        # A run can go on without a best checkpoint, not without any.
        if step is None and self.folder.name == LATEST:
            raise InputError(f"{told}; no other is whole")
        if not self._fallback:
            raise InputError(
                f"{told}; --config.checkpoint.fallback=True goes on from "
                f"{'none' if step is None else f'step {step}, which is whole'}"
            )
        print(f"{told}; going on from step {step}", file=sys.stderr)
        if not self._read_only:
            for number in damaged:
                place = self.folder / str(number)
                taken = len(list(self.folder.glob(f"{number}{DAMAGED}*")))
                place.rename(place.with_suffix(f"{DAMAGED}{taken or ''}"))
            self.manager.reload()
        return step

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Starts to write a step, unless it is there."""
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
        """Raises the error of a background write that is over."""
        if self._saving is not None and not self.manager.is_saving_in_progress():
            self._saving = None
            self.manager.wait_until_finished()

    def _write_manifest(self) -> None:
        """Is called when all files are there and the folder still has another name."""
        if hosts.first():
            step = self._saving
            manifest.write(self.folder / f"{step}{TEMPORARY}")
            self._verified = step


def stored_fields(state: TrainState) -> dict[str, Any]:
    """Returns a state's fields as they are stored.

    Of a run that carries nothing from step to step nothing is stored of that, so that
    its checkpoints are what they were before there was such a field.
    """
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: x for name, x in fields.items() if name != "carried" or x}


def check_writable(root: Path) -> None:
    """Finds out before the first step what a save would find out after hours.

    Raises:
      InputError: nothing can be written there.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"0")
    except OSError as error:
        raise InputError(f"cannot write checkpoints to {root}: {error}") from error


def check_space(folder: Path, state: TrainState) -> None:
    """Refuses to begin a checkpoint that would fill the disk.

    Raises:
      OSError: names the folder, what is needed and what there is.
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
            f"to spare are needed, {free:,} are free; what is there stays as it is"
        )
