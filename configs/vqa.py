"""Visual question answering on VQA 2.0, or about rendered scenes.

    python -m pixel_bert_jax.main --config=configs/vqa.py:tiny

Presets (a further flag such as `--config.groups=8` sets a field):

| preset | data | hardware | time |
|---|---|---|---|
| `tiny` | rendered scenes, nothing to download | 2 CPU cores | minutes |
| `small` | photos in VQA 2.0's files, in `config.data.root` | 1 CPU core | minutes |
| `photos` | the same, from `configs/pretrain.py:photos` | 2 CPU cores | not run yet |
| `r50`, the default, `x152` | VQA 2.0 train, val | 16 TPU v5e | not run |
| `r50_trainval`, `x152_trainval` | train and val together | 16 TPU v5e | not run |
| `r50_trainval_genome` | and Visual Genome's questions | 16 TPU v5e | not run |

All start from a pre-trained model: `tiny` from `checkpoints/scenes_tiny_long`, the
others from what `config.init.model` names.
"""

import sys
from pathlib import Path

# --config names this file, so any folder may be the working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import common, pretrain
from pixel_bert_jax.config import choose

QUESTIONS = "vqa/v2_OpenEnded_mscoco_{}_questions.json"
ANSWERS = "vqa/v2_mscoco_{}_annotations.json"


def tiny():
    """The small model of `checkpoints/scenes_tiny_long` on questions about scenes."""
    config = common.fine_tuned(
        pretrain.tiny_long(), "vqa", answers=dict(weight=1.0, hidden=2)
    )
    config.preset = "tiny"
    config.init.model = "checkpoints/scenes_tiny_long"
    config.total = "1500 steps"
    config.texts_per_group = 3
    config.data.corpora = (
        dict(
            source="scenes_vqa",
            name="scenes",
            weight=1.0,
            train_scenes=8000,
            evaluate_scenes=600,
            questions_per_scene=3,
        ),
    )
    config.data.answers = "scenes"
    config.dry_run.answers = 28
    config.optim.groups.cnn.learning_rate = 1e-3
    config.optim.groups.transformer.learning_rate = 1e-3
    config.optim.warmup = "100 steps"
    config.optim.decays = ("70 %", "90 %")
    config.eval.every = "100 %"
    return config


def small():
    """The CPU-sized model of `configs/pretrain.py:flickr8k` on VQA 2.0's files."""
    config = common.cpu_sized(full_size(pretrain.flickr8k(), "small", ("train2014",)))
    config.groups = 16
    config.texts_per_group = 4
    config.dry_run.shards = 1
    return config


def photos():
    """The model of `configs/pretrain.py:photos` on VQA 2.0's files."""
    config = full_size(pretrain.photos(), "photos", ("train2014",))
    config.init.text = config.init.cnn = ""
    config.groups = 16
    config.texts_per_group = 4
    config.optim.schedule = "linear"
    config.optim.decays = ()
    config.optim.groups.transformer.learning_rate = 1e-4
    config.dry_run.shards = 1
    return config


def r50():
    r"""The paper's model for analysis, 18 epochs on the questions of train2014.

        python -m pixel_bert_jax.main --config=configs/vqa.py:r50 \
          --config.data.root=FOLDER --config.init.model=PRETRAINED

    Batch 256; the rates fall after epochs 12 and 16 (section 4.3.1). Paper: test-dev
    71.35, test-std 71.42; it does not say with which training questions.
    """
    return full_size(pretrain.r50(), "r50", ("train2014",))


def r50_trainval():
    """`r50` on train2014 and val2014, for the test server: nothing is held out."""
    return full_size(pretrain.r50(), "r50_trainval", ("train2014", "val2014"))


def r50_trainval_genome():
    """`r50_trainval` with Visual Genome's questions, as UNITER and ClipBERT train."""
    config = r50_trainval()
    config.preset = "r50_trainval_genome"
    config.data.corpora = (
        *config.data.corpora,
        dict(
            source="visual_genome_questions",
            name="visual_genome",
            weight=1.0,
            annotations="visual_genome/question_answers.json",
            sizes="visual_genome/image_data.json",
            images="visual_genome",
            needs=(
                (
                    "visual_genome/question_answers.json",
                    pretrain.VISUAL_GENOME_FILES[0][1],
                ),
                *pretrain.VISUAL_GENOME_FILES[1:],
            ),
            evaluated=False,
        ),
    )
    # Photos of the test server's questions.
    config.data.exclude = (dict(file=QUESTIONS.format("test2015")),)
    (vqa, genome) = config.data.corpora
    needs = (QUESTIONS.format("test2015"), "https://visualqa.org/download.html")
    config.data.corpora = (vqa | dict(needs=(*vqa["needs"], needs)), genome)
    return config


def x152():
    """The paper's stronger model. Paper: test-dev 74.45, test-std 74.55."""
    return full_size(pretrain.x152(), "x152", ("train2014",))


def x152_trainval():
    """`x152` on train2014 and val2014, for the test server: nothing is held out."""
    return full_size(pretrain.x152(), "x152_trainval", ("train2014", "val2014"))


def full_size(config, preset, training):
    """Makes a preset of the paper's size that trains on some subsets of COCO."""
    config = common.fine_tuned(config, "vqa", answers=dict(weight=1.0, hidden=2))
    config.preset = preset
    config.groups = 256
    config.texts_per_group = 1
    config.total = "18 epochs"
    files = dict(train=training, evaluate=("val2014",), predict=("test2015",))
    if "val2014" in training:  # then only the test server can tell
        del files["evaluate"]
        config.eval.every = "0 steps"
    config.data.corpora = (
        dict(
            source="vqa",
            name="vqa",
            weight=1.0,
            questions={
                split: tuple(map(QUESTIONS.format, names))
                for split, names in files.items()
            },
            answers={
                split: tuple(map(ANSWERS.format, files[split]))
                for split in ("train", "evaluate")
                if split in files
            },
            images="coco",
            needs=tuple(
                (path, "https://visualqa.org/download.html")
                for name in dict.fromkeys((*training, "val2014"))
                for path in (QUESTIONS.format(name), ANSWERS.format(name))
            )
            + pretrain.COCO_FILES[1:],
        ),
    )
    config.optim.warmup = "5 %"
    config.optim.decays = ("12 epochs", "16 epochs")
    config.optim.clip_norm = 4.0
    config.dry_run.shards = 16
    config.dry_run.images = 443_757 if len(training) == 1 else 658_111
    return config


PRESETS = {
    "": r50,
    "tiny": tiny,
    "small": small,
    "photos": photos,
    "r50": r50,
    "r50_trainval": r50_trainval,
    "r50_trainval_genome": r50_trainval_genome,
    "x152": x152,
    "x152_trainval": x152_trainval,
}


def get_config(preset=""):
    """Returns the config of a preset."""
    return choose(preset, PRESETS)
