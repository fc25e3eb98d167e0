"""The model card (README.md) of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

LIBRARY = "pixel_bert_jax"
TAGS = ["pixel-bert", "vision-language", "image-text", "jax", "flax"]
TEMPLATE = """---
{header}
---

# {title}

A Pixel-BERT ([arXiv 2004.00849](https://arxiv.org/abs/2004.00849)) in JAX and Flax:
a CNN over the whole image and one transformer over its pixels and the words of a text.

| | |
|---|---|
{facts}

## Use

```python
import pixel_bert_jax

pretrained = pixel_bert_jax.from_pretrained("FOLDER_OR_HUB_ID")
inputs = pretrained.inputs("photo.jpg", "a dog on a sofa")
encoded = pretrained.model.apply(pretrained.variables, **inputs)
encoded.pooled  # [1, {width}], the output at [CLS]
```

The folder can be evaluated and trained further by
`--config.init.model=FOLDER_OR_HUB_ID` of `python -m pixel_bert_jax.main`.
{metrics}
## Limits

It has learned from its training data, with their biases, and was not tested for any
other use.
"""
NOT_MEASURED = """
## Held-out metrics

Not measured: the variables were changed after the model they are derived from.
"""


def text(
    config: Mapping[str, Any], provenance: Mapping[str, Any], parameters: int
) -> str:
    """Returns the model card in Markdown.

    Args:
      config: config of the training run.
      provenance: see `Pretrained`.
      parameters: number of values in the weights, including running statistics.
    """
    title = f"Pixel-BERT {config['preset']}".strip()
    model, data = config["model"], config["data"]
    cnn, origin = model["backbone"], provenance.get("derived_from")
    metrics = provenance.get("figures") or {}
    if origin:  # only what was measured of it, see `add_figures`
        metrics = {name: x for name, x in metrics.items() if x is not None}
    results = [
        EvalResult(
            task_type=config["task"]["name"],
            dataset_type=name.rpartition("/")[0],
            dataset_name=name.rpartition("/")[0],
            metric_type=name.rpartition("/")[2],
            metric_value=round(value, 4),
        )
        for name, value in metrics.items()  # "corpus/metric"
        if value is not None
    ]
    header = ModelCardData(
        library_name=LIBRARY,
        tags=TAGS,
        model_name=title,
        eval_results=results or None,
    )
    facts = {
        "task": config["task"]["name"],
        "transformer": f"{model['layers']} layers of width {model['features']}, "
        f"{model['heads']} heads",
        "CNN": ", ".join(
            f"{name} {_plain(value)}" for name, value in sorted(cnn.items())
        ),
        "numbers": f"{parameters:,}",
        "images": f"shorter side {data['short_side']}, longer at most "
        f"{data['long_side']} pixels",
    }
    trained, prefix = (origin, "derived from: ") if origin else (provenance, "")
    facts |= {prefix + name: value for name, value in _training(trained, data).items()}
    facts["SHA-256 of the variables"] = provenance["variables_sha256"]
    return TEMPLATE.format(
        header=header.to_yaml().strip(),
        title=title,
        facts="\n".join(
            f"| {k} | {v} |" for k, v in facts.items() if v not in ("", None)
        ),
        width=model["features"],
        metrics=NOT_MEASURED if origin and not metrics else _table(metrics),
    )


def _training(record: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rows about the training, {name: value}."""
    return {
        "trained on": ", ".join(corpus["name"] for corpus in data["corpora"]),
        "command": f"`{record['command']}`" if record.get("command") else "",
        "step": record.get("step"),
        "SHA-256 of the training state": record.get("sha256"),
    }


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _table(metrics: Mapping[str, float | None]) -> str:
    if not metrics:
        return ""
    rows = "\n".join(
        f"| {name} | {'undefined' if value is None else format(value, '.4f')} |"
        for name, value in metrics.items()
    )
    return f"\n## Held-out metrics\n\n| metric | value |\n|---|---|\n{rows}\n"
