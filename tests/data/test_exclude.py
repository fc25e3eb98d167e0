"""Photos that no training may see."""

import json

import pytest

from pixel_bert_jax.data import exclude
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.overlap import overlaps
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.sources.base import Excluded
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo
from tests.data.formats import COUNT, Folder


@pytest.fixture
def genome(tmp_path):
    """Visual Genome's photos, of which 2, 3, 4 are COCO's 12, 13, 14; 7 is Flickr's."""
    folder = Folder("visual_genome", tmp_path / "genome")
    path = folder.root / "images.json"
    images = json.loads(path.read_text())
    for n in (2, 3, 4):
        images[n]["coco_id"] = 10 + n
    images[7]["flickr_id"] = "4929686081"
    path.write_text(json.dumps(images))
    return folder


def karpathy(root, name, dataset, entries):
    content = {"dataset": dataset, "images": entries}
    (root / name).write_text(json.dumps(content))


@pytest.fixture
def lists(tmp_path):
    numbers = {11: "train", 12: "val", 13: "test", 14: "restval"}
    images = [{"cocoid": n, "split": s, "filename": "x"} for n, s in numbers.items()]
    karpathy(tmp_path, "coco.json", "coco", images)
    images = [{"imgid": 0, "split": "test", "filename": "4929686081.jpg"}]
    karpathy(tmp_path, "flickr.json", "flickr30k", images)
    (tmp_path / "captions.json").write_text(json.dumps({"images": [{"id": 14}]}))
    questions = {"questions": [{"image_id": 13, "question_id": 1}]}
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    return tmp_path


def test_numbers_are_those_of_the_splits(lists):
    def load(**entry):
        return exclude.load([entry], lists)

    both = load(file="coco.json", splits=("val", "test"))
    assert both == Excluded(coco=frozenset({12, 13}))
    assert load(file="coco.json").coco == {11, 12, 13, 14}
    assert load(file="coco.json", splits="val").coco == {12}
    assert load(file="flickr.json", splits=("test",)).flickr == {4929686081}
    assert load(file="captions.json").coco == {14}
    assert load(file="questions.json").coco == {13}
    wrong = {
        r"no split 'vall' .did you mean 'val'.*it has": dict(splits=("vall",)),
        "no field 'split'": dict(split="val"),
        "is missing": dict(file="other.json"),
        "needs a file": dict(file=3),
        "splits are .'val',.*give none": dict(file="captions.json", splits=("val",)),
        "expected a list of records": dict(file="object.json"),
        "record 0 has no integer id: 5": dict(file="numbers.json"),
        "no list of images that each have": dict(file="half.json", splits=("val",)),
        "begins with their number at Flickr": dict(file="nameless.json"),
    }
    (lists / "object.json").write_text('{"images": {"id": 3}}')
    (lists / "numbers.json").write_text('{"images": [5]}')
    (lists / "half.json").write_text('{"images": [{"split": "val"}, {"id": 3}]}')
    karpathy(lists, "nameless.json", "flickr30k", [{"split": "test"}])
    for message, entry in wrong.items():
        with pytest.raises(InputError, match=message):
            load(**{"file": "coco.json"} | entry)


def test_excluded_photos_leave_training_with_their_texts_and_are_counted(
    genome, lists, tokenizer, tmp_path, capsys
):
    entries = [
        {"file": "coco.json", "splits": ("val", "test")},
        {"file": "flickr.json", "splits": ("test",)},
    ]
    source = genome.source()
    # What is excluded may be missing: nobody reads it.
    (genome.root / genome.keys[3]).unlink()
    source.exclude(exclude.load(entries, lists))
    index = build_or_open([source], tokenizer, 8, tmp_path / "index")
    kept = [genome.keys[n] for n in range(COUNT) if n not in (2, 3, 7)]
    assert list(index.keys()) == kept
    assert index.num_texts(0) == len(kept)
    assert index.excluded == {"mine": [3, 3]}
    assert "3 images and 3 texts excluded" in capsys.readouterr().err
    # An index of everything is not taken for it.
    with pytest.raises(InputError, match="exclude of a source"):
        build_or_open([genome.source()], tokenizer, 8, tmp_path / "index")


def test_without_it_photos_of_flickr_are_found_by_their_number(
    genome, tokenizer, tmp_path
):
    root = tmp_path / "flickr"
    root.mkdir()
    (root / "4929686081.jpg").write_bytes(encoded(photo(60, 75, 500)))
    (root / "f.token").write_text("4929686081.jpg#0\ta cat\n")
    (root / "test.txt").write_text("4929686081.jpg\n")
    config = {"source": "flickr", "name": "flickr", "annotations": "f.token"}
    config |= {"split_list": "test.txt", "images": "."}
    held_out = SOURCES["flickr"](config, "evaluate", root)
    trained = build_or_open([genome.source()], tokenizer, 8, tmp_path / "a")
    index = build_or_open([held_out], tokenizer, 8, tmp_path / "b")
    (found,) = overlaps(trained, index)
    assert found.photos == (("4929686081.jpg", "VG_100K_2/7.jpg"),)
