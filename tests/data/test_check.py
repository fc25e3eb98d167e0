"""`python -m pixel_bert_jax.data check`: every fault of a folder, in one pass."""

import subprocess
import sys

import pytest

from pixel_bert_jax.data.__main__ import main
from tests.data.conftest import encoded, photo


@pytest.fixture
def folder(tmp_path):
    for n in range(8):
        (tmp_path / f"{n}.jpg").write_bytes(encoded(photo(20, 30 + n, n)))
    rows = [f"{n}.jpg,a cat" for n in range(8)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    asked = [f"{n}.jpg,what is it?,cat" for n in range(8)]
    (tmp_path / "questions.csv").write_text(
        "\n".join(["image,question,answer", *asked])
    )
    return tmp_path


def test_a_good_folder_is_counted(folder, capsys):
    (folder / "spare.png").write_bytes(encoded(photo(9, 9), "PNG"))
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "captions.csv: 7 photos, 7 captions to train; 1 photos, 1 cap" in out
    assert "questions.csv: 7 photos, 7 questions to train; 1 photos, 1 q" in out
    assert f"1 photos are in no table, such as {folder / 'spare.png'}" in out
    assert "8 photos are whole" in out


def test_all_faults_are_found_at_once(folder, capsys):
    captions, questions = folder / "captions.csv", folder / "questions.csv"
    captions.write_text(captions.read_text() + "\ngone.jpg,a dog\n3.jpg,x,y\n4.jpg,")
    questions.write_text(questions.read_text().replace("?,cat", "?,", 1))
    whole = (folder / "5.jpg").read_bytes()
    (folder / "5.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "6.jpg").write_bytes(b"")
    assert main(["check", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "6 faults" in err
    for fault in (
        f"1 x missing image file:\n  {folder / 'gone.jpg'}",
        "1 x row that has not 2 columns",
        "1 x empty caption",
        "1 x question without an answer",
        "2 x photo that cannot be decoded",
        f"{folder / '5.jpg'}: ",
        f"{folder / '6.jpg'}: ",
    ):
        assert fault in err, fault


def test_tables_that_contradict_each_other(folder, capsys):
    for name, text, held in (("captions", "caption", 0), ("questions", "question", 3)):
        answer = ",answer" if name == "questions" else ""
        rows = [f"image,{text}{answer},split"]
        for n in range(8):
            split = "evaluate" if n == held else "train"
            rows.append(f"{n}.jpg,a{',b' if answer else ''},{split}")
        (folder / f"{name}.csv").write_text("\n".join(rows))
    assert main(["check", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "2 x photo that one table trains on and the other holds out" in err
    (folder / "questions.csv").unlink()
    rows = ["image,caption,split", *(f"{n}.jpg,a,train" for n in range(8))]
    (folder / "captions.csv").write_text("\n".join(rows))
    assert main(["check", str(folder)]) == 2
    assert "table without a photo of a split" in capsys.readouterr().err


def test_what_is_no_folder_of_photos(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none")]) == 2
    assert main(["check", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "is no folder" in err and "has no table of texts" in err


def test_it_is_a_program(folder):
    command = [sys.executable, "-m", "pixel_bert_jax.data", "check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
