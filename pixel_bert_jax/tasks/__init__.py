"""Tasks by name: a new one is one file here and one line below."""

from pixel_bert_jax.tasks.nlvr2 import Nlvr2
from pixel_bert_jax.tasks.pretrain import Pretrain
from pixel_bert_jax.tasks.retrieval import Retrieval
from pixel_bert_jax.tasks.vqa import Vqa

TASKS = {"pretrain": Pretrain, "vqa": Vqa, "nlvr2": Nlvr2, "retrieval": Retrieval}
