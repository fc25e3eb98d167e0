from collections import Counter

import numpy as np

from pixel_bert_jax.data import geometry
from pixel_bert_jax.data.plan import EvaluationPlan
from tests.data.plan_cases import (
    CANVASES,
    SIZES,
    every_text_once,
    make_corpus,
    make_plan,
    many,
    texts_of,
)


def evaluation_batches(**changes):
    plan = make_plan(kind=EvaluationPlan, **changes)
    return plan, [plan.batch(index) for index in range(plan.num_batches)]


def test_evaluation_shows_every_text_once_whatever_the_weights():
    corpora = make_corpus(weight=0.2), many(3)
    plan = make_plan(*corpora, kind=EvaluationPlan)
    batches = [plan.batch(index) for index in range(plan.num_batches)]
    assert texts_of(batches) == every_text_once(plan)
    assert plan.statistics().texts == sum(len(c.text_set) for c in corpora)
    small = make_plan(make_corpus(image_sets=2), kind=EvaluationPlan, groups=64)
    assert small.num_batches <= 2  # less than one batch is no error here


def test_negatives_show_another_picture_of_the_corpus():
    plan, batches = evaluation_batches()
    used = [Counter(), Counter()]
    for batch in batches:
        real = batch.texts >= 0
        assert ((batch.negatives >= 0) == real).all()
        for c, corpus in enumerate(plan.corpora):
            mine = real & (batch.corpus == c)[:, None]
            own = corpus.image_ids[corpus.text_set[batch.texts[mine]]]
            others = corpus.image_ids[corpus.text_set[batch.negatives[mine]]]
            assert (own != others).all()
            used[c].update(batch.negatives[mine].tolist())
    # A shift: every text is the negative of exactly one other.
    assert all(set(counts.values()) == {1} for counts in used)


def test_other_images_share_corpus_and_bucket():
    plan, batches = evaluation_batches()
    found = 0
    for batch in batches:
        for c, images, others in zip(
            batch.corpus, batch.images[:, 0], batch.other_images[:, 0], strict=True
        ):
            if c < 0 or others < 0:
                assert others == -1
                continue
            corpus, found = plan.corpora[c], found + 1
            first = corpus.set_images[0, 0]
            assert corpus.image_ids[images - first] != corpus.image_ids[others - first]
            target = geometry.target_sizes(SIZES[[[images], [others]]], 800, 1333)
            canvas = geometry.choose_canvas(target, CANVASES)
            source = geometry.choose_source(SIZES[[[images], [others]]], (640, 1344))
            assert canvas[0] == canvas[1] and source[0] == source[1]
    assert found == sum(int((b.corpus >= 0).sum()) for b in batches)


def test_partners_do_not_depend_on_groups():
    def partners(**changes):
        negatives, others = {}, {}
        for batch in evaluation_batches(**changes)[1]:
            for g, c in enumerate(batch.corpus.tolist()):
                for text, negative in zip(
                    batch.texts[g], batch.negatives[g], strict=True
                ):
                    negatives[c, int(text)] = int(negative)
                others[int(batch.images[g, 0])] = int(batch.other_images[g, 0])
        return {k: v for k, v in negatives.items() if k[1] >= 0}, others

    reference = partners()
    other_groups = partners(groups=5, texts_per_group=7)
    assert other_groups[0] == reference[0]
    others = [
        {k: v for k, v in x.items() if k >= 0} for x in (reference[1], other_groups[1])
    ]
    assert others[0] == others[1]
    assert partners(seed=9)[0] != reference[0]


def test_partners_with_one_large_picture_and_with_one_alone():
    counts = np.array([50, 0, 3, 4])  # images 0, 0, 1, 1: no shift keeps 50 apart
    corpus = make_corpus(image_sets=4, counts=counts)
    plan = make_plan(corpus, kind=EvaluationPlan)
    batches = [plan.batch(i) for i in range(plan.num_batches)]
    texts, negatives = (
        np.concatenate([getattr(b, name)[b.texts >= 0] for b in batches])
        for name in ("texts", "negatives")
    )
    image_id = corpus.image_ids[corpus.text_set]
    assert (image_id[texts] != image_id[negatives]).all()
    spread = Counter(negatives[image_id[texts] == 0].tolist())
    assert len(spread) == 7 and max(spread.values()) <= 8 + 1

    alone = make_corpus(image_sets=2)
    batch = make_plan(alone, kind=EvaluationPlan).batch(0)
    assert (batch.negatives == -1).all() and (batch.other_images == -1).all()
