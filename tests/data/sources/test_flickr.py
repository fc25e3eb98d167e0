"""Flickr's token files and lists."""

import gzip

import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo

LINES = [f"{n}_a.jpg#{k}\tA red cat {'!' * k}" for n in range(4) for k in range(3)]
FIELDS = {
    "source": "flickr",
    "name": "flickr",
    "annotations": "f.token",
    "split_list": {"train": "train.txt", "evaluate": "dev.txt"},
    "images": "photos",
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "flickr"
    (root / "photos").mkdir(parents=True)
    for n in range(4):
        (root / "photos" / f"{n}_a.jpg").write_bytes(encoded(photo(30 + n, 40, n)))
    (root / "f.token").write_text("\n".join(LINES) + "\n")
    (root / "train.txt").write_text("2_a.jpg\n0_a.jpg\n\n")
    (root / "dev.txt").write_text("3_a\n")  # Flickr30k's lists have no ending
    return root


def source(folder, split="train", **fields):
    return SOURCES["flickr"](FIELDS | fields, split, folder)


def test_each_split_has_its_images_with_their_captions(folder, tokenizer, tmp_path):
    index = build_or_open([source(folder)], tokenizer, 8, tmp_path / "train")
    assert [index.key(n) for n in range(2)] == ["2_a.jpg", "0_a.jpg"]
    assert index.sizes.tolist() == [[32, 40], [30, 40]]
    assert index.text_image(0).tolist() == [1, 1, 1, 0, 0, 0]
    assert index.caption(0, 2) == "A red cat !!"
    held_out = source(folder, "evaluate")
    index = build_or_open([held_out], tokenizer, 8, tmp_path / "evaluate")
    assert index.key(0) == "3_a.jpg" and index.num_texts(0) == 3


def test_compressed_tokens_give_the_same(folder, tokenizer, tmp_path):
    plain = build_or_open([source(folder)], tokenizer, 8, tmp_path / "plain")
    with gzip.open(folder / "f.token.gz", "wt") as file:
        file.write((folder / "f.token").read_text())
    packed = source(folder, annotations="f.token.gz")
    packed = build_or_open([packed], tokenizer, 8, tmp_path / "packed")
    assert packed.fingerprint == plain.fingerprint


def test_faults_are_reported_at_once(folder, tokenizer, tmp_path):
    lines = [*LINES, "no tab#0", "0_a.jpg\tno number", "0_a.jpg#9\t  "]
    (folder / "f.token").write_text("\n".join(lines))
    (folder / "train.txt").write_text("0_a.jpg\n0_a.jpg\n8_a.jpg\n1_a.jpg\n")
    (folder / "photos" / "1_a.jpg").unlink()
    with pytest.raises(InputError) as raised:
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    message = str(raised.value)
    for part in (
        "6 faults",
        "2 x broken line (expected NAME.jpg#N, a tab, a caption):",
        f"{folder / 'f.token'}, line 13: 'no tab#0'",
        "empty caption",
        "line 15",
        f"duplicate image:\n  {folder / 'train.txt'}, line 2: '0_a.jpg'",
        f"image without a caption in {folder / 'f.token'}:",
        "line 3: '8_a.jpg'",
        f"missing image file:\n  {folder / 'photos' / '1_a.jpg'}",
    ):
        assert part in message, part


def test_a_cut_archive_is_refused(folder, tokenizer, tmp_path):
    whole = gzip.compress((folder / "f.token").read_bytes())
    (folder / "f.token.gz").write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"Cannot read .*f\.token\.gz"):
        packed = source(folder, annotations="f.token.gz")
        build_or_open([packed], tokenizer, 8, tmp_path / "index")


def test_an_image_in_two_lists_is_a_fault(folder, tokenizer, tmp_path):
    (folder / "dev.txt").write_text("3_a\n0_a\n")
    for split, other in (("train", "dev"), ("evaluate", "train")):
        with pytest.raises(InputError, match="1 x image in two splits") as error:
            build_or_open([source(folder, split)], tokenizer, 8, tmp_path / split)
        assert "0_a" in str(error.value) and f"{other}.txt" in str(error.value)


def test_a_number_of_captions_an_image(folder, tokenizer, tmp_path):
    index = build_or_open(
        [source(folder, captions_per_image=2)], tokenizer, 8, tmp_path / "two"
    )
    assert index.text_image(0).tolist() == [1, 1, 0, 0]
    with pytest.raises(InputError, match="2 x image with fewer than 5 captions"):
        build_or_open(
            [source(folder, captions_per_image=5)], tokenizer, 8, tmp_path / "five"
        )
