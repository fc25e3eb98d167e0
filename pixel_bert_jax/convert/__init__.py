"""Weights in and out of this package's own training format."""
