"""Files are replaced as a whole."""

import os

import pytest

from pixel_bert_jax.data import durable


def test_a_file_is_replaced_once_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    file = tmp_path / "file.json"
    durable.write(file, "old")
    assert file.read_text() == "old"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            durable.write(file, "new, which does not fit")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    durable.write(file, b"new")
    assert file.read_bytes() == b"new"


def test_hash_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert durable.sha256(tmp_path / "file").startswith("ba7816bf8f01cfea")
