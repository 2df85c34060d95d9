"""Settings of this machine for the step and for rollouts; the only place that touches the environment for it."""

import os

import jax


def prepare() -> None:
    """No thread pool and no waiting queue; takes effect only before jax has computed anything.

    A step takes a fraction of a millisecond: waking a second thread costs more than it takes over.
    """
    os.environ.setdefault("NPROC", "1")
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # the answer is wanted at once, from this thread


def prepare_rollouts(devices: int = 0) -> list[jax.Device]:
    """The devices that rollouts are split over, and how they are set up; before jax has computed anything.

    GPUs if there are any, else as many virtual devices as there are processor cores: a thread computes on each.
    devices: so many of them, 0 = all.
    """
    cores = len(os.sched_getaffinity(0))
    jax.config.update("jax_num_cpu_devices", devices or cores)
    found = jax.local_devices()
    return found[:devices] if devices else found
