"""`pixel-bert`: what it prints, and what it says of input that it cannot use."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pixel_bert_jax import Predictor
from pixel_bert_jax.predict import __main__ as program
from pixel_bert_jax.predict import doctor

CHECKPOINT = "checkpoints/scenes_tiny_long"


@pytest.fixture
def photos(tmp_path):
    """A folder with three pictures of the same size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("c.png", "a.jpg", "b.png"):
        pixels = random.integers(0, 256, (112, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.md").write_text("no photo")
    return folder


@pytest.fixture
def run(repository, capsys, monkeypatch):
    """Runs the program with the published model, loaded once."""
    monkeypatch.setenv(program.MODEL, str(repository / CHECKPOINT))

    def run(*words):
        code = program.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out.splitlines(), err

    return run


def test_it_prints_what_predictor_returns(run, photos, repository):
    predictor = Predictor.from_pretrained(repository / CHECKPOINT)
    one = photos / "a.jpg"
    code, (line,), _ = run("match", one, "a red ring")
    chance = predictor.match(one, "a red ring")
    assert code == 0 and line == f"{chance:.3f}  a red ring"
    code, lines, _ = run("fill", one, "a [MASK] ring and a [MASK]", "--top=2", "--json")
    (record,) = map(json.loads, lines)
    wanted = predictor.fill_mask(one, "a [MASK] ring and a [MASK]", top_k=2)
    for words, best in zip(record["masks"], wanted, strict=True):
        assert [word["word"] for word in words] == [word.word for word in best]
    code, lines, _ = run("match", photos, "a blue disc")  # a folder, in order of names
    assert [line.partition(": ")[0] for line in lines] == [
        str(photos / name) for name in ("a.jpg", "b.png", "c.png")
    ]
    listed = photos / "list.txt"
    listed.write_text(f"{photos / 'c.png'}\n\n{one}\n")
    texts = photos / "texts.txt"
    texts.write_text("a red ring\na blue disc\n")
    ranking = predictor.rank([photos / "c.png", one], ["a red ring", "a blue disc"])
    code, lines, _ = run("rank", listed, "--texts", texts, "--top=1", "--json")
    records = [json.loads(line) for line in lines]
    assert code == 0 and len(records) == 4  # two photos, two texts
    for record, row in zip(records, ranking.texts, strict=False):
        assert record["texts"][0]["text"] == ["a red ring", "a blue disc"][row[0]]
    best = [str(photos / "c.png"), str(one)][ranking.images[0, 0]]
    assert records[2]["photos"][0]["photo"] == best


def test_a_bad_photo_is_named_and_the_others_are_done(run, photos):
    (photos / "b.png").write_bytes(b"")
    code, lines, err = run("match", photos, "a red ring", "--json")
    assert code == 2
    records = [json.loads(line) for line in lines]
    assert [("error" in record) for record in records] == [False, True, False]
    assert err.startswith(f"error: {photos / 'b.png'}: ") and err.count("\n") == 1


def test_rank_names_bad_photos_and_does_the_others(run, photos):
    (photos / "b.png").write_bytes(b"")
    code, lines, err = run("rank", photos, "--text=a red ring", "--json")
    assert code == 2 and err.count("\n") == 1 and f"{photos / 'b.png'}: " in err
    good = [json.loads(line).get("photo") for line in lines if "texts" in line]
    assert good == [str(photos / "a.jpg"), str(photos / "c.png")]


def test_a_list_from_another_system(run, photos):
    listed = photos / "list.txt"
    content = f"{photos / 'a.jpg'}\r\n{photos / 'c.png'}\r\n"
    listed.write_bytes(b"\xef\xbb\xbf" + content.encode())
    code, lines, _ = run("match", listed, "a red ring", "--json")
    assert code == 0 and len(lines) == 2


def test_examples_of_the_help_parse():
    examples = [line for line in program.__doc__.splitlines() if "    pixel-b" in line]
    assert len(examples) == 5
    for example in examples:
        program.parser().parse_args(shlex.split(example)[1:])


def test_a_reader_that_has_enough(repository, photos):
    command = [sys.executable, "-m", "pixel_bert_jax.predict", "match", str(photos)]
    command += ["a ring", f"--model={repository / CHECKPOINT}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        done.stdout.readline()
        done.stdout.close()
        err = done.stderr.read()
        assert done.wait() == 0 and not err, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("match", "x" * 300, "a"), "cannot be read"),
        (("match", "~no_such_user/a.jpg", "a"), "cannot be read"),
        (("match", "none.jpg", "a"), "none.jpg does not exist; expected a photo"),
        (("match", "FOLDER/notes.md", "a"), "neither a JPEG nor"),
        (("match", "FOLDER/a.jpg", ""), "received an empty one"),
        (("match", "FOLDER/a.jpg", "red " * 2500), "more than 22 tokens"),
        (("answer", "FOLDER/a.jpg", "what?"), "no head answers"),
        (("true-or-false", "FOLDER/a.jpg", "FOLDER/b.png", "x"), "no head truth"),
        (("fill", "FOLDER/a.jpg", "a ring"), "expected a text with [MASK]"),
        (("rank", "FOLDER"), "expected --text TEXT or --texts FILE"),
        (("rank", "FOLDER", "--texts", "none.txt"), "none.txt cannot be read"),
        (("match", "FOLDER/a.jpg", "a", "--model=none/here"), "none/here"),
        (("match", "FOLDER/a.jpg", "a", "--model="), "no model is named"),
        (("match", "FOLDER/a.jpg", "a", "--top=0"), "--top is 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run, photos, monkeypatch, words, message
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [word.replace("FOLDER", str(photos)) for word in words]
    code, lines, err = run(*words)
    assert code == 2 and not lines
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("size", "message"), [((20000, 20), "20"), ((15000, 15000), "pixels")]
)
def test_pictures_of_extreme_size(run, tmp_path, size, message):
    path = tmp_path / "large.png"
    Image.new("L", size).save(path)
    code, _, err = run("match", path, "a ring")
    assert code in (0, 2) and (code == 0 or message in err)


def test_it_starts_without_jax(repository):
    """Help and wrong words are answered at once."""
    code = (
        "import sys; from pixel_bert_jax.predict.__main__ import main\n"
        "try: main(['-h'])\nexcept SystemExit: pass\n"
        "assert not {'jax', 'tensorflow', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pixel-bert answer dog.jpg" in done.stdout


def test_using_a_model_imports_no_tensorflow(repository):
    code = (
        "import sys; import pixel_bert_jax as p\n"
        f"p.Predictor.from_pretrained({str(repository / CHECKPOINT)!r})\n"
        "print(sorted({'tensorflow', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_doctor_names_what_is_amiss(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("PIXEL_BERT_DATA", raising=False)
    assert doctor.main() == 0
    out = capsys.readouterr().out
    for name in ("python", "packages", "devices", "memory", "disk", "port", "weights"):
        assert f"ok    {name}" in out
    monkeypatch.setenv("PIXEL_BERT_DATA", str(tmp_path / "none"))
    monkeypatch.setattr(doctor, "LEAST_DISK", 1e9)
    assert doctor.main() == 2
    out = capsys.readouterr().out
    assert "FAIL  data" in out and "FAIL  disk" in out and "next: mend" in out
