"""Pixel-BERT: one transformer over the words of a text and the pixels of an image.

The sequence is {[CLS], w_1 .. w_n, [SEP], v_1 .. v_k}, text first and no [SEP] after
the pixels (arXiv 2004.00849, section 3.4).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array

from pixel_bert_jax import models
from pixel_bert_jax.models.bert import Encoder, TextEmbedding
from pixel_bert_jax.models.front_ends import VisualTokens


@struct.dataclass
class Encoded:
    """Output of the fusion transformer for B = G M K pairs, ordered (g, m, k)."""

    text: Array  # [B, L, D]
    text_mask: Array  # [B, L] bool
    visual: Array  # [B, P, D]
    visual_mask: Array  # [B, P] bool
    index: Array  # [B, P] int32, cell of the flattened grid; see `VisualTokens`
    pooled: Array  # [B, D], the [CLS] output


@struct.dataclass
class Alone:
    """Output of the same transformer for one modality alone."""

    features: Array  # [G, K, L, D] of texts or [G, M, P, D] of images
    mask: Array  # without the last axis, bool


class Heads(nn.Module):
    """The objectives' heads, each under the name of its objective.

    Attributes:
      objectives: instances of `objectives.base.Objective`, which are hashable.
      config: `config.model`.
      text: `objectives.base.TextSpec`.
    """

    objectives: tuple[Any, ...]
    config: Any
    text: Any

    def setup(self) -> None:
        """Makes the heads of those objectives that have one."""
        for objective in self.objectives:
            head = objective.head(self.config, self.text)
            if head is not None:
                setattr(self, objective.name, head)

    def __call__(self, name: str, *inputs: Array) -> Array:
        """Applies the head of an objective."""
        return getattr(self, name)(*inputs)


class PixelBert(nn.Module):
    """The CNN, the front end, the transformer and the heads; methods run the parts.

    Attributes:
      config: `config.model`.
      vocab_size: V.
      objectives: those whose heads are part of the model.
      text_spec: `objectives.base.TextSpec`, for the heads.
    """

    config: Any
    vocab_size: int
    objectives: tuple[Any, ...] = ()
    text_spec: Any = None

    def setup(self) -> None:
        """Builds the parts; their names are the parameter paths' first component."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.backbone = models.build(
            models.BACKBONES,
            "model.backbone",
            c.backbone,
            norm=c.norm,
            remat=c.remat.backbone,
            dtype=dtype,
        )
        self.front_end = models.build(
            models.FRONT_ENDS,
            "model.front_end",
            c.front_end,
            features=c.features,
            init_std=c.init_std,
            batch_statistics=c.norm == "batch",
            dtype=dtype,
        )
        self.text = TextEmbedding(
            self.vocab_size, c.max_positions, c.features, c.dropout, c.init_std, dtype
        )
        self.encoder = Encoder(
            c.layers,
            c.features,
            c.heads,
            c.hidden,
            c.dropout,
            c.init_std,
            c.remat.encoder,
            dtype,
        )
        self.heads = Heads(self.objectives, c, self.text_spec)

    def encode_images(
        self,
        image: Array,
        image_size: Array,
        *,
        train: bool = False,
    ) -> VisualTokens:
        """Turns images into visual tokens of all their cells, each image once.

        Args:
          image: [G, M, H, W, 3] float32 from `ops.image.prepare`.
          image_size: [G, M, 2] int32 (height, width).
          train: use batch statistics in norms that are not frozen.
        """
        features, size = self.cnn_features(image, image_size, train=train)
        return self.encode_features(features, size, train=train)

    def cnn_features(
        self, image: Array, image_size: Array, *, train: bool = False
    ) -> tuple[Array, Array]:
        """Runs the CNN alone; for the arguments see `encode_images`.

        Returns:
          features [G, M, h, w, C] and their valid size [G, M, 2] in cells.
        """
        groups, images = image.shape[:2]
        features, size = self.backbone(
            image.reshape(groups * images, *image.shape[2:]),
            image_size.reshape(groups * images, 2),
            train=train,
        )
        return (
            features.reshape(groups, images, *features.shape[1:]),
            size.reshape(groups, images, 2),
        )

    def encode_features(
        self, features: Array, size: Array, *, train: bool = False
    ) -> VisualTokens:
        """Turns the CNN's features into visual tokens; see `cnn_features`."""
        groups, images = features.shape[:2]
        return self.front_end(
            features.reshape(groups * images, *features.shape[2:]),
            size.reshape(groups * images, 2),
            images,
            train=train,
        )

    def fuse(
        self,
        text_ids: Array,
        text_mask: Array,
        visual: VisualTokens,
        *,
        train: bool = False,
    ) -> Encoded:
        """Runs every pair (image m, text k) of every group through the transformer.

        Pairs come from broadcasts inside the group, never from a gather between groups:
        no image or visual token moves between devices.

        Args:
          text_ids: [G, K, L] int32.
          text_mask: [G, K, L] bool.
          visual: tokens of [G, M] images.
          train: apply dropout, which needs the rng "dropout".
        """
        groups, texts, length = text_ids.shape
        images = visual.features.shape[1]
        words = self.text(text_ids, train=train)

        def pairs(x: Array, axis: int) -> Array:
            x = jnp.expand_dims(x, axis)
            rest = x.shape[3:]  # explicit: -1 cannot be inferred without any pixel
            x = jnp.broadcast_to(x, (groups, images, texts, *rest))
            return x.reshape(groups * images * texts, *rest)

        text_mask, visual_mask = pairs(text_mask, 1), pairs(visual.mask, 2)
        sequence = jnp.concatenate([pairs(words, 1), pairs(visual.features, 2)], axis=1)
        mask = jnp.concatenate([text_mask, visual_mask], axis=1)
        out = self.encoder(sequence, mask, train=train)
        return Encoded(
            text=out[:, :length],
            text_mask=text_mask,
            visual=out[:, length:],
            visual_mask=visual_mask,
            index=pairs(visual.index, 2),
            pooled=out[:, 0],
        )

    def encode_texts(
        self, text_ids: Array, text_mask: Array, *, train: bool = False
    ) -> Alone:
        """Runs texts [G, K, L] through the transformer without any pixel."""
        words = self.text(text_ids, train=train)
        return self._alone(words, text_mask, train)

    def encode_pixels(self, visual: VisualTokens, *, train: bool = False) -> Alone:
        """Runs the pixels of images [G, M] through the transformer without any word."""
        return self._alone(visual.features, visual.mask, train)

    def _alone(self, x: Array, mask: Array, train: bool) -> Alone:
        flat = x.reshape(-1, *x.shape[2:])
        out = self.encoder(flat, mask.reshape(-1, mask.shape[-1]), train=train)
        return Alone(out.reshape(x.shape), mask)

    def head(self, name: str, *inputs: Array) -> Array:
        """Applies the head of an objective."""
        return self.heads(name, *inputs)

    def __call__(
        self,
        image: Array,
        image_size: Array,
        text_ids: Array,
        text_mask: Array,
    ) -> Encoded:
        """Encodes images and fuses all their pixels with texts, as in fine-tuning.

        For shapes see `encode_images` and `fuse`.
        """
        return self.fuse(text_ids, text_mask, self.encode_images(image, image_size))
