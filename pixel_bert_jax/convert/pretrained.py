"""A trained model as one object and as a folder of files in common formats.

`model.safetensors` contains every variable under its path ("params/encoder/...",
"batch_stats/backbone/..."), `config.json` the resolved config and the normalisation of
images, `vocab.txt` and `tokenizer_config.json` the tokenizer, `answers.json` the
classes of a model that answers questions, `provenance.json` the origin of the model,
and `README.md` its model card.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pixel_bert_jax import trees
from pixel_bert_jax.config import Data, resolve
from pixel_bert_jax.convert import card
from pixel_bert_jax.convert.hub import HUB_ERRORS, fetch
from pixel_bert_jax.convert.photos import to_pixels
from pixel_bert_jax.data import durable, geometry, images
from pixel_bert_jax.data.sources.files import is_unicode
from pixel_bert_jax.data.text import (
    CONFIG_FILE,
    VOCABULARY_FILE,
    WordPiece,
    load_tokenizer,
)
from pixel_bert_jax.data.vqa_answers import AnswerVocabulary, read_vocabulary
from pixel_bert_jax.models.pixel_bert import PixelBert
from pixel_bert_jax.ops import image
from pixel_bert_jax.trees import digest
from pixel_bert_jax.types import InputError, Params

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
CARD, ANSWERS = "README.md", "answers.json"
FILES = (WEIGHTS, CONFIG, PROVENANCE, VOCABULARY_FILE, CONFIG_FILE, ANSWERS)
# The normalisation of `ops/image.py`, for other readers of config.json.
IMAGE_FIELD = "image"
IMAGE = {"channels": "RGB", "mean": list(image.RGB_MEAN), "std": list(image.RGB_STD)}
CHECKSUM, ORIGIN = "variables_sha256", "derived_from"  # fields of the provenance
SHOWN = 5  # paths in a message


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained model with everything that is needed to use it.

    Attributes:
      model: the Flax module; `model.apply(variables, **inputs(photos, texts))` runs the
        transformer over texts and pixels, see `PixelBert`.
      variables: {"params", "batch_stats"}, numpy float32; the parameters of the heads
        are under params/heads.
      tokenizer: maps texts to token ids.
      config: config of the training run, as a dict.
      provenance: JSON values: `step`, `sha256` of the training state, `seed`,
        `command`, `figures` {name: value}, the metrics on held-out data, and
        `variables_sha256`, the hash of the variables that these describe. Other
        variables are saved as derived from them, see `save_pretrained`.
      answers: the classes of a model that answers questions.
      half: whether kernels and tables are float16 in the folder that it was read from;
        it is then saved so again, unless the variables have changed.
    """

    model: PixelBert
    variables: Params
    tokenizer: WordPiece
    config: dict[str, Any]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    answers: AnswerVocabulary | None = None
    half: bool = False

    @classmethod
    def of(
        cls,
        variables: Params,
        config: Mapping[str, Any],
        tokenizer: WordPiece,
        provenance: Mapping[str, Any],
        answers: AnswerVocabulary | None = None,
    ) -> Pretrained:
        """Makes the module from the config and adds the variables' hash if missing."""
        model = PixelBert(resolve(config).model, tokenizer.vocab_size)
        record = dict(provenance)
        if CHECKSUM not in record:
            record[CHECKSUM] = digest(variables)
        return cls(model, variables, tokenizer, dict(config), record, answers)

    def inputs(self, photos: Any, texts: str | Sequence[str]) -> dict[str, Array]:
        """Makes the model's inputs from n photos with one text each.

        Args:
          photos: a photo or a sequence of n: paths or bytes of image files, PIL images,
            or arrays of uint8 or of floats in [0, 1]; see `photos.to_pixels`.
          texts: a text or a sequence of n.

        Returns:
          image [n, 1, H, W, 3], image_size [n, 1, 2], text_ids [n, 1, L] and
          text_mask [n, 1, L].

        Raises:
          InputError: the numbers of photos and texts differ or are 0, a text is not a
            string, or it has more than data.max_text_length tokens.
          ImageError: a photo cannot be used; see `photos.to_pixels`.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        pixels = to_pixels(photos)
        if len(pixels) != len(texts) or not texts:
            raise InputError(
                f"expected as many texts as photos and at least one, received "
                f"{len(pixels)} photos and {len(texts)} texts"
            )
        words = {name: x[:, None] for name, x in self.text_inputs(texts).items()}
        return {**self.photo_inputs(pixels), **jax.tree.map(jnp.asarray, words)}

    def text_inputs(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns text_ids int32 and text_mask bool, [n, L]; see `inputs`."""
        length = self.text_length
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise InputError(f"expected texts, received {type(wrong[0]).__name__}")
        if wrong := [text for text in texts if not is_unicode(text)]:
            raise InputError(f"expected texts, received half a character: {wrong[0]!r}")
        rows, cut = self.tokenizer.encode(texts, length)
        if cut:
            alone = (t for t in texts if self.tokenizer.encode([t], length)[1])
            raise InputError(
                f"{cut} texts have more than {length} tokens, [CLS] and [SEP] "
                "included, which is data.max_text_length of this model, such as "
                f"{next(alone)[:60]!r}"
            )
        ids = np.full((len(rows), length), self.tokenizer.pad_id, np.int32)
        mask = np.zeros(ids.shape, bool)
        for n, row in enumerate(rows):
            ids[n, : len(row)], mask[n, : len(row)] = row, True
        return {"text_ids": ids, "text_mask": mask}

    def photo_inputs(self, pixels: Sequence[np.ndarray]) -> dict[str, Array]:
        """Lays photos onto one canvas and resizes them, as training does.

        Args:
          pixels: result of `photos.to_pixels`.

        Returns:
          image [n, 1, H, W, 3] and image_size [n, 1, 2].
        """
        data = self._data
        sizes = np.array([[p.shape[:2] for p in pixels]])  # [1, n, 2]
        sides = data.source_canvases
        side = sides[int(geometry.choose_source(sizes, sides)[0])]
        source = np.zeros((len(pixels), 1, side, side, 3), np.uint8)
        for n, one in enumerate(pixels):
            images.lay(one, source[n, 0])
        short, long = data.short_side, data.long_side
        targets = geometry.target_sizes(sizes, short, long)
        # The square is for batches of landscape and portrait photos.
        canvases = [geometry.parse_canvas(c) for c in data.canvases]
        canvases.append((long, long))
        canvas = canvases[int(geometry.choose_canvas(targets, canvases)[0])]
        batch = {
            "image": source,
            "source_size": geometry.source_sizes(sizes, sides)[0, :, None],
            "image_size": targets[0, :, None],
        }
        arrays = {name: jnp.asarray(x) for name, x in batch.items()}
        found: dict[str, Array] = image.prepare_images(arrays, canvas=canvas)
        return found

    @property
    def text_length(self) -> int:
        """L, the largest number of tokens of a text, [CLS] and [SEP] included."""
        return self._data.max_text_length

    @functools.cached_property
    def _data(self) -> Data:
        return resolve(self.config).data

    def save_pretrained(self, folder: str | Path, *, half: bool | None = None) -> None:
        """Writes the files named at the top of this module into a new or empty folder.

        Variables that `provenance` does not describe, such as after further training
        (`dataclasses.replace(pretrained, variables=...)`), are saved as derived: their
        provenance has their own hash, no step and no metrics, and the old provenance in
        `derived_from`. To save another provenance instead, replace it as well, without
        `variables_sha256`.

        Args:
          folder: a new or empty folder.
          half: whether kernels and tables are rounded to float16 and take half of the
            space; biases, norms and statistics stay float32. The rounded variables are
            derived from these ones. None: if they are such variables already.

        Raises:
          InputError: the folder is not empty, or a value is too large for float16.
        """
        folder = empty_folder(folder)
        arrays = {
            path: np.asarray(jax.device_get(leaf))
            for path, leaf in trees.flatten(self.variables).items()
        }
        if half is None:
            half = self.half and self.provenance.get(CHECKSUM) == digest(self.variables)
        if half:
            arrays = {path: _halved(path, x) for path, x in arrays.items()}
        record = _record(self.provenance, digest(trees.unflatten(_float32(arrays))))
        self.tokenizer.save(folder)
        config = {**self.config, IMAGE_FIELD: IMAGE}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        if self.answers is not None:
            listed = json.dumps(self.answers.answers, indent=0, ensure_ascii=False)
            (folder / ANSWERS).write_text(listed + "\n")
        self._describe(folder, record)
        save_file(arrays, folder / WEIGHTS, {"format": "flax"})

    def _describe(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Writes the provenance and the model card."""
        leaves = jax.tree.leaves(self.variables)
        text = card.text(self.config, record, sum(leaf.size for leaf in leaves))
        durable.write(folder / PROVENANCE, json.dumps(record, indent=2) + "\n")
        durable.write(folder / CARD, text)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """Uploads the model's folder to the Hugging Face hub in one commit.

        An existing model card in the repository is not replaced.

        Args:
          repository: `org/name`; created if it does not exist.
          private: whether a new repository is private; None: the organisation's
            default.
          revision: branch; None: the main branch.
          token: access token; None: the one that `hf auth login` stored.

        Returns:
          The URL of the commit.

        Raises:
          InputError: the hub cannot be reached or rejects the upload.
        """
        hub = huggingface_hub.HfApi(token=token)
        try:
            hub.create_repo(repository, private=private, exist_ok=True)
            kept = hub.file_exists(repository, CARD, revision=revision)
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder)
                # `upload_folder` may split a folder over several commits.
                commit = hub.create_commit(
                    repository,
                    [
                        huggingface_hub.CommitOperationAdd(file.name, file)
                        for file in sorted(Path(folder).iterdir())
                        if not (kept and file.name == CARD)
                    ],
                    revision=revision,
                    commit_message="Upload of a model by pixel_bert_jax",
                )
        except HUB_ERRORS as error:
            raise InputError(f"{repository!r} on the hub: {error}") from error
        return commit.commit_url


def from_pretrained(
    folder_or_hub_id: str | Path, revision: str | None = None
) -> Pretrained:
    """Loads a model that `save_pretrained` or `push_to_hub` wrote, bit for bit.

    Args:
      folder_or_hub_id: a folder, `org/name`, or `org/name@revision`.
      revision: branch, tag or commit on the hub.

    Raises:
      InputError: a file is missing or damaged, the variables do not have the shapes
        that the config implies, or the hub does not provide the model.
    """
    folder = fetch(str(folder_or_hub_id), {WEIGHTS: FILES}, revision)
    found = _read(folder)
    # The module has no heads: a task adds them and checks their shapes.
    core = {n: x for n, x in found.variables["params"].items() if n != "heads"}
    shapes = jax.eval_shape(found.model.init, jax.random.key(0), **_example())
    check_fits(found.variables | {"params": core}, shapes, str(folder))
    return found


def add_figures(folder: str | Path, file: str | Path) -> int:
    """Adds metrics that were measured of a model to its provenance and model card.

    Args:
      folder: an exported model, whose model card is written anew.
      file: JSON object {name: value}, as `--mode=evaluate --output=FILE` writes it.

    Returns:
      The number of metrics.

    Raises:
      InputError: the folder is no exported model, or the file has no metrics.
    """
    folder, file = Path(folder).expanduser(), Path(file).expanduser()
    found = from_pretrained(folder)
    try:
        figures = read_object(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    numbers = [x for x in figures.values() if x is not None]  # None: undefined
    if not figures or any(isinstance(x, bool | str | list | dict) for x in numbers):
        raise InputError(f"{file} has no metrics, expected {{name: number, ...}}")
    old = found.provenance.get("figures") or {}
    found._describe(folder, {**found.provenance, "figures": old | figures})
    return len(figures)


def empty_folder(name: str | Path) -> Path:
    """Creates a folder unless it exists and is empty.

    Raises:
      InputError: it contains files, which could be mistaken for the new ones.
    """
    folder = Path(name).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; expected a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_fits(variables: Params, target: Params, where: str) -> None:
    """Raises InputError unless the variables have the shapes of a model.

    Args:
      variables: nested arrays.
      target: nested shapes of the model.
      where: names the origin of the variables in the message.
    """
    have, want = trees.flatten(variables), trees.flatten(target)
    wrong = [
        f"{path}: received {_shape(have.get(path))}, expected {_shape(want.get(path))}"
        for path in sorted(have.keys() | want.keys())
        if _shape(have.get(path)) != _shape(want.get(path))
    ]
    if wrong:
        raise InputError(
            f"{where} is of another architecture: {len(wrong)} tensors differ: "
            + "; ".join(wrong[:SHOWN])
        )


def read_object(file: Path) -> dict[str, Any]:
    """Returns the content of a JSON file.

    Raises:
      InputError: it is not a JSON object.
    """
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged: {error}") from error


def _read(folder: Path) -> Pretrained:
    for name in (WEIGHTS, CONFIG, VOCABULARY_FILE, PROVENANCE):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is no exported model: {name} is missing; expected a folder "
                "written by `python -m pixel_bert_jax.convert export`"
            )
    config, provenance = (read_object(folder / n) for n in (CONFIG, PROVENANCE))
    normalised = config.pop(IMAGE_FIELD, IMAGE)
    if normalised != IMAGE:
        raise InputError(
            f"{folder / CONFIG}: this version normalises images by {IMAGE}, the model "
            f"expects {normalised}"
        )
    try:
        arrays = load_file(folder / WEIGHTS)
        tree = trees.unflatten(_float32(arrays))
    except (SafetensorError, IndexError) as error:  # IndexError: both "a" and "a/b"
        raise InputError(f"{folder / WEIGHTS} is damaged: {error}") from error
    variables = {"params": {}, "batch_stats": {}} | tree
    checksum = digest(variables)
    if provenance.setdefault(CHECKSUM, checksum) != checksum:
        raise InputError(
            f"{folder / WEIGHTS} is damaged: its variables have the SHA-256 "
            f"{checksum}, {PROVENANCE} says {provenance[CHECKSUM]}"
        )
    answers = None
    if (folder / ANSWERS).is_file():
        answers = read_vocabulary(folder / ANSWERS)
    found = Pretrained.of(
        variables, config, load_tokenizer(folder), provenance, answers
    )
    half = any(x.dtype == np.float16 for x in arrays.values())
    return dataclasses.replace(found, half=half)


def _halved(path: str, x: np.ndarray) -> np.ndarray:
    """Rounds an array of two or more axes to float16."""
    if x.ndim < 2 or x.dtype != np.float32:
        return x
    largest = float(np.max(np.abs(x), initial=0.0))
    if not largest <= float(np.finfo(np.float16).max):
        raise InputError(f"{path} has the value {largest:.3g}, too large for float16")
    return x.astype(np.float16)


def _float32(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays; those in float16 as float32, in which models compute."""
    return {
        path: x.astype(np.float32) if x.dtype == np.float16 else x
        for path, x in arrays.items()
    }


def _record(provenance: Mapping[str, Any], checksum: str) -> dict[str, Any]:
    """Returns the provenance of variables whose SHA-256 is `checksum`."""
    if provenance.get(CHECKSUM, checksum) == checksum:
        return {**provenance, CHECKSUM: checksum}
    return {
        "step": None,
        "sha256": checksum,
        "figures": dict.fromkeys(provenance.get("figures") or {}),  # not measured
        CHECKSUM: checksum,
        ORIGIN: dict(provenance),
    }


def _shape(leaf: Any) -> tuple[int, ...] | str:
    return "nothing" if leaf is None else tuple(leaf.shape)


def _example() -> dict[str, np.ndarray]:
    """Returns inputs to initialise the module; the parameters depend on no size."""
    return {
        "image": np.zeros((1, 1, 64, 64, 3), np.float32),
        "image_size": np.full((1, 1, 2), 64, np.int32),
        "text_ids": np.zeros((1, 1, 3), np.int32),
        "text_mask": np.ones((1, 1, 3), bool),
    }
