"""Requests end to end on the virtual clock: the real loop with few of them, with none and with plenty."""

import asyncio

import pytest
from loop_stage import Kit, play, settled

from exec.summary import header, summary

GRANT, RESERVE = 10_000, 2_000


@pytest.fixture(scope="module")
def kit():
    """Six markets and their compiled step."""
    return Kit()


class Book:
    """What the budget was asked and what it decided, in order."""

    def __init__(self, stage, used, cap=GRANT):
        self.stage, self.decisions, self.spent = stage, [], {"order": 0, "modify": 0, "cancel": 0}
        account, budget = stage.exchange.account(stage.user), stage.loop.budget
        account.quota.used, account.volume_uusd = used, (cap - GRANT) * 1_000_000
        budget.observe(used, cap)
        decided, spend = budget.decided, budget.spend

        def noted(bought, deferred_count, best_deferred):
            self.decisions.append((budget.shadow_price_bps_usd, list(bought), best_deferred))
            decided(bought, deferred_count, best_deferred)

        def counted(kind, items, now_ns):
            self.spent[kind] += items
            spend(kind, items, now_ns)

        budget.decided, budget.spend = noted, counted

    @property
    def prices(self):
        return [price for price, _, _ in self.decisions]


def test_few_requests_go_to_the_best_updates_and_cancels_still_go(kit, tmp_path):
    used, books = 7_600, []  # 400 of 8,000 are left above the reserve: headroom 5 %

    async def scene(stage):
        await stage.until_quoting()
        await asyncio.sleep(60.0)
        stage.price, stage.summary = stage.loop.budget.shadow_price_bps_usd, summary(stage.loop, 60.0, 1, 0, 0.0)
        stage.shown = header(stage.loop, "paper").request_price_bps_usd
        stage.updates = books[0].spent["order"] + books[0].spent["modify"]
        stage.earned = stage.loop.budget.cap - GRANT
        for count in (stage.loop.budget, stage.exchange.account(stage.user).quota):
            count.used = stage.loop.budget.cap  # not one left
        before = books[0].spent["order"] + books[0].spent["modify"]
        stage.market.is_down = True
        await stage.market.cut()
        await stage.until(lambda: not stage.resting(), 2.0, "quotes pulled without a request")
        assert books[0].spent["order"] + books[0].spent["modify"] == before
        stage.market.is_down = False

    stage = play(kit, tmp_path, 120.0, scene, lambda stage: books.append(Book(stage, used)))
    settled(stage)
    (book,) = books
    assert not any("cumulative requests" in reason for reason in stage.loop.account.rejects)
    assert stage.updates <= GRANT - used - RESERVE + stage.earned
    assert stage.price == stage.summary["request_shadow_price_bps_usd"] or stage.price > 0
    assert stage.price > 0 and stage.shown > 0 and stage.summary["requests_deferred"] > 0
    priced = [(price, bought, waiting) for price, bought, waiting in book.decisions if price > 0]
    sent = [worth for _, bought, _ in priced for worth in bought]
    assert len(priced) > 100 and len(sent) > 5
    in_order = sum(min(bought) >= waiting for _, bought, waiting in priced if bought)
    assert in_order >= 0.9 * sum(bool(bought) for _, bought, _ in priced)  # but for the first order of an empty side


def test_with_plenty_of_requests_they_are_free(kit, tmp_path):
    books = []
    stage = play(kit, tmp_path, 40.0, prepare=lambda stage: books.append(Book(stage, 0, 1_000_000)))
    settled(stage)
    assert len(books[0].decisions) > 100 and max(books[0].prices) == 0
    assert books[0].spent["modify"] > 0
    run = summary(stage.loop, 40.0, 1, 0, 0.0)
    assert run["request_shadow_price_bps_usd"] == 0 and run["pnl_identity_error_usd"] == 0


def test_a_whole_ladder_goes_at_once(kit, tmp_path):
    books = []
    stage = play(kit, tmp_path, 6.0, prepare=lambda stage: books.append(Book(stage, 0)))
    settled(stage)
    slots = len(stage.loop.specs) * 2 * stage.loop.step.dims.levels
    assert stage.loop.quoted_both_sides == len(stage.loop.specs)
    assert slots / 2 < books[0].spent["order"] <= 2 * slots and books[0].prices[0] == 0
