"""Configs of runs; they import only `pixel_bert_jax.config` from the package."""
