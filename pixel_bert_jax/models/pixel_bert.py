"""Pixel-BERT: one transformer over the words of a text and the pixels of an image.

The sequence is {[CLS], w_1 .. w_n, [SEP], v_1 .. v_k}, text first and no [SEP] after
the pixels (arXiv 2004.00849, section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array

from pixel_bert_jax.models.bert import Encoder, TextEmbedding
from pixel_bert_jax.models.front_ends import PixelFrontEnd, VisualTokens
from pixel_bert_jax.models.resnet import ResNet


@struct.dataclass
class Encoded:
    """Output of the fusion transformer for B = G M K pairs."""

    text: Array  # [B, L, D]
    visual: Array  # [B, P, D]
    pooled: Array  # [B, D], the [CLS] output


class PixelBert(nn.Module):
    """The CNN, the front end and the transformer, as three methods.

    Attributes:
      config: `config.model`, a mapping with the fields of `configs/common.py`.
      vocab_size: V.
    """

    config: Any
    vocab_size: int

    def setup(self) -> None:
        """Builds the parts; their names are the parameter paths' first component."""
        c = self.config
        dtype = jnp.dtype(c["dtype"])
        init_std, dropout, remat = c["init_std"], c["dropout"], c["remat"]
        live = c["norm"] == "batch"
        self.backbone = ResNet(
            **_tuples(c["backbone"]),
            norm=c["norm"],
            remat=remat["backbone"],
            dtype=dtype,
        )
        self.front_end = PixelFrontEnd(
            c["features"], **c["front_end"], init_std=init_std, live=live, dtype=dtype
        )
        self.text = TextEmbedding(
            self.vocab_size, c["max_positions"], c["features"], dropout, init_std, dtype
        )
        self.encoder = Encoder(
            c["layers"],
            c["features"],
            c["heads"],
            c["hidden"],
            dropout,
            init_std,
            remat["encoder"],
            dtype,
        )

    def encode_images(
        self,
        image: Array,
        image_size: Array,
        *,
        train: bool = False,
    ) -> VisualTokens:
        """Turns images into visual tokens of all their cells, each image once.

        Args:
          image: [G, M, H, W, 3] float32 of `ops.image.prepare`.
          image_size: [G, M, 2] int32.
          train: use batch statistics in a live norm.
        """
        groups, images = image.shape[:2]
        features, size = self.backbone(
            image.reshape(groups * images, *image.shape[2:]),
            image_size.reshape(groups * images, 2),
            train=train,
        )
        return self.front_end(features, size, images, train=train)

    def fuse(
        self,
        text_ids: Array,
        text_mask: Array,
        visual: VisualTokens,
        *,
        train: bool = False,
    ) -> Encoded:
        """Runs every pair (image m, text k) of every group through the transformer.

        Pairs come from broadcasts inside the group, never from a gather between groups.

        Args:
          text_ids: [G, K, L] int32.
          text_mask: [G, K, L] bool.
          visual: tokens of [G, M] images.
          train: dropout on (needs the rng "dropout").

        Returns:
          Encoded, pairs ordered (g, m, k).
        """
        groups, texts, length = text_ids.shape
        images = visual.features.shape[1]
        words = self.text(text_ids, train=train)

        def pairs(x: Array, axis: int) -> Array:
            x = jnp.expand_dims(x, axis)
            rest = x.shape[3:]  # without a single pixel, -1 would have no meaning
            x = jnp.broadcast_to(x, (groups, images, texts, *rest))
            return x.reshape(groups * images * texts, *rest)

        sequence = jnp.concatenate([pairs(words, 1), pairs(visual.features, 2)], axis=1)
        mask = jnp.concatenate([pairs(text_mask, 1), pairs(visual.mask, 2)], axis=1)
        out = self.encoder(sequence, mask, train=train)
        return Encoded(out[:, :length], out[:, length:], out[:, 0])

    def __call__(
        self,
        image: Array,
        image_size: Array,
        text_ids: Array,
        text_mask: Array,
    ) -> Encoded:
        """Both parts with all pixels, as in fine-tuning; shapes as above."""
        return self.fuse(text_ids, text_mask, self.encode_images(image, image_size))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, as a config read from json has them, as tuples, which can be hashed."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
