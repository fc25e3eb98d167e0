"""Command line: train, evaluate, predict or plan a run.

    python -m pixel_bert_jax.main --config=configs/pretrain.py:tiny

Exit codes: 0 done or already finished, 1 run-time error, 2 bad input found before
compiling, 3 too many non-finite updates, 4 too many bad images, 5 stopped by the
watchdog, 6 a process is missing or differs, 7 one of several processes was lost, 143
preempted and saved.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

from absl import app, flags

from pixel_bert_jax import config, types

FLAGS = flags.FLAGS
SHARED = (
    "mode",
    "dry_run",
    "split",
    "output",
    "figure",
    "examples",
)  # the same in all processes
flags.DEFINE_string("workdir", "", "Folder of the run; default runs/<config>_<preset>.")
flags.DEFINE_enum("mode", "train", ("train", "evaluate", "predict"), "What to do.")
flags.DEFINE_bool("dry_run", False, "Print parameters, plan and memory of a step only.")
flags.DEFINE_string(
    "figure", "", "With --mode=evaluate: PNG file of held-out examples."
)
flags.DEFINE_string(
    "examples", "", "With --mode=evaluate: JSON lines file of every example's values."
)
flags.DEFINE_string(
    "output",
    "",
    "With --mode=predict: the official file to write; with --mode=evaluate: a JSON "
    "file of the metrics.",
)
flags.DEFINE_enum(
    "split", "evaluate", ("evaluate", "predict"), "Held-out data, or the test set."
)
flags.DEFINE_integer("seeds", 0, "Train with so many seeds in turn; 0: once.", 0)
flags.DEFINE_bool("rebuild_index", False, "Build the index of the data again.")
flags.DEFINE_string(
    "coordinator_address",
    "",
    "HOST:PORT of process 0, of a run of several processes; the next port is used too. "
    "'auto': what TPU pods and SLURM report by themselves.",
)
flags.DEFINE_integer("num_processes", 1, "Processes of the run.")
flags.DEFINE_integer("process_id", 0, "Which of them this is, from 0.")
flags.DEFINE_float("host_timeout", 300.0, "Seconds to wait for the other processes.")


def main(launch: config.Launch) -> int:
    """Runs one mode and returns the exit code."""
    # Imported here, so that faults of the command line are reported at once.
    import jax

    from pixel_bert_jax import dry_run, train
    from pixel_bert_jax.commands import evaluate, predict
    from pixel_bert_jax.data.images import ImageError
    from pixel_bert_jax.processes import hosts
    from pixel_bert_jax.study import seeds

    codes = {
        types.InputError: types.EXIT_BAD_INPUT,
        types.NonFiniteError: types.EXIT_NON_FINITE,
        types.HostError: types.EXIT_HOSTS,
        ImageError: types.EXIT_ERROR,
        types.BadImageBudgetError: types.EXIT_BAD_IMAGES,
    }
    chosen, cache = launch.config, launch.config.compile_cache
    workdir = Path(FLAGS.workdir or launch.workdir).expanduser().resolve()
    index = {"rebuild_index": FLAGS.rebuild_index}
    model = index | {"split": FLAGS.split, "named": "init.model" in launch.given}
    # JAX's own environment variable takes precedence.
    if cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(cache))
    try:
        if address := FLAGS.coordinator_address:
            group = FLAGS.num_processes, FLAGS.process_id, FLAGS.host_timeout
            group = None if address == "auto" else hosts.Group(address, *group)
            shared = {name: FLAGS[name].value for name in SHARED}
            facts = {"config": chosen.to_dict(), "workdir": str(workdir)}
            hosts.start(group, {**facts, "flags": shared})
        if FLAGS.dry_run:
            dry_run.run(chosen)
        elif FLAGS.seeds:
            return hosts.leave(seeds.run(launch, workdir, FLAGS.seeds))
        elif FLAGS.mode == "evaluate":
            names = ("figure", "examples", "output")
            extra = {name: FLAGS[name].value for name in names}
            evaluate.run(chosen, workdir, **extra, **model)
        elif FLAGS.mode == "predict":
            predict.run(chosen, workdir, output=FLAGS.output, **model)
        else:
            hosts.say(f"workdir {workdir}")
            train.train_and_evaluate(chosen, workdir, command=launch.command, **index)
    except tuple(codes) as error:
        code = next(codes[kind] for kind in codes if isinstance(error, kind))
        print(f"error: {error}", file=sys.stderr)
        return hosts.leave(code, str(error))
    except train.Preempted as notice:
        print(notice, file=sys.stderr)
        return hosts.leave(types.EXIT_PREEMPTED)
    except KeyboardInterrupt:
        hosts.leave(types.EXIT_ERROR, "interrupted")
        raise
    except Exception as error:
        traceback.print_exc()
        return hosts.leave(types.EXIT_ERROR, f"{type(error).__name__}: {error}")
    return hosts.leave(types.EXIT_DONE)


def run(launch: config.Launch) -> None:
    """Ends this process with the exit code of `main`.

    After an error, no thread is waited for: one that reads a file that never arrives
    would keep the process alive for ever.
    """
    code = main(launch)
    if code in (types.EXIT_DONE, types.EXIT_PREEMPTED):
        sys.exit(code)
    if code == types.EXIT_HOSTS:
        time.sleep(1)  # all report the same; the end of one may end others too early
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    app.run(run, flags_parser=config.parse_program)
