"""The input: which examples form which batch, and the bytes that fill it.

Read in this order: `geometry` (sizes), `plan` (which examples, numpy only), `sources`
(on-disk formats), `index` (sources compiled once), `images` and `text` (decoding and
word pieces), `pipeline` (the stream of batches, the only file that needs TensorFlow).
"""
