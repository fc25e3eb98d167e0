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

from pixel_bert_jax.models.remat import remat
from pixel_bert_jax.ops.losses import at_least_float32
from pixel_bert_jax.types import Params

EPSILON = 1e-12


def init(std: float) -> nn.initializers.Initializer:
    """BERT's truncated normal; 0.02 suits D = 768, narrower models want more."""
    return nn.initializers.truncated_normal(std)


class LayerNorm(nn.LayerNorm):
    """Layer norm with BERT's epsilon, computed in float32.

    Attributes: of flax.linen.LayerNorm, and
      output: type of the result.
    """

    epsilon: float = EPSILON
    use_fast_variance: bool = False
    output: jnp.dtype = jnp.float32

    def __call__(self, x: Array) -> Array:
        """Maps [..., D] to [..., D]."""
        return super().__call__(at_least_float32(x)).astype(self.output)


class TextEmbedding(nn.Module):
    """LayerNorm(word + position), then dropout.

    Attributes:
      vocab_size: V.
      max_length: number of position embeddings.
      features: D.
      dropout: rate.
      init_std: of the tables.
      dtype: of the result.
    """

    vocab_size: int
    max_length: int
    features: int
    dropout: float
    init_std: float
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Declares the tables; `word` is shared with the MLM head."""
        start = init(self.init_std)
        self.word = self.param("word", start, (self.vocab_size, self.features))
        self.position = self.param("position", start, (self.max_length, self.features))
        self.norm = LayerNorm(output=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, ids: Array, *, train: bool) -> Array:
        """Maps ids [..., L] to [..., L, D]."""
        # A jitted function may close over numpy tables, which traced ids cannot index.
        word = jnp.asarray(self.word)[ids]
        x = word + self.position[: ids.shape[-1]]
        return self.drop(self.norm(x), deterministic=not train)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each with a residual and layer norm.

    Attributes:
      features: D.
      heads: N.
      hidden: width of the feed-forward network.
      dropout: rate after both sub-layers (attention has none); 0 outside training.
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
    def __call__(self, x: Array, mask: Array) -> Array:
        """Maps x [B, T, D] to [B, T, D].

        Args:
          x: tokens.
          mask: bool, True = can be attended to; [B, T] for keys that all queries see,
            or [B, T, T] for each query (row) and key (column).
        """
        head = self.features // self.heads
        start = init(self.init_std)

        def project(name: str) -> Array:
            return nn.DenseGeneral(
                (self.heads, head), dtype=self.dtype, kernel_init=start, name=name
            )(x)

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=start, name=name)

        drop = nn.Dropout(self.dropout, deterministic=False)
        query, key, value = map(project, ("query", "key", "value"))
        # JAX's computes the softmax in float32 whatever it is given; Flax's does not,
        # which serves comparisons in float64.
        attend = jax.nn.dot_product_attention
        if self.dtype == jnp.float64:
            attend = nn.dot_product_attention
        # [B, heads, queries, keys]
        mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        # Its float32 mixes dtypes, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            attended = attend(query, key, value, mask=mask)
        attended = attended.reshape(*x.shape[:-1], self.features)
        x = LayerNorm(output=self.dtype, name="attention_norm")(
            x + drop(dense(self.features, "attention_out")(attended))
        )
        inner = nn.gelu(dense(self.hidden, "hidden")(x), approximate=False)
        return LayerNorm(output=self.dtype, name="output_norm")(
            x + drop(dense(self.features, "out")(inner))
        )


class Encoder(nn.Module):
    """A stack of encoder layers.

    Attributes: as EncoderLayer, and `layers`, their number; `remat`, see
      `models/remat.py`.
    """

    layers: int
    features: int
    heads: int
    hidden: int
    dropout: float
    init_std: float
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array, *, train: bool) -> Array:
        """Maps x [B, T, D] with mask [B, T] or [B, T, T] to [B, T, D]."""
        layer = remat(EncoderLayer, self.remat)
        for number in range(self.layers):
            x = layer(
                self.features,
                self.heads,
                self.hidden,
                self.dropout if train else 0.0,
                self.init_std,
                self.dtype,
                name=f"layer{number}",
            )(x, mask)
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
