"""Image-text retrieval on Flickr30K, COCO or Flickr8k, or among rendered scenes.

    python -m pixel_bert_jax.main --config=configs/retrieval.py:tiny

Presets (a further flag such as `--config.groups=8` sets a field):

| preset | data | hardware | time |
|---|---|---|---|
| `tiny` | rendered scenes, nothing to download | 2 CPU cores | minutes |
| `tiny_scratch` | the same, without pre-training | 2 CPU cores | minutes |
| `flickr8k` | Flickr8k photos under `config.data.root` | 1 CPU core | half an hour |
| `photos` | the same, from `configs/pretrain.py:photos` | 2 CPU cores | not run yet |
| `r50`, the default, `x152` | Flickr30K | 8 GPUs | not run |
| `r50_coco`, `x152_coco` | COCO | 8 GPUs | not run |

All start from a pre-trained model: `tiny` from `checkpoints/scenes_tiny_long`, the
others from what `config.init.model` names.
"""

import sys
from pathlib import Path

# --config names this file, so any folder may be the working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import common, pretrain
from pixel_bert_jax.config import choose

KARPATHY = pretrain.COCO_FILES[0][1]


def tiny():
    """The small model of `checkpoints/scenes_tiny_long` among 100 scenes."""
    config = fine_tuned(pretrain.tiny_long(), "tiny")
    config.init.model = "checkpoints/scenes_tiny_long"
    config.total = "200 steps"
    config.groups = 8
    config.texts_per_group = 5
    config.data.corpora = (
        dict(
            source="scenes",
            name="scenes",
            weight=1.0,
            train_scenes=8000,
            evaluate_scenes=100,
        ),
    )
    config.optim.groups.transformer.learning_rate = 5e-4
    config.optim.warmup = "50 steps"
    config.optim.decays = ("70 %", "90 %")
    config.eval.update(every="100 %", groups=20, texts=50)
    return config


def tiny_scratch():
    """`tiny` without pre-training: everything is trained, the CNN and its norms too."""
    config = tiny()
    config.preset = "tiny_scratch"
    config.init.model = ""
    config.init.allow_scratch = True
    base = pretrain.tiny_long()
    config.model.norm = base.model.norm
    config.optim.rules = base.optim.rules
    return config


def flickr8k():
    """The CPU-sized model of `configs/pretrain.py:flickr8k` on the same photos."""
    config = cpu_sized(pretrain.flickr8k(), "flickr8k")
    config.total = "450 steps"
    config.optim.groups.transformer.learning_rate = 2e-4
    config.optim.warmup = "50 steps"
    config.optim.decays = ("60 %", "85 %")
    return config


def photos():
    """The model of `configs/pretrain.py:photos` on the same photos, by vectors.

    Photos and captions that are encoded apart find each other among 64 photos and 320
    captions a step; 5 million pairs of held-out ones are compared within minutes. The
    paper's loss over pairs, as in `flickr8k`, would take days on two cores.
    """
    config = cpu_sized(pretrain.photos(), "photos")
    config.init.text = config.init.cnn = ""
    with config.unlocked():
        config.objectives = dict(contrast=dict(weight=1.0, similarity="max_mean"))
    config.groups = 64
    config.total = "7 epochs"
    # Fewer of the 49 pixels in each step are enough for a vector, and cost less.
    config.model.sample_pixels = 25
    config.optim.groups.transformer.learning_rate = 2e-4
    config.optim.rules = ((r"backbone/.*", "frozen"), (r".*", "transformer"))
    config.optim.warmup = "5 %"
    config.eval.groups = 50
    return config


def cpu_sized(config, preset):
    """Makes a preset of 8 photos with all of their captions per step."""
    config = fine_tuned(config, preset)
    config.groups = 8
    config.texts_per_group = 5
    (corpus,) = config.data.corpora
    config.data.corpora = (corpus | dict(captions_per_image=5),)
    config.eval.update(every="100 %", groups=20, texts=50)
    return config


def r50():
    r"""The paper's model for analysis on Flickr30K, 10 epochs.

        python -m pixel_bert_jax.main --config=configs/retrieval.py:r50 \
          --config.data.root=FOLDER --config.init.model=PRETRAINED

    64 samples per GPU on 8 GPUs; the rate falls after epoch 6 (section 4.3.3). Paper,
    R@1 of text and image retrieval: 75.7, 59.8.
    """
    return flickr30k(pretrain.r50(), "r50")


def x152():
    """The paper's stronger model on Flickr30K. Paper, R@1: 87.0, 71.5."""
    return flickr30k(pretrain.x152(), "x152")


def r50_coco():
    """`r50` on COCO, 4 epochs. Paper, R@1: 53.4, 41.1 of 5K; 77.8, 64.1 of 1K."""
    return coco(pretrain.r50(), "r50_coco")


def x152_coco():
    """`x152` on COCO. Paper, R@1: 63.6, 50.1 of 5K; 84.9, 71.6 of 1K."""
    return coco(pretrain.x152(), "x152_coco")


def flickr30k(config, preset):
    """Makes a preset of the paper's size on Flickr30K."""
    config = full_size(config, preset, "flickr30k", "flickr30k/images", ("train",))
    config.total = "10 epochs"
    config.optim.decays = ("6 epochs",)
    config.dry_run.images = 145_000
    return config


def coco(config, preset):
    """Makes a preset of the paper's size on COCO, with metrics of 5K and of 1K."""
    config = full_size(config, preset, "coco", "coco", ("train", "restval"))
    config.total = "4 epochs"
    config.optim.decays = ("2 epochs",)
    config.eval.fold = 1000
    config.dry_run.images = 566_435
    return config


def full_size(config, preset, name, photos, training):
    """Makes a preset of the paper's size on one of Karpathy's data sets."""
    config = fine_tuned(config, preset)
    config.groups = 512
    config.texts_per_group = 1
    config.optim.accumulate = 16  # 4 images, 84 pairs at a time on each of 8 devices
    file = f"{name}/annotations/dataset_{name}.json"
    config.data.corpora = (
        dict(
            source="karpathy",
            name=name,
            weight=1.0,
            annotations=file,
            images=photos,
            splits=dict(train=training, evaluate=("val",), predict=("test",)),
            captions_per_image=5,
            needs=((file, KARPATHY), (photos, "its photos")),
        ),
    )
    config.optim.warmup = "5 %"
    config.eval.update(every="100 %")
    config.dry_run.shards = 8
    return config


def fine_tuned(config, preset):
    """Turns a pre-training config into one that trains only the transformer.

    As in section 4.3.3, the CNN is frozen. If pre-training had `image_words`, its head
    is kept unchanged, to make shortlists.
    """
    objectives = dict(retrieval=dict(weight=1.0, negatives=20, hardest=5))
    if "image_words" in config.objectives:
        objectives["image_words"] = dict(weight=0.0)
    config = common.fine_tuned(config, "retrieval", **objectives)
    config.preset = preset
    config.init.allow_scratch = False  # a frozen CNN has to be trained beforehand
    config.model.norm = "frozen"
    config.optim.rules = (
        (r"(backbone|front_end)/.*", "frozen"),
        (r".*", "transformer"),
    )
    return config


PRESETS = {
    "": r50,
    "tiny": tiny,
    "tiny_scratch": tiny_scratch,
    "flickr8k": flickr8k,
    "photos": photos,
    "r50": r50,
    "x152": x152,
    "r50_coco": r50_coco,
    "x152_coco": x152_coco,
}


def get_config(preset=""):
    """Returns the config of a preset."""
    return choose(preset, PRESETS)
