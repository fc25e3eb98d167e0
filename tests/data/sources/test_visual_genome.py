"""Visual Genome's files: what is read, what is left out, and what is refused."""

import json

import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo

FIELDS = {
    "source": "visual_genome",
    "name": "vg",
    "annotations": "region_descriptions.json",
    "sizes": "image_data.json",
    "images": ".",
}


def region(number, image, phrase="a red cat", box=(1, 2, 10, 9), **fields):
    x, y, width, height = box
    return {
        "region_id": number,
        "image_id": image,
        "phrase": phrase,
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        **fields,
    }


class Folder:
    """Three photos in the two folders, three regions each; change and `write()`."""

    def __init__(self, root):
        self.root = root
        self.images, self.regions = [], []
        for n in (1, 2, 3):
            path = root / f"VG_100K{'_2' * (n == 2)}" / f"{n}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(photo(40, 50 + n, n)))
            self.images.append(
                {
                    "image_id": n,
                    "url": f"https://example.org/images/{path.parent.name}/{n}.jpg",
                    "width": 50 + n,
                    "height": 40,
                    "coco_id": 100 + n if n == 3 else None,
                    "flickr_id": None,
                }
            )
            regions = [region(10 * n + k, n, f"the {'blue ' * k}cat") for k in range(3)]
            self.regions.append({"id": n, "regions": regions})
        self.write()

    def write(self):
        (self.root / "image_data.json").write_text(json.dumps(self.images))
        (self.root / "region_descriptions.json").write_text(json.dumps(self.regions))

    def source(self, **fields):
        return SOURCES["visual_genome"](FIELDS | fields, "train", self.root)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "vg"
    root.mkdir()
    return Folder(root)


def test_phrases_become_texts_of_their_photo(folder, tokenizer, tmp_path):
    index = build_or_open([folder.source()], tokenizer, 8, tmp_path / "index")
    assert [index.key(n) for n in range(3)] == [
        "VG_100K/1.jpg",
        "VG_100K_2/2.jpg",
        "VG_100K/3.jpg",
    ]
    assert index.sizes.tolist() == [[40, 51], [40, 52], [40, 53]]
    assert index.text_image(0).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [index.caption(0, n) for n in range(3)] == [
        "the cat",
        "the blue cat",
        "the blue blue cat",
    ]
    assert index.read(1) == (folder.root / "VG_100K_2" / "2.jpg").read_bytes()


def test_a_photo_of_coco_is_one_picture_in_both_corpora(folder, tokenizer, tmp_path):
    coco = {
        "images": [
            {
                "id": 103,
                "file_name": "COCO_val2014_000000000103.jpg",
                "height": 40,
                "width": 53,
            }
        ],
        "annotations": [{"id": 1, "image_id": 103, "caption": "a cat"}],
    }
    (folder.root / "COCO_val2014_000000000103.jpg").write_bytes(
        (folder.root / "VG_100K" / "3.jpg").read_bytes()
    )
    (folder.root / "captions.json").write_text(json.dumps(coco))
    fields = {"source": "coco", "name": "coco", "annotations": "captions.json"}
    second = SOURCES["coco"](fields | {"images": "."}, "train", folder.root)
    index = build_or_open([folder.source(), second], tokenizer, 8, tmp_path / "index")
    ids = index.image_ids.tolist()
    assert ids[3] == ids[2] and len(set(ids)) == 3


@pytest.mark.parametrize(
    ("size", "message"),
    [((80, 106), None), ((80, 107), None), ((41, 90), "1 x image of two shapes")],
)
def test_sizes_of_one_picture_in_two_corpora(
    folder, tokenizer, tmp_path, capsys, size, message
):
    height, width = size
    name = "COCO_val2014_000000000103.jpg"
    (folder.root / name).write_bytes(encoded(photo(height, width)))
    image = {"id": 103, "file_name": name, "height": height, "width": width}
    coco = {
        "images": [image],
        "annotations": [{"id": 1, "image_id": 103, "caption": "a cat"}],
    }
    (folder.root / "captions.json").write_text(json.dumps(coco))
    fields = {"source": "coco", "name": "coco", "annotations": "captions.json"}
    sources = [
        folder.source(),
        SOURCES["coco"](fields | {"images": "."}, "train", folder.root),
    ]
    if message is None:
        build_or_open(sources, tokenizer, 8, tmp_path / "index")
        report = capsys.readouterr().err
        assert "1 x image of two sizes, each used as it is" in report
        assert f"53x40 (width x height) in vg, {width}x{height} in coco" in report
    else:
        with pytest.raises(InputError, match=message) as raised:
            build_or_open(sources, tokenizer, 8, tmp_path / "index")
        assert f"photo 103: 53x40 (width x height) in vg, {width}x{height}" in str(
            raised.value
        )


def test_known_faults_are_left_out_counted_and_named(
    folder, tokenizer, tmp_path, capsys
):
    folder.regions[0]["regions"] += [
        region(50, 1, " "),
        region(51, 1, "on the mat", (51, 0, 4, 4)),
        region(52, 1, "a dog", (45, 30, 20, 20)),
        region(53, 1, "the mat", (-3, 0, 4, 4)),
    ]
    folder.write()
    index = build_or_open([folder.source()], tokenizer, 8, tmp_path / "index")
    texts = [index.caption(0, n) for n in range(index.num_texts(0))]
    assert texts[3:5] == ["a dog", "the mat"] and len(texts) == 11
    report = capsys.readouterr().err
    path = folder.root / "region_descriptions.json"
    for line in (
        "1 x region without text, left out:",
        f"{path}, region_id 50, VG_100K/1.jpg",
        "1 x region outside its image, left out:",
        "region_id 51, VG_100K/1.jpg: x 51 to 55 of 51, y 0 to 4 of 40",
        "2 x region that sticks out of its image, kept:",
    ):
        assert line in report


def test_every_fault_of_both_files_is_reported_at_once(folder, tokenizer, tmp_path):
    (folder.root / "VG_100K" / "1.jpg").unlink()
    folder.images[1]["width"] = 60
    folder.images.append(dict(folder.images[2]))
    folder.images.append({"image_id": 9, "url": "x", "width": 1, "height": 1})
    folder.regions[0]["regions"] += [{"region_id": 60}, region(61, 2), region(62, 1, 5)]
    folder.regions.append({"id": 77, "regions": [region(70, 77)]})
    folder.regions.append({"id": 78, "regions": []})
    folder.regions.append([])
    folder.write()
    with pytest.raises(InputError) as raised:
        build_or_open([folder.source()], tokenizer, 8, tmp_path / "index")
    message = str(raised.value)
    for part in (
        "9 faults",
        f"missing image file:\n  {folder.root / 'VG_100K' / '1.jpg'}",
        "60x40 (width x height) in",
        "duplicate image id:",
        "[3]: id 3",
        "broken image record",
        "broken region",
        "[0], regions[3]: {'region_id': 60}",
        "region of another image",
        "region_id 61, VG_100K/1.jpg: image_id 2",
        "caption that is no text",
        "regions of an image that is not listed",
        "[3]: image 77, not in",
        "broken record",
    ):
        assert part in message, part
    assert "78" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": 1, "regions": [', "broken json near byte"),
        ('[{"id": 1, "regions": [}]', "broken json near byte"),
        ("", "broken json near byte"),
    ],
)
def test_a_cut_file_is_refused(folder, tokenizer, tmp_path, content, message):
    path = folder.root / "region_descriptions.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        build_or_open([folder.source()], tokenizer, 8, tmp_path / "index")
    assert str(path) in str(raised.value)


def test_fields_of_the_corpus_are_checked(folder):
    with pytest.raises(InputError, match="needs 'sizes'"):
        folder.source(sizes="")
    with pytest.raises(InputError, match=r"no .*elsewhere\.json"):
        folder.source(sizes="elsewhere.json")
    with pytest.raises(InputError, match=r"no field 'size' \(did you mean 'sizes'"):
        folder.source(size=3)


def questions(folder, records):
    path = folder.root / "question_answers.json"
    path.write_text(json.dumps(records))
    fields = {"source": "visual_genome_questions", "annotations": path.name}
    return SOURCES["visual_genome_questions"](FIELDS | fields, "train", folder.root)


def qa(number, image, question="What is it?", answer="A cat.", **fields):
    return {
        "qa_id": number,
        "image_id": image,
        "question": question,
        "answer": answer,
        **fields,
    }


def test_questions_have_one_answer_in_normal_form(folder, tokenizer, tmp_path, capsys):
    records = [
        {"id": 1, "qas": [qa(5, 1), qa(6, 1, "How many?", "Two."), qa(7, 1, " ")]},
        {"id": 2, "qas": [qa(8, 2, answer=".")]},
        {"id": 3, "qas": [qa(9, 3, "Where?", "On the table.")]},
    ]
    source = questions(folder, records)
    index = build_or_open([source], tokenizer, 8, tmp_path / "index")
    assert index.num_texts(0) == 3 and index.text_image(0).tolist() == [0, 0, 2]
    found = [index.annotation(0, n) for n in range(3)]
    assert [x["multiple_choice_answer"] for x in found] == ["cat", "2", "on table"]
    assert [x["question_id"] for x in found] == [5, 6, 9]
    assert all(len(x["answers"]) == 10 for x in found)
    assert not source.names_answers
    assert "2 x question or answer without text, left out" in capsys.readouterr().err


def test_faults_of_questions(folder, tokenizer, tmp_path):
    records = [
        {"id": 1, "qas": [qa(5, 2), {"qa_id": 6}, qa(7, 1, answer=3)]},
        {"id": 77, "qas": [qa(8, 77)]},
        {"id": 2},
    ]
    with pytest.raises(InputError) as error:
        build_or_open([questions(folder, records)], tokenizer, 8, tmp_path / "index")
    for text in (
        "1 x question of another image",
        "2 x broken question",
        "1 x qas of an image that is not listed",
        "1 x broken record (expected an integer id and a list of qas)",
    ):
        assert text in str(error.value)
