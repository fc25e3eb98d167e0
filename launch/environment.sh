# shellcheck shell=bash
# Sourced by the scripts beside it. Makes the virtual environment of this repository
# once, and again when requirements.txt or pyproject.toml change.
#
# PIXEL_BERT_VENV  folder of the environment (default: .venv in the repository root)

# By default, glibc returns large arrays to the kernel after each use and asks for new
# pages, 4 KB at a time: a quarter of the time of a training step on two cores.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-4294967296}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-17179869184}
export MALLOC_TOP_PAD_=${MALLOC_TOP_PAD_:-67108864}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1} # huge pages, from 2.35

# Prints the first interpreter for which the pinned packages have wheels.
find_python() {
  local candidate found=""
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    command -v "$candidate" >/dev/null || continue
    if "$candidate" -c '
import sys, ensurepip, venv
sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
    found+=" $candidate ($("$candidate" --version 2>&1 | tail -n 1))"
  done
  {
    echo "error: expected Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip,"
    echo "found:${found:- no Python at all}"
    echo "Debian and Ubuntu keep the two modules in the package python3-venv."
  } >&2
  return 1
}

# prepare_environment [EXTRA]: installs this package with the given extra of
# pyproject.toml and sets PYTHON to the environment's interpreter.
prepare_environment() {
  local extra=${1:-} python venv log stamp content started=$SECONDS
  unset PYTHONDONTWRITEBYTECODE # or every start would compile the packages again
  venv=${PIXEL_BERT_VENV:-$PWD/.venv}
  PYTHON=$venv/bin/python
  stamp=$venv/installed${extra:+-$extra}
  log=$venv/install.log
  # The stamp holds what the installation depends on: if it is equal, nothing is to do.
  content=$(echo "$PWD" && cat requirements.txt pyproject.toml)
  if [[ -x $PYTHON && -f $stamp && $(cat "$stamp") == "$content" ]]; then
    return
  fi

  if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || return 1
    echo "Making a virtual environment in $venv with $("$python" --version)."
    "$python" -m venv --clear "$venv" || return 1
  fi
  echo "Installing the pinned packages (about 2.6 GB on disk); log in $log."
  # Removed first: a broken installation must not pass for a finished one.
  rm -f "$venv"/installed*
  # Compiling all files would take half of the time: a run needs few of them, and Python
  # compiles those on their first import.
  if ! "$PYTHON" -m pip install --disable-pip-version-check --no-compile \
    --editable ".${extra:+[$extra]}" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: installing failed; the whole log is $log" >&2
    return 1
  fi
  printf '%s\n' "$content" >"$venv/installed"
  printf '%s\n' "$content" >"$stamp"
  echo "Installed in $((SECONDS - started)) s."
}
