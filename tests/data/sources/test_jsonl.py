"""One's own photos as lines of json."""

import json

import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo

FIELDS = {"source": "jsonl", "name": "mine", "annotations": "mine.jsonl"}
RECORDS = [
    {"image": "a/1.png", "texts": ["A cat", "the red cat"], "split": "train"},
    {"image": "a/2.jpg", "texts": ["A dog"], "split": "val", "height": 24, "width": 31},
    {"image": "a/3.jpg", "texts": [], "split": "train", "coco_id": 5},
]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "mine"
    (root / "a").mkdir(parents=True)
    (root / "a/1.png").write_bytes(encoded(photo(20, 30), "PNG"))
    for n in (2, 3):
        (root / f"a/{n}.jpg").write_bytes(encoded(photo(22 + n, 29 + n, n)))
    write(root, RECORDS)
    return root


def write(root, records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    (root / "mine.jsonl").write_text("\n".join(lines) + "\n\n")


def source(folder, split="train", **fields):
    return SOURCES["jsonl"](FIELDS | fields, split, folder)


def test_all_lines_are_read(folder, tokenizer, tmp_path):
    index = build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    assert [index.key(n) for n in range(3)] == ["a/1.png", "a/2.jpg", "a/3.jpg"]
    assert index.sizes.tolist() == [[20, 30], [24, 31], [25, 32]]
    assert [index.caption(0, n) for n in range(3)] == ["A cat", "the red cat", "A dog"]
    assert index.read(0) == (folder / "a/1.png").read_bytes()
    assert [r.coco_id for r in source(folder).images()] == [None, None, 5]


def test_splits_are_told_by_their_names(folder, tokenizer, tmp_path):
    splits = {"train": "train", "evaluate": "val"}
    held_out = source(folder, "evaluate", splits=splits)
    index = build_or_open([held_out], tokenizer, 8, tmp_path / "index")
    assert index.key(0) == "a/2.jpg" and index.num_texts(0) == 1
    with pytest.raises(InputError, match="no image of the split 'vall'"):
        other = source(folder, "evaluate", splits={"evaluate": "vall"})
        build_or_open([other], tokenizer, 8, tmp_path / "other")
    with pytest.raises(InputError, match="splits has none for 'train'"):
        source(folder, splits={"evaluate": "val"})


def test_faults_are_reported_at_once(folder, tokenizer, tmp_path):
    records = [
        *RECORDS,
        "{not json",
        "[1]",
        {"image": "a/4.jpg", "text": ["A cat"]},
        {"image": "a/5.jpg", "texts": "A cat"},
        {"image": "a/6.jpg", "texts": ["A cat"], "height": 3},
        {"image": "a/1.png", "texts": []},
        {"image": "a/7.jpg", "texts": ["A cat"]},
        {"image": "a/3.jpg", "texts": [""], "split": "train"},
    ]
    write(folder, records)
    with pytest.raises(InputError) as raised:
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    message = str(raised.value)
    for part in (
        "9 faults",
        "line that is no json",
        "line 4: {not json",
        "line that is no json object",
        "unknown field 'text' (did you mean 'texts'?)",
        "2 x broken record (expected a text image, a list texts;",
        "2 x duplicate image:",
        f"missing image file:\n  {folder / 'a/7.jpg'}",
        "1 x empty caption",
        "line 11, texts[0]",
    ):
        assert part in message, part
