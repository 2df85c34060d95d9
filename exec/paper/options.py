"""What a venue may be set up with.  The defaults are the real venue's where that is known.

Where it is not (the README beside this file lists those), the choice made here has a name, so that it can be changed.
"""

from dataclasses import dataclass, field

from exec.paper.clearing import Fees


@dataclass(frozen=True, slots=True)
class Options:
    """Rules of this venue that are not the same everywhere, or not known for sure."""

    fees: Fees = field(default_factory=Fees)
    schedule_cancel_volume_usd: int = 1_000_000
