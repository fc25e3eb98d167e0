import os
import stat

import pytest

from pixel_bert_jax import durable


def test_a_file_is_replaced_as_a_whole_after_it_is_on_disk(tmp_path, monkeypatch):
    path, done = tmp_path / "log.jsonl", []
    path.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        kind = os.fstat(descriptor).st_mode
        done.append("folder" if stat.S_ISDIR(kind) else "file")
        fsync(descriptor)

    def noted_replace(source, target):
        assert path.read_bytes() == b"old"
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    durable.write(path, b"new")
    assert path.read_bytes() == b"new" and done == ["file", "rename", "folder"]
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write(path, b"new")
    assert path.read_bytes() == b"old"
