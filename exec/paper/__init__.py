"""A Hyperliquid on loopback: matching engine, accounts, market side and wire. Never imports jax."""
