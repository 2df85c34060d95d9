"""The identity against a path walked in Fractions; fills once; realised results against FIFO-free average cost."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.ledger import FillKeys, Ledger, OwnFill

S = 10**9


def fill(row=0, side=0, px=100, lots=5, time_ms=0, tid=1, oid=1, fee=0):
    return OwnFill(row, side, px, lots, time_ms, oid, tid, fee)


# --- one fill at a time


def test_spread_adverse_and_inventory_of_one_buy():
    ledger = Ledger(1)
    ledger.on_mids(np.array([200]), 0)  # mid 100
    ledger.on_fill(fill(px=99, lots=10, fee=-3), 200, 0)
    ledger.on_mids(np.array([201]), 5 * S)  # 100.5 within the horizon
    ledger.on_mids(np.array([197]), 10 * S)  # 98.5 at the horizon
    ledger.on_mids(np.array([205]), 20 * S)  # 102.5 long after
    parts = ledger.attribution()
    assert parts.spread_huusd[0] == 2 * 10 * 1
    assert parts.adverse_huusd[0] == -2 * 10 * Fraction(3, 2)
    assert parts.inventory_huusd[0] == 2 * 10 * 4
    assert parts.fees_huusd[0] == -6
    assert ledger.total_huusd()[0] == 2 * (10 * (Fraction(205, 2) - 99) + 3)
    assert ledger.identity_error_huusd() == 0
    assert ledger.attribution(np.array([101])).inventory_huusd[0] == 2 * 10 * (4 - Fraction(3, 2))  # valued at the mark
    assert ledger.identity_error_huusd(np.array([101])) == 0


def test_sells_mirror_buys():
    bought, sold = Ledger(1), Ledger(1)
    for ledger, side, flip in ((bought, 0, 1), (sold, 1, -1)):
        ledger.on_mids(np.array([2000]), 0)
        ledger.on_fill(fill(side=side, px=1000 - flip * 3, lots=7), 2000, 0)
        ledger.on_mids(np.array([2000 + flip * 10]), 11 * S)
        ledger.on_mids(np.array([2000 + flip * 4]), 12 * S)
    for a, b in zip(bought.attribution(), sold.attribution(), strict=True):
        assert a[0] == b[0]


def test_a_fill_is_booked_once():
    ledger = Ledger(1)
    assert ledger.on_fill(fill(), 200, 0)
    assert not ledger.on_fill(fill(), 200, 0)
    assert ledger.on_fill(fill(tid=2), 200, 0) and ledger.on_fill(fill(oid=2), 200, 0)
    assert ledger.position_lots[0] == 15 and ledger.fill_count == 3


def test_funding_is_booked_once_and_transfers_are_no_result():
    ledger = Ledger(2)
    ledger.open(np.array([0, 0]), np.array([10, 10]), 1_000)
    assert ledger.on_funding(1, -7, 5) and not ledger.on_funding(1, -7, 5) and ledger.on_funding(0, 3, 5)
    ledger.on_transfer(500)
    assert ledger.value_uusd(np.array([10, 10])) == 1_496
    assert ledger.attribution().funding_huusd.tolist() == [6, -14]


def test_fill_before_any_mid_is_priced_at_itself():
    ledger = Ledger(1)
    ledger.on_fill(fill(px=100, lots=5), 0, 0)
    assert ledger.attribution().spread_huusd[0] == 0
    ledger.on_mids(np.array([210]), 11 * S)
    assert ledger.identity_error_huusd() == 0 and ledger.attribution().adverse_huusd[0] == 50


def test_fill_without_a_mid_uses_the_last_one():
    ledger = Ledger(1)
    ledger.on_mids(np.array([204]), 0)
    ledger.on_fill(fill(px=100, lots=5), 0, 0)
    assert ledger.attribution().spread_huusd[0] == 20


def test_positions_at_the_start_are_taken_over_at_the_mark():
    ledger = Ledger(2)
    ledger.open(np.array([5, -3]), np.array([100, 50]), 10_000)
    assert ledger.verify(10_000, np.array([100, 50])) == 0
    assert ledger.value_uusd(np.array([101, 48])) == 10_000 + 5 + 6
    ledger.on_mids(np.array([202, 96]), S)
    assert ledger.attribution().inventory_huusd.tolist() == [10, 12]
    with pytest.raises(ValueError, match="row 1 holds -3 lots"):
        Ledger(2).open(np.array([5, -3]), np.array([100, 0]), 0)


def test_verify_shows_a_missing_fill_to_the_micro_dollar():
    ledger = Ledger(1)
    ledger.open(np.array([0]), np.array([100]), 1_000)
    ledger.on_fill(fill(px=99, lots=10, fee=1), 200, 0)
    mark = np.array([103])
    venue = 1_000 + 10 * (103 - 99) - 1
    assert ledger.verify(venue, mark) == 0
    assert ledger.verify(venue + 4 * (103 - 98) - 2, mark) == 18


def test_dedupe_memory_is_bounded_and_old_history_stays_booked():
    keys = FillKeys(capacity=100)
    fills = [fill(tid=tid, time_ms=tid) for tid in range(1, 1_001)]
    assert all(keys.add(one) for one in fills)
    assert not any(keys.add(one) for one in fills)
    assert len(keys._times_ms) == 100 and keys.floor_ms == 900 and keys.newest_ms == 1_000


# --- any history


moves = st.one_of(
    st.tuples(st.just("fill"), st.integers(0, 1), st.integers(0, 1), st.integers(1, 50), st.integers(-20, 20)),
    st.tuples(st.just("mid"), st.integers(0, 1), st.integers(-30, 30)),
    st.tuples(st.just("unknown"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.integers(0, 8)),
    st.tuples(st.just("fund"), st.integers(0, 1), st.integers(-9, 9)),
)


class Walk:
    """The same account in Fractions, every fill kept, markouts read off the recorded path of the mid."""

    def __init__(self, position, mark, horizon_ns):
        self.horizon_ns = horizon_ns
        self.start = list(zip(position, mark, strict=True))
        self.fills = []  # (row, signed lots, px, mid at fill, [mid at markout or None], due)
        self.mid = [Fraction(px) for px in mark]
        self.fees = Fraction(0)
        self.funding = Fraction(0)

    def settle(self, now_ns):
        for one in self.fills:
            if one[4][0] is None and one[5] <= now_ns:
                one[4][0] = self.mid[one[0]]

    def parts(self, mark):
        spread = sum(lots * (mid - px) for _, lots, px, mid, _, _ in self.fills)
        adverse = inventory = Fraction(0)
        for row, lots, _, mid, later, _ in self.fills:
            end = self.mid[row] if later[0] is None else later[0]
            adverse += lots * (end - mid)
            inventory += lots * (mark[row] - end)
        inventory += sum(lots * (mark[row] - px) for row, (lots, px) in enumerate(self.start))
        return spread, adverse, inventory


@settings(max_examples=200, deadline=None)
@given(
    st.lists(moves, max_size=60),
    st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
    st.tuples(st.integers(900, 1100), st.integers(900, 1100)),
    st.booleans(),
)
def test_identity_holds_after_every_event(history, position, mark, one_by_one):
    ledger = Ledger(2, horizon_s=10)
    ledger.open(np.array(position), np.array(mark), 10**9)
    walk = Walk(position, mark, 10 * S)
    now_ns, cash, held = 0, 10**9 - sum(p * m for p, m in zip(position, mark, strict=True)), list(position)
    mids2 = [2 * px for px in mark]
    for at, (kind, *what) in enumerate(history):
        if kind == "fill":
            row, side, lots, offset = what
            px = max(1, mids2[row] // 2 + offset)
            ledger.on_fill(fill(row, side, px, lots, now_ns // 10**6, at, at, offset), mids2[row], now_ns)
            signed = lots if side == 0 else -lots
            walk.fills.append((row, signed, px, walk.mid[row], [None], now_ns + 10 * S))
            walk.fees += offset
            cash -= signed * px + offset
            held[row] += signed
        elif kind == "mid":
            row, change = what
            mids2[row] = max(2, mids2[row] + change)
            walk.mid[row] = Fraction(mids2[row], 2)
        elif kind == "unknown":
            known = [0 if row == what[0] else px for row, px in enumerate(mids2)]
            ledger.on_mids(np.array(known), now_ns)
        elif kind == "wait":
            now_ns += what[0] * S
        else:
            row, uusd = what
            ledger.on_funding(row, uusd, at)
            walk.funding += uusd
            cash += uusd
        if one_by_one:
            for row in range(len(mids2)):
                known = [mid2 if row == other else 0 for other, mid2 in enumerate(mids2)]
                ledger.on_mids(np.array(known), 0)  # moves only
            ledger.on_mids(np.array(mids2), now_ns)
        else:
            ledger.on_mids(np.array(mids2), now_ns)
        walk.settle(now_ns)
        value = np.array([px + 3 for px in mark])
        assert ledger.identity_error_huusd() == 0 == ledger.identity_error_huusd(value)
        parts = ledger.attribution(value)
        ours = [Fraction(int(part.sum()), 2) for part in parts]
        assert ours == [*walk.parts([px + 3 for px in mark]), walk.fees, walk.funding]
        venue = cash + sum(lots * (px + 3) for lots, px in zip(held, mark, strict=True))
        assert ledger.verify(venue, value) == 0
        assert ledger.position_lots.tolist() == held


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 30), st.integers(1, 500)), max_size=40))
def test_realised_plus_unrealised_is_the_result_and_near_average_cost(trades):
    ledger = Ledger(1)
    held, cost, realised = 0, Fraction(0), Fraction(0)
    for tid, (side, lots, px) in enumerate(trades):
        ledger.on_fill(fill(0, side, px, lots, 0, tid, tid), 2 * px, 0)
        signed = lots if side == 0 else -lots
        if held * signed < 0:
            closed = min(abs(signed), abs(held)) * (1 if signed > 0 else -1)
            realised += -closed * (px - cost / held)
            cost *= 1 - Fraction(-closed, held)
            held, signed = held + closed, signed - closed
        cost += signed * px
        held += signed
        mark = np.array([777])
        assert ledger.realised_uusd[0] + ledger.unrealised_uusd(mark)[0] == ledger.cash_uusd[0] + held * 777
        assert abs(int(ledger.realised_uusd[0]) - realised) <= len(trades)
        if held == 0:
            assert ledger.cost_uusd[0] == 0
