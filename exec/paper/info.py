"""What the venue tells on POST /info: one typed request per information type, each with its weight and its answer.

Requests are lenient as the venue's are: unknown fields are ignored, addresses may lack 0x or be in upper case.  An
unknown account is an account with nothing, not an error; an unknown type or a wrong field is unprocessable.
"""

import msgspec

from exec.paper import requests
from exec.paper.info_account import AnyAccountRequest
from exec.paper.info_elsewhere import AnyRequestElsewhere
from exec.paper.info_market import AnyMarketRequest
from exec.paper.inquiry import Internal, Request

__all__ = ["AnyRequest", "Internal", "parse"]

AnyRequest = AnyMarketRequest | AnyAccountRequest | AnyRequestElsewhere

_BY_TYPE: dict[str, type[Request]] = {kind.__struct_config__.tag: kind for kind in AnyRequest.__args__}


def parse(request: object) -> Request:
    """A decoded JSON body as a typed request; raises requests.Unprocessable."""
    try:
        kind = _BY_TYPE[request["type"]]  # ten times faster than converting to the union
        return msgspec.convert(request, kind)
    except (TypeError, KeyError) as error:
        raise requests.Unprocessable("no information of this type") from error
    except (ValueError, RecursionError) as error:
        raise requests.Unprocessable(str(error)) from error
