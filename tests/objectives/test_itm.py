"""Image-text matching by hand: which class means a match, and what counts."""

import jax.numpy as jnp
import numpy as np

from pixel_bert_jax import objectives
from pixel_bert_jax.models.pixel_bert import Encoded
from pixel_bert_jax.objectives.views import View
from tests import small

# Of two groups of two texts: class 0, no match, and class 1. The last slot is empty.
LOGITS = np.array([[0.3, 2.0], [1.5, -0.4], [0.1, 0.2], [-9.0, 9.0]], np.float32)
MATCH = np.array([[True, False], [False, True]])
REAL = np.array([[True, True], [True, False]])
UNPAIRED = np.array([[True, False], [False, False]])


def test_loss_is_the_cross_entropy_of_real_pairs():
    (objective,) = objectives.build({"itm": {"weight": 7.0}})
    nothing = dict.fromkeys(("text_ids", "text_mask", "image_id", "masked"))
    view = View(**nothing, match=MATCH, mask=REAL, unpaired=UNPAIRED)
    encoded = Encoded(*[None] * 5, pooled=jnp.asarray(LOGITS))
    heads = small.Heads({"itm": lambda pooled: pooled})
    found = small.loss_of(objective, view, heads, fused=encoded)
    # A match, no match, and one of no match that is taken for a match.
    wanted = sum(np.log1p(np.exp(x)) for x in (0.3 - 2.0, -0.4 - 1.5, 0.2 - 0.1))
    np.testing.assert_allclose(found.total, wanted, rtol=1e-6)
    assert float(found.count) == float(objective.count(view)) == 3
    assert tuple(map(float, found.metrics["accuracy"])) == (2, 3)
    assert tuple(map(float, found.metrics["without_partner"])) == (1, 3)
