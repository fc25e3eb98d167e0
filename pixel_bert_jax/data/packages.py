"""Files inside installed Python packages: names of the form package:NAME[/PATH].

Some published weights and vocabularies come as packages of the Python registry, which
need no hub. NAME is the package's name there, PATH a file or folder in it, as
`pip show --files NAME` lists them.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path

from pixel_bert_jax.types import InputError, nearest

PREFIX = "package:"
OURS = "pixel_bert_jax"
SHOWN = 5  # files in a message


def is_package(name: str) -> bool:
    """Returns whether a name refers to an installed package."""
    return name.startswith(PREFIX)


def locate(name: str, wanted: Callable[[str], bool], what: str) -> Path:
    """Returns the path that a name refers to.

    Args:
      name: package:NAME[/PATH].
      wanted: whether a file of that name is looked for; used if there is no PATH.
      what: names what is looked for in messages.

    Returns:
      PATH inside the package, or else its only file that is wanted.

    Raises:
      InputError: the package is not installed, has no such file or several, or is
        damaged.
    """
    package, _, inside = name.removeprefix(PREFIX).partition("/")
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise InputError(
            f"{name}: the package {package!r} is not installed{_similar(package)}; "
            f"install it by: pip install --no-deps {_pinned(package)}"
        ) from error
    files = {str(file): file for file in distribution.files or ()}
    if inside:
        inside = inside.rstrip("/")
        chosen = [n for n in files if n == inside or n.startswith(f"{inside}/")]
        path = Path(str(distribution.locate_file(inside)))
    else:
        chosen = [n for n in files if wanted(Path(n).name)]
        path = Path(str(distribution.locate_file(chosen[0]))) if chosen else Path()
    if not chosen or (not inside and len(chosen) > 1):
        known = chosen or [n for n in files if ".dist-info" not in n] or list(files)
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        raise InputError(
            f"{name}: expected {f'{inside!r}' if inside else f'one file of {what}'} in "
            f"the package {package!r}{nearest(inside, files) if inside else ''}, which "
            f"has {', '.join(known[:SHOWN]) or 'no files'}{more}; a file is named by "
            f"{PREFIX}{package}/PATH"
        )
    for one in chosen:
        _check_whole(Path(str(distribution.locate_file(one))), files[one].size, package)
    return path


def _check_whole(path: Path, size: int | None, package: str) -> None:
    """Compares a file with the size that its package lists."""
    received = path.stat().st_size if path.is_file() else None
    if received is None or size not in (None, received):
        found = "is missing" if received is None else f"has {received} bytes"
        raise InputError(
            f"{path} {found}, the installed package {package!r} lists "
            f"{'it' if size is None else f'{size} bytes'}; mend it by: "
            f"pip install --force-reinstall --no-deps {_pinned(package)}"
        )


def _similar(package: str) -> str:
    """Suggests an installed package of a similar name."""
    names = {str(d.name) for d in importlib.metadata.distributions()}
    names |= {re.split(r"[^\w.-]", one)[0] for one in _requirements()}
    return nearest(package, names)


def _pinned(package: str) -> str:
    """Returns the requirement with the version that this project was tested with."""
    for one in _requirements():
        requirement = one.partition(";")[0].strip()
        if re.split(r"[^\w.-]", requirement)[0].lower() == package.lower():
            return requirement
    return package


def _requirements() -> list[str]:
    """Returns what this package requires, its extras included."""
    try:
        return importlib.metadata.requires(OURS) or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder
        return []
