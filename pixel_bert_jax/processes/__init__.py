"""Runs of several processes, hanging processes, and the lock on a workdir."""
