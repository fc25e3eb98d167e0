import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax.data import text
from pixel_bert_jax.data.index import Index, build_or_open
from pixel_bert_jax.data.index.index import header_checksum
from pixel_bert_jax.data.pipeline import Stream
from pixel_bert_jax.data.plan import EvaluationPlan
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.sources.scenes import ScenesSource
from pixel_bert_jax.types import InputError
from tests.data.conftest import photo

LENGTH = 8


def _build(photos, tokenizer, tmp_path, **options):
    return build_or_open(
        [photos.source()], tokenizer, LENGTH, tmp_path / "index", **options
    )


def test_holds_every_text_and_image(photos, tokenizer, tmp_path, capsys):
    index = _build(photos, tokenizer, tmp_path)
    assert index.corpora == ("photos",)
    assert index.num_texts(0) == len(photos.content["annotations"]) == 36
    assert index.sizes.dtype == np.int32 and index.sizes.shape == (12, 2)
    for row, image in enumerate(photos.content["images"]):
        assert index.key(row) == image["file_name"]
        assert index.sizes[row].tolist() == [image["height"], image["width"]]
        assert index.read(row) == photos.file(image["file_name"]).read_bytes()
    rows = np.arange(36)
    ids, mask = index.texts(0, rows)
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == (36, LENGTH)
    expected, truncated = tokenizer.encode(
        [a["caption"] for a in photos.content["annotations"]], LENGTH
    )
    for row, annotation in enumerate(photos.content["annotations"]):
        assert index.caption(0, row) == annotation["caption"]
        assert index.text_image(0)[row] == annotation["image_id"] - 7
        np.testing.assert_array_equal(ids[row][mask[row]], expected[row])
        assert (ids[row][~mask[row]] == tokenizer.pad_id).all()
    assert index.truncated == {"photos": truncated} and truncated > 0
    assert f"36 texts, {truncated} cut to {LENGTH} tokens" in capsys.readouterr().err


def test_missing_rows_are_padding_and_wrong_ones_errors(photos, tokenizer, tmp_path):
    index = _build(photos, tokenizer, tmp_path)
    ids, mask = index.texts(0, np.array([-1, 3, -1]))
    assert not mask[[0, 2]].any() and (ids[[0, 2]] == tokenizer.pad_id).all()
    np.testing.assert_array_equal(ids[1], index.texts(0, np.array([3]))[0][0])
    for row in (36, -2):
        with pytest.raises(IndexError, match="from -1 to 35"):
            index.texts(0, np.array([0, row]))
    with pytest.raises(IndexError, match="from 0 to 35"):
        index.caption(0, 36)


def test_content_without_faults_keeps_its_fingerprint(photos, tokenizer, tmp_path):
    """A checkpoint names it: another one would be refused as trained on other data."""
    fingerprint = "78b3e6a652732fd9fca70dc6ce391dc02fb8c1d9179324a2720d038cdd6f3e89"
    assert _build(photos, tokenizer, tmp_path).fingerprint == fingerprint


def _as_before(index):
    """Removes from an index what its format did not have at first."""
    path = index.folder / "header.json"
    header = json.loads(path.read_text())
    for field in ("blocks_beside", "upright", "unknown", "texts_left_out"):
        del header[field]
    (index.folder / "coco_ids.bin").unlink()
    header["checksum"] = header_checksum(header)
    path.write_text(json.dumps(header))


def test_an_index_from_before_still_opens(photos, tokenizer, tmp_path, capsys):
    index = _build(photos, tokenizer, tmp_path)
    _as_before(index)
    capsys.readouterr()
    old = _build(photos, tokenizer, tmp_path)
    assert old.fingerprint == index.fingerprint
    assert (old.left_out, old.upright) == ([], (False,))
    assert capsys.readouterr().err == ""


def test_photos_of_an_index_from_before_stay_as_they_were(tokenizer, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(40, 56)).save(tmp_path / "p.jpg", exif=exif)
    line = {"image": "p.jpg", "texts": ["a cat"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    config = {"source": "jsonl", "name": "mine", "annotations": "a.jsonl"}
    source = SOURCES["jsonl"](config, "train", tmp_path)

    def shown(index):
        plan = EvaluationPlan(
            [index.plan_corpus(0)],
            index.sizes,
            seed=0,
            groups=1,
            texts_per_group=1,
            short=64,
            long=128,
            canvases=[(64, 128), (128, 64)],
            source_canvases=[64],
            partners=False,
        )
        with Stream(plan, index) as stream:
            (step,) = stream
        return step.batch["source_size"][0, 0].tolist()

    index = build_or_open([source], tokenizer, LENGTH, tmp_path / "index")
    assert shown(index) == [56, 40]
    # As it was built then: the sizes are those of the photo as stored.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(type(source), "upright", False)
    index = build_or_open([source], tokenizer, LENGTH, tmp_path / "index", rebuild=True)
    monkeypatch.undo()
    _as_before(index)
    capsys.readouterr()
    index = build_or_open([source], tokenizer, LENGTH, tmp_path / "index")
    assert shown(index) == [40, 56]
    assert "before photos were turned upright" in capsys.readouterr().err


def test_builds_with_progress_bars_at_a_terminal(photos, tokenizer, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        _build(photos, tokenizer, tmp_path)
    assert "photos images: 12" in capsys.readouterr().err


def test_unknown_words_are_counted_and_said_aloud(photos, tokenizer, tmp_path, capsys):
    annotations = photos.content["annotations"]
    _build(photos, tokenizer, tmp_path)
    assert "tokens unknown" not in capsys.readouterr().err
    annotations[0]["caption"] = "A red Zebra"
    photos.write()
    index = _build(photos, tokenizer, tmp_path, rebuild=True)
    said = capsys.readouterr().err
    assert ", 1 tokens unknown" in said and "warning" not in said  # one of 300
    assert index.header["unknown"]["photos"]["tokens"] == 1
    for annotation in annotations:
        annotation["caption"] = "A red Zebra sleeps"
    photos.write()
    _build(photos, tokenizer, tmp_path, rebuild=True)
    capsys.readouterr()
    _build(photos, tokenizer, tmp_path)
    said = capsys.readouterr().err
    assert "warning: corpus 'photos': 50.0% of its tokens are [UNK]" in said
    assert "'Zebra', 'sleeps'" in said


def test_opens_again_without_reading_the_json(
    photos, tokenizer, tmp_path, monkeypatch, capsys
):
    first = _build(photos, tokenizer, tmp_path)
    capsys.readouterr()
    monkeypatch.setattr("pixel_bert_jax.data.sources.files.read_json", None)
    again = _build(photos, tokenizer, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert not capsys.readouterr().err
    with pytest.raises(TypeError):
        _build(photos, tokenizer, tmp_path, rebuild=True)
    assert os.listdir(tmp_path / "index")  # a failed rebuild leaves the old one


def test_fingerprint_follows_the_content_not_the_place(photos, tokenizer, tmp_path):
    first = _build(photos, tokenizer, tmp_path)
    os.utime(photos.annotations, (1, 1))
    elsewhere = _build(photos, tokenizer, tmp_path / "b")
    assert elsewhere.fingerprint == first.fingerprint
    photos.content["annotations"][5]["caption"] = "A dog!"
    photos.write()
    changed = _build(photos, tokenizer, tmp_path / "c")
    assert changed.fingerprint != first.fingerprint


def test_other_files_options_and_tokenizers_are_refused(photos, tokenizer, tmp_path):
    _build(photos, tokenizer, tmp_path)
    other = text.WordPiece((*tokenizer.vocabulary, "more"))
    with pytest.raises(InputError, match=r"(?s)--rebuild_index.*tokenizer"):
        build_or_open([photos.source()], other, LENGTH, tmp_path / "index")
    with pytest.raises(InputError, match="max_text_length: built with 8, now 9"):
        build_or_open([photos.source()], tokenizer, 9, tmp_path / "index")
    with pytest.raises(InputError, match=r"corpora: built with \['photos'\]"):
        build_or_open([photos.source("b")], tokenizer, LENGTH, tmp_path / "index")
    photos.content["annotations"][0]["caption"] = "A red dog on the mat"
    photos.write()
    with pytest.raises(InputError, match=r"(?s)--rebuild_index.*captions\.json"):
        _build(photos, tokenizer, tmp_path)
    index = _build(photos, tokenizer, tmp_path, rebuild=True)
    assert index.caption(0, 0) == "A red dog on the mat"
    assert sorted(os.listdir(tmp_path)) == ["data", "index"]  # nothing is left over


def test_damage_is_found(photos, tokenizer, tmp_path):
    _build(photos, tokenizer, tmp_path)
    block = tmp_path / "index" / "tokens.0.bin"
    content = bytearray(block.read_bytes())
    content[10] ^= 1
    block.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged blocks tokens\.0"):
        _build(photos, tokenizer, tmp_path)
    block.write_bytes(content[:-2])
    with pytest.raises(InputError, match=r"tokens\.0\.bin: expected \d+ bytes"):
        _build(photos, tokenizer, tmp_path)
    header = tmp_path / "index" / "header.json"
    content = json.loads(header.read_text())
    header.write_text(json.dumps(content | {"max_text_length": 9}))
    with pytest.raises(InputError, match="checksum"):
        _build(photos, tokenizer, tmp_path)
    header.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        _build(photos, tokenizer, tmp_path)
    header.unlink()
    with pytest.raises(InputError, match="No index"):
        Index(tmp_path / "index", [])


def test_processes_may_build_at_once(photos, tokenizer, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(_build, photos, tokenizer, tmp_path) for _ in range(4)]
        indexes = [task.result() for task in tasks]
    assert len({index.fingerprint for index in indexes}) == 1
    assert sorted(os.listdir(tmp_path)) == ["data", "index"]


def test_pictures_are_joined_by_their_coco_number(photos, tokenizer, tmp_path):
    # The same photos a second time, and photos with numbers of their own.
    for image in photos.content["images"][8:]:
        new = f"photo{image['id']}.jpg"
        photos.file(image["file_name"]).rename(photos.file(new))
        image["file_name"] = new
    photos.write()
    sources = [photos.source("a"), photos.source("b")]
    index = build_or_open(sources, tokenizer, LENGTH, tmp_path / "index")
    ids = index.image_ids
    assert ids[:12].tolist() == list(range(12))
    assert ids[12:20].tolist() == list(range(8))  # COCO's photos: one image
    assert ids[20:].tolist() == [12, 13, 14, 15]  # others: an image of each corpus
    assert index.image_corpus.tolist() == [0] * 12 + [1] * 12
    corpus = index.plan_corpus(1, weight=2.0)
    assert corpus.weight == 2.0 and corpus.name == "b"
    assert corpus.set_images[:, 0].tolist() == list(range(12, 24))
    assert corpus.image_ids.tolist() == ids[12:].tolist()
    np.testing.assert_array_equal(
        corpus.set_images[corpus.text_set, 0], index.text_image(1)
    )


def test_images_without_a_text_make_no_unit(photos, tokenizer, tmp_path, capsys):
    photos.content["annotations"] = photos.content["annotations"][6:-3]
    photos.write()
    index = _build(photos, tokenizer, tmp_path)
    corpus = index.plan_corpus(0)
    assert corpus.set_images[:, 0].tolist() == list(range(2, 11))
    np.testing.assert_array_equal(
        corpus.set_images[corpus.text_set, 0], index.text_image(0)
    )
    assert "3 images without a text left out" in capsys.readouterr().err


def test_generated_scenes_are_compared_when_opened(tmp_path):
    tokenizer = text.load_tokenizer("scenes")

    def build(**options):
        source = ScenesSource(num_scenes=12, **options)
        return build_or_open([source], tokenizer, 32, tmp_path / "index")

    index = build()
    assert index.num_texts(0) == 60
    ids, mask = index.texts(0, np.arange(60))
    assert not (ids[mask] == tokenizer.unk_id).any()
    assert index.read(3).shape == (*index.sizes[3], 3)
    build()
    with pytest.raises(InputError, match="seed of a source: built with 0, now 1"):
        build(seed=1)


def test_a_new_version_of_the_scenes_is_noticed(tmp_path, monkeypatch):
    tokenizer = text.load_tokenizer("scenes")
    source = ScenesSource(num_scenes=12)
    build_or_open([source], tokenizer, 32, tmp_path / "index")
    monkeypatch.setattr(source, "captions", lambda number: ["a red circle"] * 5)
    with pytest.raises(InputError, match="generates other scenes"):
        build_or_open([source], tokenizer, 32, tmp_path / "index")


def test_empty_selections_are_refused(photos, tokenizer, tmp_path):
    with pytest.raises(InputError, match="at least one corpus"):
        build_or_open([], tokenizer, LENGTH, tmp_path / "index")
    with pytest.raises(InputError, match="different names"):
        build_or_open([photos.source()] * 2, tokenizer, LENGTH, tmp_path / "index")
    photos.content["annotations"] = []
    photos.write()
    with pytest.raises(InputError, match="corpus without a text"):
        _build(photos, tokenizer, tmp_path)
    assert not (tmp_path / "index").exists()
