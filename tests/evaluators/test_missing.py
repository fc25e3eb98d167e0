"""Metrics where held-out images are missing: named so, or refused."""

import pytest

from pixel_bert_jax.data.index import build_or_open
from pixel_bert_jax.evaluators import EVALUATORS
from pixel_bert_jax.evaluators.base import check_complete, marked
from pixel_bert_jax.types import InputError
from tests.data.conftest import WORDS
from tests.data.formats import Folder


@pytest.fixture
def index(tmp_path):
    """Two corpora of ten photos with a text each; the second lacks four of its own."""
    from pixel_bert_jax.data import text

    tokenizer = text.WordPiece((*text.SPECIAL_TOKENS, *WORDS))
    folders = [Folder("jsonl", tmp_path / name) for name in ("whole", "broken")]
    folders[1].damage()
    sources = [folder.source() for folder in folders]
    for source, name in zip(sources, ("whole", "broken"), strict=True):
        source.name = name
    options = {"on_bad_image": "skip", "bad_image_budget": 0.5}
    return build_or_open(sources, tokenizer, 8, tmp_path / "index", **options)


METRICS = {"whole/match": 0.5, "broken/match": 0.25, "broken/texts": 6.0}


def test_metrics_of_a_corpus_that_lacks_images_say_so(index):
    assert marked(METRICS, index, []) == {
        "whole/match": 0.5,
        "broken/match@missing": 0.25,
        "broken/texts@missing": 6.0,
        "broken/images_missing": 4.0,
        "broken/texts_missing": 4.0,
    }


def test_images_that_fail_count_as_well(index):
    found = marked(METRICS, index, [3, 12])  # one of each corpus
    assert found["whole/match@missing"] == 0.5 and "whole/match" not in found
    assert found["whole/images_missing"] == found["whole/texts_missing"] == 1
    assert found["broken/images_missing"] == found["broken/texts_missing"] == 5


def test_metrics_of_all_examples_need_all_images(index):
    with pytest.raises(InputError, match=r"4 images are missing: corpus 'broken', 0"):
        check_complete(True, index)
    check_complete(False, index)
    needing = {name for name, evaluator in EVALUATORS.items() if evaluator.needs_all}
    assert needing == {"retrieval", "vqa", "nlvr2"}
