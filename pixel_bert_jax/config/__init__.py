"""The config of a run: one schema, one reader, one syntax for overrides.

Neither JAX nor TensorFlow is imported here, so that a wrong value is reported at once.
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
    Data,
    Eval,
    Init,
    Model,
    Optim,
    OptimGroup,
    Rules,
    flat,
)

__all__ = [
    "Checkpoint",
    "Config",
    "Data",
    "Eval",
    "Init",
    "Launch",
    "Model",
    "Optim",
    "OptimGroup",
    "Rules",
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
