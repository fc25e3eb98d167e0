"""Photos that are trained on and held out."""

import dataclasses
import json
import shutil

import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.overlap import check, overlaps
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.sources.scenes import ScenesSource
from pixel_bert_jax.data.text import load_tokenizer
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo
from tests.data.formats import FORMATS, Folder


@pytest.fixture
def folder(tmp_path):
    """Six photos, twice, and smaller in VG, where the first are COCO's 1 to 3."""
    root = tmp_path / "data"
    (root / "VG_100K").mkdir(parents=True)
    images, regions = [], []
    for n in range(1, 7):
        for name in (f"COCO_val2014_{n:012d}.jpg", f"{n}.jpg"):
            (root / name).write_bytes(encoded(photo(40, 50, n)))
        (root / f"VG_100K/{n}.jpg").write_bytes(encoded(photo(40, 50, n + 100)))
        coco_id = n if n <= 3 else None
        images.append(
            {
                "image_id": n,
                "url": f"https://example.org/VG_100K/{n}.jpg",
                "width": 50,
                "height": 40,
                "coco_id": coco_id,
            }
        )
        box = {"x": 0, "y": 0, "width": 9, "height": 9}
        region = {"region_id": n, "image_id": n, "phrase": "a cat"} | box
        regions.append({"id": n, "regions": [region]})
    (root / "images.json").write_text(json.dumps(images))
    (root / "regions.json").write_text(json.dumps(regions))
    return root


def own(root, name, keys):
    lines = [json.dumps({"image": key, "texts": ["a cat"]}) for key in keys]
    (root / f"{name}.jsonl").write_text("\n".join(lines))
    config = {"source": "jsonl", "name": name, "annotations": f"{name}.jsonl"}
    return SOURCES["jsonl"](config, "train", root)


def coco(root, numbers):
    name = "COCO_val2014_{:012d}.jpg".format
    images = [
        {"id": n, "file_name": name(n), "height": 40, "width": 50} for n in numbers
    ]
    texts = [{"id": n, "image_id": n, "caption": "a cat"} for n in numbers]
    content = {"images": images, "annotations": texts}
    (root / "c.json").write_text(json.dumps(content))
    config = {"source": "coco", "name": "coco", "annotations": "c.json", "images": "."}
    return SOURCES["coco"](config, "train", root)


def genome(root):
    config = {"source": "visual_genome", "name": "vg", "annotations": "regions.json"}
    config |= {"sizes": "images.json", "images": "."}
    return SOURCES["visual_genome"](config, "train", root)


def opened(tokenizer, folder, *sources):
    return build_or_open(sources, tokenizer, 8, folder)


def test_one_list_for_both_is_said(folder, tokenizer, tmp_path):
    source = own(folder, "mine", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    index = opened(tokenizer, tmp_path / "a", source)
    (found,) = overlaps(index, index)
    assert (found.train, found.held_out, found.of) == ("mine", "mine", 4)
    assert found.photos == tuple((f"{n}.jpg", f"{n}.jpg") for n in range(1, 5))
    text = str(found)
    assert "4 of the 4 held-out photos of corpus 'mine' are also trained on" in text
    assert "4 of their texts too: 1.jpg, 2.jpg, 3.jpg, 4.jpg" in text
    more = dataclasses.replace(found, photos=found.photos * 4)
    assert str(more).endswith("2.jpg, ...")  # the first ten


def test_the_same_file_in_two_lists(folder, tokenizer, tmp_path):
    train = opened(
        tokenizer,
        tmp_path / "a",
        own(folder, "one", ["1.jpg", "2.jpg"]),
        own(folder, "two", ["3.jpg", "4.jpg"]),
    )
    held_out = own(folder, "three", ["5.jpg", "4.jpg", "1.jpg"])
    found = overlaps(train, opened(tokenizer, tmp_path / "b", held_out))
    assert [(o.train, o.held_out, o.photos) for o in found] == [
        ("one", "three", (("1.jpg", "1.jpg"),)),
        ("two", "three", (("4.jpg", "4.jpg"),)),
    ]
    other = own(folder, "four", ["5.jpg", "6.jpg"])
    assert overlaps(train, opened(tokenizer, tmp_path / "c", other)) == []


def test_names_are_those_of_a_folder(folder, tokenizer, tmp_path):
    train = opened(tokenizer, tmp_path / "a", own(folder, "mine", ["1.jpg"]))
    same = own(folder / "VG_100K", "theirs", ["1.jpg"])
    assert overlaps(train, opened(tokenizer, tmp_path / "b", same)) == []
    (tmp_path / "link").symlink_to(folder)
    linked = own(tmp_path / "link", "linked", ["1.jpg"])
    (found,) = overlaps(train, opened(tokenizer, tmp_path / "c", linked))
    assert found.photos == (("1.jpg", "1.jpg"),)


def test_photos_of_coco_are_known_by_their_numbers(folder, tokenizer, tmp_path):
    train = opened(tokenizer, tmp_path / "a", genome(folder))
    held_out = opened(tokenizer, tmp_path / "b", coco(folder, (2, 3, 5)))
    (found,) = overlaps(train, held_out)
    name = "COCO_val2014_{:012d}.jpg".format
    # Visual Genome does not say of its fifth photo that it is COCO's.
    assert found.photos == ((name(2), "VG_100K/2.jpg"), (name(3), "VG_100K/3.jpg"))
    assert found.of == 3
    assert "in corpus 'vg'" in str(found)


def test_copies_under_other_names_are_found_by_their_content(
    folder, tokenizer, tmp_path
):
    train = opened(tokenizer, tmp_path / "a", own(folder, "mine", ["2.jpg", "5.jpg"]))
    held_out = opened(tokenizer, tmp_path / "b", coco(folder, (1, 5)))
    (found,) = overlaps(train, held_out)
    assert found.photos == (("COCO_val2014_000000000005.jpg", "5.jpg"),)
    assert "COCO_val2014_000000000005.jpg (5.jpg)" in str(found)
    # Equal in size alone: other photos.
    for name in ("2.jpg", "5.jpg"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert overlaps(train, held_out) == []
    (folder / "5.jpg").unlink()  # a matter of the policy for missing photos
    assert overlaps(train, held_out) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_photo_of_any_source_is_found_in_a_mixture(kind, tokenizer, tmp_path):
    """Its file comes under another name in the second of two held-out corpora."""
    train = Folder(kind, tmp_path / "train")
    clean, leak = (tmp_path / name for name in ("clean", "leak"))
    for n, root in enumerate((clean, leak)):
        root.mkdir()
        for k in range(3):
            content = encoded(photo(40, 50, 100 + 10 * n + k))
            (root / f"{k}.jpg").write_bytes(content)
    shutil.copyfile(train.root / train.keys[7], leak / "1.jpg")
    names = ["0.jpg", "1.jpg", "2.jpg"]
    other = own(clean, "other", names[:1])
    trained = opened(tokenizer, tmp_path / "a", other, train.source())
    held_out = opened(
        tokenizer,
        tmp_path / "b",
        own(clean, "clean", names[1:]),
        own(leak, "leak", names),
    )
    found = overlaps(trained, held_out)
    assert [(o.train, o.held_out, o.photos) for o in found] == [
        ("mine", "leak", (("1.jpg", train.keys[7]),))
    ]
    with pytest.raises(InputError, match=r"(?s)trained on.*1\.jpg.*allow_overlap"):
        check(found, "evaluate", ("predict",))
    assert check(found, "evaluate", ("evaluate",))
    assert not check([], "evaluate", ())


def test_an_index_without_numbers_has_those_of_its_files(folder, tokenizer, tmp_path):
    index = opened(tokenizer, tmp_path / "a", coco(folder, (2, 3, 5)))
    assert index.coco_ids.tolist() == [2, 3, 5]
    del index._blocks["coco_ids"], index.__dict__["coco_ids"]
    assert index.coco_ids.tolist() == [2, 3, 5]
    index = opened(tokenizer, tmp_path / "b", genome(folder))
    assert index.coco_ids.tolist() == [1, 2, 3, -1, -1, -1]
    del index._blocks["coco_ids"], index.__dict__["coco_ids"]
    assert index.coco_ids.tolist() == [-1] * 6


def test_generated_scenes_are_never_the_same(tmp_path):
    tokenizer = load_tokenizer("scenes")
    train, held_out = (
        build_or_open(
            [ScenesSource(split, num_scenes=4)], tokenizer, 32, tmp_path / split
        )
        for split in ("train", "evaluate")
    )
    assert overlaps(train, held_out) == []
    (found,) = overlaps(train, train)
    assert [k for k, _ in found.photos] == ["0", "1", "2", "3"]
