"""Saves step 3, then step 4 slowly: a program for others to kill.

python -m tests.slow_save [--again] FOLDER [PORT PROCESS]

With a port it is one of two processes. With --again it says what was left, restores
that, and saves step 4 over it.
"""

import sys
import time

import jax
import numpy as np

from pixel_bert_jax.checkpoints import store as checkpoint_store
from pixel_bert_jax.checkpoints.checkpointing import Checkpoints
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.trees import digest
from tests import small

META = {"format": 1}
STEPS = (3, 4)
SECONDS = 1.0  # that the manifest takes, half of it before and half after


def states(devices=1):
    """Returns the run and its states by step."""
    run = small.run(devices)

    def state(step):
        number = jax.device_put(np.int32(step), run.target.step.sharding)
        return run.state(step).replace(step=number)

    return run, {step: state(step) for step in STEPS}


def go_on(checkpoints, run, by_step):
    """Restores the newest checkpoint and makes step 4 anew."""
    step = checkpoints.newest_step()
    equal = digest(checkpoints.restore(run.target)) == digest(by_step[step])
    print(f"found {step}, {'equal' if equal else 'other'}", flush=True)
    checkpoints.save(by_step[4], META)
    checkpoints.close()


def save(checkpoints, by_step):
    """Saves both steps, the second slowly."""
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


def main(folder, port="", process="0", *, again=False):
    if port:
        group = hosts.Group(f"localhost:{port}", 2, int(process), 60)
        hosts.start(group, {})
    run, by_step = states(jax.device_count())
    checkpoints = Checkpoints(folder, keep=2)
    if again:
        go_on(checkpoints, run, by_step)
    else:
        save(checkpoints, by_step)


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--again"]
    main(*arguments, again="--again" in sys.argv)
