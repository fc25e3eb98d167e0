import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pixel_bert_jax.data import text
from pixel_bert_jax.types import InputError


def _pieces(tokenizer, string, max_length=16):
    (ids,), _ = tokenizer.encode([string], max_length)
    return tokenizer.tokens(ids)


def test_words_are_lower_cased_split_and_framed(tokenizer):
    assert _pieces(tokenizer, "The  red cats!\r\n") == [
        *("[CLS]", "the", "red", "cat", "##s", "!", "[SEP]"),
    ]


def test_unknown_nul_emoji_and_right_to_left_are_deterministic(tokenizer):
    unknown = ["[CLS]", "[UNK]", "[SEP]"]
    assert _pieces(tokenizer, "\U0001f600") == unknown
    assert _pieces(tokenizer, "שלום") == unknown
    assert _pieces(tokenizer, "re\x00d") == ["[CLS]", "red", "[SEP]"]
    assert _pieces(tokenizer, "zwèi") == ["[CLS]", "zwei", "[SEP]"]  # accents go
    assert _pieces(tokenizer, "") == ["[CLS]", "[SEP]"]
    assert _pieces(tokenizer, "x" * 10_000) == unknown


def test_long_texts_are_cut_and_counted(tokenizer):
    texts = ["red " * 3, "red " * 4, "red " * 2_500]
    arrays, truncated = tokenizer.encode(texts, max_length=5)
    assert truncated == 2
    assert [len(ids) for ids in arrays] == [5, 5, 5]
    assert all(ids[0] == tokenizer.cls_id for ids in arrays)
    assert all(ids[-1] == tokenizer.sep_id for ids in arrays)
    assert arrays[0].dtype == np.int32
    with pytest.raises(InputError, match="at least 3"):
        tokenizer.encode(["red"], 2)


def test_decode_joins_pieces_and_shows_masks(tokenizer):
    (ids,), _ = tokenizer.encode(["a [MASK] cats on the \u2603 !"], 16)
    padded = [*ids, tokenizer.pad_id, tokenizer.pad_id]
    assert tokenizer.decode(padded) == "a [MASK] cats on the [UNK]!"
    assert tokenizer.decode([tokenizer.cls_id, tokenizer.sep_id]) == ""


def test_special_unused_and_continuation_ids():
    vocabulary = ["[PAD]", "[unused0]", "[CLS]", "a", "##b", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = text.WordPiece(vocabulary)
    assert tokenizer.vocab_size == 8
    assert tokenizer.special_ids.tolist() == [0, 2, 5, 6, 7]
    assert tokenizer.replacement_ids.tolist() == [3, 4]
    assert np.flatnonzero(tokenizer.is_continuation).tolist() == [4]


def test_saved_folder_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    for name in (tmp_path / "t", tmp_path / "t" / "vocab.txt"):
        loaded = text.load_tokenizer(name)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.vocabulary == tokenizer.vocabulary
    cased = text.WordPiece(tokenizer.vocabulary, lower_case=False)
    assert cased.fingerprint != tokenizer.fingerprint
    cased.save(tmp_path / "cased")
    loaded = text.load_tokenizer(tmp_path / "cased")
    assert not loaded.lower_case and loaded.fingerprint == cased.fingerprint
    assert _pieces(loaded, "Red red") == ["[CLS]", "[UNK]", "red", "[SEP]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n", r"\[MASK\] missing"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "'a' more than once"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\nb\n", "line 6 is empty"),
        (b"[PAD]\n\xff\n", "UTF-8"),
    ],
)
def test_faulty_vocabularies_are_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        text.load_tokenizer(path)


def test_unknown_name_says_what_is_accepted(tmp_path):
    with pytest.raises(InputError, match=r"vocab\.txt.*Hugging"):
        text.load_tokenizer(tmp_path / "nothing")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "vocab.txt").write_text("[PAD]\n")
    (tmp_path / "broken" / "tokenizer_config.json").write_text(json.dumps([]))
    with pytest.raises(InputError, match="json object"):
        text.load_tokenizer(tmp_path / "broken")


def test_the_words_that_become_unknown(tokenizer):
    assert tokenizer.unknown_words("A  Zebra\ton the Mät, café!") == [
        "Zebra",
        ",",
        "café",
    ]
    assert tokenizer.unknown_words("a red cat") == []


def test_a_tokenizer_json_serves_as_well(tokenizer, tmp_path):
    for lower_case in (True, False):
        made = text.WordPiece(tokenizer.vocabulary, lower_case=lower_case)
        folder = tmp_path / str(lower_case)
        folder.mkdir()
        made._tokenizer.save(str(folder / "tokenizer.json"))
        assert text.load_tokenizer(folder).fingerprint == made.fingerprint
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a WordPiece vocabulary.*BPE of 1"):
        text.load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"a tokenizer's vocab\.txt or"):
        text.load_tokenizer(folder)


LOAD = """
import sys, time
from pixel_bert_jax.data import text
from pixel_bert_jax.types import InputError
import huggingface_hub
for name in sys.argv[1:]:
    began = time.monotonic()
    try:
        print(text.load_tokenizer(name))
    except InputError as error:
        print(str(error).splitlines()[0])
    print(time.monotonic() - began)
"""


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_hub_that_cannot_be_reached_is_reported_at_once(tokenizer, tmp_path, offline):
    cache = tmp_path / "hub" / "models--someone--words"
    tokenizer.save(cache / "snapshots" / "0123abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abc")
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens there
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": offline,
    }

    run = subprocess.run(
        [sys.executable, "-c", LOAD, "someone/words", "someone/else"],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )
    assert "Retrying" not in run.stderr, run.stderr
    found, first, missing, second = run.stdout.splitlines()
    assert found == str(tokenizer)
    assert missing.startswith("No tokenizer 'someone/else': expected 'scenes'")
    assert max(float(first), float(second)) < 15, run.stdout


def test_the_embedded_vocabulary_knows_all_its_words():
    tokenizer = text.load_tokenizer("scenes")
    words = tokenizer.vocabulary[5:]
    arrays, _ = tokenizer.encode(words, 8)
    assert [len(ids) for ids in arrays] == [3] * len(words)
    assert not any(tokenizer.unk_id in ids for ids in arrays)


def test_equals_the_tokenizer_of_transformers(real_data):
    transformers = pytest.importorskip("transformers")
    path = real_data / "bert" / "vocab.txt"
    ours = text.load_tokenizer(path)
    assert (ours.vocab_size, len(ours.replacement_ids)) == (30_522, 29_523)
    theirs = transformers.BertTokenizer.from_pretrained(str(path.parent))
    captions = json.loads(
        (real_data / "coco/annotations/captions_val2014.json").read_text()
    )["annotations"]
    texts = [annotation["caption"] for annotation in captions]
    texts += ["Zürich's café, naïve 中文 x" + "y" * 200, "a\u00a0b\tc\x00d [MASK] ?!"]
    arrays, truncated = ours.encode(texts, 24)
    expected = theirs(texts, max_length=24, truncation=True)["input_ids"]
    assert [ids.tolist() for ids in arrays] == expected
    whole = theirs(texts)["input_ids"]
    assert truncated == sum(len(ids) > 24 for ids in whole) > 0
