"""Studies: rows of an ablation, or one config, over several seeds, with errors.

`cells` runs them, one process each, `table` compares them, `seeds` is one config over
seeds, `compare` compares two evaluations example by example, `figure` draws the table.
"""
