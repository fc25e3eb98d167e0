"""From `config.data` to sources, indexes and plans."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pixel_bert_jax.config import Config
from pixel_bert_jax.data import exclude, geometry
from pixel_bert_jax.data.index import Index, build_or_open, is_index
from pixel_bert_jax.data.plan import EvaluationPlan, TrainPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.sources.base import Source
from pixel_bert_jax.data.text import WordPiece
from pixel_bert_jax.types import InputError, nearest

DATA_VARIABLE = "PIXEL_BERT_DATA"


def data_root(config: Config) -> Path | None:
    """Returns `data.root`, else what the environment variable says, else None."""
    given = config.data.root or os.environ.get(DATA_VARIABLE, "")
    return Path(given).expanduser().resolve() if given else None


class Corpora:
    """The corpora of a run: an index for each split, and plans over them."""

    def __init__(
        self,
        config: Config,
        tokenizer: Callable[[], WordPiece],
        *,
        rebuild: bool = False,
    ):
        """Opens nothing yet.

        Args:
          config: of the run.
          tokenizer: gives the one that indexes are compiled with, once data are found.
          rebuild: build the indexes again.
        """
        self._config, self._tokenizer, self._rebuild = config, tokenizer, rebuild
        self.root = data_root(config)
        self._indexes: dict[str, Index] = {}

    def index(self, split: str) -> Index:
        """Returns the index of a split, building it if there is none.

        Raises:
          InputError: a corpus or one of its files is missing or faulty.
        """
        if split not in self._indexes:
            self._check_needs(split)
            self._indexes[split] = self._open(*self._place(split))
        return self._indexes[split]

    def built_index(self, split: str) -> Index | None:
        """Returns the index of a split if there is one, and builds none.

        Raises:
          InputError: it is of other files or options, or damaged.
        """
        if split not in self._indexes:
            sources, folder = self._place(split)
            if not is_index(folder):
                return None
            self._indexes[split] = self._open(sources, folder)
        return self._indexes[split]

    def sources(self, split: str) -> list[Source]:
        """Returns the sources of a split, of which nothing has been read.

        Raises:
          InputError: a corpus has an unknown source or field.
        """
        return [source for _, source in self._made(split)]

    def train_plan(self, *, negatives: int, images: int) -> TrainPlan:
        """Returns which examples form which training batch.

        Args:
          negatives: texts of other images behind each text.
          images: M, images that belong to each text.

        Raises:
          InputError: the data have another number of images per text.
        """
        config = self._config
        plan = TrainPlan(
            **self._plan_fields("train"),
            texts_per_group=config.texts_per_group,
            negatives=negatives,
            seed=config.seed,
            groups=config.groups,
        )
        if plan.images_per_group != images:
            raise InputError(
                f"the objectives {', '.join(config.objectives)} read texts of {images} "
                f"images, the corpora have texts of {plan.images_per_group}"
            )
        return plan

    def evaluation_plan(
        self, split: str, *, partners: bool, whole_sets: bool, groups: int
    ) -> EvaluationPlan:
        """Returns the examples of a split, each once.

        Args:
          split: "evaluate", "predict" or "train".
          partners: each text comes with a negative text and another image.
          whole_sets: all texts of an image come in one group.
          groups: G.
        """
        fields = self._plan_fields(split)
        texts = self._config.texts_per_group
        if whole_sets:
            texts = max(int(np.bincount(c.text_set).max()) for c in fields["corpora"])
        return EvaluationPlan(
            **fields,
            texts_per_group=texts,
            partners=partners,
            seed=self._config.eval.seed,
            groups=groups,
        )

    def _of(self, split: str) -> list[Mapping[str, Any]]:
        """Returns a split's corpora; one with `evaluated=False` is trained on only."""
        corpora = self._config.data.corpora
        if not corpora:
            raise InputError("data.corpora is empty: at least one corpus is needed")
        if split == "train":
            return list(corpora)
        evaluated = [c for c in corpora if c.get("evaluated", True)]
        if not evaluated:
            raise InputError(
                "data.corpora: every corpus has evaluated=False, nothing is left to "
                "evaluate on"
            )
        return evaluated

    def _made(self, split: str) -> Iterator[tuple[Mapping[str, Any], Source]]:
        """Yields each corpus of a split, with its defaults, and its source."""
        for corpus in self._of(split):
            kind = corpus.get("source", "")
            if kind not in SOURCES:
                raise InputError(
                    f"data.corpora: source {kind!r}{nearest(kind, SOURCES)}; valid: "
                    f"{', '.join(SOURCES)}"
                )
            # `data.scenes` has defaults of the source "scenes".
            whole = {**getattr(self._config.data, kind, {}), **corpus}
            yield whole, SOURCES[kind](whole, split, self.root)

    def _place(self, split: str) -> tuple[list[Source], Path]:
        """Returns the sources of a split and the folder of its index."""
        corpora, sources = map(list, zip(*self._made(split), strict=True))
        excluded = None
        if split == "train" and self._config.data.exclude:
            excluded = exclude.load(self._config.data.exclude, self.root)
            for source in sources:
                source.exclude(excluded)
        data, tokenizer = self._config.data, self._tokenizer()
        identity = json.dumps(
            [
                corpora,
                split,
                str(self.root),
                [str(f) for s in sources for f in s.files()],
                tokenizer.fingerprint,
                data.max_text_length,
                # Without it, an index has the name that it had before the field.
                *([excluded.fingerprint] if excluded else []),
            ],
            sort_keys=True,
        )
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return sources, Path(data.index_dir).expanduser() / f"{split}-{name}"

    def _open(self, sources: list[Source], folder: Path) -> Index:
        data = self._config.data
        return build_or_open(
            sources,
            self._tokenizer(),
            data.max_text_length,
            folder,
            rebuild=self._rebuild,
            on_bad_image=data.on_bad_image,
            bad_image_budget=data.bad_image_budget,
        )

    def _check_needs(self, split: str) -> None:
        """Names everything that is not there, not only what is read first.

        Raises:
          InputError: a file or folder of a corpus' `needs` is missing.
        """
        needs = [need for c in self._of(split) for need in c.get("needs", ())]
        root = self.root
        found = [bool(root) and (root / path).exists() for path, _ in needs]
        if all(found):
            return
        width = max(len(path) for path, _ in needs)
        lines = [
            f"The preset {self._config.preset!r} needs data below the folder given by "
            f"--config.data.root or by the environment variable {DATA_VARIABLE} "
            f"({root or 'unset'}):"
        ]
        for (path, origin), there in zip(needs, found, strict=True):
            state = "found  " if there else "missing"
            lines.append(f"  {state}  {path:<{width}}  {origin}")
        tiny = "python -m pixel_bert_jax.main --config=configs/pretrain.py:tiny"
        lines += ["What runs now, without any data:", f"  {tiny}"]
        raise InputError("\n".join(lines))

    def _plan_fields(self, split: str) -> dict[str, Any]:
        index = self.index(split)
        weights = [float(c.get("weight", 1.0)) for c in self._of(split)]
        return dict(
            corpora=[index.plan_corpus(c, w) for c, w in enumerate(weights)],
            sizes=index.sizes,
            **geometry_of(self._config),
        )


def geometry_of(config: Config) -> dict[str, Any]:
    """Returns the arguments of a plan that say how images are resized."""
    data = config.data
    return dict(
        short=data.short_side,
        long=data.long_side,
        canvases=[geometry.parse_canvas(c) for c in data.canvases],
        source_canvases=list(data.source_canvases),
    )
