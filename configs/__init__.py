"""Configs of runs; of the package they import its config alone."""
