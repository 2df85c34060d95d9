"""Answers to actions, as objects that go on the wire."""


def ok(kind: str, statuses: list | None = None) -> dict:
    """An accepted action's answer."""
    response = {"type": kind} if statuses is None else {"type": kind, "data": {"statuses": statuses}}
    return {"status": "ok", "response": response}


def refused(text: str) -> dict:
    """Answer to an action refused as a whole."""
    return {"status": "err", "response": text}
