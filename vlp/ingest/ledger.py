"""What became of every unit of an archive, and therefore what is left to do when a build is continued.

Studies reach the shards of their split in the archive's order, so the closed shards of a split hold its first studies.
That, and one letter per study, is all there is to know: a unit is done when all of its studies lie in closed shards.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlp.data.journal import Entry, Refused
from vlp.data.packing import PackedStudy
from vlp.errors import DataError
from vlp.ingest.privacy import PhiBudget, Privacy, PrivacyConfig
from vlp.ingest.privacy.phi import KINDS
from vlp.ingest.quarantine import Tally, is_left_out, unit_hash
from vlp.ingest.source import StudyFault
from vlp.ingest.work import Outcome, UnitResult
from vlp.records import Split

LETTERS: Mapping[Split, str] = {"train": "t", "val": "v", "test": "e"}
REFUSED = "x"
LEFT_OUT = "o"


class Ledger:
    """The units of one build, in order; each is entered once, whether by this process or by one before."""

    def __init__(self, units: Sequence[str], entries: Sequence[Entry], *, privacy: Privacy, salt: str) -> None:
        """Begins after what `entries` say is done."""
        self.tally = Tally()
        self.phi = PhiBudget(privacy.config)
        self.read = 0
        """Studies of all units entered so far, whatever became of them."""
        self._units = units
        self._privacy = privacy
        self._salt = salt
        self._recorded = recorded(entries)
        self._closed = Counter[str]()
        for entry in entries:
            self._closed[LETTERS[entry.shard.split]] += entry.shard.num_samples
            self.tally.refused.extend(entry.refused)
            self.tally.left_out.update(entry.left_out)
            self.phi.merge(phi_of(entry.privacy, privacy.config))
        self.read = sum(map(len, self._recorded))
        self._seen = Counter[str]()
        """Studies of every split before the unit `_next`."""
        self._next = 0
        self._forget_notes()

    def todo(self) -> list[int]:
        """Numbers of the units that must be loaded: unknown ones, and those with a study in no closed shard."""
        seen = Counter[str]()
        found = []
        for number in range(len(self._units)):
            letters = self._recorded[number] if number < len(self._recorded) else None
            if letters is not None:
                seen.update(letters)
            if letters is None or any(seen[letter] > self._closed[letter] for letter in set(letters) & _SPLITS):
                found.append(number)
        return found

    def enter(self, number: int, result: UnitResult) -> Iterator[PackedStudy]:
        """Takes down what became of a unit, and gives its studies that are not in a closed shard yet.

        Raises:
            DataError: if the unit was known and now is another.
        """
        for skipped in range(self._next, number):
            self._seen.update(self._recorded[skipped])
        self._next = number + 1
        outcomes = result.outcomes
        letters = letters_of(outcomes)
        if number < len(self._recorded) and letters != self._recorded[number]:
            raise DataError(
                "the archive is not what it was when this build was begun: a study is there that was not, or is gone; "
                "start afresh with --again"
            )
        for letter, outcome in zip(letters, outcomes, strict=True):
            self._seen[letter] += 1
            if isinstance(outcome, PackedStudy) and self._seen[letter] > self._closed[letter]:
                yield outcome
        if number >= len(self._recorded):
            self._note(letters, [outcome for outcome in outcomes if isinstance(outcome, StudyFault)], number)
            self._phi.merge(result.phi)
            self.phi.merge(result.phi)

    def notes(self) -> dict[str, Any]:
        """The fields of a journal's entry about the units entered since the last call."""
        notes = {
            "units": tuple(self._new),
            "refused": tuple(self._refused),
            "left_out": dict(self._left_out),
            "privacy": self._phi.summary(),
        }
        self._forget_notes()
        return notes

    def _note(self, letters: str, faults: Sequence[StudyFault], number: int) -> None:
        name = unit_hash(self._privacy.study(self._units[number]), self._salt)
        refused = [
            Refused(unit=name, code=fault.code, message=fault.message)
            for fault in faults
            if not is_left_out(fault.code)
        ]
        left_out = Counter(fault.code for fault in faults if is_left_out(fault.code))
        self._new.append(letters)
        self._refused += refused
        self._left_out += left_out
        self.tally.refused += refused
        self.tally.left_out += left_out
        self.read += len(letters)

    def _forget_notes(self) -> None:
        self._new: list[str] = []
        self._refused: list[Refused] = []
        self._left_out = Counter[str]()
        self._phi = PhiBudget(self._privacy.config)


_SPLITS = frozenset(LETTERS.values())


def letters_of(outcomes: Sequence[Outcome]) -> str:
    """One letter per study: its split, or why there is none."""
    return "".join(
        LETTERS[outcome.split]
        if isinstance(outcome, PackedStudy)
        else (LEFT_OUT if is_left_out(outcome.code) else REFUSED)
        for outcome in outcomes
    )


def recorded(entries: Sequence[Entry]) -> list[str]:
    """Letters of the units, from the first on, that a journal knows."""
    return [letters for entry in entries for letters in entry.units]


def sound_entries(entries: Sequence[Entry], changed: int) -> int:
    """How many entries, from the first on, hold nothing of unit number `changed` or a later one."""
    finished = 0
    for count, entry in enumerate(entries):
        finished += len(entry.units)
        if finished >= changed:  # the shard may hold the beginning of the next unit
            return count
    return len(entries)


def phi_of(summary: Mapping[str, int], config: PrivacyConfig) -> PhiBudget:
    """The counts that `PhiBudget.summary` gave."""
    phi = PhiBudget(config)
    phi.studies, phi.identifying = summary.get("studies", 0), summary.get("identifying_studies", 0)
    phi.dates, phi.burned_in = summary.get("dates", 0), summary.get("images_with_text", 0)
    phi.hits.update({kind: summary[f"{kind}_hits"] for kind in KINDS if f"{kind}_hits" in summary})
    return phi
