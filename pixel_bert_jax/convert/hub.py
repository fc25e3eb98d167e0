"""Finds the files of a model: a local path, an installed package, or on the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import huggingface_hub
from httpx2 import HTTPError
from huggingface_hub.errors import HFValidationError

from pixel_bert_jax.convert.weights import ENDINGS, FILES, INDEX
from pixel_bert_jax.data import packages
from pixel_bert_jax.types import InputError

# Errors of the hub's client: HTTPError for a failed connection or an error response
# (HfHubHTTPError is a subclass), HFValidationError for an invalid name, OSError for a
# file that is not in its cache, RuntimeError for an invalid setting.
HUB_ERRORS = (HTTPError, HFValidationError, OSError, RuntimeError)


def fetch(
    name: str, files: Mapping[str, Sequence[str]], revision: str | None = None
) -> Path:
    """Returns the local path of a model's files, after a download if necessary.

    With `HF_HUB_OFFLINE=1`, only the local cache of the hub is searched.

    Args:
      name: a path, `org/name`, `org/name@revision`, or `package:NAME[/PATH]` for the
        weights inside an installed Python package.
      files: name of the weights -> patterns of the files to fetch with them. Only those
        of the first weights on the hub are fetched, to avoid a second format.
      revision: branch, tag or commit; overrides the one in `name`.

    Raises:
      InputError: the path does not exist, the hub does not provide the model, or the
        package is not installed or has no weights.
    """
    if packages.is_package(name):
        found = packages.locate(name, lambda file: file.endswith(ENDINGS), "weights")
        # Hugging Face's layout is a folder with a config beside the weights.
        whole = found.name in FILES and (found.parent / "config.json").is_file()
        return found.parent if whole else found
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
        f"{name!r} is no local file or folder, and the hub does not provide it: "
        f"{problem}"
    ) from problem
