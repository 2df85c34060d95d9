"""mmjax: quotes a whole universe of Hyperliquid perpetuals from one batched JAX step.

Importing this package loads nothing heavy: `jax` enters with `mmjax.step`, so that the exact-integer
modules (`units`, `errors`) may be used by programs that never compute a quote.
"""

__version__ = "0.1.0"
