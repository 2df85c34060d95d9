"""Errors of the outbound edge, split by certainty: did the venue act on the bytes?

  NotSent   no byte left this process: nothing happened
  Refused   the venue answered no: nothing happened
  Unknown   bytes left and no answer proves what became of them: every limit must assume that they took effect

Only the first may be tried again.
"""

from mmjax.errors import MmjaxError


class ExecError(MmjaxError):
    """Base of every error raised by this package."""


class NotSent(ExecError):
    """Nothing left this process."""


class Refused(ExecError):
    """The venue refused the whole request; `text` is its reason."""

    def __init__(self, text: str):
        super().__init__(f"refused by the venue: {text}")
        self.text = text


class Unknown(ExecError):
    """The request left and its fate is not known."""
