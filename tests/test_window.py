"""The window of a running program: who may ask, what is answered, and what is left behind."""

import asyncio
import json
import logging
import os
import stat

import pytest

from exec import window as window_module
from exec.window import Window, WindowError, ask, choose, folder, private, running
from mmjax.errors import ConfigError

GONE = 2**22 + 7  # beyond any process number


def answer(request):
    if request.get("market") == "BTX":
        raise ConfigError("market 'BTX' is not quoted")
    return {"told": request}


def talk(place, scene, pids=None):
    """Runs `scene(windows)` while windows of these programs are open; one of this process by default."""

    async def main():
        windows = [Window(place, answer, pid) for pid in pids or [os.getpid()]]
        for one in windows:
            await one.open()
        try:
            return await scene(windows)
        finally:
            for one in windows:
                await one.close()

    return asyncio.run(main())


@pytest.fixture
def place(tmp_path_factory):
    """A short path: socket names have 100 bytes."""
    return tmp_path_factory.mktemp("w") / "run"


def test_a_question_is_answered(place):
    async def scene(_):
        return await ask(place, {"ask": "explain", "market": "BTC"})

    assert talk(place, scene) == {"told": {"ask": "explain", "market": "BTC"}}
    assert list(place.iterdir()) == []


def test_only_the_owner_may_enter(place):
    async def scene(windows):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert stat.S_IMODE(windows[0].path.stat().st_mode) == 0o600

    talk(place, scene)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_may_enter_is_refused_and_the_run_goes_on(place, caplog, mode):
    place.mkdir(parents=True)
    place.chmod(mode)

    async def scene(windows):
        assert not windows[0].path.exists()

    with caplog.at_level(logging.WARNING):
        talk(place, scene)
    assert "chmod 700" in caplog.text
    with pytest.raises(WindowError):
        private(place)


def test_a_link_or_a_file_in_its_place_is_refused(place):
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    place.symlink_to(elsewhere)
    with pytest.raises(WindowError, match="not a folder of yours"):
        private(place)
    place.unlink()
    place.write_text("")
    with pytest.raises((WindowError, FileExistsError)):
        private(place)


def test_a_path_too_long_for_a_socket_is_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        talk(tmp_path / ("d" * 90) / "run", lambda _: asyncio.sleep(0))
    assert "cannot be asked" in caplog.text


def test_what_the_program_refuses_is_said_in_its_words(place):
    async def scene(_):
        await ask(place, {"ask": "explain", "market": "BTX"})

    with pytest.raises(WindowError, match="market 'BTX' is not quoted"):
        talk(place, scene)


def test_nobody_is_running(place):
    with pytest.raises(WindowError, match=r"mmjax paper.*--fast has no window.*--file"):
        asyncio.run(ask(place, {}))
    with pytest.raises(WindowError, match="pid = 5: no such program"):
        asyncio.run(ask(place, {}, 5))


def test_several_programs_have_to_be_told_apart(place):
    pids = [os.getppid(), os.getpid()]

    async def scene(_):
        assert await ask(place, {"n": 1}, pids[0]) == {"told": {"n": 1}}
        return await ask(place, {})

    with pytest.raises(WindowError, match=r"several programs.*--pid") as refused:
        talk(place, scene, pids)
    assert all(str(pid) in str(refused.value) for pid in pids)
    with pytest.raises(WindowError, match="running: 1, 2"):
        choose([1, 2], 3)


def test_sockets_of_programs_that_are_gone_are_taken_away(place):
    place.mkdir(mode=0o700, parents=True)
    for name in (f"{GONE}.sock", f"{2**70}.sock", "note.txt", "x.sock"):
        (place / name).write_text("")
    assert running(place) == []
    assert sorted(path.name for path in place.iterdir()) == ["note.txt", "x.sock"]


def test_a_socket_whose_number_lives_on_in_another_program_is_taken_away(place):
    """Killed without a chance to clean up; then its number was given away."""

    async def leave(windows):
        windows[0]._server.close()
        os.link(windows[0].path, place / "kept")

    talk(place, leave)
    (place / "kept").rename(place / f"{os.getpid()}.sock")
    with pytest.raises(WindowError, match="no program is running"):
        asyncio.run(ask(place, {}))
    assert list(place.iterdir()) == []


def test_a_stale_socket_with_our_number_does_not_stop_us(place):
    place.mkdir(mode=0o700, parents=True)
    (place / f"{os.getpid()}.sock").write_text("")

    async def scene(_):
        return await ask(place, {"n": 2})

    assert talk(place, scene) == {"told": {"n": 2}}


async def raw(path, data, end=True):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    if end:
        writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{", b"[1]\n", b"\xff\xfe\n", b'{"ask": \n', b"7\n", b"\0" * 100 + b"\n"]
)
def test_nonsense_is_answered_with_an_error(place, data):
    async def scene(windows):
        return await raw(windows[0].path, data)

    assert "error" in json.loads(talk(place, scene))


def test_a_question_without_end_or_without_an_end_of_line_holds_nobody_up(place, monkeypatch):
    monkeypatch.setattr(window_module, "PATIENCE_S", 0.05)

    async def scene(windows):
        path = windows[0].path
        assert await raw(path, b"x" * 100_000) == b""
        silent = asyncio.create_task(raw(path, b'{"ask"', end=False))
        assert await ask(place, {"n": 3}) == {"told": {"n": 3}}
        assert await silent == b""

    talk(place, scene)


def test_another_version_is_named(place, monkeypatch):
    async def scene(_):
        ours = window_module.__version__
        monkeypatch.setattr(window_module.Window, "_answer", lambda *_: b'{"version": "0.0.1", "answer": 1}')
        with pytest.raises(WindowError, match=f"version 0.0.1, this is {ours}"):
            await ask(place, {})
        monkeypatch.setattr(window_module.Window, "_answer", lambda *_: b"")
        with pytest.raises(WindowError, match="ended before it had answered"):
            await ask(place, {})

    talk(place, scene)


def test_where_sockets_are(tmp_path):
    assert folder({"XDG_RUNTIME_DIR": "/r", "XDG_CACHE_HOME": "/c"}).as_posix() == "/r/mmjax"
    assert folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}).as_posix() == "/c/mmjax/run"
    assert folder({"HOME": "/h"}).as_posix() == "/h/.cache/mmjax/run"
