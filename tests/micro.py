"""A config for tests: `tiny` with the paper's optimizers, SGD for the CNN and AdamW."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import common, pretrain
from pixel_bert_jax.config import choose


def micro():
    """Two kinds of optimizer state, so that a resumed run has to keep both."""
    config = pretrain.tiny()
    config.preset = "micro"
    with config.unlocked():
        config.optim.groups.cnn = common.base().optim.groups.cnn
    return config


def get_config(preset=""):
    """Returns the config of "micro"."""
    return choose(preset, {"micro": micro})
