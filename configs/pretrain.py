"""Pre-training with masked language modelling and image-text matching.

    python -m pixel_bert_jax.main --config=configs/pretrain.py:tiny

Presets (add overrides after commas: `configs/pretrain.py:tiny,groups=32`):

| preset | data | hardware | time |
|---|---|---|---|
| `tiny` | rendered scenes, nothing to download | 2 CPU cores | 6 minutes |
| `tiny_long` | the same scenes | 2 CPU cores | at most 90 minutes |
| `flickr8k` | Flickr8k photos under `config.data.root` | 2 CPU cores | 100 minutes |

The paper's own sizes (ResNet-50 at 800/1333 on COCO + Visual Genome) are not among them
yet; `main` says so.
"""

from configs import common


def tiny():
    """A small model on embedded scenes that has every idea of the paper at work."""
    config = common.base()
    config.preset = "tiny"
    config.total = "900 steps"
    config.groups = 32
    config.texts_per_group = 5

    config.model.backbone = dict(
        depths=(1, 1, 1), widths=(32, 64, 96), strides=(1, 2, 2)
    )
    config.model.features = 128
    config.model.heads = 4
    config.model.hidden = 512
    config.model.layers = 3
    config.model.sample_pixels = 18
    config.model.dropout = 0.0
    config.model.init_std = 0.08  # BERT's 0.02 at 768, in a 128-wide model
    config.model.max_positions = 48
    config.model.norm = "batch"

    config.data.corpora = (
        dict(
            source="scenes",
            name="scenes",
            weight=1.0,
            seed=0,
            train_scenes=20000,
            evaluate_scenes=1000,
            captions_per_scene=5,
        ),
    )
    config.data.tokenizer = "scenes"
    config.data.max_text_length = 22  # the longest caption has 20 words
    config.data.short_side = 96
    config.data.long_side = 112
    config.data.canvases = ("112x96", "96x112", "96x96")
    config.data.source_canvases = (112,)
    config.data.size_shares = ((112, 96, 1.0), (96, 112, 1.0), (96, 96, 1.0))
    config.dry_run.vocab_size = 244

    config.optim.groups.cnn.learning_rate = 0.05
    config.optim.groups.transformer.learning_rate = 1e-3
    config.optim.rules = ((r"backbone/.*", "cnn"), (r".*", "transformer"))
    config.optim.warmup = "100 steps"
    config.optim.decays = ("70 %", "90 %")
    config.optim.clip_norm = 1.0
    return config


PRESETS = {"tiny": tiny}


def get_config(argument=""):
    """Returns the config of `preset,key=value,...`."""
    return common.parse(argument, PRESETS)
