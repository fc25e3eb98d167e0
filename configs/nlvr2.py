"""Statements about two images: NLVR2, or pairs of rendered scenes.

    python -m pixel_bert_jax.main --config=configs/nlvr2.py:tiny

Presets (a further flag such as `--config.groups=8` sets a field):

| preset | data | hardware | time |
|---|---|---|---|
| `tiny` | rendered scenes, nothing to download | 2 CPU cores | minutes |
| `small` | photos in NLVR2's files, in `config.data.root` | 1 CPU core | minutes |
| `r50`, the default, `x152` | NLVR2 train, dev | 16 TPU v5e | not run |

All start from a pre-trained model: `tiny` from `checkpoints/scenes_tiny_long`, the
others from what `config.init.model` names.
"""

import sys
from pathlib import Path

# --config names this file, so any folder may be the working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import common, pretrain
from pixel_bert_jax.config import choose

SOURCE = "https://github.com/lil-lab/nlvr/tree/master/nlvr2"


def tiny():
    """The small model of `checkpoints/scenes_tiny_long` on statements about scenes."""
    config = common.fine_tuned(
        pretrain.tiny_long(), "nlvr2", truth=dict(weight=1.0, hidden=2)
    )
    config.preset = "tiny"
    config.init.model = "checkpoints/scenes_tiny_long"
    config.total = "850 steps"
    config.texts_per_group = 4
    config.data.corpora = (
        dict(
            source="scenes_nlvr2",
            name="scenes",
            weight=1.0,
            train_scenes=16_000,
            evaluate_scenes=800,
            statements_per_set=4,
        ),
    )
    # A wide and a tall scene of one pair fit only a square canvas.
    config.data.canvases = (*config.data.canvases, "112x112")
    config.optim.groups.cnn.learning_rate = 1e-3
    config.optim.groups.transformer.learning_rate = 1e-3
    config.optim.warmup = "100 steps"
    config.optim.decays = ("70 %", "90 %")
    config.eval.every = "100 %"
    return config


def small():
    """The CPU-sized model of `configs/pretrain.py:flickr8k` on NLVR2's files."""
    config = common.cpu_sized(full_size(pretrain.flickr8k(), "small", "128x128"))
    config.groups = 15
    config.dry_run.shards = 1
    return config


def r50():
    r"""The paper's model for analysis.

        python -m pixel_bert_jax.main --config=configs/nlvr2.py:r50 \
          --config.data.root=FOLDER --config.init.model=PRETRAINED

    As for VQA, with half the batch: 128 (section 4.3.2). Paper: dev 71.7, test-P 72.4.
    """
    return full_size(pretrain.r50(), "r50", "1344x1344")


def x152():
    """The paper's stronger model. Paper: dev 76.5, test-P 77.2."""
    return full_size(pretrain.x152(), "x152", "1024x1024")


def full_size(config, preset, square):
    """Makes a preset of the paper's size; pairs of all shapes need a square canvas."""
    config = common.fine_tuned(config, "nlvr2", truth=dict(weight=1.0, hidden=2))
    config.preset = preset
    config.groups = 128
    config.texts_per_group = 1
    config.total = "18 epochs"
    config.data.max_text_length = 48
    config.data.canvases = tuple(dict.fromkeys((*config.data.canvases, square)))
    files = dict(train="train", evaluate="dev", predict="test1")
    config.data.corpora = (
        dict(
            source="nlvr2",
            name="nlvr2",
            weight=1.0,
            annotations={s: f"nlvr2/data/{name}.json" for s, name in files.items()},
            images={s: f"nlvr2/images/{name}" for s, name in files.items()},
            needs=tuple(
                (f"nlvr2/{kind}", SOURCE)
                for name in ("train", "dev")
                for kind in (f"data/{name}.json", f"images/{name}")
            ),
        ),
    )
    config.optim.warmup = "5 %"
    config.optim.decays = ("12 epochs", "16 epochs")
    config.optim.clip_norm = 4.0
    config.dry_run.shards = 16
    config.dry_run.images = 86_373
    return config


PRESETS = {"": r50, "tiny": tiny, "small": small, "r50": r50, "x152": x152}


def get_config(preset=""):
    """Returns the config of a preset."""
    return choose(preset, PRESETS)
