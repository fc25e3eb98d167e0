"""Evaluation during training, and of trained models wherever they lie."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from pixel_bert_jax import checks, metrics, trees
from pixel_bert_jax.checkpoints import checkpointing
from pixel_bert_jax.checkpoints.checkpointing import BEST, FOLDER, LATEST, Checkpoints
from pixel_bert_jax.convert.pretrained import Pretrained, check_fits, from_pretrained
from pixel_bert_jax.data.pipeline import Step, Stream
from pixel_bert_jax.data.text import WordPiece, load_tokenizer
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary, load_answers
from pixel_bert_jax.evaluators import EVALUATORS, base
from pixel_bert_jax.evaluators.base import Evaluator, Settings, to_host
from pixel_bert_jax.experiment import Experiment, data_root
from pixel_bert_jax.ops.image import prepare_images
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.training import sharding
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import Batch, InputError, Params


class Predictor:
    """Runs a task's predict functions on a mesh; see `evaluators.base.Predict`.

    Batches are filled up with empty groups until they divide over the devices, so that
    any number of groups can be evaluated on any number of devices.
    """

    def __init__(
        self, experiment: Experiment, alive: Callable[[str], None] | None = None
    ):
        """Compiles nothing yet.

        Args:
          experiment: gives mesh, task and the rules of `config.sharding`.
          alive: is called before every batch, with what it is for; what it raises ends
            the evaluation.
        """
        self._mesh = experiment.mesh
        self._alive = alive or (lambda what: None)
        rules = experiment.config["sharding"]

        def compiled(
            function: Callable[[Params, Batch], dict[str, Array]],
        ) -> Callable[[Params, Batch], dict[str, Array]]:
            @functools.wraps(function)
            def run(variables: Params, batch: Batch) -> dict[str, Array]:
                params = sharding.gathered(variables["params"], self._mesh, rules)
                return function({**variables, "params": params}, batch)

            return jax.jit(run)

        self._functions = {
            name: compiled(function)
            for name, function in experiment.task.predict.items()
        }
        self.names = tuple(self._functions)

    def __call__(
        self, name: str, variables: Params, step: Step
    ) -> dict[str, np.ndarray]:
        """Runs one on a step of a stream and returns host arrays."""
        out = to_host(self.run(name, variables, self.place(step)))
        groups = len(step.batch["example_mask"])
        return {key: x[:groups] for key, x in out.items()}

    def place(self, step: Step) -> Batch:
        """Puts a step of a stream onto the devices, its images resized."""
        return prepare_images(self._placed(step.batch), canvas=step.canvas)

    def run(self, name: str, variables: Params, batch: Batch) -> dict[str, Array]:
        """Runs one on arrays [G, ...]; the results, filled up, stay on the devices."""
        self._alive(f"a batch of {name} in an evaluation")
        host = {k: x for k, x in batch.items() if isinstance(x, np.ndarray)}
        return self._functions[name](variables, {**batch, **self._placed(host)})

    def _placed(self, batch: Batch) -> Batch:
        shards = sharding.data_shards(self._mesh)

        def filled(x: np.ndarray) -> np.ndarray:
            missing = -len(x) % shards
            if not missing:  # as a rule; photos are not copied for nothing
                return x
            return np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))

        full = {key: filled(x) for key, x in batch.items()}
        return sharding.place_whole(full, self._mesh, sharding.EVAL_SPEC)


def evaluator(
    experiment: Experiment, *, oracle: bool = False, workdir: Path | None = None
) -> Evaluator:
    """Makes the evaluator of the experiment's task.

    Args:
      experiment: gives task, tokenizer, answers and plan.
      oracle: also compute the ceilings of generated data.
      workdir: where a long evaluation may leave what it has.
    """
    config, plan = experiment.config, experiment.evaluation_plan.fingerprint
    settings = Settings(
        experiment.tokenizer,
        experiment.answers,
        config["eval"],
        oracle,
        objectives=tuple(config["objectives"]),
        plan=f"{plan} blank={config['data']['blank_images']}",
        # Of several processes each would have to know what all have.
        folder=None if hosts.several() else workdir,
    )
    return EVALUATORS[config["task"]["name"]](settings)


def run(
    experiment: Experiment,
    variables: Params,
    predict: Predictor,
    *,
    oracle: bool,
    workdir: Path | None = None,
) -> dict[str, float]:
    """Evaluates on every held-out example once.

    Args:
      experiment: gives plan, index, task.
      variables: parameters and running statistics.
      predict: kept by the caller so that it compiles once.
      oracle: also compute the ceilings of embedded data.
      workdir: where a long evaluation may leave what it has.
    """
    one = evaluator(experiment, oracle=oracle, workdir=workdir)
    with stream(experiment) as batches:
        index = experiment.evaluation_index
        figures = dict(one.run(predict, variables, batches, index))
        return base.marked(figures, index, batches.missing)


def write_predictions(
    experiment: Experiment, variables: Params, path: Path, workdir: Path
) -> tuple[int, str]:
    """Predicts every held-out example and writes the task's official file.

    Args:
      experiment: gives plan, index, task.
      variables: parameters and running statistics.
      path: of the file.
      workdir: where a long prediction may leave what it has.

    Returns:
      The number of predictions and the corpus.

    Raises:
      InputError: the task has no such file, or one of another name, or there is more
        than one corpus.
    """
    task = experiment.config["task"]["name"]
    if not hasattr(EVALUATORS[task], "write"):
        able = [n for n, e in EVALUATORS.items() if hasattr(e, "write")]
        raise InputError(
            f"the task {task!r} has no official file; expected {' or '.join(able)}"
        )
    suffix = getattr(EVALUATORS[task], "suffix", "")
    if not path.name.endswith(suffix):  # told before hours of work
        raise InputError(f"--output is {path}, expected a name that ends in {suffix}")
    index = experiment.evaluation_index
    if len(index.corpora) != 1:
        raise InputError(
            f"predictions are of one corpus, received {', '.join(index.corpora)}"
        )
    one = evaluator(experiment, workdir=workdir)
    with stream(experiment) as batches:
        (found,) = one.predictions(Predictor(experiment), variables, batches, index)
    if hosts.first():
        path.parent.mkdir(parents=True, exist_ok=True)
        one.write(path, found, index)
    return len(found), index.corpora[0]


def figure_names(experiment: Experiment) -> list[str]:
    """Returns the names of the figures of the held-out examples."""
    index = experiment.evaluation_index
    names = evaluator(experiment).names(index)
    return list(base.marked(dict.fromkeys(names, 0.0), index, []))


def stream(experiment: Experiment) -> Stream:
    """Opens the stream of held-out examples.

    Where all are needed a bad image is an error, whatever the policy.
    """
    data = experiment.config["data"]
    needs_all = EVALUATORS[experiment.config["task"]["name"]].needs_all
    return Stream(
        experiment.evaluation_plan,
        experiment.evaluation_index,
        on_bad_image="error" if needs_all else data["on_bad_image"],
        bad_image_budget=data["bad_image_budget"],
        workers=data["workers"],
        prefetch=data["prefetch"],
        blank_images=data["blank_images"],
    )


def from_workdir(
    config: Mapping[str, Any] | None, workdir: Path, **options: Any
) -> tuple[Experiment, TrainState, dict[str, Any]]:
    """Loads a workdir's best checkpoint, or the newest if none was kept as best.

    Args:
      config: of this launch; model, objectives and tokenizer must be the checkpoint's.
        None: the checkpoint's own, on one device.
      workdir: of the training run.
      options: of `Experiment`.

    Returns:
      The experiment of this launch, the state, and the checkpoint's `meta` record.

    Raises:
      InputError: no checkpoint, or one of another model; lists the differences.
    """
    if not (workdir / FOLDER).is_dir():
        raise InputError(
            f"no checkpoint in {workdir}: expected {workdir / FOLDER}, which a "
            "training run with the same --workdir makes"
        )
    fallback = bool(config and config["checkpoint"].get("fallback"))
    checkpoints = Checkpoints(workdir, keep=1, read_only=True, fallback=fallback)
    which = BEST if checkpoints.newest_step(BEST) is not None else LATEST
    if checkpoints.newest_step(which) is None:
        raise InputError(f"no complete checkpoint in {workdir / FOLDER}")
    meta = checkpoints.read_meta(which)
    stored = meta["tokenizer"]
    tokenizer = WordPiece(stored["vocabulary"], lower_case=stored["lower_case"])
    where = f"the checkpoint in {workdir}"
    if config is None:
        config = {**meta["config"], "mesh": {"data": 1}}
        options["devices"] = jax.local_devices()[:1]
    answers = AnswerVocabulary(meta["answers"]) if meta.get("answers") else None
    _check_same_model(meta["config"], config, tokenizer, answers, where)
    experiment = Experiment(config, tokenizer=tokenizer, answers=answers, **options)
    state = checkpoints.restore(experiment.stored_target(meta["config"]), which)
    checkpoints.close()
    return experiment, state, meta


def load_model(name: str | Path) -> Pretrained:
    """Loads a trained model from a workdir, an exported folder or the hub.

    Args:
      name: a run's workdir, of which the best (or newest) checkpoint counts, or what
        `from_pretrained` takes.

    Raises:
      InputError: there is no model, or a damaged one.
    """
    workdir = Path(name).expanduser()
    if not (workdir / FOLDER).is_dir():
        return from_pretrained(name)
    experiment, state, meta = from_workdir(None, workdir)
    config, step = meta["config"], int(state.step)
    provenance = {
        "step": step,
        "sha256": trees.digest(state),
        "seed": config["seed"],
        "command": meta.get("command", ""),
        "figures": metrics.as_json(
            meta.get("figures") or metrics.evaluation_at(workdir, step) or {}
        ),
    }
    # Where files lay is of no use elsewhere, and nobody's business.
    places = dict.fromkeys(checks.PLACES, "")
    config = trees.unflatten(trees.flatten(config) | places)
    variables = jax.tree.map(trees.whole, state.variables)
    return Pretrained.of(
        variables, config, experiment.tokenizer, provenance, experiment.answers
    )


def from_model(
    config: Mapping[str, Any], name: str | Path, **options: Any
) -> tuple[Experiment, Pretrained]:
    """Makes the experiment of this launch around a trained model.

    Args:
      config: of this launch; model, objectives and tokenizer must be the model's.
      name: see `load_model`.
      options: of `Experiment`.

    Raises:
      InputError: no such model, or another one; lists the differences.
    """
    found = load_model(name)
    where = f"the model in {name}"
    _check_same_model(found.config, config, found.tokenizer, found.answers, where)
    experiment = Experiment(
        config, tokenizer=found.tokenizer, answers=found.answers, **options
    )
    check_fits(found.variables, experiment.variable_shapes, where)
    return experiment, found


def _check_same_model(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    tokenizer: WordPiece,
    answers: AnswerVocabulary | None,
    where: str,
) -> None:
    """Compares what a model is: architecture, heads, vocabulary and answers.

    How it was trained may differ, and what it is evaluated on.

    Args:
      old: config that the model was trained with.
      new: config of this launch.
      tokenizer: of the model.
      answers: of the model.
      where: names the model in the message.

    Raises:
      InputError: lists the differences.
    """

    def model(config: Mapping[str, Any]) -> dict[str, Any]:
        heads = sorted(config["objectives"])
        return {"task": config["task"], "model": config["model"], "objectives": heads}

    checkpointing.check_same_config(model(old), model(new), where)
    name = new["data"]["tokenizer"]
    # Its own tokenizer needs no file, so another is opened only if one is asked for.
    if name != old["data"]["tokenizer"]:
        asked = load_tokenizer(name)
        if asked.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{where} has another vocabulary ({tokenizer}) than data.tokenizer = "
                f"{name!r} ({asked})"
            )
    name = new["data"].get("answers", "")
    if answers is not None and name and name != old["data"].get("answers"):
        listed = load_answers(name, data_root(new))
        if listed.fingerprint != answers.fingerprint:
            raise InputError(
                f"{where} has {len(answers)} answers, data.answers = {name!r} has "
                f"{len(listed)}, or another order"
            )


def table(figures: Mapping[str, float]) -> str:
    """Formats figures as lines of name and value."""
    width = max(map(len, figures), default=0)
    return "\n".join(
        f"  {name:<{width}}  {value:.4f}" for name, value in figures.items()
    )
