"""What a venue may be set up with.  The defaults are the real venue's where that is known.

Where it is not (the README beside this file lists those), the choice made here has a name, so that it can be changed.
"""

from dataclasses import dataclass, field
from typing import Literal

from exec.paper.fees import Fees


@dataclass(frozen=True, slots=True)
class Options:
    """Rules of this venue that are not the same everywhere, or not known for sure."""

    fees: Fees = field(default_factory=Fees)
    schedule_cancel_volume_usd: int = 1_000_000
    candles_fill_gaps: bool = True  # minutes without a print get a flat candle; False: they get none
    stp_across_subs: bool = False  # also cancel, not trade with, resting orders of the same master's accounts
    ioc_is_market: bool = False  # bound an Ioc's notional like a market order's; else like a limit order's
    invalid_subscription: Literal["error", "close"] = "error"  # a frame; "close" ends the connection (measured 2026-09)
    oracle_distance_percent: int | None = None  # farthest limit price from the oracle; None: no such bound
    oi_cap_distance_percent: int = 1  # at the open interest cap: how far past the oracle an order may reach
    builder_needs_approval: bool = True  # else an unapproved builder is ignored and the order placed
    trigger_answer: Literal["resting", "waitingForTrigger"] = "resting"  # to a trigger order of its own
    trigger_follows_position: bool = False  # a flat position cancels every reduce-only trigger, not only its own TP/SL
    oi_cap_speed_percent: int = 10  # where there is a cap: how much of it orders may open in one block
    twap_min_usd: int = 100
    twap_min_usd_per_minute: int = 10
    twap_max_active: int = 100  # running TWAPs per account
    twap_jitter_percent: int = 20  # how much a randomised suborder may differ in size

    # agents, builders, referrals
    agent_days: int = 90  # validity of an agent approved without valid_until (measured)
    agent_days_max: int = 180
    agent_removal_ms: int = 5_000  # after one is removed or replaced no other is approved for so long (measured: 4-5 s)
    builder_min_usd: int = 0  # perps value a builder needs to be approved; 100 on the real venue, 0 lets any client in
    builder_count: int = 10  # builders that one account may have approved
    referral_volume_usd: int = 10_000  # traded before one may make a code

    # sub-accounts and transfers
    sub_account_volume_usd: int = 100_000  # traded by the master before it may open one
    sub_account_count: int = 10
    withdraw_fee_usd: int = 1
    new_account_fee_usd: int = 1  # of sending to an address without an account (captured and measured ledger rows)

    # vaults
    vault_min_usd: int = 100  # the leader's first deposit
    vault_fee_usd: int = 0  # of opening one
    vault_deposit_min_usd: int = 5
    vault_distribute_min_usd: int = 10
    vault_lock_ms: int = 86_400_000  # from a deposit to the first withdrawal
    vault_leader_percent: int = 5  # the leader keeps at least so much of the vault
    vault_commission_percent: int = 10  # of a depositor's profit, to the leader

    # margin and liquidation
    order_reservation: Literal["worst_side", "both_sides"] = "worst_side"  # margin of two-sided quotes, per market
    partial_liquidation_usd: int = 100_000  # a position above it is liquidated in part first; the testnet has 10000
    liquidation_cooldown: Literal["whole", "wait"] = "whole"  # within 30 s after a part: the whole position; or nothing
    liquidation_slip_ppm: int = 100_000  # how far from the mark a liquidation's market order may trade
    backstop_margin: Literal["forfeited", "returned"] = "forfeited"  # what a backstop leaves
