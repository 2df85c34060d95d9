"""Strict arithmetic for every test: no silent dtype or rank promotion."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from exec.machine import prepare

prepare()
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)  # workers and runs need not compile the same again
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """Folder of captured payloads and recordings; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("captured payloads and recordings are not beside this clone")
    return SHARED
