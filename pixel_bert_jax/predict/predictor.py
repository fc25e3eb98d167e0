"""Use of a trained model on one's own photos: questions, captions, missing words.

    predictor = pixel_bert_jax.Predictor.from_pretrained("checkpoints/scenes_tiny_long")
    predictor.match("photo.jpg", ["a red ring", "a small blue disc"])

Photos are prepared as in training, and results are those of its evaluation. Below this
class are pure functions of plain pytrees (`pixel_bert_jax.tasks.PREDICTIONS`), which
take the arrays of `Pretrained.inputs` and go under the caller's own `jax.jit`.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pixel_bert_jax import trees
from pixel_bert_jax.config import Rules, resolve
from pixel_bert_jax.convert.photos import is_single
from pixel_bert_jax.convert.pretrained import Pretrained, from_pretrained
from pixel_bert_jax.data.text import MASK
from pixel_bert_jax.objectives.base import TextSpec
from pixel_bert_jax.ops.similarity import SIMILARITIES, Tokens
from pixel_bert_jax.predict.inputs import (
    check_top,
    filled,
    listed,
    photos_of,
    pixels_of,
    portions,
)
from pixel_bert_jax.tasks import Task
from pixel_bert_jax.tasks.functions import PredictFunctions
from pixel_bert_jax.tasks.retrieval import CONTRAST, FUSED
from pixel_bert_jax.training import sharding
from pixel_bert_jax.types import Batch, InputError

PHOTOS, TEXTS = 16, 64  # of a pass through the model, at most
REPLICATED: Rules = ((r".*", "replicate"),)
# Objective -> the presets that train its head.
TRAINED_BY = {
    "answers": "configs/vqa.py",
    "truth": "configs/nlvr2.py",
    "retrieval": "configs/retrieval.py",
    "itm": "configs/pretrain.py",
    "mlm": "configs/pretrain.py",
    CONTRAST: "configs/pretrain.py:photos",
}
T = TypeVar("T")


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
      answer: one of the model's answers.
      probability: that it is right, of this answer alone: they do not sum to 1.
    """

    answer: str
    probability: float


class Word(NamedTuple):
    """A token in the place of [MASK].

    Attributes:
      word: a token of the model's vocabulary; "##" begins one that continues a word.
      probability: among all tokens.
    """

    word: str
    probability: float


class Ranking(NamedTuple):
    """How well N images and T texts fit each other.

    Attributes:
      scores: float32 [N, T], higher is better.
      texts: int64 [N, T], numbers of the texts, best first, for each image.
      images: int64 [T, N], numbers of the images, best first, for each text.
    """

    scores: np.ndarray
    texts: np.ndarray
    images: np.ndarray


class Predictor:
    """A trained model that answers, compares and fills in.

    Which methods work depends on the heads that the model was trained with; the others
    raise an InputError that names what has such a head. Instances may be shared by
    threads. A photo is a path, the bytes of a file, a PIL image or an array, see
    `convert.photos.to_pixels`.

    Attributes:
      pretrained: the model, its tokenizer, config and origin.
      task: the model with its heads; the first argument of predict functions.
      variables: {"params", "batch_stats"} on the devices, their second argument.
    """

    def __init__(
        self, pretrained: Pretrained, devices: Sequence[jax.Device] | None = None
    ):
        """Puts the variables onto the devices; compiles nothing yet.

        Args:
          pretrained: the model.
          devices: devices over which photos are spread; None: the first one alone.

        Raises:
          InputError: the variables lack a head that the config names.
        """
        config = resolve(pretrained.config)
        every = dataclasses.replace(config.eval, sample_pixels=0)  # all pixels
        config = dataclasses.replace(config, eval=every)
        length = config.data.max_text_length
        spec = TextSpec.of(pretrained.tokenizer, length, pretrained.answers)
        self.pretrained = pretrained
        self.task = Task(config, spec, pretrained.answers)
        _check_heads(pretrained, self.task)
        devices = jax.local_devices()[:1] if devices is None else devices
        mesh = sharding.make_mesh({"data": -1}, devices)
        self._spread = mesh.size > 1
        whole = NamedSharding(mesh, PartitionSpec())
        self.variables = jax.device_put(pretrained.variables, whole)
        self._functions = PredictFunctions(self.task, mesh, REPLICATED)
        self._lock = threading.Lock()  # so that threads do not compile the same

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        revision: str | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> Predictor:
        """Loads a model; see `pixel_bert_jax.from_pretrained` and `Predictor`."""
        return cls(from_pretrained(folder_or_hub_id, revision), devices)

    def answer(
        self, image: Any, question: str | Sequence[str], top_k: int = 1
    ) -> list[Answer] | list[list[Answer]]:
        """Answers a question about a photo, or several.

        Args:
          image: a photo, or as many as questions.
          question: a text, or several.
          top_k: number of answers to each.

        Returns:
          The best answers, best first; a list of these for several questions.

        Raises:
          InputError: the model has no head "answers"; an empty or too long question.
          ImageError: a photo cannot be used.
        """
        self._need("answer", "answers")
        answers = self.pretrained.answers
        assert answers is not None  # checked with the heads
        check_top(top_k)

        def best(out: Batch) -> list[Answer]:
            odds = out["log_odds"]
            found = np.argsort(-odds, kind="stable")[:top_k]
            return [Answer(answers.answers[n], _sigmoid(odds[n])) for n in found]

        every = self._of_pairs("answer_odds", image, self._words(question), best)
        return every[0] if isinstance(question, str) and is_single(image) else every

    def match(self, image: Any, texts: str | Sequence[str]) -> float | list[float]:
        """Returns the probability that a photo and a text belong together.

        Args:
          image: a photo, or as many as texts.
          texts: a text, or several.

        Returns:
          A number, or a list of them for several texts or photos.

        Raises:
          InputError: the model has no head "itm"; an empty or too long text.
          ImageError: a photo cannot be used.
        """
        self._need("match photos with texts", "itm")

        def chance(out: Batch) -> float:
            return _sigmoid(out["log_odds"])

        every = self._of_pairs("match", image, self._words(texts), chance)
        return every[0] if isinstance(texts, str) and is_single(image) else every

    def fill_mask(
        self, image: Any, text: str | Sequence[str], top_k: int = 5
    ) -> list[list[Word]] | list[list[list[Word]]]:
        """Fills in the words that [MASK] stands for, given a photo.

        Args:
          image: a photo, or as many as texts.
          text: a text with one or more [MASK], or several.
          top_k: number of words for each [MASK].

        Returns:
          For each [MASK] the likeliest tokens, best first; a list of these for several
          texts.

        Raises:
          InputError: the model has no head "mlm"; a text without [MASK].
          ImageError: a photo cannot be used.
        """
        self._need("fill in words", "mlm")
        check_top(top_k)
        tokenizer, words = self.pretrained.tokenizer, self._words(text)
        masked = words["text_ids"] == tokenizer.mask_id
        counts = masked.sum(axis=1)
        if not counts.all():
            plain = listed(text)[int(np.argmin(counts))]
            raise InputError(f"expected a text with {MASK}, received {plain!r}")
        # All have as many positions as the one that has most; the first is repeated.
        order = np.argsort(~masked, axis=1, kind="stable")[:, : counts.max()]
        valid = np.arange(counts.max()) < counts[:, None]
        words["positions"] = np.where(valid, order, order[:, :1]).astype(np.int32)
        words["count"] = counts

        def best(log_probability: np.ndarray) -> list[Word]:
            found = np.argsort(-log_probability, kind="stable")[:top_k]
            shown = tokenizer.tokens(found)
            chances = np.exp(log_probability[found])
            return [Word(w, float(p)) for w, p in zip(shown, chances, strict=True)]

        def masks(out: Batch) -> list[list[Word]]:
            return [best(row) for row in out["log_probability"][: out["count"]]]

        every = self._of_pairs("fill", image, words, masks)
        return every[0] if isinstance(text, str) and is_single(image) else every

    def true_or_false(
        self, left: Any, right: Any, statement: str | Sequence[str]
    ) -> float | list[float]:
        """Returns the probability that a statement about two photos is true.

        Args:
          left: the first photo, or one for each statement.
          right: the second photo, or one for each statement.
          statement: a text, or several.

        Returns:
          A number, or a list of them for several statements.

        Raises:
          InputError: the model has no head "truth"; an empty or too long statement.
          ImageError: a photo cannot be used.
        """
        self._need("judge statements", "truth")
        words, odds = self._words(statement), []
        count = len(words["text_ids"])
        sides = [photos_of(left), photos_of(right)]
        for side in sides:
            if len(side) not in (1, count):
                raise InputError(
                    f"expected one photo or as many as statements ({count}), received "
                    f"{len(side)}"
                )
        for rows in portions(count, PHOTOS // 2):
            text = {key: filled(x[rows])[:, None] for key, x in words.items()}
            pairs = [
                pixels_of(side, n % len(side)) for n in filled(rows) for side in sides
            ]
            photos = self._placed(pairs)
            photos = {k: x.reshape(-1, 2, *x.shape[2:]) for k, x in photos.items()}
            found = self._run("judge", {**photos, **text})["log_odds"]
            odds += found[: len(rows), 0].tolist()
        every = [_sigmoid(one) for one in odds]
        return every[0] if isinstance(statement, str) else every

    def rank(self, images: Any, texts: str | Sequence[str], by: str = "") -> Ranking:
        """Compares every photo with every text.

        Args:
          images: a photo or several, N.
          texts: a text or several, T.
          by: head that scores: "retrieval" or "itm" run the transformer on every pair,
            "contrast" on every photo and every text alone; "": the first of these that
            the model has.

        Returns:
          The scores and both orders.

        Raises:
          InputError: the model has none of the heads, or not the one asked for.
          ImageError: a photo cannot be used.
        """
        names = (*FUSED, CONTRAST)
        heads = [name for name in names if name in self.task.heads]
        if by and by not in names:
            raise InputError(f"by is {by!r}, expected one of {', '.join(names)}")
        self._need("rank", *([by] if by else names))
        head = by or heads[0]
        words, photos = self._words(texts), photos_of(images)
        scores = np.empty((len(photos), len(words["text_ids"])), np.float32)
        vectors = self._text_vectors(words) if head == CONTRAST else []
        for rows in portions(len(photos), PHOTOS):
            arrays = self._placed(filled([pixels_of(photos, n) for n in rows]))
            visual = self._on_devices("pixels", arrays)
            parts: Iterable[tuple[list[int], Any]]
            if head == CONTRAST:
                seen = _tokens(self._run("image_vectors", visual))
                parts = ((cols, self._compare(seen, text)) for cols, text in vectors)
            else:
                parts = self._fused_scores(head, visual, words)
            for columns, found in parts:
                block = np.asarray(found)[: len(rows), : len(columns)]
                scores[np.ix_(rows, columns)] = block
        return Ranking(
            scores,
            np.argsort(-scores, axis=1, kind="stable"),
            np.argsort(-scores.T, axis=1, kind="stable"),
        )

    def encode(self, image: Any) -> np.ndarray | list[np.ndarray]:
        """Returns a photo's visual tokens, before the transformer.

        Args:
          image: a photo or several.

        Returns:
          float32 [P, D], a row for each cell of the CNN's last feature map that is
          inside the photo, row by row; a list of these for several photos.

        Raises:
          ImageError: a photo cannot be used.
        """
        photos, out = photos_of(image), []
        for rows in portions(len(photos), PHOTOS):
            arrays = self._placed(filled([pixels_of(photos, n) for n in rows]))
            found = self._run("pixels", arrays)
            parts = zip(found["features"], found["pixel_mask"], strict=True)
            out += [x[mask] for x, mask in list(parts)[: len(rows)]]
        return out[0] if is_single(image) else out

    def _need(self, what: str, *heads: str) -> None:
        """Raises InputError unless the model has one of some heads."""
        if not set(heads) & set(self.task.heads):
            have = ", ".join(self.task.heads) or "none"
            where = " or ".join(dict.fromkeys(TRAINED_BY[name] for name in heads))
            raise InputError(
                f"this model cannot {what}: it has no head {' or '.join(heads)}; its "
                f"heads are {have}. Models trained with {where} have one"
            )

    def _words(self, texts: str | Sequence[str]) -> Batch:
        """Returns the arrays of texts, [n, L]; refuses empty ones."""
        texts = listed(texts)
        if not texts:
            raise InputError("expected at least one text, received none")
        if any(isinstance(text, str) and not text.strip() for text in texts):
            raise InputError("expected a text, received an empty one")
        return self.pretrained.text_inputs(texts)

    def _placed(self, pixels: Sequence[np.ndarray]) -> Batch:
        """Returns the arrays of photos, [n, 1, ...]."""
        found = self.pretrained.photo_inputs(pixels)
        return jax.tree.map(np.asarray, found) if self._spread else found

    def _of_pairs(
        self, name: str, image: Any, words: Batch, result: Callable[[Batch], T]
    ) -> list[T]:
        """Runs a predict function over n photos with a text each.

        Args:
          name: key of PREDICTIONS.
          image: a photo for all texts, which passes through the CNN once for every
            TEXTS of them, or n.
          words: arrays of n texts, or of one for all photos; those that the model does
            not read are passed on to `result`.
          result: makes a result of the arrays of one pair.

        Returns:
          The n results.
        """
        photos, count = photos_of(image), len(words["text_ids"])
        shared = len(photos) == 1
        if count == 1 and not shared:
            count = len(photos)
            words = {key: np.repeat(x, count, axis=0) for key, x in words.items()}
        if not shared and count != len(photos):
            raise InputError(
                "expected one photo, one text, or as many photos as texts, received "
                f"{len(photos)} photos and {count} texts"
            )
        arrays = self._placed([pixels_of(photos, 0)]) if shared else {}
        results: list[T] = []
        for rows in portions(count, TEXTS if shared else PHOTOS):
            text = {key: filled(x[rows]) for key, x in words.items()}
            if shared:
                text = {key: x[None] for key, x in text.items()}
            else:
                arrays = self._placed(filled([pixels_of(photos, n) for n in rows]))
                text = {key: x[:, None] for key, x in text.items()}
            out = {**text, **self._run(name, {**arrays, **text})}
            out = {key: x[0] if shared else x[:, 0] for key, x in out.items()}
            results += [
                result({key: x[n] for key, x in out.items()}) for n in range(len(rows))
            ]
        return results

    def _run(self, name: str, batch: Batch) -> dict[str, np.ndarray]:
        """Runs a predict function and returns host arrays, perhaps with padding."""
        return {k: trees.whole(x) for k, x in self._on_devices(name, batch).items()}

    def _on_devices(self, name: str, batch: Batch) -> Batch:
        with self._lock:
            return self._functions.run(name, self.variables, batch)

    @functools.cached_property
    def _compare(self) -> Callable[[Tokens, Tokens], jax.Array]:
        return jax.jit(SIMILARITIES[self.task.heads[CONTRAST].similarity])

    def _fused_scores(
        self, head: str, visual: Batch, words: Batch
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yields (numbers of texts, their scores with all photos)."""
        count = len(visual["features"])
        for rows in portions(len(words["text_ids"]), TEXTS):
            text = {key: filled(x[rows])[None] for key, x in words.items()}
            text = {key: np.repeat(x, count, axis=0) for key, x in text.items()}
            yield rows, self._run(f"score_{head}", {**visual, **text})["score"]

    def _text_vectors(self, words: Batch) -> list[tuple[list[int], Tokens]]:
        """Returns (numbers, vectors) of portions of texts."""
        out = []
        for rows in portions(len(words["text_ids"]), TEXTS):
            text = {key: filled(x[rows])[:, None] for key, x in words.items()}
            out.append((rows, _tokens(self._run("text_vectors", text))))
        return out


def _check_heads(pretrained: Pretrained, task: Task) -> None:
    """Raises InputError unless all heads of the task have variables."""
    there = pretrained.variables["params"].get("heads", {})
    for name in task.heads:
        if name not in there:
            raise InputError(
                f"the model's config has the objective {name}, its variables have no "
                f"such head; they have {', '.join(there) or 'none'}"
            )
    answers = pretrained.answers
    if "answers" in task.heads:
        classes = trees.flatten(there["answers"])["classifier/bias"].shape[0]
        known = 0 if answers is None else len(answers)
        if classes != known:
            raise InputError(
                f"the model's head has {classes} answers, its list has {known}"
            )


def _tokens(found: Batch) -> Tokens:
    return Tokens(found["vectors"], found["mask"])


def _sigmoid(log_odds: Any) -> float:
    return float(1 / (1 + np.exp(-np.float64(log_odds))))
