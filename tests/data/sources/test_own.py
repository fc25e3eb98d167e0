"""A folder of one's own photos with tables of captions or questions."""

import json

import numpy as np
import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES, own
from pixel_bert_jax.data.vqa_answers import count_vocabulary
from pixel_bert_jax.evaluators.vqa_accuracy import question_score
from pixel_bert_jax.types import InputError
from tests.data.conftest import encoded, photo

COUNT = 20


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "mine"
    (root / "sub").mkdir(parents=True)
    names = [f"{n:02d}.jpg" if n % 2 else f"sub/{n:02d}.jpg" for n in range(COUNT)]
    for n, name in enumerate(names):
        (root / name).write_bytes(encoded(photo(20 + n, 31, n)))
    rows = [f'{name},"A cat, number {n}"' for n, name in enumerate(names)]
    rows += [f"{name},the red cat" for name in names[:5]]
    (root / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    asked = [f"{name},what is it?,cat" for name in names]
    (root / "questions.csv").write_text("image,question,answer\n" + "\n".join(asked))
    return root


def source(folder, split="train", texts="captions", **fields):
    fields = {"source": "own", "name": "mine", "texts": texts} | fields
    return SOURCES["own"](fields, split, folder)


def listed(one):
    images = [record.key for record in one.images()]
    return images, list(one.texts())


def test_a_tenth_is_held_out_and_no_photo_is_on_both_sides(folder, tokenizer, tmp_path):
    train, texts = listed(source(folder))
    held, held_texts = listed(source(folder, "evaluate"))
    assert held and len(held) + len(train) == COUNT and not set(held) & set(train)
    assert len(texts) + len(held_texts) == COUNT + 5
    assert ("sub/00.jpg", "A cat, number 0") in texts + held_texts
    # The same whatever the order of the rows.
    lines = (folder / "captions.csv").read_text().splitlines()
    (folder / "captions.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert set(listed(source(folder, "evaluate"))[0]) == set(held)
    index = build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    assert len(index.sizes) == len(train)
    # Questions about some of the photos are split alike.
    questions = folder / "questions.csv"
    kept = questions.read_text().splitlines()[:8]
    questions.write_text("\n".join(kept))
    asked, _ = listed(source(folder, "train", "questions"))
    assert asked and not set(asked) & set(held)


def test_a_tenth_of_many_photos_is_held_out_and_stays_so():
    names = [f"{n}.jpg" for n in range(3000)]
    shares = np.array([own._share(name) for name in names])
    assert abs((shares < own.HELD_OUT).mean() - 0.1) < 0.02


def test_photos_have_one_name(folder):
    rows = ["./01.jpg,a cat", " 01.jpg ,the cat", "sub/../03.jpg,a dog", "05.jpg,x"]
    (folder / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    (folder / "questions.csv").unlink()
    found = [listed(source(folder, split)) for split in ("train", "evaluate")]
    images = [key for keys, _ in found for key in keys]
    assert sorted(images) == ["01.jpg", "03.jpg", "05.jpg"]
    assert sum(len(texts) for _, texts in found) == 4


def test_questions_have_answers_in_the_form_of_vqa(folder):
    _, texts = listed(source(folder, texts="questions"))
    key, text, annotation = texts[0]
    assert text == "what is it?" and annotation["multiple_choice_answer"] == "cat"
    assert question_score("cat", annotation) == 1
    assert question_score("dog", annotation) == 0
    assert len({t[2]["question_id"] for t in texts}) == len(texts) >= 15
    images, texts = listed(source(folder, "predict", "questions"))
    assert len(images) == len(texts) == COUNT and key in images


def test_answers_are_normalised_as_their_vocabulary_is(folder):
    answers = ["Dog", "two", "a cat", '"2,000"', "yes.", "", "the"]
    names = ["sub/00.jpg", "01.jpg", "sub/02.jpg", "03.jpg", "sub/04.jpg", "05.jpg"]
    rows = [f"{n},what?,{a}" for n, a in zip([*names, "07.jpg"], answers, strict=True)]
    (folder / "questions.csv").write_text("\n".join(["image,question,answer", *rows]))
    one = source(folder, "predict", "questions")
    _, texts = listed(one)
    found = [t[2].get("multiple_choice_answer") for t in texts]
    assert found == ["dog", "2", "cat", "2000", "yes", None]
    assert one.problems.count == {"answer of which normalisation leaves nothing": 1}
    vocabulary = count_vocabulary(filter(None, found), 1)
    for _, _, annotation in texts[:5]:
        human = [a["answer"] for a in annotation["answers"]]
        assert list(vocabulary.targets(human).values()) == [1.0]


def test_numbers_and_null_as_json_answers(folder):
    (folder / "questions.csv").unlink()
    records = [
        {"image": "01.jpg", "question": "how many?", "answer": 0},
        {"image": "03.jpg", "question": "what?", "answer": None},
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    _, texts = listed(source(folder, "predict", "questions"))
    assert texts[0][2]["multiple_choice_answer"] == "0"
    assert "answers" not in texts[1][2]


def test_json_lines_say_the_same(folder):
    rows = (folder / "captions.csv").read_text().splitlines()[1:]
    records = [row.partition(",") for row in rows]
    lines = [
        json.dumps({"image": image, "caption": text.strip('"')})
        for image, _, text in records
    ]
    wanted = listed(source(folder))
    (folder / "captions.csv").unlink()
    (folder / "captions.jsonl").write_text("\n".join(lines))
    assert listed(source(folder)) == wanted


def test_splits_of_ones_own(folder):
    rows = ["image,caption,split"]
    for n in range(6):
        name = f"{n:02d}.jpg" if n % 2 else f"sub/{n:02d}.jpg"
        rows.append(f"{name},a cat,{'evaluate' if n < 2 else 'train'}")
    (folder / "captions.csv").write_text("\n".join(rows))
    assert listed(source(folder, "evaluate"))[0] == ["sub/00.jpg", "01.jpg"]
    assert len(listed(source(folder))[0]) == 4


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("image,caption\n01.jpg,a,b\n03.jpg,c", "row that has not 2 columns"),
        ("image,caption\n01.jpg\n03.jpg,c", "row that has not 2 columns"),
        ("image,captoin\n01.jpg,a", "unknown column 'captoin' (did you mean 'caption'"),
        ("picture,caption\n01.jpg,a", "unknown column 'picture'"),
        ("image\n01.jpg", "row without 'caption'"),
        ("image,caption\n,a\n03.jpg,b", "row without the path of a photo"),
        ("image,caption\n01.jpg,\n03.jpg,b\n05.jpg,c", "empty caption"),
        ("image,caption,split\n01.jpg,a,training\n03.jpg,b,train", "split 'training'"),
        ("image,caption,split\n01.jpg,a,train\n01.jpg,b,evaluate", "in two splits"),
        ("image,caption,split\n01.jpg,a,train\n03.jpg,b,", "row without split"),
        ('image,caption\n01.jpg,"a\n03.jpg,b', "broken csv"),
        ("image,caption,caption\n01.jpg,a,b", "column 'caption' that comes twice"),
        ("image,caption\n/etc/01.jpg,a\n03.jpg,b", "not inside the folder"),
        ("image,caption\n../01.jpg,a\n03.jpg,b", "not inside the folder"),
        ("image;caption\n01.jpg;a\n03.jpg;b", "unknown column 'image;caption'"),
    ],
)
def test_a_broken_row_is_named(folder, tokenizer, tmp_path, text, fault):
    (folder / "captions.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    assert fault in str(raised.value) and "captions.csv, line " in str(raised.value)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"image": "\\ud800.png", "caption": "a"}', "characters that no file has"),
        ('{"image": "a\\u0000.png", "caption": "a"}', "characters that no file has"),
        ("{}", "row without 'image'"),
        ("[1]", "no json object"),
        ("{", "no json"),
    ],
)
def test_a_broken_line_is_named(folder, tokenizer, tmp_path, line, fault):
    (folder / "captions.csv").unlink()
    good = '{"image": "01.jpg", "caption": "a"}'
    (folder / "captions.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(InputError, match=fault):
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")


def test_what_is_missing(folder, tmp_path):
    (folder / "questions.csv").unlink()
    with pytest.raises(InputError, match=r"has captions\.csv, expected questions\.csv"):
        source(folder, texts="questions")
    (folder / "captions.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"captions\.csv and captions\.jsonl"):
        source(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="has no table of texts; expected captions"):
        source(empty)
    with pytest.raises(InputError, match=r"texts is 'caption' \(did you mean"):
        source(folder, texts="caption")
    (empty / "captions.csv").write_text("image,caption\na.jpg,a cat")
    with pytest.raises(InputError, match="1 photos, expected at least 2"):
        listed(source(empty))


def test_a_question_without_an_answer(folder):
    path = folder / "questions.csv"
    path.write_text(path.read_text().replace("what is it?,cat", "what is it?,", 1))
    every = [source(folder, split, "questions") for split in ("train", "evaluate")]
    for one in every:
        listed(one)
    counts = [one.problems.count["question without an answer"] for one in every]
    assert sorted(counts) == [0, 1]
    _, texts = listed(source(folder, "predict", "questions"))
    assert sum("answers" not in annotation for *_, annotation in texts) == 1


def test_tables_are_found(folder):
    assert set(own.find(folder)) == {"captions", "questions"}
