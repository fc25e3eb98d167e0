"""What the modes of `pixel_bert_jax.main` do beside training."""
