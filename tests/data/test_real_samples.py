"""Published annotation files, against readers that are not ours."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pixel_bert_jax.data import text, vqa_answers
from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.evaluators.vqa_accuracy import accuracy

LENGTH = 32


@pytest.fixture
def build(real_data, tmp_path):
    """Returns a function that builds the index of one corpus."""

    def build(root, split, **fields):
        source = SOURCES[fields["source"]]({"name": "real"} | fields, split, root)
        tokenizer = text.load_tokenizer(real_data / "bert" / "vocab.txt")
        return build_or_open([source], tokenizer, LENGTH, tmp_path / "index")

    return build


def pairs(index):
    """Returns (key, caption) of every text, sorted."""
    image = index.text_image(0)
    rows = range(index.num_texts(0))
    return sorted((index.key(image[row]), index.caption(0, row)) for row in rows)


@pytest.mark.parametrize(("split", "texts"), [("train2014", 400), ("val2014", 795)])
def test_coco_reads_as_pycocotools_does(real_data, build, split, texts):
    root = real_data / "coco"
    annotations = f"annotations/captions_{split}.json"
    index = build(root, "train", source="coco", annotations=annotations, images=split)
    coco = COCO(root / annotations)
    names = {number: image["file_name"] for number, image in coco.imgs.items()}
    wanted = [(names[a["image_id"]], a["caption"]) for a in coco.anns.values()]
    assert len(wanted) == texts == index.num_texts(0)
    assert pairs(index) == sorted(wanted)
    by_name = {image["file_name"]: image for image in coco.imgs.values()}
    assert len(by_name) == len(index.sizes)
    for row, size in enumerate(index.sizes.tolist()):
        image = by_name[index.key(row)]
        assert size == [image["height"], image["width"]]


def test_karpathys_layout_reads_as_plain_json_does(real_data, build):
    root = real_data / "coco"
    index = build(
        root, "train", source="karpathy", annotations="dataset_coco.json", images="."
    )
    content = json.loads((root / "dataset_coco.json").read_text("utf-8"))["images"]
    wanted = [
        (f"{image['filepath']}/{image['filename']}", sentence["raw"])
        for image in content
        if image["split"] == "train"
        for sentence in image["sentences"]
    ]
    assert pairs(index) == sorted(wanted)


@pytest.fixture
def genome(real_data, tmp_path):
    """Visual Genome's sample: files, a folder of blank photos, keys and sizes."""
    files = real_data / "visual_genome"
    photos = json.loads((files / "image_data.json").read_text())
    # The sample comes without images: blank ones of the stated sizes.
    root = tmp_path / "visual_genome"
    keys, sizes = {}, {}
    for photo in photos:
        key = "/".join(photo["url"].split("/")[-2:])
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        size = photo["width"], photo["height"]
        Image.new("RGB", size).save(root / key)
        keys[photo["image_id"]], sizes[key] = key, size[::-1]
    return files, root, keys, sizes


def test_visual_genome_reads_as_plain_json_does(genome, build):
    files, root, keys, sizes = genome
    records = json.loads((files / "region_descriptions.json").read_text("utf-8"))
    index = build(
        root,
        "train",
        source="visual_genome",
        annotations=str(files / "region_descriptions.json"),
        sizes=str(files / "image_data.json"),
        images=".",
    )
    regions = [(record["id"], r) for record in records for r in record["regions"]]
    assert len(regions) == 7278 == index.num_texts(0)
    assert pairs(index) == sorted((keys[n], r["phrase"]) for n, r in regions)
    for row, (number, region) in ((0, regions[0]), (7277, regions[-1])):
        assert index.caption(0, row) == region["phrase"]
        assert index.key(index.text_image(0)[row]) == keys[number]
    assert len(index.sizes) == 100
    wanted = [sizes[index.key(row)] for row in range(100)]
    np.testing.assert_array_equal(index.sizes, wanted)


def test_visual_genomes_questions_read_as_plain_json_does(genome, build):
    files, root, keys, _ = genome
    records = json.loads((files / "question_answers.json").read_text("utf-8"))
    index = build(
        root,
        "train",
        source="visual_genome_questions",
        annotations=str(files / "question_answers.json"),
        sizes=str(files / "image_data.json"),
        images=".",
    )
    entries = [(record["id"], qa) for record in records for qa in record["qas"]]
    assert len(entries) == 3393 == index.num_texts(0)
    assert pairs(index) == sorted((keys[n], qa["question"]) for n, qa in entries)
    first = index.annotation(0, 0)
    assert (first["question_id"], first["multiple_choice_answer"]) == (986768, "green")


def test_the_true_vqa_sample_goes_through_reader_vocabulary_and_metric(
    real_data, build, tmp_path
):
    files = real_data / "vqa" / "official_v2_sample"
    questions = json.loads(
        (files / "v2_OpenEnded_mscoco_val2014_questions.json").read_text()
    )["questions"]
    annotations = json.loads(
        (files / "v2_mscoco_val2014_annotations.json").read_text()
    )["annotations"]
    root = tmp_path / "root"
    (root / "val2014").mkdir(parents=True)
    for number in {q["image_id"] for q in questions}:
        name = f"COCO_val2014_{number:012d}.jpg"
        Image.new("RGB", (64, 48)).save(root / "val2014" / name)
    index = build(
        root,
        "evaluate",
        source="vqa",
        questions={
            "evaluate": str(files / "v2_OpenEnded_mscoco_val2014_questions.json")
        },
        answers={"evaluate": str(files / "v2_mscoco_val2014_annotations.json")},
        images=".",
    )
    rows = range(index.num_texts(0))
    assert len(rows) == len(questions) == len(annotations) == 100
    assert [index.caption(0, n) for n in rows] == [q["question"] for q in questions]
    found = [index.annotation(0, n) for n in rows]
    by_id = {a["question_id"]: a for a in annotations}
    for note in found:
        official = by_id[note["question_id"]]
        assert note["image_id"] == official["image_id"]
        for field in ("question_type", "answer_type", "multiple_choice_answer"):
            assert note[field] == official[field]
        given = [a["answer"] for a in note["answers"]]
        assert given == [a["answer"] for a in official["answers"]]

    vocabulary = vqa_answers.count_vocabulary(
        note["multiple_choice_answer"] for note in found
    )
    counts = Counter(
        vqa_answers.normalise(a["multiple_choice_answer"]) for a in annotations
    )
    common = {answer for answer, n in counts.items() if n >= 9}
    assert set(vocabulary.answers) == common and "yes" in common

    # "yes" to everything: each human left out in turn, a third for each who agrees.
    scored = accuracy({note["question_id"]: "yes" for note in found}, found)
    wanted = []
    for a in annotations:
        said = [x["answer"].lower() == "yes" for x in a["answers"]]
        wanted.append(
            np.mean([min(sum(said[:i] + said[i + 1 :]) / 3, 1) for i in range(10)])
        )
    assert scored.overall == round(100 * float(np.mean(wanted)), 2)
    assert 20 < scored.overall < 60
