"""What every test runs under: eight CPU devices, strict dtypes, a compile cache.

The environment is inherited by the processes that tests start, so it holds only what
is harmless to a user's own run: the platform and the cache. The eight devices and
strict promotion are set in this process alone; a started process sees the one device
that a user sees.
"""

import os
from pathlib import Path

# Before JAX is imported. Set JAX_PLATFORMS yourself to run the tests marked `gpu`.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE_HOME = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(_CACHE_HOME, "pixel_bert_jax", "tests"))
)
# Half a second: what compiles faster is not worth a file.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Compiling takes most of the tests' time; LLVM's optimisations are a third of it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test needs no network
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests marked `gpu` where JAX sees no GPU."""
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        pytest.skip(f"needs a GPU; JAX runs on {jax.default_backend()!r}")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos and captions named by PIXEL_BERT_REAL_DATA.

    It holds one folder a data set (`coco/`, `flickr8k/`, ...); without the variable
    the tests that need it are skipped.
    """
    folder = os.environ.get("PIXEL_BERT_REAL_DATA")
    if not folder:
        pytest.skip("needs PIXEL_BERT_REAL_DATA, a folder that holds coco/, flickr8k/")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"PIXEL_BERT_REAL_DATA names {folder!r}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory):
    """The uninterrupted run of the micro config; see `tests/runs.py`."""
    from tests import runs  # after the settings above

    return runs.straight(tmp_path_factory)
