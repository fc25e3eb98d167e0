"""Command line: train, evaluate, predict or plan a run.

    python -m pixel_bert_jax.main --config=configs/pretrain.py:tiny

Exit codes: 0 done or already finished, 1 run-time error, 2 bad input found before
compiling, 3 too many non-finite updates, 4 too many bad images, 5 stopped by the
watchdog, 6 a process is missing or differs, 143 preempted and saved.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from pixel_bert_jax import checks, trees, types

MODES = ("train", "evaluate", "predict")
FIGURE_PANELS = 8
CONFIG_FILE = "configs/{name}.py:{preset}"

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File:preset,key=value,... under configs/.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run; default runs/<config>_<preset>."
)
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print parameters, plan and memory of a step; train nothing."
)
FIGURE = flags.DEFINE_string(
    "figure", "", "With --mode=evaluate: draw held-out examples into this PNG file."
)
OUTPUT = flags.DEFINE_string(
    "output", "", "With --mode=predict: the official file that is written."
)
SPLIT = flags.DEFINE_enum(
    "split",
    "evaluate",
    ("evaluate", "predict"),
    "With --mode=evaluate or predict: the data; predict is the test set.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    "",
    "HOST:PORT of process 0, of a run of several processes; the next port is used too. "
    "'auto': what TPU pods and SLURM tell by themselves.",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 1, "With --coordinator_address: processes of the run."
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", 0, "With --coordinator_address: which one this is, from 0."
)
HOST_TIMEOUT = flags.DEFINE_float(
    "host_timeout", 300.0, "With --coordinator_address: seconds to wait for the others."
)
REBUILD_INDEX = flags.DEFINE_bool(
    "rebuild_index", False, "Build the index of the data again."
)


def main(argv: list[str]) -> int:
    """Runs one mode and returns the exit code."""
    if argv[1:]:
        return fail(f"unexpected arguments: {' '.join(argv[1:])}")
    if CONFIG.value is None:
        return fail(
            "--config is missing; for example --config=configs/pretrain.py:tiny"
        )
    if "://" in WORKDIR.value:
        return fail(
            f"--workdir={WORKDIR.value} is an address; expected a folder, such as one "
            "on which the bucket is mounted"
        )
    config = CONFIG.value.to_dict()
    workdir = Path(WORKDIR.value or default_workdir(config)).expanduser().resolve()
    # Imported here, so that a wrong flag is answered at once.
    import jax

    from pixel_bert_jax import train
    from pixel_bert_jax.data import images
    from pixel_bert_jax.processes import hosts

    # The environment variable is JAX's own and wins.
    if config["compile_cache"] and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = str(Path(config["compile_cache"]).expanduser())
        jax.config.update("jax_compilation_cache_dir", cache)
    codes = {
        types.InputError: types.EXIT_BAD_INPUT,
        types.NonFiniteError: types.EXIT_NON_FINITE,
        types.HostError: types.EXIT_HOSTS,
        images.ImageError: types.EXIT_ERROR,
        types.BadImageBudgetError: types.EXIT_BAD_IMAGES,
    }
    try:
        join(config, workdir)
        if DRY_RUN.value:
            from pixel_bert_jax import dry_run

            dry_run.run(config)
        elif MODE.value == "evaluate":
            evaluate(config, workdir)
        elif MODE.value == "predict":
            predict(config, workdir)
        else:
            hosts.say(f"workdir {workdir}")
            train.train_and_evaluate(
                config,
                workdir,
                rebuild_index=REBUILD_INDEX.value,
                command=training_command(config),
            )
    except tuple(codes) as error:
        code = next(codes[kind] for kind in codes if isinstance(error, kind))
        fail(str(error))
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


def join(config: dict, workdir: Path) -> None:
    """Joins the other processes of a run of several, before a device is touched.

    Args:
      config: of this launch.
      workdir: that all share.

    Raises:
      InputError: flags that do not fit together.
      HostError: a process is missing or differs.
    """
    where = COORDINATOR.value
    if not where:
        if NUM_PROCESSES.value != 1 or PROCESS_ID.value:
            raise types.InputError(
                "--num_processes and --process_id need --coordinator_address=HOST:PORT"
            )
        return
    from pixel_bert_jax.processes import hosts

    group = None
    if where != "auto":
        group = hosts.Group(
            where, NUM_PROCESSES.value, PROCESS_ID.value, HOST_TIMEOUT.value
        )
    if REBUILD_INDEX.value:
        raise types.InputError(
            "--rebuild_index is for a single process; build the index first, such as "
            "by a run of --config.total='1 steps', then start all"
        )
    shared = {f.name: f.value for f in (MODE, DRY_RUN, SPLIT, OUTPUT, FIGURE)}
    hosts.start(group, {"config": config, "workdir": str(workdir), "flags": shared})


def leave(code: int) -> None:
    """Ends this process; after an error without waiting for anything.

    A thread that reads a file which never comes could be waited for without end.
    """
    if code in (types.EXIT_DONE, types.EXIT_PREEMPTED):
        sys.exit(code)
    if code == types.EXIT_HOSTS:
        time.sleep(1)  # all have the same to say; the end of one may end others
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(argv: list[str]) -> None:
    """Runs `main` and exits with its code."""
    leave(main(argv))


def evaluate(config: dict, workdir: Path) -> None:
    """Prints the held-out figures of a trained model; draws if asked to.

    The model is `init.model` if that is given, else the best (or newest) checkpoint of
    the workdir.
    """
    from pixel_bert_jax import evaluate as evaluation
    from pixel_bert_jax.processes import hosts

    if FIGURE.value and hosts.several():
        raise types.InputError("--figure is drawn by a single process")
    experiment, variables, name = trained(config, workdir, held_out=SPLIT.value)
    predict = evaluation.Predictor(experiment)
    figures = evaluation.run(
        experiment, variables, predict, oracle=True, workdir=workdir
    )
    if not hosts.first():
        return
    print(name)
    print(evaluation.table(figures))
    if FIGURE.value:
        from pixel_bert_jax.viz import held_out

        with evaluation.stream(experiment) as stream:
            shown = held_out.collect(
                stream, predict, variables, experiment.tokenizer, FIGURE_PANELS
            )
        held_out.draw(shown, Path(FIGURE.value).expanduser())
        print(f"figure {FIGURE.value}")


def predict(config: dict, workdir: Path) -> None:
    """Writes the official file of a trained model's predictions."""
    from pixel_bert_jax import evaluate as evaluation
    from pixel_bert_jax.processes import hosts

    if not OUTPUT.value:
        raise types.InputError("--mode=predict needs --output=FILE")
    experiment, variables, name = trained(config, workdir, held_out=SPLIT.value)
    path = Path(OUTPUT.value).expanduser()
    number, corpus = evaluation.write_predictions(experiment, variables, path, workdir)
    if hosts.first():
        print(f"{name}\n{number:,} predictions of {corpus!r} written to {path}")


def trained(config: dict, workdir: Path, **options: Any) -> tuple[Any, Any, str]:
    """Returns experiment, variables and name of the model that a launch means.

    It is `init.model` if that is given, else the best (or newest) checkpoint of the
    workdir. What a preset starts from by itself is not meant.
    """
    from pixel_bert_jax import evaluate as evaluation

    options["rebuild_index"] = REBUILD_INDEX.value
    where = config["init"]["model"]
    if where and where != default_config(config)["init"]["model"]:
        experiment, found = evaluation.from_model(config, where, **options)
        variables, record = found.variables, found.provenance
        step, digest = record.get("step", "unknown"), record.get("sha256", "unknown")
    else:
        where = workdir
        experiment, state, _ = evaluation.from_workdir(config, workdir, **options)
        variables = state.variables
        step, digest = int(state.step), trees.digest(state)
    return experiment, variables, f"step {step} of {where}, SHA-256 {digest}"


def training_command(config: dict) -> str:
    """Returns the command that trains with a config: its preset, and what differs.

    Fields that say where files lie are left out.
    """
    source = CONFIG_FILE.format(name=config_name(), preset=config["preset"])
    default = default_config(config)
    # Through json, which knows lists only and no tuples.
    default, config = (
        trees.flatten(json.loads(json.dumps(c))) for c in (default, config)
    )
    words = [f"python -m pixel_bert_jax.main --config={source}"]
    for path, value in config.items():
        if path not in checks.PLACES and value != default.get(path, value):
            name = path.replace(trees.SEPARATOR, ".")
            words.append(shlex.quote(f"--config.{name}={tuples(value)}"))
    return " ".join(words)


def default_config(config: dict) -> dict[str, Any]:
    """Returns a config's preset without any change."""
    return load_config(f"{config_file()}:{config['preset']}")


def tuples(value: Any) -> Any:
    """Returns a value with tuples for lists, as config flags want them."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def config_file() -> str:
    """Returns the path of the config file, as it was given."""
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    return name.partition(":")[0]


def config_name() -> str:
    """Returns the name of the config file without folder and ending."""
    return Path(config_file()).stem


def default_workdir(config: dict) -> str:
    """Returns runs/<config>_<preset>."""
    return os.path.join(
        "runs", "_".join(filter(None, (config_name(), config["preset"])))
    )


def fail(message: str) -> int:
    """Prints a message for the user and returns the exit code of bad input."""
    print(f"error: {message}", file=sys.stderr)
    return types.EXIT_BAD_INPUT


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; anything wrong in it ends with exit code 2."""
    try:
        check_config(argv[1:])
        rest = flags.FLAGS(argv)
    except (flags.Error, types.InputError) as error:
        sys.exit(fail(str(error)))
    # `app.run` would make it INFO, at which checkpointing tells of every file.
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING
    return rest


def check_config(arguments: list[str]) -> None:
    """Says what is wrong with --config and the fields that are set on it.

    config_flags would answer with a traceback, or with a bare name.

    Args:
      arguments: the command line without the program.

    Raises:
      InputError: no such file, preset or field, or a value of another type.
    """
    words = iter(arguments)
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if name == "config":
            config = load_config(value if equals else next(words, ""))
            fields = {
                path.replace(trees.SEPARATOR, "."): default
                for path, default in trees.flatten(config).items()
            }
        elif fields and name.startswith("config."):
            # "[" continues with an element of a tuple.
            path = name.removeprefix("config.").partition("[")[0]
            if path not in fields:
                raise types.InputError(
                    f"no config field {path!r}{types.nearest(path, fields)}"
                )
            if equals and isinstance(fields[path], int | float):
                check_number(path, value, fields[path])


def check_number(path: str, text: str, default: Any) -> None:
    """Checks a number or truth value given for a config field.

    Raises:
      InputError: `text` is of another type than `default`.
    """
    parser = {bool: flags.BooleanParser, int: flags.IntegerParser}.get(
        type(default), flags.FloatParser
    )()
    try:
        parser.parse(text)
    except ValueError as error:
        raise types.InputError(
            f"config field {path}: expected {type(default).__name__} such as "
            f"{default}, received {text!r}"
        ) from error


def load_config(value: str) -> dict[str, Any]:
    """Returns the config of FILE:ARGUMENT.

    Raises:
      InputError: no such file, or what its `get_config` says of the argument.
    """
    name, colon, argument = value.partition(":")
    path = Path(name)
    if not path.is_file():
        there = [str(other) for other in path.parent.glob("*.py")]
        raise types.InputError(
            f"--config={value}: no file {name!r}{types.nearest(name, there)}"
        )
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        config = module.get_config(*[argument][: len(colon)])
    except ValueError as error:
        raise types.InputError(f"--config={value}: {error}") from error
    return config.to_dict()


if __name__ == "__main__":
    app.run(run, flags_parser=parse_flags)
