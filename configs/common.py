"""What several presets have in common."""

from pixel_bert_jax.config import defaults


def base():
    """Returns the defaults of `config/schema.py` in the package, to be changed."""
    return defaults()


def fine_tuned(config, task, **objectives):
    """Turns a pre-training config into one for fine-tuning on uncorrupted texts.

    All pixels are used, as they are sampled in pre-training only (section 3.3).
    """
    with config.unlocked():
        config.objectives = objectives
    config.task.name = task
    config.model.sample_pixels = 0
    config.model.attention_init = "independent"
    config.masking.update(warmup_steps=0, slots=0)
    config.checkpoint.best_metric = ""
    config.data.exclude = ()
    return config


def cpu_sized(config):
    """Sets rates and schedule for short fine-tuning of a small model as a whole."""
    for group in config.optim.groups.values():
        group.learning_rate = 5e-4
    config.optim.warmup = "5 %"
    config.optim.clip_norm = 5.0
    config.eval.every = "100 %"
    return config
