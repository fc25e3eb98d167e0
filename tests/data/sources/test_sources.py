import collections
import json
from pathlib import Path

import pytest

from pixel_bert_jax.data import text
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import InputError


def _index(source, tokenizer, tmp_path):
    return build_or_open([source], tokenizer, 8, tmp_path / "index")


def _karpathy(photos, **fields):
    """The photos in Karpathy's layout, every third one in the split val."""
    path = photos.root / "dataset.json"
    texts = collections.defaultdict(list)
    for a in photos.content["annotations"]:
        texts[a["image_id"]].append({"raw": a["caption"], "sentid": a["id"]})
    images = [
        {
            "filename": image["file_name"],
            "filepath": "photos",
            "imgid": n,
            "split": "train" if n % 3 else "val",
            "sentences": texts[image["id"]],
        }
        for n, image in enumerate(photos.content["images"])
    ]
    path.write_text(json.dumps({"images": images}))
    return {"source": "karpathy", "name": "k", "annotations": path.name, **fields}


def test_every_fault_is_reported_at_once(photos, tokenizer, tmp_path):
    images, annotations = photos.content["images"], photos.content["annotations"]
    photos.file(photos.name(0)).unlink()
    images[1]["width"] = 65
    images.append(dict(images[2]))
    images.append({"id": "9", "file_name": "x.jpg", "height": 4, "width": 4})
    annotations[9]["caption"] = "  \n"
    annotations[10]["caption"] = None
    annotations[11]["caption"] = "a \ud83d cat"
    annotations[12]["caption"] = "\u200b"  # no white space, yet nothing for BERT
    annotations.append({"id": 999, "image_id": 12345, "caption": "A cat"})
    annotations.append(dict(annotations[20]))
    annotations.append({"id": 1000})
    photos.write()
    with pytest.raises(InputError) as error:
        _index(photos.source(), tokenizer, tmp_path)
    message = str(error.value)
    assert "11 faults" in message
    for expected in (
        f"1 x missing image file:\n  {photos.file(photos.name(0))}",
        "65x48 (width x height)",
        "64x48 in the file",
        "duplicate image id:",
        "images[12]: id 9",
        "1 x broken image record",
        "images[13]",
        f"1 x empty caption:\n  {photos.annotations}, annotation id 300: '  \\n'",
        "1 x caption that is no text",
        "1 x caption with half a character",
        "1 x text without a single token",
        "id 999, image_id 12345",
        "1 x duplicate annotation id:",
        "annotations[37]: id 602",
        "1 x broken annotation",
    ):
        assert expected in message
    assert not (tmp_path / "index").exists()


def test_ten_of_many_offenders_are_listed(photos, tokenizer, tmp_path):
    for annotation in photos.content["annotations"][:25]:
        annotation["caption"] = ""
    photos.write()
    with pytest.raises(InputError, match=r"25 x empty caption \(the first 10\)") as e:
        _index(photos.source(), tokenizer, tmp_path)
    assert str(e.value).count("annotation id") == 10


def test_faults_of_all_corpora_come_together(photos, tokenizer, tmp_path):
    photos.content["annotations"][3]["caption"] = ""
    photos.write()
    config = _karpathy(photos)
    photos.file(photos.name(0)).unlink()
    sources = [photos.source(), SOURCES["karpathy"](config, "train", photos.root)]
    with pytest.raises(InputError, match="2 x empty caption") as error:
        build_or_open(sources, tokenizer, 8, tmp_path / "index")
    assert "1 x missing image file" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [\n {"id": 1}', r"line 2, column 11.*cut short"),
        (b'{"images": [1,]}', "line 1, column 15"),
        (b'{"images": "\xff"}', "byte 0xff at position 12"),
        (b"[]", "no object at all"),
        (b'{"images": [], "captions": []}', "list 'annotations'; it has images, capt"),
    ],
)
def test_broken_json_is_located(photos, tokenizer, tmp_path, content, message):
    photos.annotations.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        _index(photos.source(), tokenizer, tmp_path)
    assert str(photos.annotations) in str(error.value)


def test_byte_order_mark_and_extra_fields_are_fine(photos, tokenizer, tmp_path):
    photos.content["images"][0]["license"] = 3
    content = json.dumps(photos.content | {"info": {}}).encode("utf-8-sig")
    photos.annotations.write_bytes(content)
    assert _index(photos.source(), tokenizer, tmp_path).num_texts(0) == 36


def test_a_caption_of_ten_thousand_characters_is_cut(photos, tokenizer, tmp_path):
    photos.content["annotations"][0]["caption"] = "red cat " * 1250
    photos.content["annotations"] = photos.content["annotations"][::3]
    photos.write()
    index = build_or_open([photos.source()], tokenizer, 16, tmp_path / "index")
    assert index.truncated == {"photos": 1}
    assert len(index.caption(0, 0)) == 10_000


def test_karpathy_splits_and_sizes(photos, tokenizer, tmp_path):
    config = _karpathy(photos)
    for split, expected in (("train", 8), ("evaluate", 4)):
        source = SOURCES["karpathy"](config, split, photos.root)
        index = _index(source, tokenizer, tmp_path / split)
        assert len(index.sizes) == expected and index.num_texts(0) == 3 * expected
        rows = [n for n in range(12) if bool(n % 3) == (split == "train")]
        images = [photos.content["images"][n] for n in rows]
        assert index.sizes.tolist() == [[i["height"], i["width"]] for i in images]
        records = list(source.images())
        assert [r.coco_id for r in records] == [i["id"] for i in images]
        assert records[0].key == f"photos/{images[0]['file_name']}"
        assert index.read(0) == photos.file(images[0]["file_name"]).read_bytes()


def test_karpathy_and_coco_share_pictures(photos, tokenizer, tmp_path):
    karpathy = SOURCES["karpathy"](_karpathy(photos), "evaluate", photos.root)
    sources = [photos.source(), karpathy]
    index = build_or_open(sources, tokenizer, 8, tmp_path / "index")
    assert index.image_ids[12:].tolist() == [0, 3, 6, 9]


def test_karpathy_faults(photos, tokenizer, tmp_path):
    config = _karpathy(photos)
    path = photos.root / "dataset.json"
    content = json.loads(path.read_text())
    photos.file(photos.name(1)).unlink()
    photos.file(photos.name(2)).write_bytes(b"<html>")
    content["images"][4]["sentences"][0]["raw"] = " "
    content["images"][4]["sentences"][1]["sentid"] = 100
    del content["images"][5]["split"]
    content["images"].append(dict(content["images"][7]))
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="6 faults") as error:
        source = SOURCES["karpathy"](config, "train", photos.root)
        _index(source, tokenizer, tmp_path)
    for expected in (
        "1 x missing image file",
        f"1 x broken image file:\n  {photos.file(photos.name(2))}: neither a JPEG",
        "1 x empty caption",
        "1 x duplicate sentence id",
        "1 x broken image record",
        "1 x duplicate image:",
    ):
        assert expected in str(error.value)


def test_karpathy_split_that_the_file_does_not_have(photos, tokenizer, tmp_path):
    config = _karpathy(photos, splits={"train": ["trian"]})
    with pytest.raises(InputError, match=r"splits trian; it has val \(4\), train"):
        source = SOURCES["karpathy"](config, "train", photos.root)
        _index(source, tokenizer, tmp_path)


def test_config_faults(photos):
    config = {"source": "coco", "name": "c", "images": "photos"}
    with pytest.raises(InputError, match="needs 'annotations'"):
        SOURCES["coco"](config, "train", photos.root)
    config["annotations"] = "captions.json"
    with pytest.raises(InputError, match="did you mean 'images'"):
        SOURCES["coco"](config | {"imagse": "x"}, "train", photos.root)
    with pytest.raises(InputError, match="PIXEL_BERT_DATA"):
        SOURCES["coco"](config, "train", None)
    with pytest.raises(InputError, match=r"no .*/nowhere/captions\.json"):
        SOURCES["coco"](config, "train", Path("nowhere").absolute())
    each = config | {"annotations": {"train": "captions.json"}}
    SOURCES["coco"](each, "train", photos.root)
    with pytest.raises(InputError, match="'annotations' for the split 'evaluate'"):
        SOURCES["coco"](each, "evaluate", photos.root)
    with pytest.raises(InputError, match="val would be trained on and evaluated"):
        splits = {"train": ("train", "val"), "evaluate": "val"}
        SOURCES["karpathy"](_karpathy(photos, splits=splits), "train", photos.root)


def test_real_coco_is_read_exactly(real_data, tokenizer, tmp_path):
    config = {"source": "coco", "name": "coco", "images": "coco/val2014"}
    config["annotations"] = "coco/annotations/captions_val2014.json"
    source = SOURCES["coco"](config, "train", real_data)
    index = build_or_open([source], tokenizer, 32, tmp_path / "index")
    assert (len(index.sizes), index.num_texts(0)) == (159, 795)
    try:
        from pycocotools.coco import COCO
    except ImportError:
        content = json.loads((real_data / config["annotations"]).read_text())
        images = {i["id"]: i for i in content["images"]}
        texts = {a["id"]: a for a in content["annotations"]}
    else:
        coco = COCO(str(real_data / config["annotations"]))
        images, texts = coco.imgs, coco.anns
    expected = collections.Counter(
        (images[a["image_id"]]["file_name"], a["caption"]) for a in texts.values()
    )
    received = collections.Counter(
        (index.key(image), index.caption(0, row))
        for row, image in enumerate(index.text_image(0))
    )
    assert received == expected
    sizes = {i["file_name"]: [i["height"], i["width"]] for i in images.values()}
    assert {index.key(r): s for r, s in enumerate(index.sizes.tolist())} == sizes


def test_real_flickr8k_counts(real_data, tmp_path):
    tokenizer = text.load_tokenizer(real_data / "bert")
    config = {"source": "karpathy", "name": "flickr8k", "images": "flickr8k/Images"}
    config["annotations"] = "flickr8k/dataset_flickr8k.json"
    for split, images in (("train", 6_000), ("evaluate", 1_000)):
        source = SOURCES["karpathy"](config, split, real_data)
        index = build_or_open([source], tokenizer, 32, tmp_path / split)
        assert (len(index.sizes), index.num_texts(0)) == (images, 5 * images)
        assert (index.sizes == 224).all()
        first = next(iter(source.captions))
        assert (index.key(index.text_image(0)[0]), index.caption(0, 0)) == first


def test_an_image_in_two_splits_is_a_fault(photos, tokenizer, tmp_path):
    config = _karpathy(photos)
    path = photos.root / "dataset.json"
    content = json.loads(path.read_text())
    content["images"].append(content["images"][4] | {"split": "test", "sentences": []})
    content["images"].append(content["images"][3] | {"split": "train"})
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="2 x image in two splits") as error:
        _index(SOURCES["karpathy"](config, "train", photos.root), tokenizer, tmp_path)
    assert f"{photos.name(4)}: train, test" in str(error.value)
    assert f"{photos.name(3)}: val, train" in str(error.value)


def test_a_number_of_captions_an_image(photos, tokenizer, tmp_path, capsys):
    config = _karpathy(photos, captions_per_image=2)
    source = SOURCES["karpathy"](config, "evaluate", photos.root)
    index = _index(source, tokenizer, tmp_path / "two")
    assert index.text_image(0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    everything = SOURCES["karpathy"](_karpathy(photos), "evaluate", photos.root)
    all_texts = _index(everything, tokenizer, tmp_path / "all")
    kept = [0, 1, 3, 4, 6, 7, 9, 10]
    assert [index.caption(0, n) for n in range(8)] == [
        all_texts.caption(0, n) for n in kept
    ]
    told = capsys.readouterr().err
    assert "4 x image with more than 2 captions, cut to these" in told
    assert f"{photos.name(0)}: 3" in told
    # It is another index than that without a limit.
    with pytest.raises(InputError, match="captions_per_image"):
        _index(everything, tokenizer, tmp_path / "two")
    config = _karpathy(photos, captions_per_image=4)
    source = SOURCES["karpathy"](config, "evaluate", photos.root)
    with pytest.raises(InputError, match="4 x image with fewer than 4 captions") as e:
        _index(source, tokenizer, tmp_path / "four")
    assert f"{photos.name(3)}: 3" in str(e.value)
    for number in (-1, "5", True):
        with pytest.raises(InputError, match="captions_per_image is"):
            SOURCES["karpathy"](
                _karpathy(photos, captions_per_image=number), "evaluate", photos.root
            )
