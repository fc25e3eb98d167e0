"""Checkpoints of a run: what is saved, where, and how damage is detected."""
