"""Which symbol of the lead venue leads which market.

By name, coin to COINUSDT, for the perps that both venues list; a market's own setting goes before, and what the lead
venue does not list leads nothing.  A market without a symbol has no lead, and a market never leads itself.
"""

from collections.abc import Collection

from mmjax.errors import ConfigError

NO_LEAD = "none"  # in settings: this market has no lead

# Listed by both under one name; a thousand of the small ones are one unit on both.
LEAD_COINS = frozenset(
    "BTC ETH SOL XRP HYPE LINK DOGE ZEC SUI ENA FARTCOIN PUMP BNB AAVE ADA ASTER AVAX UNI LTC PAXG NEAR ARB WLFI "
    "TAO PENGU BCH CRV XMR DOT WIF TRUMP LDO SEI WLD PENDLE TIA APT TON TRX JUP INJ ONDO OP POPCAT ATOM MORPHO JTO NEO "
    "DYDX APE STX UMA kPEPE kBONK kSHIB".split()
)


def default_symbol(coin: str) -> str:
    """The lead symbol of a coin, lower case; empty where none is known."""
    if coin not in LEAD_COINS:
        return ""
    base = f"1000{coin[1:]}" if coin.startswith("k") else coin
    return f"{base}usdt".lower()


def lead_symbol(coin: str, setting: str, listed: Collection[str]) -> str:
    """The symbol that leads a market: as set, else by its name, "" for none or where the lead venue has no such symbol.

    Raises ConfigError when a symbol that was set is not `listed`.
    """
    if setting == NO_LEAD:
        return ""
    symbol = (setting or default_symbol(coin)).lower()
    if setting and listed and symbol not in listed:
        raise ConfigError(f"market.{coin}.lead_symbol = {setting!r}: the lead venue does not list it")
    return symbol if symbol in listed else ""


def check_sources(market: object, lead: object) -> None:
    """Refuses one source on both inputs; a dial or an address each."""
    names = [source.rstrip("/").casefold() if isinstance(source, str) else source for source in (market, lead)]
    if names[0] == names[1]:
        raise ConfigError("lead: its source is the market feed itself, and a market never leads itself; name another")
