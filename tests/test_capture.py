"""Capture: every frame on disk as it came, whatever kills the program; a tap on the line and zstd itself as oracles."""

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import zstandard

from exec.paper.build import build
from exec.paper.lead import LeadOptions
from exec.paper.server import serve
from exec.paper.venue import memory_dial, memory_rest
from feeds import capture as capturing
from feeds.capture import Capture, CaptureSession, path_of, repair, wanted
from feeds.clock import SystemClock, run_virtual
from feeds.errors import LinkClosed
from feeds.session import Session
from mmjax import record_cli
from mmjax.errors import ConfigError, MmjaxError, RecordingError, UniverseError
from mmjax.record_cli import Setup, Shelf, opened, record

T0 = 1_757_015_216_000_000_000  # 2025-09-04 19:46:56 UTC
MIDNIGHT = 1_757_030_400_000_000_000
SECOND = 1_000_000_000
DAY = "20250904"


def bbo(coin, bid, time_ms=1_757_015_216_000):
    level = '{"px":"%s","sz":"1.5","n":2}'
    text = f'{{"channel":"bbo","data":{{"coin":"{coin}","time":{time_ms},"bbo":[{level % bid},null]}}}}'
    return text.encode()


def unpacked(data):
    """What any zstd reader makes of a file, as far as it is whole."""
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()


def lines(data):
    return [line for line in unpacked(data).split(b"\n") if line]


def kept(capture, times=1):
    """Files of a capture that is flushed so often and closed: path to bytes."""
    files = {}
    for piece in [piece for _ in range(times) for piece in capture.pieces()] + capture.close():
        files[piece.path] = files.get(piece.path, b"") + piece.data
    return files


# --- what is kept


def test_each_market_has_a_file_of_its_lines():
    capture = Capture(["BTC", "ETH"])
    said = [("BTC", 1), ("ETH", 2), ("BTC", 3), (None, 4), ("DOGE", 5)]
    for coin, ns in said:
        capture.frame(coin, b'{"n":%d}' % ns, T0 + ns)
    files = kept(capture)
    assert set(files) == {f"{DAY}/{name}.zst" for name in ("BTC", "ETH", "_venue")}
    assert lines(files[f"{DAY}/BTC.zst"]) == [b'%d {"n":%d}' % (T0 + n, n) for n in (1, 3)]
    assert lines(files[f"{DAY}/ETH.zst"]) == [b'%d {"n":2}' % (T0 + 2)]
    assert lines(files[f"{DAY}/_venue.zst"]) == [b'%d {"n":%d}' % (T0 + n, n) for n in (4, 5)]
    assert capture.frames == {"BTC": 2, "ETH": 1, "": 2}
    assert capture.raw_bytes == sum(len(line) + 1 for data in files.values() for line in lines(data))


def test_midnight_ends_the_files_of_the_day():
    capture = Capture(["BTC"])
    for ns in (MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1):
        capture.frame("BTC", b"{}", ns)
    first = {piece.path: piece.data for piece in capture.pieces()}
    assert lines(first["20250904/BTC.zst"]) == [b"%d {}" % (MIDNIGHT - 1)]
    assert repair(io.BytesIO(first["20250904/BTC.zst"])) == (len(first["20250904/BTC.zst"]), b"")  # its frame is closed
    assert repair(io.BytesIO(first["20250905/BTC.zst"]))[1]  # and today's is not
    assert capture.pieces() == []
    assert lines(first["20250905/BTC.zst"]) == [b"%d {}" % ns for ns in (MIDNIGHT, MIDNIGHT + 1)]


def test_nothing_is_written_twice_and_nothing_when_nothing_came():
    capture = Capture(["BTC"])
    capture.frame("BTC", b"{}", T0)
    assert len(capture.pieces()) == 1
    assert capture.pieces() == []
    assert [piece.path for piece in capture.close()] == [f"{DAY}/BTC.zst"]
    assert capture.close() == []


def test_a_frame_over_several_lines_stays_one():
    capture = Capture(["BTC"])
    frame = b'{"a":\r\n "x\\ny"}'
    capture.frame("BTC", frame, T0)
    (line,) = lines(kept(capture)[f"{DAY}/BTC.zst"])
    assert json.loads(line.partition(b" ")[2]) == json.loads(frame)


@pytest.mark.parametrize("coin", ["@107", "PURR/USDC", "xyz:CL", "..", "../../etc", "kPEPE", "%2F", "ü"])
def test_any_name_makes_one_file_and_comes_back(coin):
    path = path_of(DAY, coin)
    assert path.count("/") == 1 and ":" not in path and path.endswith(".zst")
    assert capturing.coin_of_stem(path.removeprefix(f"{DAY}/").removesuffix(".zst")) == coin


# --- whatever kills the program


def torn_file():
    """A captured file flushed after every third frame, its length after each flush, and its lines."""
    capture, data, marks, said = Capture(["BTC"]), b"", [], []
    for n in range(12):
        frame = bbo("BTC", f"{109_000 + n * n}.0")
        said.append(b"%d %s" % (T0 + n, frame))
        capture.frame("BTC", frame, T0 + n)
        if n % 3 == 2:
            data += b"".join(piece.data for piece in capture.pieces())
            marks.append((len(data), n + 1))
    return data, marks, said


def test_cut_anywhere_what_was_flushed_is_read_and_gone_on_with():
    data, marks, said = torn_file()
    assert lines(data) == said
    for cut in range(len(data) + 1):
        torn = data[:cut]
        flushed = max((count for length, count in marks if length <= cut), default=0)
        read = unpacked(torn).split(b"\n")
        assert [line for line in read if line][:flushed] == said[:flushed]
        whole, closing = repair(io.BytesIO(torn))
        assert whole <= cut
        again = Capture(["BTC"])
        again.frame("BTC", b'{"again":1}', T0 + 99)
        mended = torn[:whole] + closing + kept(again)[f"{DAY}/BTC.zst"]
        found = lines(mended)
        assert found[:flushed] == said[:flushed]
        assert found[-1] == b'%d {"again":1}' % (T0 + 99)


def test_a_line_cut_within_does_not_swallow_the_next():
    manner = zstandard.ZstdCompressionParameters.from_level(1, write_checksum=False)
    stream = zstandard.ZstdCompressor(compression_params=manner).compressobj()
    torn = stream.compress(b'123 {"half') + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    whole, closing = repair(io.BytesIO(torn))
    capture = Capture(["BTC"])
    capture.frame("BTC", b"{}", T0)
    assert lines(torn[:whole] + closing + kept(capture)[f"{DAY}/BTC.zst"]) == [b'123 {"half', b"%d {}" % T0]


BLOCKS = {
    "nothing": b"",
    "one byte often": b"a" * 300_000,
    "compressible": bytes(range(256)) * 2000,
    "not compressible": np.random.default_rng(7).bytes(200_000),
}


@pytest.mark.parametrize("content", BLOCKS.values(), ids=BLOCKS)
def test_repair_knows_where_blocks_of_every_kind_end(content):
    manner = zstandard.ZstdCompressionParameters.from_level(3, write_checksum=False, write_content_size=False)
    whole = zstandard.ZstdCompressor(compression_params=manner).compress(content)
    assert repair(io.BytesIO(whole * 2)) == (2 * len(whole), b"")
    for cut in {1, 5, 9, len(whole) // 2, len(whole) - 1} & set(range(1, len(whole))):
        found, closing = repair(io.BytesIO(whole + whole[:cut]))
        assert len(whole) <= found <= len(whole) + cut
        mended = unpacked((whole + whole[:cut])[:found] + closing + whole)
        assert mended.startswith(content) and mended.endswith(content)


@pytest.mark.parametrize(
    "foreign", [b"no frame at all", b"(\xb5/\xfe", zstandard.ZstdCompressor(write_checksum=True).compress(b"x" * 99)]
)
def test_repair_leaves_other_files_alone(foreign):
    with pytest.raises(RecordingError, match="move"):
        repair(io.BytesIO(foreign))


CHILD = """
import sys
from pathlib import Path
from feeds.capture import Capture
from mmjax.record_cli import Shelf
shelf, capture = Shelf(Path(sys.argv[1])), Capture(["BTC"])
for n in range(300):
    capture.frame("BTC", b'{"n":%d}' % n, 1757015216000000000 + n)
    if n % 100 == 99:
        for piece in capture.pieces():
            shelf.put(*piece)
capture.frame("BTC", b'{"lost":1}', 1757015217000000000)
shelf.close()  # writes what it was given; the capture is not closed
print("ready", flush=True)
sys.stdin.read()
"""


def test_killed_it_keeps_what_was_flushed_and_the_next_goes_on(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    file = tmp_path / DAY / "BTC.zst"
    before = lines(file.read_bytes())
    assert before == [b'%d {"n":%d}' % (T0 + n, n) for n in range(300)]
    capture, shelf = Capture(["BTC"]), Shelf(tmp_path)
    capture.frame("BTC", b'{"next":1}', T0 + SECOND)
    for piece in capture.close():
        shelf.put(*piece)
    shelf.close()
    assert lines(file.read_bytes()) == [*before, b'%d {"next":1}' % (T0 + SECOND)]


# --- the disk


def test_one_recorder_a_folder(tmp_path):
    with opened(tmp_path / "new" / "folder"):
        with pytest.raises(ConfigError, match=r"another mmjax record.*name another"), opened(tmp_path / "new/folder"):
            pass
    with opened(tmp_path / "new" / "folder"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out '.*file/below'"), opened(tmp_path / "file" / "below"):
        pass


def test_a_disk_that_fails_ends_the_recording_in_words(tmp_path):
    (tmp_path / DAY).write_text("a file where a folder should be")
    with pytest.raises(RecordingError, match=rf"{DAY}/BTC.zst.*written before is whole"), opened(tmp_path) as shelf:
        shelf.put(f"{DAY}/BTC.zst", b"x")


def test_a_foreign_file_in_the_way_is_not_touched(tmp_path):
    file = tmp_path / DAY / "BTC.zst"
    file.parent.mkdir()
    file.write_bytes(b"precious")
    with pytest.raises(RecordingError, match="not written by mmjax record"), opened(tmp_path) as shelf:
        shelf.put(f"{DAY}/BTC.zst", b"x")
    assert file.read_bytes() == b"precious"


# --- a whole recording


class Tap:
    """A connection that notes what it received and when."""

    def __init__(self, connection, clock, heard):
        self._connection, self._clock, self._heard = connection, clock, heard

    async def send(self, data):
        await self._connection.send(data)

    async def recv(self):
        data = await self._connection.recv()
        self._heard.append((self._clock.now_ns(), data))
        return data

    async def close(self):
        await self._connection.close()


def recorded(folder, seconds, start_ns=T0, markets="BTC,ETH,SOL", drop_after=None):
    """Records the paper venue on the virtual clock: what was said of it, and what a tap on the line heard."""
    heard = []

    async def main(clock):
        venue = build(clock, 1, {}, None, 16, lead=LeadOptions(markets=0))
        blocks = asyncio.create_task(venue.run())
        dial = memory_dial(venue, 0.02)

        async def tapped():
            connection = Tap(await dial(), clock, heard)
            if drop_after is not None and len(heard) < drop_after:
                asyncio.get_running_loop().call_later(3.0, lambda: asyncio.ensure_future(connection.close()))
            return connection

        setup = Setup(folder, "ws://127.0.0.1:1/ws", markets, seconds)
        try:
            with opened(folder) as shelf:
                return await record(setup, tapped, memory_rest(venue, 0.02), clock, shelf, asyncio.Event())
        finally:
            blocks.cancel()
            await asyncio.gather(blocks, return_exceptions=True)
            await venue.close()

    return run_virtual(main, start_ns), heard


def coin_in(frame):
    message = json.loads(frame)
    data = message.get("data")
    if message.get("channel") not in capturing.CHANNELS:
        return None
    return data[0]["coin"] if isinstance(data, list) else data["coin"]


def all_lines(folder):
    """Lines of each file of a folder, its days joined."""
    found = {}
    for file in sorted(folder.glob("*/*.zst")):
        found.setdefault(file.stem, []).extend(lines(file.read_bytes()))
    return found


def test_every_frame_is_on_disk_as_it_came(tmp_path):
    told, heard = recorded(tmp_path, 20.0)
    files = all_lines(tmp_path)
    for coin in ("BTC", "ETH", "SOL"):
        expected = [b"%d %s" % row for row in heard if coin_in(row[1]) == coin]
        assert files[coin] == expected and len(expected) > 40
        assert told["markets"][coin] == len(expected)
    own = [line for line in files["_venue"] if b'"mmjax"' not in line]
    assert own == [b"%d %s" % row for row in heard if coin_in(row[1]) is None]
    assert told["frames"] == len(heard) and told["connections"] == 1 and told["malformed"] == 0
    assert {json.loads(row[1])["channel"] for row in heard} >= set(capturing.CHANNELS)


def test_a_day_that_ends_has_the_venues_list_anew(tmp_path):
    _, heard = recorded(tmp_path, 6.0, start_ns=MIDNIGHT - 3 * SECOND, markets="BTC")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["20250904", "20250905"]
    for day in ("20250904", "20250905"):
        universe, contexts = json.loads((tmp_path / day / "meta.json").read_bytes())
        assert universe["universe"][0]["name"] == "BTC" and len(contexts) == len(universe["universe"])
    assert all_lines(tmp_path)["BTC"] == [b"%d %s" % row for row in heard if coin_in(row[1]) == "BTC"]


def test_a_lost_connection_is_on_the_record(tmp_path):
    told, heard = recorded(tmp_path, 12.0, markets="BTC", drop_after=1)
    assert told["connections"] == 2
    own = [json.loads(line.partition(b" ")[2]) for line in all_lines(tmp_path)["_venue"] if b'"mmjax"' in line]
    assert [row["data"]["connected"] for row in own] == [True, False, True, False]
    assert all_lines(tmp_path)["BTC"] == [b"%d %s" % row for row in heard if coin_in(row[1]) == "BTC"]
    assert "2 connections" in record_cli.screen(told, Shelf(tmp_path))


def test_the_session_is_the_one_that_quotes(tmp_path):
    """Frame by frame, a captured session answers as a bare one does; what it could not read is kept as well."""
    frames = [
        b'{"channel":"subscriptionResponse","data":{"method":"subscribe","subscription":{"type":"bbo","coin":"BTC"}}}',
        bbo("BTC", "1.0"),
        b'{"channel":"bbo","data":{"coin":"BTC","time":"x","bbo":[null,null]}}',
        b'{"channel":"news","data":{}}',
        b"\xff not json",
        b'{"channel":"error","data":"Invalid subscription {}"}',
        bbo("DOGE", "1.0"),
    ]
    capture = Capture(["BTC"])
    bare, captured = Session(wanted(["BTC"])), CaptureSession(Session(wanted(["BTC"])), capture)
    assert captured.opened(T0) == bare.opened(T0)
    for n, frame in enumerate(frames):
        assert captured.frame(frame, T0 + n) == bare.frame(frame, T0 + n)
    assert captured.tick(T0 + 40 * SECOND) == bare.tick(T0 + 40 * SECOND) != ()
    assert captured.closed(T0 + 41 * SECOND) == bare.closed(T0 + 41 * SECOND)
    files = kept(capture)
    assert len(lines(files[f"{DAY}/BTC.zst"])) == 2
    assert len(lines(files[f"{DAY}/_venue.zst"])) == 5 + 2


# --- what cannot be


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"url": "http://127.0.0.1:3001"}, "url 'http"),
        ({"url": "ws://example.com/ws"}, "not on loopback"),
        ({"url": "ws://"}, "not on loopback"),
        ({"seconds": -1.0}, "seconds = -1"),
        ({"seconds": float("nan")}, "seconds = nan"),
    ],
)
def test_a_setup_that_cannot_be_is_named(tmp_path, changed, words):
    setup = Setup(**({"out": tmp_path, "url": "ws://127.0.0.1:3001/ws", "markets": "4", "seconds": 1.0} | changed))
    with pytest.raises(ConfigError, match=words):
        setup.check()


def test_a_market_with_a_typo_is_named(tmp_path):
    with pytest.raises(UniverseError, match="'BTX'.*did you mean"):
        recorded(tmp_path, 1.0, markets="BTX")


def test_no_venue_is_said_with_what_to_do(tmp_path):
    setup = Setup(tmp_path, "ws://127.0.0.1:9/ws", "2", 0.25)
    with pytest.raises(MmjaxError, match=r"no venue answers at http://127.0.0.1:9 .*mmjax venue"):
        asyncio.run(record_cli.run(setup, print, lambda stop: contextlib.nullcontext()))


def test_over_a_socket(tmp_path):
    told = []

    async def main():
        venue = build(SystemClock(), 1, {}, None, 16, lead=LeadOptions(markets=0))
        port, close = await serve(venue, 0)
        blocks = asyncio.create_task(venue.run())
        try:
            setup = Setup(tmp_path, f"ws://127.0.0.1:{port}/ws", "2", 0.4, as_json=True)
            await record_cli.run(setup, told.append, lambda stop: contextlib.nullcontext())
        finally:
            blocks.cancel()
            await asyncio.gather(blocks, return_exceptions=True)
            await close()

    asyncio.run(main())
    summary = json.loads(told[0])
    stored = all_lines(tmp_path)
    assert summary["frames"] == sum(b'"mmjax"' not in line for rows in stored.values() for line in rows) > 0
    assert summary["bytes"] == sum(file.stat().st_size for file in tmp_path.glob("*/*.zst"))


def test_a_link_that_cannot_be_made_is_tried_again_until_the_end(tmp_path):
    async def main(clock):
        async def never():
            raise LinkClosed("refused")

        async def rest(path, body):
            return 200, json.dumps({"universe": [{"name": "BTC", "szDecimals": 5, "maxLeverage": 40}]}).encode()

        with opened(tmp_path) as shelf:
            return await record(
                Setup(tmp_path, "ws://127.0.0.1:1/ws", "BTC", 30.0), never, rest, clock, shelf, asyncio.Event()
            )

    told = run_virtual(main, T0)
    assert told["frames"] == 0 and told["seconds"] >= 30.0
    assert "nothing came of BTC" in record_cli.screen(told, Shelf(tmp_path))
