"""CUSUM: known run lengths, exact sums, hold and reset, both signs, a float64 twin, premiums, strictness."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import schema
from mmjax.lanes import over_markets
from mmjax.signals import cusum

EMPTY = schema.empty_obs(schema.Dims(markets=8, levels=1))
SIGMA = np.float32(3)
WARM = 60


def tune(**changes):
    return jax.tree.map(np.float32, cusum.Params(**changes))


def observe(basis_bps=0.0, dt_s=1.0, age_s=0.0):
    seen = {"basis_bps": np.float32(basis_bps), "dt_s": np.float32(dt_s), "lead_age_s": np.float32(age_s)}
    return dataclasses.replace(EMPTY, **seen)


update = jax.jit(cusum.update)


def step(params, state, basis_bps, dt_s=1.0, age_s=0.0):
    return update(params, state, observe(basis_bps, dt_s, age_s), SIGMA)


def advance(params, state, basis_bps, dt_s, age_s):
    """One step of one market, and what is said after it."""
    obs = dataclasses.replace(EMPTY, basis_bps=basis_bps, dt_s=dt_s, lead_age_s=age_s)
    state = cusum.update(params, state, obs, SIGMA)
    return state, {
        "active": cusum.is_active(params, state, obs),
        "value": cusum.value_bps(params, state, obs),
        "divergence": cusum.divergence_bps(params, state, obs),
        "rms": cusum.rms_bps(params, state),
        "score": state.score,
        "hold": state.hold_s,
    }


@jax.jit
def run(params, state, seen):
    return jax.lax.scan(lambda state, seen: over_markets(advance, shared=(0,))(params, state, *seen), state, seen)


def spread_over(state, markets):
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[..., None], markets, -1), state)


def follow(params, basis_bps, dt_s=1.0, age_s=0.0, state=None):
    """(state [..., A], readings [steps, ..., A]); basis_bps [steps, A]."""
    seen = tuple(np.broadcast_to(np.float32(x), np.shape(basis_bps)) for x in (basis_bps, dt_s, age_s))
    state = cusum.init(params) if state is None else state
    state, read = run(params, spread_over(state, np.shape(basis_bps)[1]), seen)
    return jax.device_get(state), {name: np.asarray(column) for name, column in read.items()}


def settled(params, **changes):
    """A state that knows its scale for ever: mean 0, rms 1, so that the basis is its own z."""
    known = {"mean_bps": np.float32(0), "square_bps2": np.float32(1), "samples": np.float32(1e12)}
    return dataclasses.replace(cusum.init(params), **(known | changes))


FOREVER = {"halflife_s": math.inf}


# --- run lengths


def siegmund_s(shift, alarm=4.0, drift=0.5):
    """Mean seconds to an alarm of one side when z has mean `shift` (Siegmund 1985)."""
    k, b = drift - shift, alarm + 1.166
    return b * b if k == 0 else (math.exp(2 * k * b) - 2 * k * b - 1) / (2 * k * k)


def alarms(rng, shift, steps, markets):
    """[steps, 2, A] where a side alarms, for independent normal z; a hold of one sample tells alarms apart."""
    params = tune(hold_s=0.5, max_score=1e3, **FOREVER)
    z = rng.standard_normal((steps, markets)) + shift
    _, read = follow(params, z, state=settled(params))
    return read["hold"] > 0


@pytest.mark.parametrize("shift", [-0.25, 0.0, 0.25, 0.5, 1.0, 2.0])
def test_mean_run_length_is_the_known_one(shift):
    """A side starts again from 0 after its alarm, so alarms are renewals: their rate is one over the mean run."""
    markets = 512
    steps = int(min(max(40 * siegmund_s(shift), 2000), 12000))
    up = alarms(np.random.default_rng(1), shift, steps, markets)[:, 0]
    count = up.sum()
    assert count > 500
    run_s = steps * markets / (count + 0.5 * markets)  # half a run is cut off at the end of each market
    assert run_s == pytest.approx(siegmund_s(shift), rel=0.04 + 4 / math.sqrt(count))


def test_both_signs_alarm_alike_and_together_every_169_seconds():
    both = alarms(np.random.default_rng(2), 0.0, 12000, 512)
    up, down = both.sum(axis=(0, 2))
    assert abs(up - down) < 4 * math.sqrt(up + down)
    assert 12000 * 512 / (up + down) == pytest.approx(siegmund_s(0.0) / 2, rel=0.04)


def test_estimated_mean_and_scale_hardly_change_the_run_length():
    """The same with all defaults, on a premium of 12 bps with a noise of 2 bps."""
    z = np.random.default_rng(3).standard_normal((6000, 256))
    _, read = follow(tune(hold_s=0.5), 12 + 2 * z)
    later = read["hold"][1000:] > 0
    assert later[:, 0].sum() == pytest.approx(later[:, 1].sum(), rel=0.1)
    assert 5000 * 256 / later.sum() == pytest.approx(siegmund_s(0.0) / 2, rel=0.25)
    assert read["rms"][1000:].mean() == pytest.approx(2.0, rel=0.03)


# --- sums


def test_sums_by_hand():
    params = tune(**FOREVER)
    state = settled(params)
    for z, up, down in [(1.5, 1.0, 0.0), (2.0, 2.5, 0.0), (-1.0, 1.0, 0.5), (-2.0, 0.0, 2.0), (0.5, 0.0, 1.0)]:
        state = step(params, state, z)
        np.testing.assert_allclose(state.score, [up, down], atol=1e-6)


def test_a_side_that_alarms_starts_again_and_the_other_goes_on():
    params = tune(hold_s=3.0, **FOREVER)
    state = settled(params, score=np.float32([3.0, 2.0]))
    state = step(params, state, 1.5)
    np.testing.assert_array_equal(state.score, [4.0, 0.0])  # four is no alarm yet
    assert not cusum.is_active(params, state, observe(1.5)) and cusum.value_bps(params, state, observe(1.5)) == 0
    state = dataclasses.replace(settled(params, score=np.float32([3.0, 2.0])))
    state = step(params, state, 1.6)
    np.testing.assert_array_equal(state.score, [0.0, 0.0])
    np.testing.assert_array_equal(state.hold_s, [3.0, 0.0])
    state = settled(params, score=np.float32([3.9, 3.9]))
    state = step(params, state, -0.7)
    np.testing.assert_allclose(state.score, [2.7, 0.0], atol=1e-6)
    np.testing.assert_array_equal(state.hold_s, [0.0, 3.0])


def test_while_an_alarm_is_held_thirty_percent_of_the_divergence_enters():
    params = tune(**FOREVER)
    state = settled(params, score=np.float32([3.9, 0.0]))
    state = step(params, state, 2.0)
    for basis_bps in (2.0, 7.0, -1.0):
        obs = observe(basis_bps)
        assert cusum.is_active(params, state, obs)
        assert cusum.value_bps(params, state, obs) == pytest.approx(0.3 * basis_bps, rel=1e-6)
    assert cusum.value_bps(params, state, observe(400.0)) == 15.0  # the bound
    for _ in range(49):
        state = step(params, state, 0.4, dt_s=0.1)
        assert cusum.is_active(params, state, observe(0.4))
    state = step(params, step(params, state, 0.4, dt_s=0.1), 0.4, dt_s=0.1)
    assert not cusum.is_active(params, state, observe(0.4)) and cusum.value_bps(params, state, observe(2.0)) == 0


def test_a_real_shift_is_seen_in_seconds_and_one_wild_frame_is_not():
    z = np.random.default_rng(4).standard_normal((400, 64)).clip(-2.5, 2.5)
    shifted = z.copy()
    shifted[300:] += 4.0
    _, read = follow(tune(), 10 + shifted)
    assert (read["hold"][300:, 0] > 0).any(axis=0).all()
    first = (read["hold"][300:, 0] > 0).argmax(axis=0)
    assert (first <= 5).all() and (read["value"][305] > 0.3).mean() > 0.95
    frame = 0 * z
    frame[300] = 400.0
    params = tune(**FOREVER)
    _, read = follow(params, frame + 0.001, state=settled(params))
    assert not (read["hold"] > 0).any()


# --- premiums and bad feeds


def test_no_opinion_before_the_scale_is_known():
    params = tune()
    basis = np.full((WARM + 20, 4), 5.0)
    basis[1::2] = 6.0
    basis[WARM - 6 :] = 50.0
    _, read = follow(params, basis)
    warm = int(np.argmax(read["divergence"][:, 0] != 0))
    assert WARM - 1 <= warm <= WARM + 8  # samples fade, so sixty of them take a little longer
    assert not read["score"][: warm + 1].any() and not read["active"][: warm + 1].any()


def test_a_constant_premium_is_no_signal():
    _, read = follow(tune(), np.full((900, 4), 37.0))
    assert not read["score"].any() and not read["active"].any() and not read["value"].any()


def test_a_level_that_holds_becomes_the_usual_distance():
    z = np.random.default_rng(5).standard_normal((3600, 64))
    z[600:] += 5.0
    _, read = follow(tune(), z)
    assert read["active"][605:700].mean() > 0.9
    assert read["active"][3000:].mean() < 0.06  # false alarms of 5 s every 169 s are 0.03
    assert np.abs(read["divergence"][3000:].mean()) < 0.1


@pytest.mark.parametrize("bad", [
    {"age_s": 1.5}, {"age_s": np.nan}, {"age_s": -1.0}, {"basis_bps": np.nan}, {"basis_bps": np.inf},
    {"basis_bps": 501.0}, {"basis_bps": 0.0},
], ids=str)  # fmt: skip
def test_a_basis_that_cannot_be_seen_silences_at_once_and_teaches_nothing(bad):
    params = tune()
    state = settled(params, score=np.float32([2.0, 1.0]), hold_s=np.float32([4.0, 0.0]), samples=np.float32(400))
    assert cusum.is_active(params, state, observe(3.0))
    obs = observe(**({"basis_bps": 3.0} | bad))
    assert not cusum.is_active(params, state, obs) and cusum.value_bps(params, state, obs) == 0
    after = update(params, state, obs, SIGMA)
    assert not after.score.any() and not cusum.is_active(params, after, obs)
    assert (after.mean_bps, after.square_bps2, after.samples) == (0.0, 1.0, 400.0)
    assert cusum.is_active(params, after, observe(3.0))  # what is left of the alarm counts when the feed is back


@pytest.mark.parametrize("dt_s", [np.nan, np.inf, -1.0])
def test_a_time_that_cannot_be_does_not_pass(dt_s):
    params = tune()
    state = settled(params, hold_s=np.float32([4.0, 0.0]), age_s=np.float32(0.5))
    after = step(params, state, 3.0, dt_s=dt_s)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_after_an_outage_the_usual_distance_is_learned_anew():
    params = tune()
    state = settled(params, samples=np.float32(400))
    state = step(params, state, 3.0, dt_s=1800.0, age_s=3600.0)
    state = step(params, state, 30.0)
    assert state.mean_bps == pytest.approx(30 / (1 + 400 * 2 ** (-1801 / 300)), rel=1e-3)
    assert cusum.divergence_bps(params, state, observe(30.0)) == 0  # too few samples


def test_a_state_that_is_not_a_number_says_nothing():
    params = tune()
    for name in ("hold_s", "samples"):
        sick = settled(params, hold_s=np.float32([4.0, 0.0]))
        sick = dataclasses.replace(sick, **{name: getattr(sick, name) * np.float32(np.nan)})
        assert cusum.value_bps(params, sick, observe(3.0)) == 0


@pytest.mark.parametrize("huge", [1e38, 499.0, 1e-38])
def test_absurd_but_finite_inputs_leave_everything_finite(huge):
    rng = np.random.default_rng(6)
    shape = (800, 32)

    def wild(scale):
        return np.where(rng.random(shape) < 0.1, huge * rng.choice([-1.0, 1.0], shape), scale * rng.normal(size=shape))

    state, read = follow(tune(), wild(3.0), np.abs(wild(1.0)), np.abs(wild(0.1)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert all(np.isfinite(column).all() for column in read.values())
    assert (np.abs(read["value"]) <= 15.0).all()


# --- batteries


def wild_stream(rng, steps, markets):
    """(basis, dt, age): a basis with memory and jumps, irregular steps, unknown and stale moments."""
    basis_bps = np.cumsum(rng.standard_normal((steps, markets)) * 0.4, axis=0)
    basis_bps += rng.standard_normal(basis_bps.shape) + 20.0
    basis_bps[rng.random(basis_bps.shape) < 0.02] = 0.0
    basis_bps[rng.random(basis_bps.shape) < 0.005] = np.nan
    dt_s = rng.choice([0.0, 0.05, 0.3, 1.0, 30.0], basis_bps.shape, p=[0.05, 0.2, 0.4, 0.345, 0.005])
    age_s = np.where(rng.random(basis_bps.shape) < 0.01, 2.0, 0.1)
    return basis_bps, dt_s, age_s


def test_mirror_is_exact():
    basis_bps, dt_s, age_s = wild_stream(np.random.default_rng(7), 1500, 16)
    params = tune()
    state, read = follow(params, basis_bps, dt_s, age_s)
    mirrored, back = follow(params, -basis_bps, dt_s, age_s)
    assert read["active"].any() and not read["active"].all()
    for name, column in read.items():
        wanted = column[:, ::-1] if name in ("score", "hold") else column
        np.testing.assert_array_equal(back[name], -wanted if name in ("value", "divergence") else wanted)
    np.testing.assert_array_equal(mirrored.mean_bps, -state.mean_bps)
    np.testing.assert_array_equal(mirrored.square_bps2, state.square_bps2)


def test_lanes_say_what_vmap_says():
    columns = [np.float32(x) for x in wild_stream(np.random.default_rng(8), 400, 16)]
    params = tune()
    state, read = follow(params, *columns)
    each = jax.vmap(advance, in_axes=(None, -1, -1, -1, -1), out_axes=-1)
    begin = spread_over(cusum.init(params), 16)
    plain, plainly = jax.jit(lambda s: jax.lax.scan(lambda s, x: each(params, s, *x), s, tuple(columns)))(begin)
    for a, b in zip(jax.tree.leaves((state, read)), jax.tree.leaves((plain, plainly)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def twin(basis_bps, dt_s, age_s):
    """Values of one market in float64, mean and rms recomputed from all samples at each."""
    samples, score, hold, age, values = [], [0.0, 0.0], [0.0, 0.0], 0.0, []

    def weighted(terms):
        """(count, mean) of what was sampled, each faded by the time since."""
        total = weight = 0.0
        for term, fade in terms:
            total, weight = total * fade + term, weight * fade + 1.0
        return weight, total / weight if weight else 0.0

    squares = []
    for basis, dt, lead_age in zip(basis_bps, dt_s, age_s, strict=True):
        age += dt
        hold = [max(h - dt, 0.0) for h in hold]
        seen = 0 <= lead_age <= 1.0 and abs(basis) <= 500 and basis != 0
        if not seen:
            score = [0.0, 0.0]
        if seen and age >= 0.999:
            count, mean = weighted(samples)
            rms = max(math.sqrt(weighted(squares)[1]), 0.1)
            apart = max(-4 * rms, min(4 * rms, basis - mean if samples else 0.0))
            if count >= WARM:
                for side, sign in enumerate((1, -1)):
                    score[side] = max(0.0, score[side] + sign * apart / rms - 0.5)
                    if score[side] > 4.0:
                        score[side], hold[side] = 0.0, 5.0
            fade = 0.5 ** (age / 300)
            samples.append((basis, fade))
            squares.append((apart**2, fade))
            age = 0.0
        count, mean = weighted(samples)
        said = seen and count >= WARM and max(hold) > 0
        values.append(max(-15.0, min(15.0, 0.3 * (basis - mean))) if said else 0.0)
    return np.array(values)


def test_twin_in_float64_agrees_on_a_wild_stream():
    columns = [np.float32(x) for x in wild_stream(np.random.default_rng(9), 700, 4)]
    _, read = follow(tune(), *columns)
    for market in range(4):
        wanted = twin(*(column[:, market].astype(float) for column in columns))
        near = np.abs(read["value"][:, market] - wanted) < 1e-3
        assert near.mean() > 0.995  # a sum within a rounding of the alarm may fall either way
        assert 0.05 < (wanted != 0).mean() < 0.95


def test_state_is_float32_with_a_buffer_per_leaf():
    leaves = jax.tree.leaves(cusum.init(tune()))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
