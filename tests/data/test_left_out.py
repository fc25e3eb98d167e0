"""Photos that are missing or broken when the index is built, in every format."""

import gzip
import json

import numpy as np
import pytest

from pixel_bert_jax.data import images
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import TrainPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import BadImageBudgetError, InputError
from tests.data.formats import FORMATS, Folder

LENGTH = 8
ROOM = {"on_bad_image": "skip", "bad_image_budget": 0.5}


def test_every_format_of_files_is_tested():
    assert FORMATS.keys() == {k for k in SOURCES if not k.startswith("scenes")}


@pytest.fixture(params=FORMATS)
def folder(request, tmp_path):
    return Folder(request.param, tmp_path / "data")


def test_bad_photos_are_refused_together(folder, tokenizer, tmp_path):
    folder.damage()
    with pytest.raises(InputError, match="leaves the 4 images that are missing") as e:
        build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "index")
    message = str(e.value)
    assert f"1 x missing image file:\n  {folder.root / folder.keys[0]}" in message
    assert "3 x broken image file:" in message and "4 faults" in message
    for key, reason in zip(
        folder.keys[1:4],
        ("the file is empty", "it starts with '<html>403", ""),
        strict=True,
    ):
        assert f"{folder.root / key}: " in message and reason in message
    assert not (tmp_path / "index").exists()


def test_bad_photos_are_left_out_with_their_texts(folder, tokenizer, tmp_path, capsys):
    whole = build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "whole")
    assert not whole.left_out and "left out" not in capsys.readouterr().err
    folder.damage()
    path = tmp_path / "index"
    index = build_or_open([folder.source()], tokenizer, LENGTH, path, **ROOM)
    # NLVR2's texts have two photos: two of five are left.
    texts = 2 if folder.kind == "nlvr2" else 4
    assert list(index.keys()) == folder.keys[4:]
    assert index.num_texts(0) == whole.num_texts(0) - texts
    assert [entry[:2] for entry in index.left_out] == [(0, k) for k in folder.keys[:4]]
    assert index.left_out[0][2] == "missing image file"
    assert index.texts_left_out == {"mine": texts}
    said = capsys.readouterr().err
    assert "4 images, missing or broken when the index was built, are left out" in said
    assert f"with {texts} texts: {folder.keys[0]}: missing image file" in said
    # It is said again at every opening.
    again = build_or_open([folder.source()], tokenizer, LENGTH, path, **ROOM)
    assert again.fingerprint == index.fingerprint != whole.fingerprint
    assert "4 images, missing or broken" in capsys.readouterr().err


def test_an_index_that_leaves_photos_out_is_not_that_of_another_policy(
    tokenizer, tmp_path
):
    folder = Folder("jsonl", tmp_path / "data")
    path = tmp_path / "index"
    whole = build_or_open([folder.source()], tokenizer, LENGTH, path)
    # Where nothing is left out both policies share one index.
    again = build_or_open([folder.source()], tokenizer, LENGTH, path, **ROOM)
    assert again.fingerprint == whole.fingerprint
    folder.damage()
    build_or_open([folder.source()], tokenizer, LENGTH, path, rebuild=True, **ROOM)
    with pytest.raises(InputError, match=r"with 4 images left out, now .*'error'"):
        build_or_open([folder.source()], tokenizer, LENGTH, path)


def test_the_budget_counts_what_is_left_out(tokenizer, tmp_path):
    folder = Folder("jsonl", tmp_path / "data")
    folder.damage()
    options = ROOM | {"bad_image_budget": 0.39}
    with pytest.raises(BadImageBudgetError, match=r"4 of 10 images .*=0\.39") as error:
        build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "i", **options)
    assert "corpus 'mine', 1.jpg: the file is empty" in str(error.value)
    assert not (tmp_path / "i").exists()
    build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "i", **ROOM)
    with pytest.raises(BadImageBudgetError, match="4 of 10 images"):
        build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "i", **options)
    with pytest.raises(InputError, match="corpus without a text"):
        for key in folder.keys:
            (folder.root / key).unlink(missing_ok=True)
        build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "none", **ROOM)


def test_what_is_left_out_is_listed_once(tokenizer, tmp_path):
    folder = Folder("jsonl", tmp_path / "data")
    folder.damage()
    index = build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "i", **ROOM)
    plan = TrainPlan(
        [index.plan_corpus(0)],
        index.sizes,
        seed=0,
        groups=2,
        texts_per_group=1,
        short=64,
        long=128,
        canvases=[(64, 128), (128, 64)],
        source_canvases=[64],
    )
    path = tmp_path / "bad.jsonl"
    for _ in range(2):
        with Stream(plan, index, stop=2, bad_image_list=path, **ROOM) as stream:
            assert stream.bad_images == 0  # the budget of reading is another one
            assert len(list(stream)) == 2
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["key"] for line in lines] == folder.keys[:4]
        assert {line["step"] for line in lines} == {-1}
        assert lines[0]["reason"] == "missing image file"
    # Another process lists what it decodes alone.
    rows = np.array([1])
    with Stream(plan, index, bad_image_list=tmp_path / "1", rows=rows, **ROOM):
        assert not (tmp_path / "1").exists()


@pytest.mark.parametrize("fault", ["folder", "file", "long", "unreadable"])
def test_paths_that_are_no_files(fault, tokenizer, tmp_path, monkeypatch):
    folder = Folder("jsonl", tmp_path / "data")
    (folder.root / "d.jpg").mkdir()
    key = {
        "folder": "d.jpg",
        "file": "0.jpg/0.jpg",
        "long": "x" * 300 + ".jpg",
        "unreadable": "0.jpg",
    }[fault]
    line = json.dumps({"image": key, "texts": ["a cat"]})
    (folder.root / "a.jsonl").write_text(line)
    if fault == "unreadable":  # the tests may run as root, who may read everything

        def refuse(path, **options):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(images, "measure", refuse)
        with pytest.raises(
            InputError, match=r"Cannot read .*0\.jpg: Permission denied"
        ):
            build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "index")
        return
    with pytest.raises(InputError, match=f"missing image file:\n.*{key}"):
        build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "index")


def test_compressed_lists_fall_under_the_policy_too(tokenizer, tmp_path):
    folder = Folder("flickr", tmp_path / "data")
    tokens = folder.root / "f.token"
    (folder.root / "f.token.gz").write_bytes(gzip.compress(tokens.read_bytes()))
    folder.fields["annotations"] = "f.token.gz"
    folder.damage()
    index = build_or_open([folder.source()], tokenizer, LENGTH, tmp_path / "i", **ROOM)
    assert len(index.left_out) == 4
