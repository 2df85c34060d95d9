"""Integer money: the venue's decimal strings to integers and back, with no float in between.

A perp with `sz_decimals` has prices with at most `6 - sz_decimals` decimals and sizes with `sz_decimals`
decimals (venue rule).  So three integer units cover everything:

    _px    10^-(6 - sz_decimals) USD         a price
    _lots  10^-sz_decimals       coin        a size
    _uusd  10^-6                 USD         money: px * lots is a notional in _uusd, exactly

Suffixes used in code, config, metrics and logs:
`_bps` 1e-4 of price, `_usd` dollars (float, risk only), `_s` seconds, `_ns` int64 nanoseconds (host only),
`_per_s`, `_per_bps` rates, `_bps_rt_s` volatility in bps per root second, `_prob`, `_frac`, `_ratio`, `_mult`
dimensionless, `_lev` leverage, `_count` events.
"""

from mmjax.errors import MmjaxError

PRICE_DECIMALS = 6  # venue rule for perps: size decimals + price decimals = 6
UUSD_PER_USD = 1_000_000
LONGEST = 64  # characters of a decimal string; no price, size or rate comes near


class DecimalError(MmjaxError, ValueError):
    """A decimal string is malformed or finer than its unit."""


def parse_decimal(text: str, decimals: int) -> int:
    """`text` as an integer count of 10^-decimals; raises DecimalError if malformed or finer than that."""
    whole, _, fraction = text.partition(".")
    digits, missing = whole + fraction, decimals - len(fraction)
    if missing >= 0 and len(digits) < LONGEST and digits.isdigit() and digits.isascii():
        return int(digits) * _TENS[missing]
    return _parse_unusual(text, decimals)


def _parse_unusual(text: str, decimals: int) -> int:
    """Signs and zeros beyond the unit; apart because this is where most frames spend their time."""
    if len(text) >= LONGEST:
        raise DecimalError(f"decimal {text[:LONGEST]!r}...: longer than {LONGEST} characters")
    sign, digits = (-1, text[1:]) if text[:1] == "-" else (1, text)
    whole, _, fraction = digits.partition(".")
    if not (whole + fraction).isascii() or not (whole + fraction).isdigit():
        raise DecimalError(f"decimal {text!r}: expected digits with at most one point")
    if fraction[decimals:].strip("0"):
        raise DecimalError(f"decimal {text!r}: finer than the unit of {decimals} decimals")
    return sign * int(whole + fraction[:decimals].ljust(decimals, "0"))


_TENS = [10**power for power in range(64)]


def format_decimal(count: int, decimals: int, keep_point: bool = False) -> str:
    """Shortest decimal string of count * 10^-decimals; `keep_point` writes "5.0", as venue answers do, for 5."""
    sign, digits = ("-", -count) if count < 0 else ("", count)
    if decimals <= 0:
        whole, fraction = str(digits * 10**-decimals), ""
    else:
        padded = str(digits).rjust(decimals + 1, "0")
        whole, fraction = padded[:-decimals], padded[-decimals:].rstrip("0")
    if fraction or keep_point:
        return f"{sign}{whole}.{fraction or '0'}"
    return sign + whole


def px_decimals(sz_decimals: int) -> int:
    """Decimals of one `_px` unit."""
    return PRICE_DECIMALS - sz_decimals


def parse_px(text: str, sz_decimals: int) -> int:
    """Price string to `_px`."""
    return parse_decimal(text, PRICE_DECIMALS - sz_decimals)


def parse_lots(text: str, sz_decimals: int) -> int:
    """Size string to `_lots`."""
    return parse_decimal(text, sz_decimals)


def format_px(px: int, sz_decimals: int, keep_point: bool = False) -> str:
    """`_px` to the shortest price string."""
    return format_decimal(px, PRICE_DECIMALS - sz_decimals, keep_point)


def format_lots(lots: int, sz_decimals: int, keep_point: bool = False) -> str:
    """`_lots` to the shortest size string."""
    return format_decimal(lots, sz_decimals, keep_point)


def format_usd(uusd: int, keep_point: bool = True) -> str:
    """`_uusd` to a dollar string."""
    return format_decimal(uusd, PRICE_DECIMALS, keep_point)


def tick_px(px: int, sz_decimals: int) -> int:
    """Grid step at price `px`: five significant figures, at most the venue's decimals, whole dollars always allowed."""
    return min(10 ** max(0, len(str(px)) - 5), 10 ** px_decimals(sz_decimals))
