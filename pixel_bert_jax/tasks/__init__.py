"""Tasks by name: a new one is one file here and one line below."""

from pixel_bert_jax.tasks.pretrain import Pretrain

TASKS = {"pretrain": Pretrain}
