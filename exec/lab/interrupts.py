"""Ctrl-C while something holds the program up, such as a compiler: Python runs no handler then, this does.

The first is told at once and ends the program when Python is asked again; the second ends it there and then.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SECOND_EXIT = 1
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


@contextlib.contextmanager
def ended_alike() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, so that what is half done is undone on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def heard(words: str) -> Iterator[None]:
    """Says `words` on stderr at the first Ctrl-C; does nothing where signals are someone else's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(ours, words), name="interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(theirs)
        thread.join()
        os.close(ours)


def _listen(pipe: int, words: str) -> None:
    count = 0
    while numbers := os.read(pipe, 1):
        if numbers[0] != signal.SIGINT:
            continue
        count += 1
        if count > 1:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), SHOW_CURSOR.encode())
            os._exit(SECOND_EXIT)
        os.write(sys.stderr.fileno(), f"{words}\n".encode())
