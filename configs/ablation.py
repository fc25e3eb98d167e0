"""The paper's ablation (table 6): what is pre-trained, and with which pixels.

    python -m pixel_bert_jax.study --study=configs/ablation.py:tiny --seeds=3 \
      --workdir=FOLDER

runs six rows, each fine-tuned on VQA, NLVR2 and retrieval, and prints the table with a
verdict on each of the paper's claims. A study is `tiny` (rendered scenes, 2 CPU cores),
`photos` (Flickr8k's photos for pre-training and retrieval, small files of VQA 2.0 and
NLVR2) or `paper` (the paper's sizes and data). Every cell is a preset of its own:

    python -m pixel_bert_jax.main --config=configs/ablation.py:tiny_mlm
    python -m pixel_bert_jax.main --config=configs/ablation.py:tiny_mlm_vqa \
      --config.init.model=FOLDER

A preset alone starts from what --config.init names, or from nothing; in a study each
cell starts from another one's model of the same seed.

MLM alone reads matched pairs, ITM alone texts without masks. In the paper all rows
start from a CNN of ImageNet and a transformer of BERT. At `paper` size these are given
by --config.init.cnn and --config.init.text; the row `larger_cnn` has another CNN, so it
is run apart:

    python -m pixel_bert_jax.study --study=configs/ablation.py:paper --workdir=FOLDER \
      --skip=larger_cnn --config.init.cnn=RESNET50 --config.init.text=BERT
    python -m pixel_bert_jax.study --study=configs/ablation.py:paper --workdir=FOLDER \
      --only=larger_cnn --config.init.cnn=RESNEXT152 --config.init.text=BERT

At the other sizes all rows, the one without pre-training included, start from a CNN
that has learned the words of captions by the objective `image_words` (the cells
`tiny_start`, `photos_start` and those of the larger CNN); it takes part in no other
cell.
"""

import sys
from pathlib import Path

# --config names this file, so any folder may be the working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import nlvr2, pretrain, retrieval, vqa
from pixel_bert_jax.config import choose

MLM = dict(weight=1.0, on_swapped=False)
# Row -> objectives, in the paper's order; None: no pre-training.
ROWS = {
    "none": None,
    "itm": dict(itm=dict(weight=1.0, view="swapped")),
    "mlm": dict(mlm=MLM | dict(view="masked")),
    "all_pixels": dict(mlm=MLM, itm=dict(weight=1.0)),
    "both": dict(mlm=MLM, itm=dict(weight=1.0)),
    "larger_cnn": dict(mlm=MLM, itm=dict(weight=1.0)),
}
TASKS = ("vqa", "nlvr2", "retrieval")
# Column -> task, metric, and the factor that makes it percent.
COLUMNS = {
    "VQA": ("vqa", "accuracy", 1),
    "TR R@1": ("retrieval", "text_r1", 1),
    "IR R@1": ("retrieval", "image_r1", 1),
    "NLVR2": ("nlvr2", "accuracy", 100),
}
# Size -> corpus of each task.
CORPORA = {
    "tiny": dict.fromkeys(TASKS, "scenes"),
    "photos": {"vqa": "vqa", "nlvr2": "nlvr2", "retrieval": "flickr8k"},
    "paper": {"vqa": "vqa", "nlvr2": "nlvr2", "retrieval": "flickr30k"},
}
# Differences of table 6: VQA test-dev, Flickr30K R@1 of text and image, NLVR2 dev.
CLAIMS = (
    ("ITM alone helps", "itm", "none", (1.74, 16.6, 15.9, -0.1)),
    ("MLM alone helps", "mlm", "none", (7.63, 14.7, 13.1, 18.9)),
    ("both help more than ITM", "both", "itm", (6.11, 6.7, 4.3, 19.8)),
    ("both help more than MLM", "both", "mlm", (0.22, 8.6, 7.1, 0.8)),
    ("random pixels help", "both", "all_pixels", (0.51, 3.7, 2.1, 0.4)),
    ("a larger CNN helps", "larger_cnn", "both", (3.10, 11.3, 11.7, 4.8)),
)
SCENES_SEED = 2004  # of no scene that any preset was tuned on


def base(size, row):
    """Returns the pre-training config that a row of a size derives from."""
    large = row == "larger_cnn"
    if size == "paper":
        return pretrain.x152() if large else pretrain.r50()
    config = pretrain.tiny() if size == "tiny" else pretrain.flickr8k()
    if large:  # more blocks of the same widths, as in the paper's larger CNN
        backbone = config.model.backbone
        backbone.depths = tuple(2 * n for n in backbone.depths)
    return config


def start(size, row):
    """Trains the CNN that all rows of a size without ImageNet weights start from."""
    config = base(size, row)
    with config.unlocked():
        config.objectives = dict(image_words=dict(weight=0.2))
    config.total = "500 steps"
    config.eval.every = "0 steps"
    return config


def pretraining(size, row):
    """Pre-training of a row."""
    config = base(size, row)
    with config.unlocked():
        config.objectives = ROWS[row]
    if row == "all_pixels":
        config.model.sample_pixels = 0
    if size == "tiny":
        config.total = "600 steps"
        config.masking.warmup_steps = 400
        config.eval.every = "100 %"
    return config


def fine_tuning(size, row, task):
    """Fine-tuning of a row's model on a task."""
    module = {"vqa": vqa, "nlvr2": nlvr2, "retrieval": retrieval}[task]
    preset = {
        "tiny": "tiny",
        "photos": "flickr8k" if task == "retrieval" else "small",
        "paper": "x152" if row == "larger_cnn" else "r50",
    }[size]
    config = module.PRESETS[preset]()
    config.model.backbone = base(size, row).model.backbone
    if size == "tiny":
        # Shorter than the presets, so that three seeds take less than 6 CPU hours.
        lengths = {"vqa": "350 steps", "nlvr2": "250 steps", "retrieval": "100 steps"}
        config.total = lengths[task]
        if task == "retrieval":
            config.groups = 4
        config.init.model = ""
        config.init.allow_scratch = True
    if row == "none":
        config.init.allow_scratch = True
        if task == "retrieval":  # nothing has trained the layer after the CNN
            config.optim.rules = ((r"backbone/.*", "frozen"), (r".*", "transformer"))
    return config


def cells(size):
    """Returns {name: (config, name of the cell that it starts from)} of a size."""
    found = {}

    def add(name, function, *arguments, start=""):
        def make():
            config = function(size, *arguments)
            config.preset = name
            if size == "tiny":
                seeded = dict(seed=SCENES_SEED)
                config.data.corpora = tuple(c | seeded for c in config.data.corpora)
            return config

        found[name] = make, start

    first = dict.fromkeys(ROWS, "")
    if size != "paper":
        for row, suffix in (("both", "start"), ("larger_cnn", "larger_cnn_start")):
            add(f"{size}_{suffix}", start, row)
        first = dict.fromkeys(ROWS, f"{size}_start")
        first["larger_cnn"] = f"{size}_larger_cnn_start"
    for row, objectives in ROWS.items():
        before = first[row]
        if objectives is not None:
            add(f"{size}_{row}", pretraining, row, start=before)
            before = f"{size}_{row}"
        for task in TASKS:
            add(f"{size}_{row}_{task}", fine_tuning, row, task, start=before)
    return found


PRESETS = {name: make for size in CORPORA for name, (make, _) in cells(size).items()}


def get_study(size):
    """Returns cells, rows and claims of a size; see `pixel_bert_jax.study`."""
    choose_from = dict.fromkeys(CORPORA, dict)
    if size not in choose_from:
        choose(size, choose_from)
    return dict(
        cells={
            name: dict(config=f"ablation.py:{name}", start=before)
            for name, (_, before) in cells(size).items()
        },
        rows={
            row: {
                column: (
                    f"{size}_{row}_{task}",
                    f"{CORPORA[size][task]}/{metric}",
                    factor,
                )
                for column, (task, metric, factor) in COLUMNS.items()
            }
            for row in ROWS
        },
        claims=[
            dict(
                text=text,
                better=better,
                worse=worse,
                published=dict(zip(COLUMNS, differences, strict=True)),
            )
            for text, better, worse, differences in CLAIMS
        ],
    )


def get_config(preset=""):
    """Returns the config of a preset."""
    return choose(preset or "tiny_both", PRESETS)
