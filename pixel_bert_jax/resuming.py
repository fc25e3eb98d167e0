"""The state that a run starts from: its own checkpoint, weights, or scratch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax

from pixel_bert_jax import metrics, objectives, trained
from pixel_bert_jax.checkpoints import checkpointing
from pixel_bert_jax.config import resolve
from pixel_bert_jax.convert import starting
from pixel_bert_jax.convert.pretrained import Pretrained
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.tasks import Task
from pixel_bert_jax.training import optim
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import InputError

BAD_IMAGES = "bad_images.jsonl"


def restore_or_create(
    experiment: Experiment, checkpoints: checkpointing.Checkpoints, workdir: Path
) -> tuple[TrainState, int]:
    """Returns the newest state of the workdir, or a new one, and its step.

    Raises:
      InputError: the workdir's checkpoint was made with another config or other data.
    """
    config = experiment.config
    newest = checkpoints.newest_step()
    hosts.compare({"newest checkpoint": str(newest)})
    if newest is None:
        if hosts.first():
            text = json.dumps(config.to_dict(), indent=2) + "\n"
            (workdir / "config.json").write_text(text)
        truncate_logs(workdir, 0)
        return create(experiment), 0
    meta = checkpoints.read_meta()
    where = f"the checkpoint in {workdir}"
    old = resolve(meta["config"])
    checkpointing.check_same_config(
        *(
            one.to_dict() | {"objectives": objectives.complete(one.objectives)}
            for one in (old, config)
        ),
        where,
    )
    if meta.get("answers") != experiment.meta["answers"]:
        raise InputError(
            f"{where} has other answers, or another order of them, than data.answers "
            f"= {config.data.answers!r}; give another --workdir"
        )
    for name, now in (
        ("plan", experiment.train_plan.fingerprint),
        ("index", experiment.train_index.fingerprint),
    ):
        if meta[name] != now:
            raise InputError(
                f"{where} was trained on other data: its {name} is {meta[name][:12]}, "
                f"now it is {now[:12]}; give another --workdir"
            )
    state = checkpoints.restore(experiment.target)
    step = int(jax.device_get(state.step))
    truncate_logs(workdir, step)
    hosts.say(f"resuming from step {step} of {workdir}")
    return state, step


def create(experiment: Experiment) -> TrainState:
    """Returns a new state, from the weights that `config.init` names or from scratch.

    Raises:
      InputError: weights are missing where they are required, or do not fit.
    """
    init, task = experiment.config.init, experiment.task
    parts = [name for name in ("text", "cnn") if getattr(init, name)]
    if init.model:
        if parts:
            raise InputError(
                f"init.model, a whole model, and init.{parts[0]} are both given; "
                "expected one or the other"
            )
        found = trained.load_model(init.model)
        _check_tokens(found, experiment)
        arrays, report = starting.from_trained(
            found,
            experiment.config.model,
            experiment.variable_shapes,
            init.model,
            inherits=inherited(task),
        )
        hosts.say(f"starting from the model in {init.model}: {report}")
        check_frozen(experiment, arrays)
        return experiment.create_state(arrays)
    if len(parts) < 2 and not init.allow_scratch:
        raise InputError(
            "this size starts from weights: init.model names none, and "
            f"{'only init.' + parts[0] if parts else 'neither init.text nor init.cnn'} "
            "does; pass --config.init.allow_scratch=True to train the rest from scratch"
        )
    arrays, reports = starting.load(
        init,
        experiment.config.model,
        experiment.variable_shapes,
        experiment.tokenizer.vocabulary,
    )
    for name, found in reports.items():
        hosts.say(f"init.{name} = {getattr(init, name)}: {found}")
    if not reports:
        hosts.say("starting from scratch")
    check_frozen(experiment, arrays)
    return experiment.create_state(arrays)


def check_frozen(experiment: Experiment, loaded: Collection[str]) -> None:
    """Refuses to freeze weights that start at random, which would stay so.

    Stages of the CNN that `model.backbone.frozen_stages` freezes give a warning: the
    default suits a CNN with weights.

    Args:
      experiment: the run.
      loaded: paths of the arrays that were loaded, "params/...".

    Raises:
      InputError: `optim.rules` freeze a kernel that was not loaded; names the first.
    """
    task, groups = experiment.task, experiment.optimizer.groups
    random = [
        path
        for path, group in groups.items()
        if group == optim.FROZEN
        and path.endswith("/kernel")
        and f"params/{path}" not in loaded
    ]
    stages = [p for p in random if any(re.fullmatch(x, p) for x in task.frozen)]
    if by_rules := [path for path in random if path not in stages]:
        raise InputError(
            f"optim.rules freeze {len(by_rules)} kernels that start at random, such as "
            f"{by_rules[0]}: start from a model that has them (init.model), or train "
            "them, e.g. everything by "
            "--config.optim.rules=\"(('backbone/.*', 'cnn'), ('.*', 'transformer'))\""
        )
    if stages:
        hosts.say(
            f"warning: {len(stages)} kernels start at random and are frozen by "
            f"model.backbone.frozen_stages, such as {stages[0]}; "
            "--config.model.backbone.frozen_stages=-1 trains them"
        )


def inherited(task: Task) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """Returns `Objective.inherits` of all objectives, with whole paths."""
    return {
        f"params/heads/{o.name}/{path}": (f"params/heads/{source}", function)
        for o in task.objectives
        for path, (source, function) in o.inherits.items()
    }


def _check_tokens(found: Pretrained, experiment: Experiment) -> None:
    """Refuses a model of other words or answers, whose ids mean something else."""
    name = experiment.config.init.model
    if found.tokenizer.fingerprint != experiment.tokenizer.fingerprint:
        raise InputError(
            f"the model in {name} has another vocabulary ({found.tokenizer}) than "
            f"data.tokenizer = {experiment.config.data.tokenizer!r} "
            f"({experiment.tokenizer}); a folder's own is data.tokenizer={name}"
        )
    if None in (found.answers, experiment.answers):
        return
    theirs, ours = found.answers, experiment.answers
    if theirs.fingerprint != ours.fingerprint:
        raise InputError(
            f"the model in {name} has other answers, or another order of them "
            f"({len(theirs)}, {theirs.fingerprint[:12]}), than this run ({len(ours)}, "
            f"{ours.fingerprint[:12]}); give its own list as data.answers"
        )


def truncate_logs(workdir: Path, step: int) -> None:
    """Removes log lines that a killed run wrote after the checkpoint of `step`."""
    if hosts.first():
        metrics.truncate_log(workdir / metrics.FILE, step)
    # Bad images are listed with the step of the plan, which counts from 0.
    metrics.truncate_log(workdir / bad_images_file(), step - 1)


def bad_images_file() -> str:
    """Returns the name of this process's list, since each decodes other images."""
    number = jax.process_index()
    return f"bad_images.{number}.jsonl" if number else BAD_IMAGES
