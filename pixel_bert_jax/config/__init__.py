"""A run's config: one schema, one reader, one language for changes.

Light on purpose: neither JAX nor TensorFlow is imported, so that a wrong value is
answered at once.
"""

from pixel_bert_jax.config.command_line import Launch, load, parse_program
from pixel_bert_jax.config.config_file import choose
from pixel_bert_jax.config.resolve import (
    check_metric,
    defaults,
    places,
    replace,
    resolve,
    resolve_section,
    upgrade,
)
from pixel_bert_jax.config.schema import (
    Checkpoint,
    Config,
    Eval,
    Init,
    Model,
    Optim,
    OptimGroup,
    flat,
)

__all__ = [
    "Checkpoint",
    "Config",
    "Eval",
    "Init",
    "Launch",
    "Model",
    "Optim",
    "OptimGroup",
    "check_metric",
    "choose",
    "defaults",
    "flat",
    "load",
    "parse_program",
    "places",
    "replace",
    "resolve",
    "resolve_section",
    "upgrade",
]
