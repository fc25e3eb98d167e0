"""Runs of several processes, and processes that hang or share a workdir."""
