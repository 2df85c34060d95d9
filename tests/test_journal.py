"""Torn tails at every byte, damage in the middle, what is left open."""

import pytest

from exec.errors import NotSent
from exec.journal import NOT_SENT, OK, REFUSED, UNKNOWN, Damage, Journal, frame, recover, unframe

ORDERS = [("0x6d6d6a78" + "00" * 12, 0, 1, 110_001, 5)]


def write(path, count=4, **settings):
    """Intents 1..count; 1 is answered, 2 is unknown, the rest have no outcome."""
    journal = Journal(path, **settings)
    for nonce in range(1, count + 1):
        journal.intent(nonce, "order", bytes([nonce]) * 32, 99, ORDERS, 7)
        if nonce == 1:
            journal.outcome(nonce, OK, 8)
        if nonce == 2:
            journal.outcome(nonce, UNKNOWN, 8, 'no answer\n"within" 5 s')
    journal.close()
    return path.read_bytes()


def open_nonces(recovery):
    return [intent["nonce"] for intent in recovery.open_intents]


def test_intents_without_known_outcome_are_recovered(tmp_path):
    write(tmp_path / "journal")
    recovery = recover(tmp_path / "journal")
    assert open_nonces(recovery) == [2, 3, 4] and recovery.last_nonce == 4 and recovery.record_count == 6
    assert recovery.damage == []
    assert recovery.open_intents[0]["orders"] == [list(order) for order in ORDERS]
    assert recovery.open_intents[0]["digest"] == "02" * 32


@pytest.mark.parametrize(("verdict", "left"), [(OK, []), (REFUSED, []), (NOT_SENT, []), (UNKNOWN, [1])])
def test_only_known_outcomes_settle(tmp_path, verdict, left):
    journal = Journal(tmp_path / "journal")
    journal.intent(1, "cancel", b"", 0, ORDERS, 0)
    journal.outcome(1, verdict, 0)
    journal.close()
    assert open_nonces(recover(tmp_path / "journal")) == left


def test_a_late_answer_settles_an_unknown(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.intent(1, "order", b"", 0, ORDERS, 0)
    journal.outcome(1, UNKNOWN, 0)
    journal.outcome(1, OK, 0)
    journal.close()
    assert open_nonces(recover(tmp_path / "journal")) == []


def test_an_intent_is_on_disk_before_it_is_sent(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.intent(1, "order", b"", 0, ORDERS, 0)
    assert open_nonces(recover(tmp_path / "journal")) == [1]
    journal.close()


def test_missing_journal_is_empty(tmp_path):
    assert recover(tmp_path / "none") == ([], 0, 0, [], False)


def test_torn_at_every_byte(tmp_path):
    """Whatever prefix of the file survives, whole lines are read, the tail is reported, writing goes on after it."""
    whole = write(tmp_path / "whole", count=2)
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path = tmp_path / "torn"
        path.write_bytes(whole[:size])
        complete = sum(end - 1 <= size for end in ends)  # whole even without its end: it was about to be sent
        start = max([end for end in ends if end <= size], default=0)
        torn = [Damage(start, size - start)] if start < size and size + 1 not in ends else []
        recovery = recover(path)
        assert recovery.record_count == complete and recovery.damage == torn
        assert recovery.unended is (start < size)
        journal = Journal(path)
        journal.intent(100, "order", b"", 0, ORDERS, 0)
        journal.close()
        after = recover(path)
        assert after.record_count == complete + 1 and open_nonces(after)[-1] == 100
        assert after.damage == torn and not after.unended
        assert path.read_bytes().startswith(whole[:size])


def test_every_flipped_byte_is_noticed(tmp_path):
    whole = write(tmp_path / "whole", count=2)
    path = tmp_path / "flipped"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        recovery = recover(path)
        assert recovery.damage and recovery.record_count < 4


@pytest.mark.parametrize(
    "line",
    [b"", b"x", b"00000000 2 {}", b"zzzzzzzz 2 {}", b"00000000 -1 {}", frame({"what": "intent"})[:-1], frame({})[:-1]],
)
def test_lines_that_are_no_records(line):
    assert unframe(line) is None


def test_nothing_is_sent_when_it_cannot_be_written(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal._file.close()
    journal._file = open("/dev/full", "wb", buffering=0)
    with pytest.raises(NotSent, match="nothing leaves unwritten"):
        journal.intent(1, "order", b"", 0, ORDERS, 0)
    journal._file.close()


def test_what_could_not_be_written_is_written_later(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    real = journal._file

    class Full:
        def write(self, data):
            real.write(data[:10])
            self.write = self.fail
            return 10

        def fail(self, data):
            raise OSError(28, "No space left on device")

    journal._file = Full()
    with pytest.raises(NotSent):
        journal.intent(1, "order", b"", 0, ORDERS, 0)
    journal._file = real
    journal.outcome(1, NOT_SENT, 0)
    journal.intent(2, "order", b"", 0, ORDERS, 0)
    journal.close()
    recovery = recover(path)
    assert recovery.damage == [] and open_nonces(recovery) == [2] and recovery.record_count == 3


def test_fsync_reaches_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    write(tmp_path / "fast")
    assert synced == []
    write(tmp_path / "safe", fsync=True)
    assert len(synced) == 5
