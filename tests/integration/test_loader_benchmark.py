"""The programs that measure loaders and whole runs: that they compare equal things, and count what they say."""

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks.clocked_run import between
from benchmarks.end_to_end import AS_IT_COMES, Setting, make_lines, rate
from benchmarks.loader import Compared, OtherPixelsError, compare, refuse_other_pixels, verdicts
from benchmarks.loader import make_lines as loader_lines
from benchmarks.loader_data import SHARDS, write_shards
from benchmarks.peer_packages import NotInstalledError, install
from benchmarks.processes import Moment, cpu_seconds
from benchmarks.turns import ROOT
from vlp.data import open_shards

STUDIES = 40


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("loader") / "shards", size_px=512, studies=STUDIES)


def test_studies_are_as_large_as_they_are_said_to_be(shards):
    reader = open_shards(shards)
    keys = reader.keys("train")
    assert len(keys) == STUDIES
    assert len(reader.manifest.shards) == SHARDS
    assert 50_000 < sum(len(reader.encoded(key)) for key in keys) / STUDIES < 75_000
    assert reader.image(keys[0]).shape == (512, 512)
    assert all(reader.num_images(key) == 1 and reader.text(key) for key in keys)
    assert sum(bool(reader.sample(key).sentences) for key in keys) == STUDIES


def test_floor_ours_and_webdataset_take_turns_on_the_same_pixels_and_tokens(shards, tmp_path):
    pytest.importorskip("webdataset")
    names = ("floor", "vlp", "webdataset")
    compared = compare(shards, names, size_px=512, workers=1, rounds=1, packages=tmp_path, folder=tmp_path)
    assert compared.missing == {}
    assert set(compared.turns) == set(names)
    for turns in compared.turns.values():
        assert [turn["studies"] for turn in turns] == [STUDIES]
        assert 0.1 < 1000 * turns[0]["cpu_seconds"] / STUDIES < 100
    assert compared.turns["vlp"][0]["first"] > 0
    lines = {line.metric: line for line in loader_lines(compared, workers=1)}
    assert lines["floor studies/s"].ratio == 1.0
    assert lines["vlp / floor"].value == pytest.approx(lines["vlp studies/s"].ratio)


def _turn(rate_, *, cpu=1.0):
    return {"studies": 100, "seconds": 100 / rate_, "cpu_seconds": cpu, "first": 0.1, "others": 0.0}


def test_ratios_are_those_of_turns_in_one_round():
    # The machine was half as fast in the second round, which is no loader's fault.
    compared = Compared(
        size_px=512,
        turns={
            "floor": [_turn(1000), _turn(500)],
            "vlp": [_turn(950), _turn(475)],
            "open_clip": [_turn(300), _turn(170)],
        },
    )
    lines = {line.metric: line for line in loader_lines(compared, workers=2)}
    assert lines["vlp / floor"].value == pytest.approx(0.95)
    assert (lines["vlp / floor"].low, lines["vlp / floor"].high) == pytest.approx((0.95, 0.95))
    assert lines["vlp processor time"].value == pytest.approx(10.0)
    said = verdicts(compared)
    assert "512 px: >= 0.9 of floor: 0.95, met" in said
    assert "512 px: >= 3 of open_clip: 2.98, NOT MET" in said
    assert "512 px: >= 1 of litdata: not measured" in said


def test_other_pixels_or_tokens_are_refused_and_those_of_other_ways_are_not():
    same = {"grey": 90.0, "tokens": 12.0}
    refuse_other_pixels({"floor": same | {"tokens": 0.0}, "vlp": same, "mds": same, "open_clip": {"grey": 0.0}})
    with pytest.raises(OtherPixelsError, match="grey"):
        refuse_other_pixels({"floor": same, "vlp": same | {"grey": 90.2}})
    with pytest.raises(OtherPixelsError, match="tokens"):
        refuse_other_pixels({"vlp": same, "webdataset": same | {"tokens": 11.0}})


def test_what_cannot_be_installed_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match="neither uv nor pip"):
        install("mds", tmp_path)
    assert not list(tmp_path.iterdir())


def test_processor_time_counts_children_that_live_and_that_are_gone():
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    before, started = Moment.now(), time.process_time()
    subprocess.run([sys.executable, "-c", burn], check=True)
    with subprocess.Popen([sys.executable, "-c", burn + "input()"], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 30
        while cpu_seconds(child.pid) < 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
        measured = Moment.now().since(before)
        child.communicate(b"\n")
    own = time.process_time() - started
    assert 0.55 < measured["cpu_seconds"] - own < 2.0
    assert 0.0 <= measured["others"] <= (os.cpu_count() or 1)


_PROGRAM = """
import sys, time, torch
from torch.utils.data import DataLoader
from pathlib import Path
from benchmarks.step_clock import StepClock
class Slow(torch.utils.data.Dataset):
    def __len__(self): return 100
    def __getitem__(self, index): time.sleep(0.03); return torch.ones(2)
StepClock(Path(sys.argv[1]), steps=4).attach()
layer = torch.nn.Linear(2, 3)
optimizer = torch.optim.SGD(layer.parameters())
for batch in DataLoader(Slow(), batch_size=1):
    layer(batch).sum().backward()
    time.sleep(0.09)
    optimizer.step()
sys.exit("it went on")
"""


def test_the_clock_notes_steps_and_waits_of_an_unchanged_program_and_ends_it(tmp_path):
    file = tmp_path / "steps.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(file)], env=environment, check=False)
    assert done.returncode == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 4
    run = between(rows[0], rows[-1], steps=3)
    assert run.parameters == 9
    assert run.threads >= 1
    assert run.seconds >= 3 * 0.12
    assert 3 * 0.03 <= run.waited < run.seconds - 3 * 0.09
    assert rate(run) == pytest.approx(3 * 64 / run.seconds)


def test_a_whole_runs_figures_are_of_the_same_round():
    def run(seconds):
        start = {"wall": 0.0, "own": 0.0, "machine": 0.0, "waited": 0.0, "parameters": 5, "threads": 1}
        end = start | {"wall": seconds, "own": 2.0, "machine": 3.0, "waited": 0.1}
        return between(start, end, steps=10)

    turns = {"vlp": [run(1.0), run(2.0)], "open_clip": [run(1.5), run(3.0)]}
    setting = Setting(workers=1, threads=1)
    lines = {line.metric: line for line in make_lines({"vlp": {setting: 9.0}}, turns)}
    assert lines["vlp samples/s"].ratio == pytest.approx(1.5)
    assert lines["vlp data wait"].value == pytest.approx((0.1 + 0.05) / 2)
    assert lines["vlp, workers=1 threads=1 (one short run)"].value == 9.0
    assert str(AS_IT_COMES) == "as it comes"
