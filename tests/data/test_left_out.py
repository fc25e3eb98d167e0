"""Photos that are missing or broken when the index is built, in every format."""

import gzip
import json
import shutil

import numpy as np
import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import TrainPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import BadImageBudgetError, InputError
from tests.data.conftest import encoded, photo

LENGTH = 8
COUNT = 10
ROOM = {"on_bad_image": "skip", "bad_image_budget": 0.5}


def _coco(root):
    name = "COCO_val2014_{:012d}.jpg".format
    images = [
        {"id": n, "file_name": name(n), "height": 40, "width": 50} for n in range(COUNT)
    ]
    texts = [{"id": n, "image_id": n, "caption": "a cat"} for n in range(COUNT)]
    content = {"images": images, "annotations": texts}
    (root / "c.json").write_text(json.dumps(content))
    return {"annotations": "c.json", "images": "."}, [name(n) for n in range(COUNT)]


def _flickr(root):
    lines = "".join(f"{n}.jpg#0\ta cat\n" for n in range(COUNT))
    (root / "f.token").write_text(lines)
    (root / "train.txt").write_text("".join(f"{n}.jpg\n" for n in range(COUNT)))
    fields = {"annotations": "f.token", "split_list": "train.txt", "images": "."}
    return fields, [f"{n}.jpg" for n in range(COUNT)]


def _jsonl(root):
    lines = [
        json.dumps({"image": f"{n}.jpg", "texts": ["a cat"]}) for n in range(COUNT)
    ]
    (root / "a.jsonl").write_text("\n".join(lines))
    return {"annotations": "a.jsonl"}, [f"{n}.jpg" for n in range(COUNT)]


def _karpathy(root):
    images = [
        {
            "filename": f"{n}.jpg",
            "imgid": n,
            "split": "train",
            "sentences": [{"raw": "a cat", "sentid": n}],
        }
        for n in range(COUNT)
    ]
    (root / "k.json").write_text(json.dumps({"images": images}))
    return {"annotations": "k.json"}, [f"{n}.jpg" for n in range(COUNT)]


def _nlvr2(root):
    lines = [
        {"identifier": f"dev-1-{n}-0", "sentence": "a cat", "label": "True"}
        for n in range(COUNT // 2)
    ]
    (root / "n.json").write_text("\n".join(map(json.dumps, lines)))
    keys = [f"dev-1-{n // 2}-img{n % 2}.png" for n in range(COUNT)]
    return {"annotations": "n.json", "images": "."}, keys


def _visual_genome(root, entries="regions"):
    images = [
        {
            "image_id": n,
            "url": f"https://example.org/VG_100K_2/{n}.jpg",
            "width": 50,
            "height": 40,
            "coco_id": None,
        }
        for n in range(COUNT)
    ]
    box = {"x": 0, "y": 0, "width": 9, "height": 9}
    text = {"phrase": "a cat", "region_id": 0} | box
    if entries == "qas":
        text = {"question": "a cat", "answer": "a dog", "qa_id": 0}
    texts = [{"id": n, entries: [text | {"image_id": n}]} for n in range(COUNT)]
    (root / "images.json").write_text(json.dumps(images))
    (root / "texts.json").write_text(json.dumps(texts))
    (root / "VG_100K_2").mkdir()
    fields = {"annotations": "texts.json", "sizes": "images.json", "images": "."}
    return fields, [f"VG_100K_2/{n}.jpg" for n in range(COUNT)]


def _visual_genome_questions(root):
    return _visual_genome(root, "qas")


def _vqa(root):
    questions = [
        {"image_id": n, "question": "a cat", "question_id": n} for n in range(COUNT)
    ]
    answers = [
        {
            "question_id": n,
            "question_type": "is",
            "answer_type": "yes/no",
            "multiple_choice_answer": "yes",
            "answers": [{"answer": "yes"}],
        }
        for n in range(COUNT)
    ]
    head = {"data_subtype": "val2014"}
    (root / "q.json").write_text(json.dumps(head | {"questions": questions}))
    (root / "a.json").write_text(json.dumps(head | {"annotations": answers}))
    (root / "val2014").mkdir()
    fields = {"questions": {"train": "q.json"}, "answers": {"train": "a.json"}}
    keys = [f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(COUNT)]
    return fields | {"images": "."}, keys


FORMATS = {
    "coco": _coco,
    "flickr": _flickr,
    "jsonl": _jsonl,
    "karpathy": _karpathy,
    "nlvr2": _nlvr2,
    "visual_genome": _visual_genome,
    "visual_genome_questions": _visual_genome_questions,
    "vqa": _vqa,
}


class Folder:
    """Ten photos with a text each in one format; the first four are then damaged."""

    def __init__(self, kind, root):
        root.mkdir()
        self.kind, self.root = kind, root
        self.fields, self.keys = FORMATS[kind](root)
        for n, key in enumerate(self.keys):
            format = "PNG" if key.endswith("png") else "JPEG"
            (root / key).write_bytes(encoded(photo(40, 50, n), format))

    def damage(self):
        missing, empty, page, cut = (self.root / key for key in self.keys[:4])
        missing.unlink()
        empty.write_bytes(b"")
        page.write_bytes(b"<html>403 Forbidden</html>")
        cut.write_bytes(cut.read_bytes()[:-40])

    def source(self):
        config = {"source": self.kind, "name": "mine", **self.fields}
        return SOURCES[self.kind](config, "train", self.root)


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
    for said in (capsys.readouterr().err,):
        assert "4 images, missing or broken when the index was built, are left" in said
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
    with pytest.raises(InputError, match="built with 4 images left out, now .*'error'"):
        build_or_open([folder.source()], tokenizer, LENGTH, path)
    shutil.rmtree(path)


def test_the_budget_counts_what_is_left_out(tokenizer, tmp_path):
    folder = Folder("jsonl", tmp_path / "data")
    folder.damage()
    options = ROOM | {"bad_image_budget": 0.39}
    with pytest.raises(BadImageBudgetError, match="4 of 10 images .*=0.39") as error:
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
        from pathlib import Path

        def refuse(path, *args):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse, raising=True)
        with pytest.raises(
            InputError, match=r"Cannot read .*0\.jpg: Permission denied"
        ):
            folder.source()._measure(key)
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
