"""BERT's embeddings and encoder (Devlin et al., arXiv 1810.04805).

Post-layer-norm, exact GELU, epsilon 1e-12. Pixel-BERT leaves out the segment vector of
text, which folds into the position embedding (section 3.1). Parameter names follow
what published checkpoints convert to.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from pixel_bert_jax.types import Params

EPSILON = 1e-12


def init(std: float) -> nn.initializers.Initializer:
    """BERT's truncated normal; 0.02 suits D = 768, narrower models want more."""
    return nn.initializers.truncated_normal(std)


def layer_norm(name: str) -> nn.LayerNorm:
    """Layer norm with BERT's epsilon and float32 statistics."""
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)


class TextEmbedding(nn.Module):
    """LayerNorm(word + position), then dropout.

    Attributes:
      vocab_size: V.
      max_length: number of position embeddings.
      features: D.
      dropout: rate.
      init_std: of the tables.
    """

    vocab_size: int
    max_length: int
    features: int
    dropout: float
    init_std: float

    def setup(self) -> None:
        """Declares the tables; `word` is shared with the MLM head."""
        start = init(self.init_std)
        self.word = self.param("word", start, (self.vocab_size, self.features))
        self.position = self.param("position", start, (self.max_length, self.features))
        self.norm = layer_norm("norm")
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, ids: Array, *, train: bool) -> Array:
        """Maps ids [..., L] to [..., L, D]."""
        x = self.word[ids] + self.position[: ids.shape[-1]]
        return self.drop(self.norm(x), deterministic=not train)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each with a residual and layer norm.

    Attributes:
      features: D.
      heads: N.
      hidden: width of the feed-forward network.
      dropout: rate after both sub-layers (attention has none).
      init_std: of the kernels.
      dtype: of the products.
    """

    features: int
    heads: int
    hidden: int
    dropout: float
    init_std: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array, *, train: bool) -> Array:
        """Maps x [B, T, D] with mask [B, T] (True = real) to [B, T, D]."""
        head = self.features // self.heads
        start = init(self.init_std)

        def project(name: str) -> Array:
            return nn.DenseGeneral(
                (self.heads, head), dtype=self.dtype, kernel_init=start, name=name
            )(x)

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=start, name=name)

        drop = nn.Dropout(self.dropout, deterministic=not train)
        attended = jax.nn.dot_product_attention(
            project("query"), project("key"), project("value"), mask=mask[:, None, None]
        )
        attended = attended.reshape(*x.shape[:-1], self.features)
        x = layer_norm("attention_norm")(
            x + drop(dense(self.features, "attention_out")(attended))
        )
        inner = nn.gelu(dense(self.hidden, "hidden")(x), approximate=False)
        return layer_norm("output_norm")(x + drop(dense(self.features, "out")(inner)))


class Encoder(nn.Module):
    """A stack of encoder layers.

    Attributes: as EncoderLayer, and `layers`, their number.
    """

    layers: int
    features: int
    heads: int
    hidden: int
    dropout: float
    init_std: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array, *, train: bool) -> Array:
        """Maps x [B, T, D] with mask [B, T] to [B, T, D]."""
        for number in range(self.layers):
            x = EncoderLayer(
                self.features,
                self.heads,
                self.hidden,
                self.dropout,
                self.init_std,
                self.dtype,
                name=f"layer{number}",
            )(x, mask, train=train)
        return x


def attend_to_similar(encoder: Params) -> Params:
    """Starts with keys that equal queries, so that tokens attend to what is like them.

    Trained transformers end up with W_query W_key^T near a multiple of the identity,
    and one that starts so learns sooner from little data (mimetic initialisation,
    Trockman and Kolter, arXiv 2305.09828). Where pixels lie near the words they show
    (`objectives/image_words.py`), a word so finds its pixels.

    Args:
      encoder: parameters of `Encoder`, of layers that start independently.

    Returns:
      The same with each layer's query kernel in the place of its key kernel.
    """
    return {
        name: {**layer, "key": {**layer["key"], "kernel": layer["query"]["kernel"]}}
        for name, layer in encoder.items()
    }
