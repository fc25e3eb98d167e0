"""The program with a fault built in: python -m tests.faulty FAULT FLAGS...

save_fails  the second checkpoint's write meets a full disk
save_hangs  it never ends
read_hangs  an image of the third batch never comes
slow_evaluation  each batch of an evaluation takes a second and is told of
"""

import sys
import time

from absl import app

from pixel_bert_jax import config, main
from pixel_bert_jax.checkpoints import manifest
from pixel_bert_jax.data import batches, index, pipeline
from pixel_bert_jax.tasks.functions import PredictFunctions

HOUR = 3600


def second_save(happens):
    """Lets something happen in the background, when the second manifest is due."""
    write, saves = manifest.write, []

    def instead(place):
        saves.append(place)
        if len(saves) == 2:
            happens(place)
        write(place)

    manifest.write = instead


def full(place):
    raise OSError(28, "No space left on device", str(place))


def read_hangs():
    """An image is waited for while other threads go on."""
    batches.READ_WARN, batches.READ_LIMIT = 1.0, 3.0
    read, produce, steps = index.Index.read, pipeline.Stream._produce, []

    def counted(stream, step):
        steps.append(step)
        return produce(stream, step)

    def instead(self, row):
        if steps and steps[-1] == 2:
            time.sleep(HOUR)
        return read(self, row)

    pipeline.Stream._produce, index.Index.read = counted, instead


def slow_evaluation():
    """Leaves time for a signal."""
    run = PredictFunctions.run

    def instead(*arguments):
        print("evaluating", flush=True)
        time.sleep(1)
        return run(*arguments)

    PredictFunctions.run = instead


FAULTS = {
    "save_fails": lambda: second_save(full),
    "save_hangs": lambda: second_save(lambda place: time.sleep(HOUR)),
    "read_hangs": read_hangs,
    "slow_evaluation": slow_evaluation,
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    app.run(main.run, flags_parser=config.parse_program)
