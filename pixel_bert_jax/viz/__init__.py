"""Figures of what a model predicts."""
