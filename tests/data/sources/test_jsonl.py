"""One's own photos as lines of json."""

import io
import json

import pytest
from PIL import Image

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo

FIELDS = {"source": "jsonl", "name": "mine", "annotations": "mine.jsonl"}
RECORDS = [
    {"image": "a/1.png", "texts": ["A cat", "the red cat"]},
    {"image": "a/2.jpg", "texts": ["A dog"], "height": 24, "width": 31},
    {"image": "a/3.jpg", "texts": [], "coco_id": 5},
]


def with_splits(*splits):
    return [r | {"split": s} for r, s in zip(RECORDS, splits, strict=True)]


def keys(source, tokenizer, folder):
    return list(build_or_open([source], tokenizer, 8, folder).keys())


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
    write(folder, with_splits("a", "b", "c"))
    splits = {"train": ("a", "c"), "evaluate": "b"}
    made = {s: source(folder, s, splits=splits) for s in splits}
    assert keys(made["evaluate"], tokenizer, tmp_path / "b") == ["a/2.jpg"]
    assert keys(made["train"], tokenizer, tmp_path / "ac") == ["a/1.png", "a/3.jpg"]
    with pytest.raises(InputError, match=r"split 'bb'; it has 'a' \(1\), 'b' \(1\)"):
        other = source(folder, "evaluate", splits={"evaluate": "bb"})
        build_or_open([other], tokenizer, 8, tmp_path / "other")
    with pytest.raises(InputError, match="splits has none for 'train'"):
        source(folder, splits={"evaluate": "b"})
    with pytest.raises(InputError, match="b would be trained on and evaluated"):
        source(folder, splits={"train": ["a", "b"], "evaluate": "b"})
    for wrong in ("train", ["train"], {"train": 3}):
        with pytest.raises(InputError, match="expected the names that each split has"):
            source(folder, splits=wrong)


@pytest.mark.parametrize("name", ["evaluate", "val", "dev", "validation"])
def test_lines_that_name_their_splits_are_not_all_trained_on(
    name, folder, tokenizer, tmp_path
):
    records = [r | {"texts": ["A cat"]} for r in with_splits("train", name, "test")]
    write(folder, records)
    for split, key in (("train", 1), ("evaluate", 2), ("predict", 3)):
        (found,) = keys(source(folder, split), tokenizer, tmp_path / split)[:1]
        assert found.startswith(f"a/{key}.")
    # An index of all lines, from before that was so, is not taken for this one.
    write(folder, RECORDS)
    index = build_or_open([source(folder)], tokenizer, 8, tmp_path / "all")
    header = json.loads((index.folder / "header.json").read_text())
    assert header["identities"][0]["split"] == ""
    write(folder, with_splits("train", name, "test"))
    with pytest.raises(InputError, match=r"split of a source: built with , now train"):
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "all")


@pytest.mark.parametrize(
    ("splits", "fault"),
    [
        (["train", None, "val"], "line without a split, where others have one"),
        ([None, "val", None], "line with a split, where the first line has none"),
        (
            ["train", "vla", "val"],
            r"split 'vla' \(did you mean 'val'\?\); expected",
        ),
    ],
)
def test_lines_that_name_splits_in_part_or_unheard_of(
    splits, fault, folder, tokenizer, tmp_path
):
    write(
        folder,
        [
            {k: v for k, v in r.items() if k != "split" or v}
            for r in with_splits(*splits)
        ],
    )
    with pytest.raises(InputError, match=f"1 x {fault}") as raised:
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    assert "line 2" in str(raised.value)


def test_an_image_in_two_splits_is_a_fault(folder, tokenizer, tmp_path):
    records = with_splits("train", "val", "train")
    write(folder, [*records, records[0] | {"split": "val"}])
    for split in ("train", "evaluate"):
        with pytest.raises(InputError, match="1 x image in two splits") as raised:
            build_or_open([source(folder, split)], tokenizer, 8, tmp_path / split)
        assert "line 4" in str(raised.value)


def test_a_photo_of_a_phone_is_upright(folder, tokenizer, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(photo(24, 31)).save(file, "JPEG", exif=exif)
    (folder / "a/2.jpg").write_bytes(file.getvalue())
    # The size of the annotations is that of the photo as it is seen.
    with pytest.raises(InputError, match=r"31x24 .* in .*24x31 in the file, turned"):
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    records = [dict(r) for r in RECORDS]
    records[1] |= {"height": 31, "width": 24}
    write(folder, records)
    index = build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    assert index.sizes[1].tolist() == [31, 24] and index.upright == (True,)


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
        {"image": "a/3.jpg", "texts": [""]},
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
