"""Annotations and configs with a value of another type: refused in words."""

import copy
import json

import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.data.sources import SOURCES
from pixel_bert_jax.types import InputError
from tests.data.formats import FORMATS, Folder

VALUES = ["a red cat", 3, 2.5, True, None, ["a"], [3], {}, 10**30]


def _nodes(value, path=()):
    """Yields the place of every value in the first element of each list."""
    yield path
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _nodes(child, (*path, name))
    elif isinstance(value, list) and value:
        yield from _nodes(value[0], (*path, 0))


def _changed(content, path, value):
    if not path:
        return value
    content = copy.deepcopy(content)
    node = content
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return content


@pytest.mark.parametrize("kind", FORMATS)
def test_wrong_types_in_annotations_are_input_errors(kind, tokenizer, tmp_path):
    folder = Folder(kind, tmp_path / "data")
    tried = 0
    for path in folder.source().files():
        whole = path.read_bytes()
        if path.suffix in (".token", ".txt"):
            continue
        lines = path.suffix == ".jsonl" or kind == "nlvr2"
        content = json.loads(whole.split(b"\n")[0] if lines else whole)
        rest = whole.partition(b"\n")[2] if lines else b""
        for place in _nodes(content):
            for value in VALUES:
                changed = json.dumps(_changed(content, place, value)).encode()
                path.write_bytes(changed + (b"\n" + rest if rest else b""))
                tried += 1
                try:
                    index = build_or_open(
                        [folder.source()], tokenizer, 8, tmp_path / f"index-{tried}"
                    )
                except InputError:
                    continue
                texts = [index.caption(0, row) for row in range(index.num_texts(0))]
                assert set(texts) <= {"a cat", "a red cat", "a"}, (path, place, value)
                assert len(texts) <= 10, (path, place, value)
        path.write_bytes(whole)
    assert tried or kind == "flickr"


@pytest.mark.parametrize("kind", FORMATS)
def test_wrong_types_in_the_config_are_input_errors(kind, tmp_path):
    folder = Folder(kind, tmp_path / "data")
    fields = {"splits": None} if kind in ("jsonl", "karpathy") else {}
    for field in folder.fields | fields:
        for value in (3, True, ["a"], [3], {"train": 3}, {"train": None}, {3: 4}, "a"):
            config = {"source": kind, "name": "mine", **folder.fields, field: value}
            with pytest.raises(InputError, match="mine"):
                SOURCES[kind](config, "train", folder.root)
