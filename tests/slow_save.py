"""Saves step 3, then step 4 slowly: a program for others to kill.

python -m tests.slow_save FOLDER
"""

import sys
import time

import jax.numpy as jnp

from pixel_bert_jax import checkpoint_store
from pixel_bert_jax.checkpointing import Checkpoints
from tests import small

META = {"format": 1}
STEPS = (3, 4)
SECONDS = 1.0  # that the manifest takes, half of it before and half after


def states():
    """Returns the run and its states by step."""
    run = small.run()
    return run, {n: run.state(n).replace(step=jnp.int32(n)) for n in STEPS}


def main(folder):
    _, by_step = states()
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(by_step[3], META)
    checkpoints.wait()
    write = checkpoint_store.manifest.write

    def slowly(place):
        print("manifest", flush=True)
        time.sleep(SECONDS / 2)
        write(place)
        time.sleep(SECONDS / 2)

    checkpoint_store.manifest.write = slowly
    print("saving", flush=True)
    checkpoints.save(by_step[4], META)
    checkpoints.wait()
    print("saved", flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1])
