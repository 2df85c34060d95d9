"""What all requests for information have in common: their types, their weight, whom and which dex they name."""

from typing import Any, ClassVar

import msgspec

from exec.paper import requests
from exec.paper.market_view import UnknownDex
from exec.paper.view import View


class Internal(Exception):
    """The real venue answers a server error here: 500 with body null."""


class Request(msgspec.Struct, tag_field="type"):
    """Base of all: weight before the answer is known, and how many rows of it cost one more (0: none)."""

    weight: ClassVar[int] = 20
    rows_per_weight: ClassVar[int] = 0

    def answer(self, view: View, now_ns: int) -> Any:
        """What goes on the wire; raises Internal."""
        raise NotImplementedError

    def items_weight(self, answer: object) -> int:
        """Additional weight of a long answer."""
        return len(answer) // self.rows_per_weight if self.rows_per_weight and isinstance(answer, list) else 0


class DexRequest(Request):
    """Base of those about one dex; "" and null are the main one, an unknown one is a server error."""

    dex: str | None = None

    def check(self, view: View) -> None:
        """Raises Internal for a dex this venue does not have."""
        try:
            view.perps_of(self.dex)
        except UnknownDex as error:
            raise Internal(str(error)) from error


class UserRequest(DexRequest, kw_only=True):
    """Base of those about one account; `user` becomes lower case with 0x."""

    user: str

    def __post_init__(self) -> None:
        self.user = requests.canonical_address(self.user)
