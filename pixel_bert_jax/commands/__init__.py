"""The modes of `pixel_bert_jax.main` other than training."""
