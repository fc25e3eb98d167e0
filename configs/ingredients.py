"""What each ingredient of `configs/pretrain.py:photos` adds, at equal steps.

    python -m pixel_bert_jax.study --study=configs/ingredients.py --seeds=1 \
      --workdir=FOLDER --config.data.root=FLICKR8K

Each row leaves one out: the CNN from ImageNet, the text half from MiniLM, the random
sampling of pixels, or pre-training before retrieval. All are fine-tuned and evaluated
as `configs/retrieval.py:photos`, much shorter. A cell is a preset:

    python -m pixel_bert_jax.main --config=configs/ingredients.py:all_pixels
"""

import sys
from pathlib import Path

# --config names this file, so any folder may be the working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import pretrain, retrieval
from pixel_bert_jax.config import choose

ROWS = ("all", "cnn_scratch", "text_scratch", "all_pixels", "no_pretraining")
CLAIMS = (
    ("the CNN from ImageNet helps", "all", "cnn_scratch"),
    ("the text half from MiniLM helps", "all", "text_scratch"),
    ("random pixels help", "all", "all_pixels"),
    ("pre-training helps", "all", "no_pretraining"),
)
METRICS = ("text_r1", "text_r10", "image_r1", "image_r10")


def pretraining(row):
    """Pre-training of a row."""
    config = pretrain.photos()
    config.preset = row
    config.total = "150 steps"
    config.eval.every = "0 steps"
    config.checkpoint.every = "50 steps"
    if row == "cnn_scratch":  # so it has to be trained
        config.init.cnn = ""
        config.init.allow_scratch = True
        config.data.cache_features = False
        config.model.norm = "batch"
        config.model.backbone.frozen_stages = -1
        config.optim.rules = (
            (r"(backbone|front_end)/.*", "cnn"),
            (r".*", "transformer"),
        )
    if row == "text_scratch":
        config.init.text = ""
        config.init.allow_scratch = True
    if row == "all_pixels":
        config.model.sample_pixels = 0
    return config


def fine_tuning(row):
    """Retrieval from a row's model, or from the published weights alone."""
    config = retrieval.photos()
    config.preset = f"{row}_retrieval"
    config.total = "60 steps"
    config.checkpoint.every = "30 steps"
    if row == "all_pixels":
        config.model.sample_pixels = 0
    if row == "cnn_scratch":
        config.model.backbone.frozen_stages = -1
    if row == "no_pretraining":  # as many steps as the others have in all
        config.init.update(pretrain.photos().init)
        config.total = "210 steps"
    return config


def get_study(name=""):
    """Returns cells, rows and claims; see `pixel_bert_jax.study`."""
    del name  # there is one study
    cells = {}
    for row in ROWS:
        if row != "no_pretraining":
            cells[row] = dict(config=f"ingredients.py:{row}")
        start = row if row in cells else ""
        retrieving = dict(config=f"ingredients.py:{row}_retrieval", start=start)
        cells[f"{row}_retrieval"] = retrieving
    return dict(
        cells=cells,
        rows={
            row: {
                metric: (f"{row}_retrieval", f"flickr8k/{metric}") for metric in METRICS
            }
            for row in ROWS
        },
        claims=[
            dict(text=text, better=better, worse=worse)
            for text, better, worse in CLAIMS
        ],
    )


PRESETS = {
    row: lambda row=row: pretraining(row) for row in ROWS if row != "no_pretraining"
} | {f"{row}_retrieval": lambda row=row: fine_tuning(row) for row in ROWS}


def get_config(preset=""):
    """Returns the config of a cell."""
    return choose(preset or "all", PRESETS)
