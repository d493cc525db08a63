"""The program that measures the ingest: that both contenders handle the same pixels, and that its figures are right."""

import json

import numpy as np
import pytest

from benchmarks.ingest import Measured, Turn, _bare, _turn, lines, run_turn, write_archive
from vlp.config import load
from vlp.data import open_shards
from vlp.ingest.pipeline import IngestConfig


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Drawn pictures: where the real ones are not, the program must still run."""
    folder = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.ingest._IMAGES", 4)
        return write_archive(folder, "small_reports", data=folder / "none", studies=30)


def test_both_handle_the_same_studies(recipe, capsys):
    for kind in ("limit", "ingest"):
        run_turn(kind, recipe)
        said = json.loads(capsys.readouterr().out)
        assert said["studies"] == 30
        assert said["seconds"] > 0
        assert said["cpu_seconds"] > 0


def test_the_limit_encodes_what_the_shards_hold(recipe):
    config = load(IngestConfig, recipe)
    reader = open_shards(config.output)
    sizes = {
        f"{row['study_id']}": _bare(str(config.source.path / row["file"]))
        for row in map(json.loads, (config.source.path / "manifest.jsonl").read_text().splitlines())
    }
    for key in reader.keys():  # noqa: SIM118 a reader is no dict
        assert len(reader.encoded(key)) == sizes[reader.study(key).id]
    assert all(study.report is not None for study in reader.studies())


def test_memory_is_watched_while_it_runs(recipe):
    turn = _turn("ingest", recipe)
    assert turn.studies == 30
    assert len(turn.memory) > 2
    assert max(turn.memory) > 20 << 20


def _made(rates, *, memory=(0,), cpu=1.0):
    return tuple(Turn(studies=100, seconds=100 / rate, cpu_seconds=cpu, memory=memory) for rate in rates)


def test_every_ratio_is_to_the_limits_around_it():
    measured = Measured(case="c", limits=_made((10, 30, 10)), ingests=_made((10, 16), cpu=1.25))
    assert measured.ratios == pytest.approx([0.5, 0.8])
    assert measured.cpu_ratio == pytest.approx(0.8)
    found = {line.metric: line for line in lines(measured, workers=2)}
    whole = found["whole pipeline"]
    assert (whole.value, whole.low, whole.high) == pytest.approx((13, 10, 16))
    assert whole.ratio == pytest.approx(0.65)
    assert whole.baseline == "limit"
    assert found["limit"].value == 10


def test_memory_is_compared_over_time():
    memory = tuple(int(value) << 20 for value in np.linspace(100, 200, 101))
    measured = Measured(case="c", limits=_made((1, 1)), ingests=_made((1,), memory=memory))
    assert measured.peak(0.25, 0.5) == pytest.approx(149, abs=1)
    assert measured.peak(0.75, 1.0) == pytest.approx(199, abs=1)
