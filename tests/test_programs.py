"""Kept programs: the same quotes without tracing; what is damaged, foreign or cannot be written is compiled anew."""

import jax
import numpy as np
import step_stage as stage

from exec import programs
from exec.programs import DIGEST_BYTES, KEPT, Programs
from mmjax.schema import Dims
from mmjax.step import CompiledStep

DIMS = Dims(8)


def test_a_kept_program_is_loaded_untraced_and_quotes_the_same(tmp_path):
    market, params = stage.universe(8), stage.params(8)
    kept = Programs(tmp_path / "new" / "folder")
    compiled = CompiledStep(DIMS, params, market, kept)
    loaded = CompiledStep(DIMS, params, market, kept)
    assert (compiled.trace_count, loaded.trace_count) == (1, 0)
    shows, quotes = stage.Shows(market, seed=3), None
    packed_account = compiled.account_layout.filled(jax.tree.map(lambda leaf: np.array([leaf]), stage.account()))
    for _ in range(20):
        packed = compiled.obs_layout.filled(shows.next(quotes))
        one, other = compiled(packed, packed_account), loaded(packed, packed_account)
        for left, right in zip(one, other, strict=True):
            stage.assert_same_bits(left, right)
        quotes = one[0]
    assert quotes.target_lots.any()

    (path,) = (tmp_path / "new" / "folder").glob("*.step")
    kept.put(DIMS, b"not a program")
    assert CompiledStep._thawed(loaded, kept) is None and path.exists()


def test_what_is_damaged_is_not_there(tmp_path):
    kept = Programs(tmp_path)
    assert kept.get(DIMS) is None
    kept.put(DIMS, b"program")
    assert kept.get(DIMS) == b"program"
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:DIGEST_BYTES], b"", whole[:-1] + b"?"):
        path.write_bytes(damaged)
        assert kept.get(DIMS) is None


def test_other_sizes_sources_and_versions_are_other_programs(tmp_path, monkeypatch):
    kept = Programs(tmp_path)
    kept.put(DIMS, b"program")
    assert kept.get(Dims(16)) is None and kept.get(Dims(8, levels=4)) is None
    monkeypatch.setattr(programs, "_processor", lambda: "another")
    assert kept.get(DIMS) is None
    monkeypatch.undo()
    monkeypatch.setenv("XLA_FLAGS", "--xla_another")
    assert kept.get(DIMS) is None


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    kept = Programs(blocked / "below")
    kept.put(DIMS, b"program")
    assert kept.get(DIMS) is None


def test_only_so_many_are_kept(tmp_path):
    kept = Programs(tmp_path)
    for levels in range(1, KEPT + 4):
        kept.put(Dims(8, levels=levels), b"program")
    assert len(list(tmp_path.iterdir())) == KEPT
    assert kept.get(Dims(8, levels=KEPT + 3)) == b"program"
