"""Settings of this machine for the step; the only place that touches the environment for it."""

import os

import jax


def prepare() -> None:
    """No thread pool and no waiting queue; takes effect only before jax has computed anything.

    A step takes a fraction of a millisecond: waking a second thread costs more than it takes over.
    """
    os.environ.setdefault("NPROC", "1")
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # the answer is wanted at once, from this thread
