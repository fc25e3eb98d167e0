"""A folder of one's own photos with tables of captions or questions."""

import json

import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES, own
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
    assert len(held) == 2 and len(train) == 18 and not set(held) & set(train)
    assert len(texts) + len(held_texts) == COUNT + 5
    assert ("sub/00.jpg", "A cat, number 0") in texts + held_texts
    # The same whatever the order of the rows.
    lines = (folder / "captions.csv").read_text().splitlines()
    (folder / "captions.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert set(listed(source(folder, "evaluate"))[0]) == set(held)
    index = build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    assert len(index.sizes) == 18
    # Questions of the same photos are split alike.
    asked, _ = listed(source(folder, "evaluate", "questions"))
    assert set(asked) == set(held)


def test_questions_have_answers_in_the_form_of_vqa(folder):
    _, texts = listed(source(folder, texts="questions"))
    key, text, annotation = texts[0]
    assert text == "what is it?" and annotation["multiple_choice_answer"] == "cat"
    assert [a["answer"] for a in annotation["answers"]] == ["cat"] * 10
    assert len({t[2]["question_id"] for t in texts}) == len(texts) == 18
    images, texts = listed(source(folder, "predict", "questions"))
    assert len(images) == len(texts) == COUNT and key in images


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
    ],
)
def test_a_broken_row_is_named(folder, tokenizer, tmp_path, text, fault):
    (folder / "captions.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        build_or_open([source(folder)], tokenizer, 8, tmp_path / "index")
    assert fault in str(raised.value) and "line " in str(raised.value)


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
