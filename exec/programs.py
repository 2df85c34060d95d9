"""Compiled steps kept between runs, so that a program starts in a second or two.

XLA's own cache spares the compiling but not the tracing, which for the whole step takes several seconds.  Here the
loaded program itself is kept, under everything that it depends on: the source of the core, the versions of Python, jax
and jaxlib, the processor, XLA's flags and the static sizes.  Whatever cannot be read is compiled again.

The folder is the user's own and readable by nobody else: a program is machine code, and is trusted like one.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

import mmjax
from mmjax.schema import Dims

log = logging.getLogger(__name__)

DIGEST_BYTES = 32
KEPT = 16  # programs; the least recently written go


class Programs:
    """A folder of compiled steps."""

    def __init__(self, folder: Path):
        self._folder = folder

    def get(self, dims: Dims) -> bytes | None:
        """The program for these sizes, None when there is none or it is damaged."""
        path = self._path(dims)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, program = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if hashlib.blake2b(program, digest_size=DIGEST_BYTES).digest() != digest:
            log.debug("program %s is damaged: compiling again", path)
            return None
        return program

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """XLA's own cache is put aside: what comes out of it cannot be kept again, for it lacks its machine code."""
        before = jax.config.jax_enable_compilation_cache
        compilation_cache.reset_cache()
        jax.config.update("jax_enable_compilation_cache", False)
        try:
            yield
        finally:
            jax.config.update("jax_enable_compilation_cache", before)
            compilation_cache.reset_cache()

    def put(self, dims: Dims, program: bytes) -> None:
        """Keeps a program, whole or not at all; a full disk costs only the time to compile again."""
        path = self._path(dims)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(hashlib.blake2b(program, digest_size=DIGEST_BYTES).digest() + program)
            os.replace(file.name, path)
            others = sorted(self._folder.glob("*.step"), key=lambda one: one.stat().st_mtime)
            for old in others[:-KEPT]:
                old.unlink()
        except OSError as failure:
            log.debug("program %s not kept: %s", path, failure)

    def _path(self, dims: Dims) -> Path:
        return self._folder / f"{_key(dims)}.step"


def _key(dims: Dims) -> str:
    """Everything that a program depends on, hashed."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(mmjax.__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    facts = (dataclasses.astuple(dims), sys.version, jax.__version__, jaxlib.__version__, jax.default_backend())
    digest.update(repr((facts, _processor(), os.environ.get("XLA_FLAGS"), os.environ.get("NPROC"))).encode())
    return digest.hexdigest()


def _processor() -> str:
    """What the machine code may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))
