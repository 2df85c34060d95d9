"""Settings of this machine's XLA for the step; the only place that touches the environment for it.

Between the stages of the step stand optimisation barriers (`mmjax.step`).  A late pass of XLA on CPU removes them
before fusion, and fusion then repeats a stage's arithmetic in each of its many users, at several times the cost.  So
that pass is switched off.  There is no thread pool either: waking a second thread costs more than it takes over.
"""

import os

import jax

KEEP_BARRIERS = "--xla_disable_hlo_passes=cse_barrier_expander"


def prepare() -> None:
    """Takes effect only before jax has computed anything; what the user set in the environment stays."""
    flags = os.environ.get("XLA_FLAGS", "")
    if KEEP_BARRIERS not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {KEEP_BARRIERS}".strip()
    os.environ.setdefault("NPROC", "1")
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # the answer is wanted at once, from this thread
