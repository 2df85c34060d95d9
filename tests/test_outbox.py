"""The outbox and the terms against a scripted venue: what is written down, sent, settled and given up."""

import asyncio

import pytest
from test_account import MARKS, NOW_NS, book

from exec import wire
from exec.errors import NotSent, Refused, Unknown
from exec.guard import Guard, Limits
from exec.journal import Journal, recover
from exec.orders import Batch
from exec.outbox import LATE_KEPT, Outbox
from exec.roster import HALTED
from exec.sign import NonceMark, NonceSource, Signer, paper_key
from exec.terms import RETRY_S, Terms
from exec.trace import Trace
from feeds.clock import run_virtual

RESTING = {"status": "ok", "response": {"type": "order", "data": {"statuses": [{"resting": {"oid": 5}}]}}}
SUCCESS = {"status": "ok", "response": {"type": "cancel", "data": {"statuses": ["success"]}}}
OK = {"status": "ok", "response": {"type": "default"}}


class Venue:
    """Answers each action with the next of a list: an answer, or an error to raise."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    async def action(self, envelope, on_written=lambda: None):
        on_written()
        self.seen.append(envelope)
        await asyncio.sleep(0.1)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Scene:
    """An outbox with its venue and a journal in `folder`."""

    def __init__(self, clock, folder, *answers):
        self.clock, self.path = clock, folder / "journal"
        self.account, self.venue = book(), Venue(*answers)
        limits = Limits(tuple([10**12] * 8), 10**12, 10**12, max_rejects=2)
        self.guard = Guard(limits, [5, 4] + [0] * 6)
        nonces = NonceSource(NonceMark(folder / "nonce"))
        self.journal = Journal(self.path)
        signer = Signer(paper_key(1))
        self.outbox = Outbox(
            self.account, self.guard, self.venue, signer, self.journal, nonces, clock, Trace(clock)
        )  # fmt: skip

    def place(self):
        """One order on its way."""
        now_ns = self.clock.now_ns()
        order = self.account.orders.intend(0, 0, 0, int(MARKS[0]) - 10, 100, int(2 * MARKS[0]), now_ns)
        self.outbox.send(Batch("order", [order]))
        return order


def play(folder, scene, *answers):
    async def main(clock):
        stage = Scene(clock, folder, *answers)
        await scene(stage)
        await stage.outbox.close()
        return stage

    return run_virtual(main, NOW_NS)


def test_an_order_is_written_down_before_it_leaves_and_settled_by_its_answer(tmp_path):
    async def scene(stage):
        order = stage.place()
        (intent,) = recover(stage.path).open_intents  # before the venue has seen a byte
        assert not stage.venue.seen and intent["orders"] == [[order.cloid, 0, 0, order.px, 100]]
        await stage.outbox.drain()
        assert order.state.name == "OPEN" and stage.outbox.placed == 1 and stage.account.budget.in_flight == 0
        (envelope,) = stage.venue.seen
        assert envelope["nonce"] == intent["nonce"] and envelope["expiresAfter"] == intent["expires_ms"]

    play(tmp_path, scene, RESTING)
    assert recover(tmp_path / "journal").open_intents == []


def test_a_refusal_counts_and_frees_the_request(tmp_path):
    async def scene(stage):
        order = stage.place()
        used = stage.account.budget.used
        await stage.outbox.drain()
        assert order.state.name == "REJECTED" and stage.account.rejects == {"429 Too Many Requests": 1}
        tape = stage.account.tape
        assert tape.snapshot(stage.clock.now_ns()).reject_count.tolist()[:2] == [1, 0]
        assert tape.snapshot(stage.clock.now_ns()).reject_count.sum() == 0
        assert stage.account.budget.used == used - 1 and not stage.guard.paused(0, stage.clock.now_ns())
        stage.place()
        await stage.outbox.drain()
        assert stage.guard.paused(0, stage.clock.now_ns())

    play(tmp_path, scene, Refused("429 Too Many Requests"), Refused("429 Too Many Requests"))


def test_what_could_not_leave_is_no_refusal_and_makes_a_pause(tmp_path):
    async def scene(stage):
        order = stage.place()
        await stage.outbox.drain()
        assert not order.live and not stage.account.rejects and not stage.guard._rejects[0]
        assert stage.outbox.rests_until_ns > stage.clock.now_ns() and not stage.outbox.failed.is_set()

    play(tmp_path, scene, NotSent("no connection"))


def test_an_answer_that_comes_late_is_settled_late(tmp_path):
    async def scene(stage):
        order = stage.place()
        await stage.outbox.drain()
        assert order.state.name == "UNKNOWN" and stage.account.orders.exposed_lots[0, 0] == 100
        assert len(recover(stage.path).open_intents) == 1
        nonce = stage.venue.seen[0]["nonce"]
        stage.outbox.on_late(nonce, RESTING)
        assert order.state.name == "OPEN" and stage.outbox.placed == 1
        stage.outbox.on_late(nonce, RESTING)
        assert stage.outbox.placed == 1

    play(tmp_path, scene, Unknown("no answer within 5 s"))
    assert recover(tmp_path / "journal").open_intents == []


def test_late_answers_are_waited_for_in_bounded_number(tmp_path):
    async def scene(stage):
        for nonce in range(LATE_KEPT + 50):
            stage.outbox._keep_for_late(nonce, Batch("order", []))
        assert len(stage.outbox._late) == LATE_KEPT

    play(tmp_path, scene)


def test_a_full_disk_stops_orders_and_lets_cancels_through(tmp_path):
    async def scene(stage):
        resting = stage.place()
        await stage.outbox.drain()

        def full():
            raise OSError(28, "No space left on device")

        flush, stage.journal.flush = stage.journal.flush, full
        new = stage.account.orders.intend(0, 1, 0, int(MARKS[0]) + 10, 100, int(2 * MARKS[0]), stage.clock.now_ns())
        stage.outbox.send(Batch("order", [new]))
        assert not new.live and stage.outbox.failed.is_set() and "No space left" in str(stage.outbox.fault)
        stage.account.orders.intend_cancel(resting, stage.clock.now_ns())
        stage.outbox.send(Batch("cancel", [resting]))
        await stage.outbox.drain()
        assert not resting.live and len(stage.venue.seen) == 2
        stage.journal.flush = flush

    play(tmp_path, scene, RESTING, SUCCESS)


def test_a_fault_while_settling_ends_the_run_by_name(tmp_path):
    async def scene(stage):
        stage.place()
        stage.account.follow_queue = lambda order: 1 / 0
        await stage.outbox.drain()
        await asyncio.sleep(0)
        assert stage.outbox.failed.is_set() and isinstance(stage.outbox.fault, ZeroDivisionError)

    play(tmp_path, scene, RESTING)


def test_single_actions_answer_with_the_venues_words(tmp_path):
    async def scene(stage):
        action = wire.update_leverage(0, 5)
        assert await stage.outbox.act(action, "updateLeverage") == ""
        assert await stage.outbox.act(action, "updateLeverage") == "Invalid leverage value"
        assert await stage.outbox.act(action, "updateLeverage") == "429"
        used = stage.account.budget.used
        for answer in ("what?", {"status": "maybe"}, Unknown("lost")):
            stage.venue.answers.append(answer)
            with pytest.raises(Unknown):
                await stage.outbox.act(action, "updateLeverage")
        assert stage.account.budget.used == used + 3 == 4 and stage.account.budget.in_flight == 0

    play(tmp_path, scene, OK, {"status": "err", "response": "Invalid leverage value"}, Refused("429"))
    assert len(recover(tmp_path / "journal").open_intents) == 3


# --- terms


def test_leverage_is_asked_for_again_until_it_is_set(tmp_path):
    async def scene(stage):
        terms = Terms(stage.account, stage.outbox, [5, 7], 0.0, stage.clock)
        await terms.keep()
        tape = stage.account.tape
        assert not tape.held(0) and tape.held(1)
        await terms.keep()
        assert len(stage.venue.seen) == 2  # not before its time
        await asyncio.sleep(RETRY_S)
        await terms.keep()
        assert not tape.held(1) and len(stage.venue.seen) == 3
        assert stage.venue.seen[2]["action"] == {
            "type": "updateLeverage", "asset": 1, "isCross": True, "leverage": 7,
        }  # fmt: skip
        await asyncio.sleep(2 * RETRY_S)
        await terms.keep()
        assert len(stage.venue.seen) == 3

    play(tmp_path, scene, OK, Unknown("lost"), OK)


def test_the_switch_is_renewed_in_time_and_cleared(tmp_path):
    async def scene(stage):
        terms = Terms(stage.account, stage.outbox, [], 60.0, stage.clock)
        for _ in range(70):
            await terms.keep()
            await asyncio.sleep(1.0)
        due = [envelope["action"]["time"] for envelope in stage.venue.seen]
        sent = [envelope["expiresAfter"] - 5000 for envelope in stage.venue.seen]
        assert len(due) == 4 and all(after - now == 60_000 for now, after in zip(sent, due, strict=True))
        assert all(later - earlier < 22_000 for earlier, later in zip(sent[:-1], sent[1:], strict=True))
        stage.venue.answers.append(OK)
        await terms.disarm()
        assert stage.venue.seen[-1]["action"] == {"type": "scheduleCancel"} and not terms.armed
        await terms.disarm()
        assert len(stage.venue.seen) == 5

    play(tmp_path, scene, OK, Unknown("lost"), OK, OK)


def test_a_refused_switch_is_asked_for_rarely_and_never_cleared(tmp_path):
    refusal = {"status": "err", "response": "Cannot set scheduled cancel time until enough volume traded."}

    async def scene(stage):
        terms = Terms(stage.account, stage.outbox, [], 60.0, stage.clock)
        for _ in range(310):
            await terms.keep()
            await asyncio.sleep(1.0)
        assert len(stage.venue.seen) == 2 and not terms.armed
        await terms.disarm()
        assert len(stage.venue.seen) == 2

    play(tmp_path, scene, refusal, refusal)


def test_a_halt_is_told_and_counts_against_no_market(tmp_path):
    """A whole batch is refused for one halted market: the others did nothing wrong."""

    async def scene(stage):
        told, account = [], stage.account
        account.on_halt = lambda row, words: told.append((row, words))
        for _ in range(3):
            stage.place()
            await stage.outbox.drain()
        assert told == [(0, HALTED)] * 3 and account.rejects == {"Trading is halted": 3}
        assert account.tape.snapshot(stage.clock.now_ns()).reject_count.sum() == 0
        assert not stage.guard.paused(0, stage.clock.now_ns())

    whole = {"status": "err", "response": "Trading is halted"}
    single = {"error": "Trading is halted asset=0"}
    item = {"status": "ok", "response": {"type": "order", "data": {"statuses": [single]}}}
    play(tmp_path, scene, whole, item, whole)
