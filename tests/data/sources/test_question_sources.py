"""VQA's and NLVR2's official files: what is read, and every fault at once."""

import collections
import gzip
import json

import pytest

from pixel_bert_jax.data import text
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.data.vqa_answers import count_vocabulary
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo

LENGTH = 12


@pytest.fixture
def vqa(tmp_path):
    """Two photos and four questions; change and `write`."""
    return VqaFolder(tmp_path / "vqa")


class VqaFolder:
    def __init__(self, root):
        self.root = root
        (root / "train2014").mkdir(parents=True)
        for n in (42, 73):
            name = f"COCO_train2014_{n:012d}.jpg"
            (root / "train2014" / name).write_bytes(encoded(photo(48, 64, n)))
        self.questions = [
            {"image_id": n, "question": "is the cat red ?", "question_id": 10 * n + k}
            for n in (42, 73)
            for k in range(2)
        ]
        self.annotations = [
            {
                "question_id": q["question_id"],
                "image_id": q["image_id"],
                "question_type": "is the",
                "answer_type": "yes/no",
                "multiple_choice_answer": "yes",
                "answers": [
                    {"answer": "yes", "answer_confidence": "maybe", "answer_id": i}
                    for i in range(1, 11)
                ],
            }
            for q in self.questions
        ]

    def build(self, tokenizer, tmp_path, split="train"):
        subtype = {"data_subtype": "train2014"}
        for name in ("questions", "annotations"):
            content = subtype | {name: getattr(self, name)}
            (self.root / f"{name}.json").write_text(json.dumps(content))
        config = {
            "name": "vqa",
            "questions": {"train": "questions.json", "predict": ["questions.json"]},
            "answers": {"train": "annotations.json"},
            "images": ".",
        }
        source = SOURCES["vqa"](config, split, self.root)
        return build_or_open([source], tokenizer, LENGTH, tmp_path / f"index-{split}")


def test_questions_keep_their_annotations(vqa, tokenizer, tmp_path):
    index = vqa.build(tokenizer, tmp_path)
    assert index.num_texts(0) == 4
    for row in range(4):
        stored = index.annotation(0, row)
        assert stored["answers"] == vqa.annotations[row]["answers"]
        assert stored["question_id"] == vqa.questions[row]["question_id"]
        key = index.key(index.text_image(0)[row])
        assert key == f"train2014/COCO_train2014_{stored['image_id']:012d}.jpg"
    # Of a test set nobody knows the answers.
    index = vqa.build(tokenizer, tmp_path, "predict")
    assert index.annotation(0, 2) == {"question_id": 730, "image_id": 73}


def test_every_fault_of_questions_is_reported_at_once(vqa, tokenizer, tmp_path):
    vqa.questions.append(dict(vqa.questions[0]))
    vqa.questions.append({"image_id": 99, "question": "a cat ?", "question_id": 990})
    vqa.questions.append({"image_id": 42, "question": "a dog ?", "question_id": 991})
    vqa.questions.append({"image_id": "42", "question": "a", "question_id": 7})
    vqa.annotations.append(vqa.annotations[0] | {"question_id": 990, "image_id": 99})
    vqa.annotations.append(vqa.annotations[0] | {"question_id": 12345})
    vqa.annotations.append(vqa.annotations[1])
    vqa.annotations.append(vqa.annotations[1] | {"question_id": 5, "answers": "yes"})
    with pytest.raises(InputError) as error:
        vqa.build(tokenizer, tmp_path)
    message = str(error.value)
    for expected in (
        "repeated question id",
        "questions[4]: 420",
        "question without annotation",
        "questions[6]: 991",
        "broken question",
        "annotation of a question that is not listed",
        "question id 12345",
        "repeated annotation",
        "broken annotation",
        "missing image file",
        "COCO_train2014_000000000099.jpg",
    ):
        assert expected in message, expected


def test_training_needs_answers(vqa):
    config = {"name": "vqa", "questions": {"train": "questions.json"}, "images": "."}
    (vqa.root / "questions.json").write_text("{}")
    with pytest.raises(InputError, match="'answers' has no files for the split"):
        SOURCES["vqa"](config, "train", vqa.root)


@pytest.fixture
def nlvr2(tmp_path):
    """Three pairs of images and four statements as json lines."""
    root = tmp_path / "nlvr2"
    (root / "images" / "7").mkdir(parents=True)
    for pair in range(3):
        for side in range(2):
            name = f"train-5-{pair}-img{side}.png"
            size = (40, 56) if side else (56, 40)
            (root / "images" / "7" / name).write_bytes(
                encoded(photo(*size, 2 * pair + side), "PNG")
            )
    lines = [
        {
            "identifier": f"train-5-{pair}-{s}",
            "sentence": "a cat is on the mat",
            "label": label,
            "directory": 7,
            "writer": "x",
        }
        for pair, s, label in [(0, 0, "True"), (0, 1, "False"), (1, 0, "False")]
        + [(2, 0, "True")]
    ]
    return root, lines


def build_nlvr2(root, lines, tokenizer, tmp_path):
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    (root / "train.json").write_text(text + "\n")
    config = {"name": "nlvr2", "annotations": "train.json", "images": "images"}
    source = SOURCES["nlvr2"](config, "train", root)
    return build_or_open([source], tokenizer, LENGTH, tmp_path / "index")


def test_statements_belong_to_two_images(nlvr2, tokenizer, tmp_path):
    root, lines = nlvr2
    index = build_nlvr2(root, lines, tokenizer, tmp_path)
    corpus = index.plan_corpus(0)
    assert corpus.set_images.shape == (3, 2) and index.num_texts(0) == 4
    for row, line in enumerate(lines):
        stored = index.annotation(0, row)
        assert stored == {k: line[k] for k in ("identifier", "label")}
        image_set = corpus.set_images[corpus.text_set[row]]
        stem = "7/" + line["identifier"].rpartition("-")[0]
        keys = [index.key(image) for image in image_set]
        assert keys == [f"{stem}-img0.png", f"{stem}-img1.png"]


def test_every_fault_of_statements_is_reported_at_once(nlvr2, tokenizer, tmp_path):
    root, lines = nlvr2
    (root / "images" / "7" / "train-5-1-img1.png").unlink()
    lines += [dict(lines[0]), lines[0] | {"identifier": "train-5-0"}, "{"]
    lines += [lines[0] | {"identifier": "train-5-0-9", "label": "yes"}]
    lines += [lines[0] | {"identifier": "train-5-8-0"}]
    with pytest.raises(InputError) as error:
        build_nlvr2(root, lines, tokenizer, tmp_path)
    message = str(error.value)
    for expected in (
        "train-5-1-img1.png",
        "repeated identifier",
        "line 5: train-5-0-0",
        "broken record (expected an identifier",
        "line that is no json",
        "label that is neither 'True' nor 'False'",
        "missing image file",
        "train-5-8-img0.png",
    ):
        assert expected in message, expected


@pytest.mark.parametrize("left", ["folder", "flat"])
def test_all_images_may_lie_in_one_folder(nlvr2, tokenizer, tmp_path, left):
    root, lines = nlvr2
    for path in sorted((root / "images" / "7").iterdir()):
        if left == "flat" or "-0-" in path.name:
            path.rename(root / "images" / path.name)
    index = build_nlvr2(root, lines, tokenizer, tmp_path)
    folder = "" if left == "flat" else "7/"
    assert sorted(index.keys()) == sorted(
        f"{'' if pair == 0 else folder}train-5-{pair}-img{side}.png"
        for pair in range(3)
        for side in range(2)
    )
    assert len(index.read(0)) > 0


def real_index(real_data, tmp_path, source, split="train", **fields):
    made = SOURCES[source]({"name": "real"} | fields, split, real_data)
    tokenizer = text.load_tokenizer(real_data / "bert" / "vocab.txt")
    return build_or_open([made], tokenizer, 48, tmp_path / "index")


@pytest.mark.parametrize(("split", "count"), [("train", 3276), ("val", 1714)])
def test_real_questions_read_as_plain_json_does(real_data, tmp_path, split, count):
    names = {
        "questions": f"vqa/v2_OpenEnded_mscoco_{split}2014_questions.json",
        "answers": f"vqa/v2_mscoco_{split}2014_annotations.json",
    }
    fields = {name: {"train": file} for name, file in names.items()}
    index = real_index(real_data, tmp_path, "vqa", images="vqa", **fields)
    assert index.num_texts(0) == count
    questions, annotations = (
        json.loads((real_data / names[n]).read_text())[k]
        for n, k in (("questions", "questions"), ("answers", "annotations"))
    )
    known = {a["question_id"]: a for a in annotations}
    for row, question in enumerate(questions):
        assert index.caption(0, row) == question["question"]
        stored, official = index.annotation(0, row), known[question["question_id"]]
        assert {k: official[k] for k in stored} == stored
    # Occurrences are counted over questions.
    counts = collections.Counter(a["multiple_choice_answer"] for a in annotations)
    vocabulary = count_vocabulary(a["multiple_choice_answer"] for a in annotations)
    frequent = [a for a, n in counts.items() if n >= 9]
    assert len(vocabulary) <= len(frequent) and len(vocabulary) > 30


def test_real_statements_with_their_images(real_data, tmp_path):
    index = real_index(
        real_data,
        tmp_path,
        "nlvr2",
        annotations="nlvr2/data/sample_train.json",
        images="nlvr2/images/train",
    )
    assert index.num_texts(0) == 30
    assert len(index.plan_corpus(0).set_images) == 9
    labels = [index.annotation(0, row)["label"] for row in range(30)]
    assert collections.Counter(labels) == {"True": 12, "False": 18}


def test_official_statements_without_images_name_what_is_missing(real_data, tmp_path):
    path = tmp_path / "dev.json"
    path.write_bytes(
        gzip.decompress((real_data / "nlvr2/data/dev.json.gz").read_bytes())
    )
    config = {"name": "n", "annotations": str(path), "images": str(tmp_path)}
    source = SOURCES["nlvr2"](config, "train", None)
    tokenizer = text.load_tokenizer(real_data / "bert" / "vocab.txt")
    with pytest.raises(InputError, match=r"missing image file \(the first 10\)"):
        build_or_open([source], tokenizer, 48, tmp_path / "index")
    assert len(list(source.texts())) == 6982
