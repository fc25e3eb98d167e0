"""Runs of several processes, detection of hangs, and the lock on a workdir."""
