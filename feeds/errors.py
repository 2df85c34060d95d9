"""Errors of the inbound edge, split by blame: the venue's bytes, the link, or our own request."""

from mmjax.errors import MmjaxError


class FeedError(MmjaxError):
    """Base of every error raised by this package."""


class WireError(FeedError, ValueError):
    """The venue sent bytes that are not what its wire format promises.

    `channel` and `field` name the place as far as it could be read ("?" otherwise); `coin` is the market of the frame,
    or None when the frame is about no single market or is too broken to tell.
    """

    def __init__(self, channel: str, field: str, reason: str, coin: str | None = None):
        super().__init__(f"channel {channel!r}, field {field!r}: {reason}")
        self.channel, self.field, self.reason, self.coin = channel, field, reason, coin


class LinkClosed(FeedError, ConnectionError):
    """The connection is gone, or could not be made; `reason` says which."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class SubscriptionError(FeedError, ValueError):
    """We asked for more than one connection may have, or for nothing that can be subscribed."""
