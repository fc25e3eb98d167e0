"""Word pieces of captions, questions and statements, as BERT splits them.

Pixel-BERT uses the tokenizer of BERT-base-uncased (arXiv 2004.00849, section 3.2). The
`tokenizers` library splits texts. This file adds the ids that the rest of the package
needs, a fingerprint, and vocabularies from four places: the embedded "scenes" list, a
`vocab.txt`, a folder, the Hugging Face hub.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from pixel_bert_jax.data import packages
from pixel_bert_jax.types import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS
VOCABULARY_FILE = "vocab.txt"
CONFIG_FILE = "tokenizer_config.json"
FAST_FILE = "tokenizer.json"
HUB_TIMEOUT = 5.0  # seconds


class WordPiece:
    """BERT's tokenizer over one vocabulary.

    Attributes:
      vocabulary: the V tokens in the order of their ids.
      vocab_size: V.
      pad_id, unk_id, cls_id, sep_id, mask_id: ids of the five special tokens.
      special_ids: int32 [5], the same, sorted.
      replacement_ids: int32 [R], tokens that may replace a masked token at random: all
        except the special tokens and BERT's [unused*].
      is_continuation: bool [V], True for a token that starts with "##": it continues a
        word (for whole-word masking).
      lower_case: whether texts are lower-cased and stripped of accents.
      fingerprint: SHA-256 (hex) of the vocabulary and the options.
    """

    def __init__(self, vocabulary: Sequence[str], *, lower_case: bool = True):
        """Builds the tokenizer.

        Args:
          vocabulary: tokens in the order of their ids.
          lower_case: lower-case and strip accents, as bert-base-uncased does.

        Raises:
          InputError: a special token is missing, or a token is empty or given twice.
        """
        self.vocabulary = tuple(vocabulary)
        self.lower_case = bool(lower_case)
        ids = _checked_ids(self.vocabulary)
        self.vocab_size = len(self.vocabulary)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[token] for token in SPECIAL_TOKENS
        )
        self.special_ids = np.sort([ids[t] for t in SPECIAL_TOKENS]).astype(np.int32)
        self.is_continuation = np.array([t.startswith("##") for t in self.vocabulary])
        unused = np.array([t.startswith("[unused") for t in self.vocabulary])
        unused[self.special_ids] = True
        self.replacement_ids = np.flatnonzero(~unused).astype(np.int32)
        options = json.dumps({"lower_case": self.lower_case, "kind": "wordpiece"})
        self.fingerprint = hashlib.sha256(
            "\n".join((*self.vocabulary, options)).encode()
        ).hexdigest()
        self._tokenizer = tokenizers.BertWordPieceTokenizer(
            vocab=ids, lowercase=self.lower_case
        )
        self._joiner = tokenizers.decoders.WordPiece()

    def __str__(self) -> str:
        return f"{self.vocab_size} words, {self.fingerprint[:12]}"

    def encode(
        self, texts: Iterable[str], max_length: int
    ) -> tuple[list[np.ndarray], int]:
        """Returns the ids of each text, and the number of texts that were truncated.

        Args:
          texts: any strings; a text without a single token becomes [CLS] [SEP].
          max_length: greatest number of ids, [CLS] and [SEP] included.

        Returns:
          An int32 array [n] per text, n <= `max_length`, and the number of texts that
          were longer.

        Raises:
          InputError: `max_length` is below 3.
        """
        if max_length < 3:
            raise InputError(
                "Expected a max_text_length of at least 3 ([CLS], one token, [SEP]), "
                f"received {max_length}."
            )
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        room = max_length - 2
        arrays, truncated = [], 0
        for encoding in encodings:
            ids = encoding.ids
            truncated += len(ids) > room
            arrays.append(np.array([self.cls_id, *ids[:room], self.sep_id], np.int32))
        return arrays, truncated

    def unknown_words(self, text: str) -> list[str]:
        """Returns the words of a text that become [UNK], as they are spelled in it."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        spans = zip(encoding.tokens, encoding.offsets, strict=True)
        return [text[start:stop] for token, (start, stop) in spans if token == UNK]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Returns the tokens of ids, special tokens and padding included."""
        return [self.vocabulary[int(i)] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns text for readers: pieces are joined, [PAD], [CLS], [SEP] left out."""
        pieces = [t for t in self.tokens(ids) if t not in (PAD, CLS, SEP)]
        return self._joiner.decode(pieces) if pieces else ""

    def save(self, folder: str | Path) -> None:
        """Writes `vocab.txt` and `tokenizer_config.json` in transformers' format."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{token}\n" for token in self.vocabulary)
        (folder / VOCABULARY_FILE).write_bytes(lines.encode())
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lower_case,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(name: str | Path) -> WordPiece:
    """Loads a tokenizer.

    Args:
      name: "scenes" (the embedded word list), a `vocab.txt`, a folder with one or
        with a `tokenizer.json`, `package:NAME[/PATH]` for the one inside an installed
        package, or a model of the Hugging Face hub such as "bert-base-uncased". If the
        hub cannot be reached or `HF_HUB_OFFLINE=1` is set, the model is taken from the
        local cache.

    Raises:
      InputError: nothing of that name is found, or it is not a BERT vocabulary.
    """
    if str(name) == "scenes":
        return _scenes_tokenizer()
    if packages.is_package(str(name)):
        name = packages.locate(str(name), VOCABULARY_FILE.__eq__, VOCABULARY_FILE)
    path = Path(name).expanduser()
    if path.is_file():
        return WordPiece(_read_vocabulary(path), **_read_options(path.parent))
    if path.is_dir():
        return _from_folder(path)
    return _from_folder(_from_hub(str(name)))


@functools.cache
def _scenes_tokenizer() -> WordPiece:
    from pixel_bert_jax.data.sources import scenes

    return WordPiece((*SPECIAL_TOKENS, *scenes.WORDS))


def _from_folder(folder: Path) -> WordPiece:
    if (folder / VOCABULARY_FILE).is_file():
        vocabulary = _read_vocabulary(folder / VOCABULARY_FILE)
        return WordPiece(vocabulary, **_read_options(folder))
    path = folder / FAST_FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: expected a tokenizer's {VOCABULARY_FILE} or {FAST_FILE} in it."
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        ids, kind = content["model"]["vocab"], content["model"].get("type")
        known = _read_options(folder).get("lower_case", True)
        lower_case = (content.get("normalizer") or {}).get("lowercase", known)
        if kind != "WordPiece" or sorted(ids.values()) != list(range(len(ids))):
            raise ValueError(f"{kind} of {len(ids)} tokens")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a WordPiece vocabulary, as BERT's, of ids 0 to V-1, "
            f"received {error}."
        ) from error
    return WordPiece(sorted(ids, key=ids.get), lower_case=bool(lower_case))


def _from_hub(name: str) -> Path:
    """Returns the local folder of a model's vocabulary, downloading it if needed."""
    import huggingface_hub

    try:
        if name.startswith(("/", "~", ".")) or name.endswith((".txt", ".json")):
            raise FileNotFoundError("it is a path that does not exist")
        return Path(
            huggingface_hub.snapshot_download(
                name,
                allow_patterns=[VOCABULARY_FILE, FAST_FILE, CONFIG_FILE],
                etag_timeout=HUB_TIMEOUT,
            )
        )
    except Exception as error:  # the hub raises many kinds of errors
        raise InputError(
            f"No tokenizer {name!r}: expected 'scenes', the path of a vocab.txt, a "
            "folder that holds one, or a model of the Hugging Face hub such as "
            f"'bert-base-uncased': {error}"
        ) from error


def _read_vocabulary(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, {error}.") from error
    # Not splitlines(): it also splits at characters that BERT's vocabulary contains.
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _read_options(folder: Path) -> dict[str, bool]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
        return {"lower_case": bool(config.get("do_lower_case", True))}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: expected a json object, {error}.") from error


def _checked_ids(vocabulary: tuple[str, ...]) -> dict[str, int]:
    ids = {token: i for i, token in enumerate(vocabulary)}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"Expected a BERT vocabulary with {', '.join(SPECIAL_TOKENS)}; "
            f"{', '.join(missing)} missing among {len(vocabulary)} lines."
        )
    if "" in ids:
        raise InputError(f"The vocabulary's line {ids[''] + 1} is empty.")
    if len(ids) != len(vocabulary):
        twice = next(t for i, t in enumerate(vocabulary) if ids[t] != i)
        raise InputError(f"The vocabulary contains {twice!r} more than once.")
    return ids
