"""Files of a model: a path here, or a model on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import huggingface_hub
from httpx2 import HTTPError
from huggingface_hub.errors import HFValidationError

from pixel_bert_jax.convert.weights import ENDINGS, INDEX
from pixel_bert_jax.types import InputError

# What the hub's client raises: an answer or a connection that failed (its
# HfHubHTTPError is one too), a name that cannot be one, nothing in its cache, a wrong
# setting.
HUB_ERRORS = (HTTPError, HFValidationError, OSError, RuntimeError)


def fetch(
    name: str, files: Mapping[str, Sequence[str]], revision: str | None = None
) -> Path:
    """Returns the file or folder that a name stands for; fetches it from the hub.

    `HF_HUB_OFFLINE=1` looks into the hub's cache alone.

    Args:
      name: a path, `org/name`, or `org/name@revision`.
      files: weights -> patterns of what is fetched with them. The first weights that
        the hub has are taken, so that none are fetched in two formats.
      revision: branch, tag or commit, instead of one in the name.

    Raises:
      InputError: it is neither on this machine nor to be had from the hub.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    repository, _, in_name = name.partition("@")
    elsewhere = name.startswith(("/", "~", ".")) or repository.endswith(ENDINGS)
    if elsewhere or repository.count("/") > 1:
        raise InputError(f"no weights at {path}: neither a file nor a folder")
    problem: Exception | None = None
    for weights, patterns in files.items():
        try:
            folder = huggingface_hub.snapshot_download(
                repository,
                revision=revision or in_name or None,
                allow_patterns=list(patterns),
            )
        except HUB_ERRORS as error:
            problem = error
            continue
        if any((Path(folder) / f).exists() for f in (weights, weights + INDEX)):
            return Path(folder)
    if problem is None:
        raise InputError(f"{name!r} on the hub has none of {', '.join(files)}")
    raise InputError(
        f"{name!r} is no file or folder here, and cannot be had from the hub: {problem}"
    ) from problem
