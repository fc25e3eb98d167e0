"""Trained models, from a workdir, an exported folder or the hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pixel_bert_jax import metrics, trees
from pixel_bert_jax.checkpoints.checkpointing import (
    BEST,
    FOLDER,
    LATEST,
    Checkpoints,
)
from pixel_bert_jax.config import Config, places, replace, resolve
from pixel_bert_jax.convert.pretrained import (
    CONFIG,
    IMAGE_FIELD,
    Pretrained,
    check_fits,
    from_pretrained,
)
from pixel_bert_jax.convert.starting import check_architecture
from pixel_bert_jax.data.corpora import Corpora, data_root
from pixel_bert_jax.data.index import Index
from pixel_bert_jax.data.text import WordPiece, load_tokenizer
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary, load_answers
from pixel_bert_jax.experiment import Experiment
from pixel_bert_jax.processes import hosts
from pixel_bert_jax.training.train_state import TrainState
from pixel_bert_jax.types import InputError, Params, refuse_to_run


@dataclasses.dataclass(frozen=True)
class Trained:
    """The trained model of a launch, with the experiment of this launch.

    Attributes:
      experiment: experiment of this launch, for this model.
      variables: parameters and running statistics.
      name: description of the model, for messages.
      configs: configs that it was trained with, the last one first.
    """

    experiment: Experiment
    variables: Params
    name: str
    configs: tuple[Config, ...]


def find(config: Config, workdir: Path, *, named: bool, rebuild_index: bool) -> Trained:
    """Returns the trained model that a launch names.

    It is `init.model` if the command line gives it, otherwise the best (or newest)
    checkpoint of the workdir.

    Args:
      config: config of this launch.
      workdir: folder of a training run.
      named: whether the command line gives `init.model`. One that only the preset
        gives is what training starts from, not its result.
      rebuild_index: build the indexes of the data again.

    Raises:
      InputError: there is no model, or it does not fit the config.
    """
    where = config.init.model
    if named and where:
        experiment, found = from_model(config, where, rebuild_index=rebuild_index)
        variables, record = found.variables, found.provenance
        step, digest = record.get("step"), record.get("sha256", "unknown")
        step = "unknown" if step is None else step  # of changed variables
        old = resolve(found.config)
    else:
        where = workdir
        experiment, state, meta = from_workdir(
            config, workdir, rebuild_index=rebuild_index
        )
        old = resolve(meta["config"])
        variables = state.variables
        step, digest = int(state.step), trees.digest(state)
    name = f"step {step} of {where}, SHA-256 {digest}"
    return Trained(experiment, variables, name, (old, *ancestors(old)))


def ancestors(config: Config) -> Iterator[Config]:
    """Yields the config of the model that a run started from, of the one before, ...

    It ends with a run from scratch, or where a folder is not on this machine.
    """
    seen = set()
    while (name := config.init.model) and name not in seen:
        seen.add(name)
        try:
            content = dict(json.loads((Path(name).expanduser() / CONFIG).read_text()))
            content.pop(IMAGE_FIELD, None)
            config = resolve(content)
        except (OSError, ValueError, TypeError, InputError) as error:
            hosts.say(
                f"warning: training started from {name}, whose {CONFIG} cannot be read "
                f"({str(error).splitlines()[0]}): its training data are not compared "
                "with held-out data"
            )
            return
        yield config


class TrainedOn(NamedTuple):
    """What a model was trained on.

    Attributes:
      index: index of the photos and texts.
      earlier: whether it was the model that training started from.
    """

    index: Index
    earlier: bool


def training_indexes(
    experiment: Experiment, configs: Sequence[Config], places: Collection[str]
) -> list[TrainedOn]:
    """Returns the indexes of what a model was trained on, as far as they are here.

    Args:
      experiment: experiment of this launch.
      configs: configs that the model was trained with, the last one first. The index of
        this launch's own one is built if there is none, as is that of generated data.
        Of photos of other configs it is opened if there is one, and otherwise a warning
        says that they are not compared.
      places: `Source.place` of what is evaluated; generated data of other places never
        have the same images.
    """
    data, found = experiment.config.data, []
    for number, config in enumerate(configs):
        if config is experiment.config:
            found.append(TrainedOn(experiment.train_index, earlier=False))
            continue
        here = {"data.root": data.root, "data.index_dir": data.index_dir}
        corpora = Corpora(replace(config, here), lambda: experiment.tokenizer)
        index, reason = None, "there is no index of them in data.index_dir"
        try:
            sources = corpora.sources("train")
            if any(source.path("") is not None for source in sources):
                index = corpora.built_index("train")
            elif places.isdisjoint(source.place() for source in sources):
                continue
            else:
                index = corpora.index("train")
        except InputError as error:
            reason = str(error).splitlines()[0]
        if index is None:
            names = ", ".join(str(c["name"]) for c in config.data.corpora)
            hosts.say(
                "warning: held-out photos are not compared with those that the model "
                f"was trained on before, in {names}: {reason}"
            )
        else:
            found.append(TrainedOn(index, earlier=number > 0))
    return found


def from_workdir(
    config: Config | None, workdir: Path, **options: Any
) -> tuple[Experiment, TrainState, dict[str, Any]]:
    """Loads a workdir's best checkpoint, or the newest if none was kept as best.

    Args:
      config: config of this launch; architecture and tokenizer have to be the
        checkpoint's, the objectives are. None: the checkpoint's own config, on one
        device.
      workdir: folder of a training run.
      options: further arguments of `Experiment`.

    Returns:
      The experiment of this launch, the state, and the checkpoint's `meta` record.

    Raises:
      InputError: no checkpoint, or a different model; lists the differences.
    """
    if not (workdir / FOLDER).is_dir():
        raise InputError(
            f"no checkpoint in {workdir}: expected {workdir / FOLDER}, which a "
            "training run with the same --workdir makes"
        )
    fallback = config is not None and config.checkpoint.fallback
    checkpoints = Checkpoints(workdir, keep=1, read_only=True, fallback=fallback)
    which = BEST if checkpoints.newest_step(BEST) is not None else LATEST
    if checkpoints.newest_step(which) is None:
        raise InputError(f"no complete checkpoint in {workdir / FOLDER}")
    meta = checkpoints.read_meta(which)
    stored, old = meta["tokenizer"], resolve(meta["config"])
    tokenizer = WordPiece(stored["vocabulary"], lower_case=stored["lower_case"])
    if config is None:
        config = replace(old, {"mesh.data": 1, "mesh.fsdp": 1, "mesh.model": 1})
        options["devices"] = jax.local_devices()[:1]
    answers = AnswerVocabulary(meta["answers"]) if meta.get("answers") else None
    where = f"the checkpoint in {workdir}"
    config = _for_model(old, config, tokenizer, answers, where)
    experiment = Experiment(config, tokenizer=tokenizer, answers=answers, **options)
    state = checkpoints.restore(experiment.stored_target(old), which)
    checkpoints.close()
    return experiment, state, meta


def load_model(name: str | Path) -> Pretrained:
    """Loads a trained model from a workdir, an exported folder or the hub.

    Args:
      name: workdir of a run, whose best (or newest) checkpoint is loaded, or a name for
        `from_pretrained`.

    Raises:
      InputError: there is no model, or it is damaged.
    """
    workdir = Path(name).expanduser()
    if not (workdir / FOLDER).is_dir():
        return from_pretrained(name)
    experiment, state, meta = from_workdir(None, workdir)
    config, step = resolve(meta["config"]), int(state.step)
    provenance = {
        "step": step,
        "sha256": trees.digest(state),
        "seed": config.seed,
        "command": meta.get("command", ""),
        "figures": metrics.as_json(
            meta.get("figures") or metrics.evaluations(workdir).get(step, {})
        ),
    }
    # Paths on this machine mean nothing elsewhere.
    config = replace(config, dict.fromkeys(places(config), ""))
    variables = jax.tree.map(trees.whole, state.variables)
    return Pretrained.of(
        variables,
        config.to_dict(),
        experiment.tokenizer,
        provenance,
        experiment.answers,
    )


def from_model(
    config: Config, name: str | Path, **options: Any
) -> tuple[Experiment, Pretrained]:
    """Returns the experiment of this launch for a trained model, and the model.

    Args:
      config: config of this launch; architecture and tokenizer have to be the model's,
        the objectives are.
      name: see `load_model`.
      options: further arguments of `Experiment`.

    Raises:
      InputError: no such model, or a different one; lists the differences.
    """
    found = load_model(name)
    where = f"the model in {name}"
    old = resolve(found.config)
    config = _for_model(old, config, found.tokenizer, found.answers, where)
    experiment = Experiment(
        config, tokenizer=found.tokenizer, answers=found.answers, **options
    )
    check_fits(found.variables, experiment.variable_shapes, where)
    return experiment, found


def _for_model(
    old: Config,
    new: Config,
    tokenizer: WordPiece,
    answers: AnswerVocabulary | None,
    where: str,
) -> Config:
    """Returns the config of this launch with the objectives of a trained model.

    Its heads are those that it was trained with, so that any evaluator that one of them
    suits can run, such as retrieval after pre-training.

    Args:
      old: config that the model was trained with.
      new: config of this launch.
      tokenizer: the model's tokenizer.
      answers: the model's answer vocabulary.
      where: names the model in the message.

    Raises:
      InputError: another architecture, vocabulary or other answers.
    """
    check_architecture(old.model, new.model, where)
    name = new.data.tokenizer
    # The model brings its tokenizer, so a file is read only if another one is named.
    if name != old.data.tokenizer:
        asked = load_tokenizer(name)
        if asked.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{where} has another vocabulary ({tokenizer}) than data.tokenizer = "
                f"{name!r} ({asked})"
            )
    name = new.data.answers
    if answers is not None and name and name != old.data.answers:
        listed = load_answers(name, data_root(new))
        if listed.fingerprint != answers.fingerprint:
            raise InputError(
                f"{where} has {len(answers)} answers, data.answers = {name!r} has "
                f"{len(listed)}, or another order"
            )
    return replace(new, {"objectives": old.objectives})


if __name__ == "__main__":
    refuse_to_run("trained")
