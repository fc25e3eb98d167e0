"""The input: which examples form which batch, and the arrays that it holds.

Best read in this order: `geometry` (sizes), `plan` (which examples), `sources` (on-disk
formats), `index` (sources compiled once), `images` and `text` (decoding and word
pieces), `batches` (arrays of one batch), `pipeline` (the stream of batches, the only
file that needs TensorFlow).
"""
