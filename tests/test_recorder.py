"""The recording of a run: what goes in comes out, whatever the disk does, and damage is never taken for data."""

import dataclasses
import errno
import functools
import io
import logging
import threading

import jax
import numpy as np
import pytest

from exec import recorder as recorder_module
from exec import recording
from exec.recorder import Recorder, reading
from exec.recording import Encoder, Header, Reading, Step, last_words, made_by
from mmjax import model, schema
from mmjax.errors import ConfigError, RecordingError
from mmjax.record import Layout, broadcast
from mmjax.schema import Dims, Quotes

DIMS = Dims(8, levels=2, tiers=1)
STEPS = 6


def batched(template, seed):
    """A record of random numbers, some of them not numbers, [A, ...]."""
    rng = np.random.default_rng(seed)

    def leaf(one):
        wide = np.broadcast_to(np.zeros(one.shape, one.dtype), (DIMS.markets, *one.shape)).copy()
        if wide.dtype == np.float32:
            wide[...] = rng.choice([0.5, np.nan, np.inf, -0.0, 3.25], wide.shape)
        else:
            wide[...] = rng.integers(-5, 5, wide.shape)
        return wide

    return jax.tree.map(leaf, template)


def a_header(**changes):
    template = jax.eval_shape(model.init, model.default_params())
    return dataclasses.replace(
        Header(
            dims=DIMS,
            coins=("BTC", "ETH"),
            venue="paper",
            seed=7,
            started_ns=123,
            params=model.batched_params(DIMS.markets),
            market=broadcast(schema.empty_market(DIMS), DIMS.markets),
            state=batched(template, 1),
            made_by=made_by("test"),
        ),
        **changes,
    )


@functools.cache
def a_step(number):
    """Random bits in one market of every array; do not write to it."""
    rng = np.random.default_rng(number)

    def random(shape, dtype):
        array = np.zeros(shape, dtype)
        array[..., 0] = np.frombuffer(rng.bytes(4 * array[..., 0].size), dtype).reshape(array[..., 0].shape)
        return array

    obs = tuple(random(a.shape, a.dtype) for a in Layout(schema.empty_obs(DIMS)).buffers(DIMS.markets)[0])
    account = tuple(random(a.shape, a.dtype) for a in Layout(schema.empty_account()).buffers(1)[0])
    ladder = (2, DIMS.levels, DIMS.markets)
    types = {"value_bps_usd": np.float32}
    fields = [field.name for field in dataclasses.fields(Quotes)]
    quotes = {name: np.moveaxis(random(ladder, types.get(name, np.int32)), -1, 0) for name in fields}
    return Step(1000 + number, obs, account, Quotes(**quotes))


@functools.cache
def a_step_bits(number):
    return bits(a_step(number))


def bits(value):
    return [np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(value)]


def encoded(per_chunk=2, end=True):
    """A whole file of `STEPS` steps, and where each chunk ends."""
    encoder = Encoder(a_header())
    data, ends = encoder.flush(), []
    for number in range(STEPS):
        encoder.step(*a_step(number))
        if number % per_chunk == per_chunk - 1:
            ends.append((len(data), number + 1 - per_chunk))
            data += encoder.flush()
    ends.append((len(data), STEPS))
    return data + last_words() * end, ends


def read(data):
    """(frames, how it ended) of a file's bytes."""
    found = Reading(io.BytesIO(data), "a file")
    return list(found.frames()), found


def test_what_goes_in_comes_out():
    frames, found = read(encoded()[0])
    header = a_header()
    for name in ("dims", "coins", "venue", "seed", "started_ns", "made_by"):
        assert getattr(found.header, name) == getattr(header, name)
    for name in ("params", "market", "state"):
        assert bits(getattr(found.header, name)) == bits(getattr(header, name))
        assert jax.tree.structure(getattr(found.header, name)) == jax.tree.structure(getattr(header, name))
    assert len(frames) == STEPS and not found.ending and found.steps == STEPS
    for number, frame in enumerate(frames):
        assert frame.now_ns == 1000 + number and bits(frame) == bits(a_step(number))


def test_a_changed_market_comes_between_steps():
    encoder, changed = Encoder(a_header()), batched(schema.empty_market(DIMS), 9)
    encoder.step(*a_step(0))
    encoder.market(changed)
    encoder.step(*a_step(1))
    frames, _ = read(encoder.flush() + last_words())
    assert [type(frame).__name__ for frame in frames] == ["Step", "Market", "Step"]
    assert bits(frames[1]) == bits(changed)


def test_a_file_cut_at_any_byte_is_good_up_to_there():
    """As a killed program leaves it: whole chunks are read, the piece is no damage, and the file says that it ends."""
    data, ends = encoded()
    assert len(data) < 100_000
    dense = range(ends[0][0] - 9, ends[1][0] + 20)
    for size in sorted({*range(0, len(data), 23), *dense}):
        try:
            frames, found = read(data[:size])
        except RecordingError as failure:
            assert size < ends[0][0] and "ends before" in str(failure) or "cut off before" in str(failure)
            continue
        assert size >= ends[0][0]
        assert len(frames) == max(steps for end, steps in ends if end <= size)
        assert not found.damage and found.ending.startswith(f"cut off after step {len(frames)}")
        assert [bits(frame) for frame in frames] == [a_step_bits(number) for number in range(len(frames))]


def test_a_flipped_bit_anywhere_is_damage_and_nothing_after_it_is_used():
    data, ends = encoded()
    rng = np.random.default_rng(3)
    for place in sorted({*rng.integers(0, len(data), 400).tolist(), *range(24), *range(len(data) - 16, len(data))}):
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << int(rng.integers(0, 8))
        try:
            frames, found = read(bytes(spoiled))
        except RecordingError as failure:
            assert place < ends[0][0] and "a file" in str(failure)
            continue
        assert found.damage and "does not check" in found.ending
        assert len(frames) == max(steps for end, steps in ends if end <= place)
        assert [bits(frame) for frame in frames] == [a_step_bits(number) for number in range(len(frames))]


def test_a_chunk_that_is_missing_or_twice_is_damage():
    data, ends = encoded()
    (first, _), (second, _), (third, _) = ends[:3]
    without, twice = data[:first] + data[second:], data[:second] + data[first:]
    for spoiled, steps in ((without, 0), (twice, 2)):
        frames, found = read(spoiled)
        assert len(frames) == steps and "missing or twice" in found.damage
    assert third


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "empty"),
        (b"PAR1 and more bytes", "not a recording"),
        (b"mmjaxrec" + (99).to_bytes(4, "little") + b"x" * 50, "format 99"),
        (b"\0" * 4096, "not a recording"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, data, named):
    (tmp_path / "a file").write_bytes(data)
    with pytest.raises(RecordingError, match=named) as refused, reading(tmp_path / "a file"):
        pass
    assert "a file" in str(refused.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(RecordingError, match=str(path)), reading(path):
            pass


def test_another_version_is_refused_with_the_remedy():
    data = Encoder(a_header(made_by=made_by("test") | {"mmjax": "0.0.1"})).flush()
    with pytest.raises(RecordingError, match=r"made by mmjax 0.0.1.*replay it with the program that made it"):
        read(data)


def test_another_layout_is_refused_by_the_name_of_the_leaf(monkeypatch):
    data, _ = encoded()
    ours = recording.layout(DIMS)
    for name in ("params", "market", "state", "obs", "account", "step"):
        leaf = next(iter(ours[name]))
        wider = ours[name][leaf]._replace(shape=(*ours[name][leaf].shape, 3))
        for changed in ({leaf: wider}, {"volatility.smile": wider}):
            theirs = ours | {name: ours[name] | changed}
            monkeypatch.setattr(recording, "layout", lambda dims, theirs=theirs: theirs)
            with pytest.raises(RecordingError, match=f"other layout of {name}: {next(iter(changed))}"):
                read(data)


# --- the writer


class Disk:
    """A file of which the test decides what becomes of writes."""

    def __init__(self, room=1 << 40):
        self.data, self.room = bytearray(), room
        self.truncated = 0

    def write(self, data):
        taken = min(len(data), self.room - len(self.data))
        if taken <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data += bytes(data[:taken])
        return taken

    def truncate(self, size):
        del self.data[size:]

    def seek(self, place):
        assert place == len(self.data)

    def fileno(self):
        raise OSError(errno.EINVAL, "no such file")

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def recorded(path, steps=STEPS, **settings):
    writer = Recorder(path, a_header(), **settings)
    for number in range(steps):
        writer.step(*a_step(number))
    writer.close()
    return writer


def test_a_run_is_written_and_read_back(tmp_path):
    writer = recorded(tmp_path / "run")
    with reading(tmp_path / "run") as found:
        frames = list(found.frames())
    assert [bits(frame) for frame in frames] == [bits(a_step(number)) for number in range(STEPS)]
    assert not found.ending and not writer.fault and (tmp_path / "run").stat().st_size > writer.written_bytes > 0


def test_what_the_step_owns_is_copied(tmp_path):
    writer, step = Recorder(tmp_path / "run", a_header()), jax.tree.map(np.copy, a_step(0))
    writer.step(*step)
    for array in (*step.obs, *step.account):
        array[...] = 0
    writer.close()
    with reading(tmp_path / "run") as found:
        assert [bits(frame) for frame in found.frames()] == [bits(a_step(0))]


def test_it_is_on_disk_within_a_second(tmp_path):
    """The stopwatch says that a second has passed at every look, so every step is handed over at once."""
    ticks = iter(range(0, 10**15, recorder_module.FLUSH_NS))
    writer = Recorder(tmp_path / "run", a_header(), stopwatch=lambda: next(ticks))
    header_bytes = writer.written_bytes
    for number in range(STEPS):
        writer.step(*a_step(number))
    writer._queue.put("end")
    writer._thread.join(10)
    frames, found = read((tmp_path / "run").read_bytes()[: writer.written_bytes])
    assert len(frames) == STEPS and found.ended is None and writer.written_bytes > header_bytes


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "run").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists"):
        Recorder(tmp_path / "run", a_header())
    assert (tmp_path / "run").read_bytes() == b"precious"
    with pytest.raises(ConfigError, match="no such folder|No such file"):
        Recorder(tmp_path / "absent" / "run", a_header())


def test_a_full_disk_ends_the_recording_and_not_the_run(monkeypatch, caplog, tmp_path):
    """Whatever room there is: what is on the disk is good, the end says why, and it is said once."""
    whole = Disk()
    monkeypatch.setattr(recorder_module, "_create", lambda path: whole)
    ticks = iter(range(0, 10**15, recorder_module.FLUSH_NS))
    recorded(tmp_path / "run", stopwatch=lambda: next(ticks))
    header_bytes = len(Encoder(a_header()).flush())
    for room in range(header_bytes, len(whole.data) - len(last_words()), 131):
        caplog.clear()
        disk = Disk(room)
        monkeypatch.setattr(recorder_module, "_create", lambda path, disk=disk: disk)
        ticks = iter(range(0, 10**15, recorder_module.FLUSH_NS))
        with caplog.at_level(logging.WARNING):
            writer = recorded(tmp_path / "run", stopwatch=lambda ticks=ticks: next(ticks))
        assert writer.fault == "No space left on device"
        assert (
            [record.getMessage() for record in caplog.records].count(
                f"recording {tmp_path / 'run'} ends early: No space left on device; the run goes on"
            )
            == 1
            == len(caplog.records)
        )
        frames, found = read(bytes(disk.data))
        assert not found.damage and len(frames) < STEPS
        assert [bits(frame) for frame in frames] == [a_step_bits(number) for number in range(len(frames))]
        assert found.ended in (None, "No space left on device")


def test_a_disk_full_from_the_start_is_named_before_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr(recorder_module, "_create", lambda path: Disk(100))
    with pytest.raises(RecordingError, match="No space left"):
        Recorder(tmp_path / "run", a_header())


class Stuck(Disk):
    """A disk that takes nothing until it is released."""

    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def write(self, data):
        self.gate.wait(10)
        return super().write(data)


def test_a_slow_disk_ends_the_recording_and_never_holds_the_step(monkeypatch, caplog, tmp_path):
    gate = threading.Event()
    gate.set()
    disk = Stuck(gate)
    monkeypatch.setattr(recorder_module, "_create", lambda path: disk)
    monkeypatch.setattr(recorder_module, "QUEUE_BYTES", 0)  # sixteen steps
    ticks = iter(range(0, 10**15, recorder_module.FLUSH_NS))
    writer = Recorder(tmp_path / "run", a_header(), stopwatch=lambda: next(ticks))
    gate.clear()
    for number in range(64):
        writer.step(*a_step(number))
    assert writer.fault == "the disk is slower than the run"
    gate.set()
    writer.close()
    frames, found = read(bytes(disk.data))
    assert 16 <= len(frames) < 64 and found.ended == "the disk is slower than the run"
    assert [bits(frame) for frame in frames] == [a_step_bits(number) for number in range(len(frames))]
    assert len(caplog.records) == 1


def test_a_patient_recorder_waits_and_loses_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(recorder_module, "QUEUE_BYTES", 0)  # sixteen steps
    recorded(tmp_path / "run", steps=200, patient=True)
    with reading(tmp_path / "run") as found:
        assert len(list(found.frames())) == 200 and not found.ending
