"""Networks in Flax Linen: backbone, front end, encoder, heads."""
