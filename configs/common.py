"""Fields that every config has, with the defaults of the paper or of its authors.

Sources are named beside each choice in docs/differences.md.
"""

import ast
import difflib
import re

import ml_collections


def base():
    """Returns the fields shared by all presets; a preset fills in sizes and data."""
    config = ml_collections.ConfigDict()
    config.preset = ""
    config.seed = 0
    config.total = "40 epochs"
    config.groups = 832  # G, images a step
    config.texts_per_group = 5  # K, captions that share one CNN pass
    config.mesh = dict(data=-1, fsdp=1, model=1)
    # Over `mesh.model`: attention by heads, feed-forward networks by hidden units.
    config.sharding = (
        (r"encoder/.*/(query|key|value|hidden)/kernel", "columns"),
        (r"encoder/.*/(query|key|value|hidden)/bias", "rows"),
        (r"encoder/.*/(attention_out|out)/kernel", "rows"),
        (r".*", "fsdp"),
    )
    config.sharding_tolerance = 0.02  # share of parameters that fsdp may leave whole
    config.compile_cache = "~/.cache/pixel_bert_jax/xla"

    config.task = dict(name="pretrain")
    config.objectives = dict(
        mlm=dict(weight=1.0, on_swapped=True),
        itm=dict(weight=1.0),
    )
    # slots = 0: ceil(probability x max_text_length) + 4 predictions a text.
    config.masking = dict(
        probability=0.15,
        warmup_probability=0.15,  # of the first warmup_steps; see objectives/views.py
        warmup_steps=0,
        whole_words=False,
        slots=0,
    )

    config.model = dict(
        # See models/resnet.py; ResNet-50 in torchvision's version.
        backbone=dict(
            depths=(3, 4, 6, 3),
            widths=(256, 512, 1024, 2048),
            strides=(1, 2, 2, 2),
            inner=(64, 128, 256, 512),  # () = basic blocks
            groups=1,
            stem="conv7_pool",
            frozen_stages=1,  # the stem and stage 1 do not learn; -1: all do
        ),
        # See models/front_ends.py.
        front_end=dict(
            order="conv_pool",
            kernel=1,
            bias=True,
            norm="none",
            activation="none",
            positions="none",
        ),
        norm="batch",  # or "frozen": running statistics are constants
        norm_momentum=0.9,
        features=768,
        layers=12,
        heads=12,
        hidden=3072,
        dropout=0.1,
        max_positions=512,
        init_std=0.02,
        attention_init="independent",  # or "similar"; see models/bert.py
        sample_pixels=100,
        dtype="float32",  # of products; "bfloat16" on accelerators
        # Activations kept for the backward pass: "none" keeps all, "dots" the results
        # of products and convolutions, "full" only the inputs of blocks.
        remat=dict(backbone="none", encoder="none"),
    )

    config.data = dict(
        root="",  # or the environment variable PIXEL_BERT_DATA
        index_dir="~/.cache/pixel_bert_jax/index",
        corpora=(),
        # Fields of every corpus whose source is "scenes"; a corpus' own come first.
        scenes=dict(
            seed=0, train_scenes=20000, evaluate_scenes=1000, captions_per_scene=5
        ),
        tokenizer="",
        answers="",  # "scenes", a json file, or "": counted in the training split
        max_text_length=32,
        short_side=800,
        long_side=1333,
        canvases=("1088x800", "1216x800", "1344x800", "800x1088", "800x1344"),
        source_canvases=(640, 1344),
        # (width, height, share) of pictures, for --dry_run; COCO's five shapes.
        size_shares=(
            (640, 480, 0.363),
            (640, 427, 0.322),
            (640, 360, 0.069),
            (480, 640, 0.127),
            (427, 640, 0.119),
        ),
        blank_images=False,  # True: a model of the texts alone, to compare with
        on_bad_image="error",
        bad_image_budget=0.001,
        workers=2,
        prefetch=2,
    )

    config.optim = dict(
        groups=dict(
            cnn=dict(kind="sgd", learning_rate=1e-2, weight_decay=5e-4, momentum=0.9),
            transformer=dict(
                kind="adamw",
                learning_rate=1e-4,
                weight_decay=1e-2,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-6,
            ),
        ),
        rules=((r"backbone/.*", "cnn"), (r".*", "transformer")),
        clip_norm=10.0,
        warmup="1000 steps",
        warmup_factor=1 / 3,
        decays=("25 epochs", "35 epochs"),
        decay_factor=0.1,
        accumulate=1,
        non_finite_budget=10,  # updates in a row
    )

    # fallback: go on from an older checkpoint if the newest is damaged.
    config.checkpoint = dict(
        every="500 steps", keep=2, best_metric="", best_mode="max", fallback=False
    )
    # Of retrieval: texts scored at once beside each of `groups` images; fold: images of
    # a part whose figures are averaged (COCO 1K), 0: none; shortlist: texts an image
    # and images a text that are scored at all, 0: all pairs.
    config.eval = dict(
        every="1 epochs", seed=0, groups=32, oracle=False, texts=64, fold=0, shortlist=0
    )
    config.log = dict(every=50)
    # Seconds without a sign of life until stacks are printed, and until the process is
    # ended; 0: never.
    config.watchdog = dict(warn=600.0, limit=3600.0)
    # shards: devices of the mesh; vocab_size: no tokenizer is opened.
    config.dry_run = dict(
        shards=1, vocab_size=30522, answers=3129, images=10_000, images_per_group=1
    )
    config.init = dict(model="", text="", cnn="", allow_scratch=True)
    return config.lock()


def fine_tuned(config, task, **objectives):
    """Turns a pre-training config into one of a task that sees texts as they are.

    Section 3.3: pixels are sampled in pre-training only.
    """
    with config.unlocked():
        config.objectives = objectives
    config.task.name = task
    config.model.sample_pixels = 0
    config.model.attention_init = "independent"
    config.masking.update(warmup_steps=0, slots=0)
    config.checkpoint.best_metric = ""
    return config


def cpu_sized(config):
    """Gives a small model that learns all its parameters smaller and fewer steps."""
    for group in config.optim.groups.values():
        group.learning_rate = 5e-4
    config.optim.warmup = "5 %"
    config.optim.clip_norm = 5.0
    config.eval.every = "100 %"
    return config


def parse(argument, presets):
    """Returns the locked config of "preset,key=value,...".

    A value is a Python literal, or else a text: `tiny,groups=16,optim.accumulate=2`.

    Args:
      argument: what follows the colon of `--config=FILE:`.
      presets: functions that make a config, by name.

    Raises:
      ValueError: unknown preset or key, with the nearest valid name, or a value of
        another type than the default.
    """
    name, _, rest = argument.partition(",")
    if name not in presets:
        valid = [n for n in presets if n]
        raise ValueError(
            f"no preset {name!r}{_nearest(name, valid)}; valid: {', '.join(valid)}"
        )
    config = presets[name]().lock()
    # A comma inside of a value, as in a tuple, is not followed by "key=".
    for override in re.split(r",(?=\s*[A-Za-z_][\w.]*=)", rest) if rest else []:
        key, equals, text = override.strip().partition("=")
        if not equals:
            raise ValueError(
                f"expected key=value after the preset {name!r}, received {override!r}"
            )
        _set(config, key, text)
    return config


def _set(config, key, text):
    """Sets `key`, as in "optim.accumulate", to what `text` means for its type."""
    fields = _fields(config)
    if key not in fields:
        raise ValueError(f"no config field {key!r}{_nearest(key, fields)}")
    default = fields[key]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, str) and not isinstance(value, str):
        value = text  # total=900 means "900"
    wanted = type(default)
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted is tuple and type(value) is list:
        value = tuple(value)
    if type(value) is not wanted:
        raise ValueError(
            f"config field {key}: expected {wanted.__name__} such as {default!r}, "
            f"received {text!r}"
        )
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


def _fields(config, prefix=""):
    """Returns {"optim.accumulate": 1, ...} of all fields that hold a value."""
    fields = {}
    for name in config:
        value = config[name]
        if isinstance(value, ml_collections.ConfigDict):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _nearest(name, valid):
    """Returns " (did you mean 'x'?)" for the closest valid name, or nothing.

    A name whose last part is right, in the wrong group, is found as well.
    """
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    last = name.rpartition(".")[2]
    same = [v for v in valid if v.rpartition(".")[2] == last]
    close = same or close
    return f" (did you mean {close[0]!r}?)" if close else ""
