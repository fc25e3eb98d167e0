"""Configs of runs; they import nothing of the package."""
