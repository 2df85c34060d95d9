"""The venue's grid in integers: depths to prices, dollars to lots.

A price has at most five significant figures and at most `px_decimals` decimals, and whole dollars are always allowed
(venue rule), so the step at a price is min(10^max(0, digits - 5), one dollar) in `_px`.  The step grows tenfold at each
power of ten; rounding outward inside one decade always lands on a valid price because the decade's end is valid too.

Float32 never sees an absolute price: it computes the offset from the mid, which int32 then adds to the mid.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.sides import SIGN

MAX_DEPTH_BPS = 5000.0  # further out is not a quote; also keeps every price inside int32
UUSD_PER_USD = 1e6
LARGEST_LOTS = 2147483520.0  # greatest float32 below 2^31
SLACK = 1.0 + 2.0**-21  # float32 rounds n lots to a hair under n; this much more than the budget is harmless

_INWARD = np.array([[1], [-1]], np.int32)  # towards the opposite side, bid and ask
_IS_ASK = np.array([[0], [1]], np.int32)


def step_px(px: jax.Array, px_decimals: jax.Array) -> jax.Array:
    """Grid step at `px` > 0, same shape, int32; `px_decimals` () in 0..6."""
    step = jnp.ones_like(px)
    for zeros in range(5):
        step += jnp.where(px >= 10 ** (zeros + 5), 9 * 10**zeros, 0)
    return jnp.minimum(step, _dollar_px(px_decimals))


def step_bps(mid2_px: jax.Array, px_decimals: jax.Array) -> jax.Array:
    """Grid step at the mid, () bps; `mid2_px` is twice the mid."""
    step = step_px(jnp.maximum(mid2_px // 2, 1), px_decimals).astype(jnp.float32)
    return 2e4 * step / jnp.maximum(mid2_px, 1).astype(jnp.float32)


def place(mid2_px: jax.Array, px_decimals: jax.Array, best_px: jax.Array, depth_bps: jax.Array) -> jax.Array:
    """Prices [S, L] at `depth_bps` outward from the mid: bids rounded down, asks up, never crossing the other side.

    `mid2_px` () is twice the mid; `best_px` [S] best bid and ask, 0 = absent.  0 where there is no price: a depth that
    is not a number or not below `MAX_DEPTH_BPS`, or no mid.
    """
    usable = (jnp.abs(depth_bps) < MAX_DEPTH_BPS) & (mid2_px > 0)
    depth_bps = jnp.where(usable, depth_bps, 0.0)
    # A multiple of the step must not move a step for the sake of float32's last bit, hence the hair off.
    offset2 = jnp.ceil(depth_bps * 1e-4 * mid2_px.astype(jnp.float32) / SLACK).astype(jnp.int32)
    raw = (mid2_px - _INWARD * offset2 + _IS_ASK) >> 1
    opposite = best_px[::-1, None]
    limit = opposite - _INWARD
    inside = jnp.where(_INWARD > 0, jnp.minimum(raw, limit), jnp.maximum(raw, limit))
    raw = jnp.where(opposite > 0, inside, raw)
    usable &= raw > 0
    raw = jnp.where(usable, raw, 1)
    step = step_px(raw, px_decimals)
    beyond = raw - step * _whole(raw, step)
    return jnp.where(usable, raw - beyond + jnp.where((beyond > 0) & (_IS_ASK > 0), step, 0), 0)


def depth_bps(px: jax.Array, mid2_px: jax.Array) -> jax.Array:
    """How far outward the prices [S, L] stand from the mid, bps; from integers, so exact to float32's last bit."""
    outward2 = (mid2_px - 2 * px).astype(jnp.float32) * SIGN[:, None]
    return 1e4 * outward2 / jnp.maximum(mid2_px, 1).astype(jnp.float32)


def merge(px: jax.Array, amount: jax.Array) -> jax.Array:
    """`amount` [S, L], weights or lots, with levels of equal price summed into the first of them; the others get 0."""
    nothing = jnp.zeros_like(amount)
    total, first = nothing, px > 0
    for level in range(px.shape[-1]):
        same = px == px[:, level, None]
        total += jnp.where(same, amount[:, level, None], nothing)
        first &= ~same | (np.arange(px.shape[-1]) <= level)[None]
    return jnp.where(first, total, nothing)


def min_lots(px: jax.Array, min_notional_usd: jax.Array) -> jax.Array:
    """Fewest lots at `px` worth the minimum notional, exactly: px * lots is in 1e-6 usd, so no product is needed."""
    min_uusd = jnp.round(min_notional_usd * UUSD_PER_USD).astype(jnp.int32)
    safe_px = jnp.maximum(px, 1)
    whole = _whole(jnp.broadcast_to(min_uusd, px.shape), safe_px)
    return whole + (whole * safe_px < min_uusd).astype(jnp.int32)


def min_order_usd(px: jax.Array, min_notional_usd: jax.Array) -> jax.Array:
    """Value of the smallest allowed order at each price, usd: the minimum notional rounded up to whole lots."""
    return usd(px, min_lots(px, min_notional_usd))


def usd(px: jax.Array, lots: jax.Array) -> jax.Array:
    """Notional in usd, float32: for risk, not for accounts."""
    return px.astype(jnp.float32) * 1e-6 * lots.astype(jnp.float32)


def lots(size_usd: jax.Array, px: jax.Array, min_notional_usd: jax.Array) -> jax.Array:
    """`size_usd` floored to int32 lots; 0 where that is below the minimum notional, decided in integers."""
    count = size_usd * (SLACK * UUSD_PER_USD) / jnp.maximum(px, 1).astype(jnp.float32)
    count = jnp.where((count > 0) & (px > 0), jnp.minimum(count, LARGEST_LOTS), 0.0).astype(jnp.int32)
    return jnp.where(count >= min_lots(px, min_notional_usd), count, 0)


def _whole(dividend: jax.Array, divisor: jax.Array) -> jax.Array:
    """dividend // divisor of int32s >= 0 and >= 1, exact: a float quotient, that of its remainder, and a last unit.

    CPUs divide integers one at a time, but floats in vectors.  The products may wrap around; the remainders are small.
    """
    quotient = jnp.zeros_like(dividend)
    for _ in range(2):
        left = (dividend - quotient * divisor).astype(jnp.float32)
        quotient += jnp.floor(left / divisor.astype(jnp.float32)).astype(jnp.int32)
    left = dividend - quotient * divisor
    return quotient + (left >= divisor).astype(jnp.int32) - (left < 0).astype(jnp.int32)


def _dollar_px(px_decimals: jax.Array) -> jax.Array:
    """One dollar in `_px`."""
    dollar = jnp.ones_like(px_decimals)
    for zeros in range(6):
        dollar += jnp.where(px_decimals > zeros, 9 * 10**zeros, 0)
    return dollar
