"""Errors a user can cause: each message names the field, the value and the remedy."""


class MmjaxError(Exception):
    """Base of every error that the command line reports without a traceback."""


class ConfigError(MmjaxError):
    """A setting is unknown, of the wrong type or out of bounds."""


class UniverseError(MmjaxError):
    """A market is unknown, or its facts cannot be represented."""


class TapeError(MmjaxError):
    """A recording is missing, unreadable or unusable."""


class RecordingError(MmjaxError):
    """A recorded run is missing, unreadable, damaged, or made by another version."""


class CheckpointError(MmjaxError):
    """A file of learned state is damaged, foreign, or of no use here."""
