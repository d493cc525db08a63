from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.counts import Counts
from vlp.data.journal import Entry
from vlp.data.manifest import Sample, Shard
from vlp.data.packing import PackedStudy
from vlp.errors import DataError
from vlp.ingest.ledger import LETTERS, Ledger, letters_of, phi_of, recorded, sound_entries
from vlp.ingest.privacy import PhiBudget, Privacy, PrivacyConfig
from vlp.ingest.source import StudyFault
from vlp.ingest.work import UnitResult

PRIVACY = Privacy(PrivacyConfig())
SPLIT_OF = {letter: split for split, letter in LETTERS.items()}
UNITS = st.lists(st.text(alphabet="ttvexo", max_size=4), min_size=1, max_size=25)
"""What every unit holds: studies of three splits, refused ones (x), ones left out by a rule (o)."""


def _result(unit: int, letters: str) -> UnitResult:
    phi = PhiBudget(PRIVACY.config)
    phi.studies, phi.identifying, phi.dates = len(letters), letters.count("v"), letters.count("t")
    phi.hits.update({"name": letters.count("v")} if "v" in letters else {})
    return UnitResult(outcomes=[_outcome(f"{unit}.{place}", letter) for place, letter in enumerate(letters)], phi=phi)


def _outcome(key: str, letter: str) -> PackedStudy | StudyFault:
    if letter in "xo":
        return StudyFault(code="excluded_view" if letter == "o" else "bad", message=key)
    return PackedStudy(
        key=key,
        split=SPLIT_OF[letter],
        patient=key,
        views=("PA",),
        places=(),
        sentences={},
        labels={},
        labels_origin="none",
        source="",
        license="",
        synthetic=False,
        content=b"",
    )


class Writer:
    """Closes a shard when it is full, as the real one does, and says so in a journal."""

    def __init__(self, ledger: Ledger, journal: list[Entry], per_shard: int) -> None:
        self.ledger, self.journal, self.per_shard = ledger, journal, per_shard
        self.open: dict[str, list[str]] = {split: [] for split in LETTERS}

    def add(self, study: PackedStudy) -> None:
        self.open[study.split].append(study.key)
        if len(self.open[study.split]) == self.per_shard:
            self.close(study.split)

    def close(self, split: str) -> None:
        keys, self.open[split] = self.open[split], []
        samples = tuple(Sample(key=key, patient=key, views=(), sentences=0, members={}) for key in keys)
        shard = Shard(
            name=f"{split}-000000.tar", split=split, bytes=0, sha256="", num_samples=len(keys), samples=samples
        )
        self.journal.append(Entry(shard=shard, counts=Counts(), **self.ledger.notes()))

    def finish(self) -> None:
        for split, keys in self.open.items():
            if keys:
                self.close(split)


class KilledError(Exception):
    pass


def _build(units: list[str], journal: list[Entry], per_shard: int, steps: int) -> Ledger:
    """One start of a build, which is killed after some studies (or faults, which cost a step as well)."""
    ledger = Ledger([str(unit) for unit in range(len(units))], journal, privacy=PRIVACY, salt="")
    writer = Writer(ledger, journal, per_shard)
    for number in ledger.todo():
        for study in ledger.enter(number, _result(number, units[number])):
            steps -= 1
            if steps < 0:
                raise KilledError
            writer.add(study)
    if steps < 5:
        raise KilledError
    writer.finish()
    return ledger


def _order(journal: list[Entry]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {split: [] for split in LETTERS}
    for entry in journal:
        found[entry.shard.split].extend(sample.key for sample in entry.shard.samples)
    return found


@settings(deadline=None)
@given(units=UNITS, per_shard=st.integers(1, 6), kills=st.lists(st.integers(0, 30), max_size=6))
def test_however_often_it_is_killed_nothing_is_lost_doubled_or_out_of_order(units, per_shard, kills):
    undisturbed: list[Entry] = []
    expected = _build(units, undisturbed, per_shard, 10_000)
    journal: list[Entry] = []
    for steps in kills:
        try:
            _build(units, journal, per_shard, steps)
        except KilledError:
            continue
    ledger = _build(units, journal, per_shard, 10_000)
    assert _order(journal) == _order(undisturbed)
    assert [entry.shard.num_samples for entry in journal if entry.shard.split == "train"] == [
        entry.shard.num_samples for entry in undisturbed if entry.shard.split == "train"
    ]
    assert ledger.read == expected.read == sum(map(len, units))
    assert ledger.tally == expected.tally
    assert ledger.tally.faults.total() == sum(unit.count("x") for unit in units)
    assert ledger.tally.left_out == Counter({"excluded_view": sum(unit.count("o") for unit in units)}) - Counter()
    assert ledger.phi.summary() == expected.phi.summary()


@given(units=UNITS, per_shard=st.integers(1, 3), changed=st.integers(0, 24))
def test_entries_before_a_changed_unit_hold_nothing_of_it(units, per_shard, changed):
    journal: list[Entry] = []
    _build(units, journal, per_shard, 10_000)
    kept = journal[: sound_entries(journal, changed)]
    later = {sample.key for entry in kept for sample in entry.shard.samples if int(sample.key.split(".")[0]) >= changed}
    assert not later
    assert len(recorded(kept)) <= changed


def test_only_open_shards_are_done_again():
    units = ["t", "t", "v", "t", "t", "x"]
    journal: list[Entry] = []
    with pytest.raises(KilledError):
        _build(units, journal, 2, 5)
    ledger = Ledger([str(unit) for unit in range(6)], journal, privacy=PRIVACY, salt="")
    # Two shards of train are closed, the second one in the middle of unit 4; the only study of val is not.
    assert [entry.units for entry in journal] == [("t",), ("t", "v", "t")]
    assert ledger.todo() == [2, 4, 5]


def test_a_unit_that_is_another_now_stops_the_build():
    journal: list[Entry] = []
    _build(["tv", "tt"], journal, 2, 10_000)
    ledger = Ledger(["0", "1"], journal[:1], privacy=PRIVACY, salt="")
    assert ledger.todo() == [0, 1]
    with pytest.raises(DataError, match="not what it was when this build was begun"):
        list(ledger.enter(0, _result(0, "tx")))


def test_faults_say_which_unit_by_its_hash_only():
    ledger = Ledger(["patient-7"], [], privacy=PRIVACY, salt="salt")
    list(ledger.enter(0, _result(0, "xto")))
    notes = ledger.notes()
    assert notes["units"] == ("xto",)
    assert [refused.code for refused in notes["refused"]] == ["bad"]
    assert "patient" not in notes["refused"][0].model_dump_json()
    assert notes["left_out"] == {"excluded_view": 1}
    assert ledger.notes()["units"] == ()


def test_letters_and_counts_come_back():
    assert letters_of(_result(0, "tvexo").outcomes) == "tvexo"
    phi = _result(0, "tvv").phi
    assert phi_of(phi.summary(), PRIVACY.config).summary() == phi.summary()
    assert phi_of({}, PRIVACY.config).summary() == PhiBudget(PRIVACY.config).summary()
