#!/usr/bin/env bash
# Installs the package with its development tools, lints it and runs the tests.
# Arguments go to pytest: `-m "runs and not slow"` selects tests that start the program or
# compile for long, `-m slow` those that take minutes; by default neither is run.
#
# PIXEL_BERT_EXTRAS     extras to install with the package (default: dev); with
#                       dev,parity the comparisons with torch run too
# PIXEL_BERT_REAL_DATA  a folder with coco/, flickr8k/, ...; tests on real photos are
#                       skipped without it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

prepare_environment "${PIXEL_BERT_EXTRAS:-dev}"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest -n 2 "$@"
