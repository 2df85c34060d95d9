"""Replay: the same bits come out again, one changed bit is found and named, other settings show what they change."""

import dataclasses
import functools
import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console
from step_stage import Shows, universe

from exec import replay as replaying
from exec import replay_screen
from exec.explainer import of_recording
from exec.recorder import reading
from exec.recording import Encoder, Header, Reading, Step, last_words, made_by
from mmjax import cli, leaves, model, schema
from mmjax.config import load
from mmjax.errors import ConfigError
from mmjax.schema import Account, Dims

ROWS, LEVELS, STEPS, CHANGED_AT = 8, 8, 24, 12
COINS = ("BTC", "ETH", "SOL", "XRP", "DOGE", "LINK")


@functools.cache
def machine():
    """The one step that this file compiles."""
    dims, market, params = (Dims(ROWS, levels=LEVELS), universe(ROWS), model.batched_params(ROWS))
    header = Header(dims, COINS, "paper", 1, 0, params, market, None, made_by("test"))
    step = replaying.CompiledStep(dims, params, market)
    return dataclasses.replace(header, state=step.state), step


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """Every replay of this file uses the same compiled step, made as the header says."""

    def compiled(header):
        _, step = machine()
        step._params = tuple(step._params_layout.pack(header.params))
        step.set_market(header.market)
        step.load(header.state)
        return step

    monkeypatch.setattr(replaying, "compiled", compiled)


@functools.cache
def run():
    """(header, frames): steps as recorded, and the market that changed before step `CHANGED_AT` + 1."""
    header, step = machine()
    step.load(header.state)
    step.set_market(header.market)
    shows = Shows(header.market, 3)
    frames, quotes = [], None
    packed_account, account = step.account_layout.buffers(1)
    for name in Account.__dataclass_fields__:
        getattr(account, name)[0] = {"day_pnl_usd": 0, "drawdown_frac": 0, "request_headroom_frac": 0.8}.get(name, 1e6)
    for number in range(STEPS):
        if number == CHANGED_AT:
            frames.append(halved(header.market))
            step.set_market(frames[-1])
        obs = tuple(np.asarray(array) for array in step.obs_layout.pack(shows.next(quotes, dt_s=0.25)))
        quotes, _ = step(obs, packed_account)
        frames.append(Step(number, obs, tuple(array.copy() for array in packed_account), quotes))
    return header, frames


def halved(market):
    changed = leaves.rebuilt(market, {name: leaf.copy() for name, leaf in leaves.named(market).items()})
    changed.max_position_usd[:] /= 2
    return changed


def recording(frames=None, header=None, end=True):
    """The bytes of a run, every frame in a chunk of its own."""
    own_header, own_frames = run()
    encoder = Encoder(header or own_header)
    data = encoder.flush()
    for frame in own_frames if frames is None else frames:
        if isinstance(frame, Step):
            encoder.step(*frame)
        else:
            encoder.market(frame)
        data += encoder.flush()
    return data + last_words() * end


def read(data):
    return Reading(io.BytesIO(data), "a file")


def spoil(number, field, row, side, level):
    """The run's frames with one bit of one quote changed, in a step counted from 1."""
    _, frames = run()
    frames, place = list(frames), number - 1 + (number > CHANGED_AT)
    quotes = dataclasses.replace(frames[place].quotes, **{field: getattr(frames[place].quotes, field).copy()})
    getattr(quotes, field).view(np.int32)[row, side, level] ^= 1
    frames[place] = frames[place]._replace(quotes=quotes)
    return frames


# --- equality


def test_a_run_comes_out_again_bit_by_bit():
    _, frames = run()
    quoted = sum(int((frame.quotes.target_lots > 0).sum()) for frame in frames if isinstance(frame, Step))
    found = replaying.replay(read(recording()))
    assert found.is_equal and found.differing_slots == 0 and found.first is None and not found.ending
    assert (found.steps, found.markets, found.slots) == (STEPS, len(COINS), STEPS * ROWS * 2 * LEVELS)
    assert quoted > 500


def test_it_starts_from_the_recorded_memory():
    """From fresh memory the same inputs give other quotes, so the state of the header counts."""
    header, frames = run()
    machine()[1].load(header.state)
    later = [frame for frame in frames if isinstance(frame, Step)][:6]
    assert not replaying.replay(read(recording(later[3:]))).is_equal
    _, step = machine()
    step.load(header.state)
    step.set_market(header.market)
    for frame in later[:3]:
        step(frame.obs, frame.account)
    assert replaying.replay(read(recording(later[3:], dataclasses.replace(header, state=step.state)))).is_equal


def test_a_changed_market_is_part_of_the_run():
    _, frames = run()
    without = [frame for frame in frames if isinstance(frame, Step)]
    found = replaying.replay(read(recording(without)))
    assert not found.is_equal and found.first.step > CHANGED_AT


@pytest.mark.parametrize(
    ("number", "field", "row", "side", "level"),
    [
        (1, "target_px", 0, 0, 0),
        (STEPS, "target_lots", 5, 1, 7),
        (13, "action", 2, 1, 3),
        (7, "value_bps_usd", 7, 0, 1),
    ],
)
def test_one_changed_bit_is_found_and_named(number, field, row, side, level):
    found = replaying.replay(read(recording(spoil(number, field, row, side, level))))
    assert not found.is_equal and (found.differing_slots, found.differing_steps) == (1, 1)
    first = found.first
    assert (first.step, first.side, first.level) == (number, ("bid", "ask")[side], level)
    assert first.coin == (COINS[row] if row < len(COINS) else f"row {row}")
    assert [name for name in first.recorded if first.recorded[name] != first.replayed[name]] == [field]
    assert first.coin in shown(replay_screen.render(found, "a file"))


def test_a_run_cut_off_is_equal_up_to_there_and_a_damaged_one_is_not():
    whole = recording(end=False)
    found = replaying.replay(read(whole[:-5]))
    assert found.is_equal and found.steps == STEPS - 1 and "cut off after step" in found.ending
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    found = replaying.replay(read(bytes(damaged)))
    assert not found.is_equal and found.damaged and 0 < found.steps < STEPS and "damaged" in found.ending


# --- other settings


def settings(tmp_path, text):
    path = tmp_path / "other.toml"
    path.write_text(text)
    return load(path, model.tunables())


def test_the_same_settings_change_nothing(tmp_path):
    found = replaying.what_if(read(recording()), settings(tmp_path, "[run]\nseconds = 5"))
    assert found.changed_frac == 0.0 and not found.settings and found.steps == STEPS
    for one in found.markets:
        assert one.touch_bps[0] == one.touch_bps[1] and one.size_usd[0] == one.size_usd[1]


def test_another_floor_of_one_market_moves_its_touch(tmp_path):
    usual = replaying.what_if(read(recording()), settings(tmp_path, ""))
    coin = max(usual.markets, key=lambda one: one.quoted_frac[0]).coin  # the calmest
    found = replaying.what_if(read(recording()), settings(tmp_path, f"[market.{coin}.spread]\nfloor_bps = 60"))
    assert found.settings == {f"market.{coin}.spread.floor_bps": 60.0}
    (one,) = (one for one in found.markets if one.coin == coin)
    assert one.changed_frac > 0.5 and one.touch_bps[1] > one.touch_bps[0] + 5
    assert 0 < found.changed_frac <= max(one.changed_frac for one in found.markets)
    text = shown(replay_screen.render_what_if(found, "a file"))
    assert coin in text and f"market.{coin}.spread.floor_bps = 60" in text


def test_means_are_those_of_the_recorded_quotes(tmp_path):
    """Against loops over the frames."""
    found = replaying.what_if(read(recording()), settings(tmp_path, ""))
    header, frames = run()
    steps = [frame for frame in frames if isinstance(frame, Step)]
    step = machine()[1]
    for row, one in enumerate(found.markets):
        depths, sizes = [], []
        for frame in steps:
            bid, ask = (int(px) for px in step.obs_layout.unpack(frame.obs).best_px[row])
            for side, sign in enumerate((1, -1)):
                rungs = [
                    (int(px), int(lots))
                    for px, lots in zip(
                        frame.quotes.target_px[row, side], frame.quotes.target_lots[row, side], strict=True
                    )
                    if lots > 0
                ]
                if rungs and bid > 0 and ask > 0:
                    mid = (bid + ask) / 2
                    depths.append(min(sign * (mid - px) / mid * 1e4 for px, _ in rungs))
                    sizes.append(sum(px * lots for px, lots in rungs) / 1e6)
        assert one.quoted_frac[0] == pytest.approx(len(depths) / (2 * len(steps)))
        assert one.touch_bps[0] == pytest.approx(np.mean(depths) if depths else 0.0, rel=1e-9)
        assert one.size_usd[0] == pytest.approx(np.mean(sizes) if sizes else 0.0, rel=1e-9)


def test_a_limit_holds_through_a_recorded_change_of_the_market(tmp_path):
    found = replaying.what_if(read(recording()), settings(tmp_path, "[market.BTC]\ntarget_liquidity_usd = 11"))
    (btc, *_) = found.markets
    assert 0 < btc.size_usd[1] < 0.1 * btc.size_usd[0]  # what is left are orders that were busy


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[market.PEPE]\nmax_position_usd = 5", "market.PEPE: not in the recording"),
        ("[market.BTC]\nprofile = 'hip3'", "market.BTC.profile"),
    ],
)
def test_what_a_replay_cannot_change_is_named(tmp_path, text, named):
    with pytest.raises(ConfigError, match=named):
        replaying.what_if(read(recording()), settings(tmp_path, text))


# --- one step of a recorded run


def test_a_recorded_step_can_be_explained():
    _, frames = run()
    steps = [frame for frame in frames if isinstance(frame, Step)]
    for at in (1, CHANGED_AT, CHANGED_AT + 1, None):
        number, found = of_recording(read(recording()), at, None)
        assert number == (at or STEPS) and [one.coin for one in found] == list(COINS)
        wanted = steps[number - 1].quotes.target_lots
        for row, one in enumerate(found):
            held = [sum(order.size != "0" for order in side.orders) for side in one.sides]
            assert held == (wanted[row] > 0).sum(axis=1).tolist()
    (only,) = of_recording(read(recording()), None, "eth")[1]
    assert only.coin == "ETH"


@pytest.mark.parametrize("at", [0, -1, STEPS + 1])
def test_a_step_that_is_not_there_is_named(at):
    with pytest.raises(ConfigError, match=f"at = {at}: the recording has {STEPS} steps"):
        of_recording(read(recording()), at, None)


# --- as it is typed


def shown(renderable):
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def type_in(monkeypatch, capsys, *words):
    """(exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["mmjax", *map(str, words)])
    monkeypatch.setattr(cli, "_log_to_stderr", lambda: None)
    monkeypatch.setattr(cli, "_prepare_jax", lambda: None)
    code = 0
    try:
        cli.main()
    except SystemExit as left:
        code = left.code or 0
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_exit_code_is_the_verdict(monkeypatch, capsys, tmp_path):
    files = {
        "equal": recording(),
        "cut": recording(end=False)[:-5],
        "other": recording(spoil(2, "target_px", 1, 1, 1)),
        "damaged": recording()[:-400] + b"\0" * 400,
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        code, out, err = type_in(monkeypatch, capsys, "replay", path, "--json")
        found = json.loads(out)
        assert not err and (code == 0) == found["equal"] == (name in ("equal", "cut"))
        code, out, _ = type_in(monkeypatch, capsys, "replay", path)
        assert (code == 0) == found["equal"] and ("bit by bit" in out) == (name != "other")
    other = tmp_path / "other.toml"
    other.write_text("[params.spread]\nfloor_bps = 3")
    code, out, _ = type_in(monkeypatch, capsys, "replay", tmp_path / "equal", "--params", other, "--json")
    assert code == 0 and json.loads(out)["settings"] == {"params.spread.floor_bps": 3.0}
    assert type_in(monkeypatch, capsys, "replay", tmp_path / "equal", "--params", other)[0] == 0
    other.write_text("[params.spread]\nfloor_bp = 3")
    code, out, err = type_in(monkeypatch, capsys, "replay", tmp_path / "equal", "--params", other)
    assert code == 2 and not out and "'floor_bps'" in err


def test_explain_as_it_is_typed(monkeypatch, capsys, tmp_path):
    path = tmp_path / "run"
    path.write_bytes(recording())
    code, out, err = type_in(monkeypatch, capsys, "explain", "BTC", "--file", path, "--at", 5)
    assert code == 0 and not err and "run, step 5" in out and "= depth" in out
    code, out, _ = type_in(monkeypatch, capsys, "explain", "--file", path)
    assert code == 0 and all(coin in out for coin in COINS)
    code, out, _ = type_in(monkeypatch, capsys, "explain", "btc", "--file", path, "--json")
    assert code == 0 and json.loads(out)["coin"] == "BTC"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for words, named in (
        (("BTX", "--file", path), "did you mean 'BTC'"),
        (("BTC", "--file", path, "--at", 99), "at = 99"),
        (("BTC", "--file", tmp_path / "absent"), "absent"),
        (("BTC", "--file", __file__), "not a recording"),
        (("BTC", "--at", 3), "--file"),
        (("BTC", "--pid", 3, "--file", path), "not both"),
        (("BTC",), "no program is running"),
        (("BTC", "--pid", 3), "pid = 3"),
    ):
        code, out, err = type_in(monkeypatch, capsys, "explain", *words)
        assert code in (1, 2) and not out and named in err and "Traceback" not in err


def test_a_file_that_is_not_there(monkeypatch, capsys, tmp_path):
    code, out, err = type_in(monkeypatch, capsys, "replay", tmp_path / "absent")
    assert code == 1 and not out and "absent" in err


def test_reading_is_by_name(tmp_path):
    (tmp_path / "run").write_bytes(recording())
    with reading(tmp_path / "run") as found:
        assert found.header.coins == COINS and len(list(found.frames())) == STEPS + 1
    assert isinstance(run()[1][CHANGED_AT], schema.Market)
