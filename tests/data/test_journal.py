import json
import os
import subprocess
import sys

import pytest

from vlp.data.counts import Counts
from vlp.data.journal import Entry, Journal, Refused, differences, refuse_other
from vlp.data.manifest import Sample, Shard
from vlp.errors import DataError

IDENTITY = {"recipe": {"max_side_px": None, "annotations": ["a"]}, "vlp": "1"}


def _entry(number: int) -> Entry:
    sample = Sample(key=f"k{number}", patient="p", views=("PA",), sentences=1, members={"json": (512, 9)})
    name = f"train-{number:06d}.tar"
    shard = Shard(name=name, split="train", bytes=10240, sha256="ab", num_samples=1, samples=(sample,))
    refused = (Refused(unit="u", code="unreadable_image", message="line 3: damaged"),)
    return Entry(shard=shard, counts=Counts(), units=("t", "xv"), refused=refused, left_out={"excluded": 2})


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.start(IDENTITY)
        for number in range(3):
            journal.append(_entry(number))
    return tmp_path / "j"


def test_it_comes_back_as_it_was_written(path):
    with Journal(path) as journal:
        assert journal.identity == IDENTITY
        assert journal.entries == [_entry(number) for number in range(3)]


def test_wherever_it_is_cut_off_whole_lines_count_and_writing_goes_on(path):
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for end in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:end])
        whole = sum(end >= sum(map(len, lines[: count + 1])) for count in range(len(lines)))
        with Journal(path) as journal:
            assert (journal.identity is not None) == (whole > 0)
            assert len(journal.entries) == max(0, whole - 1)
            if whole:
                journal.append(_entry(7))
        if whole:
            with Journal(path) as journal:
                assert journal.entries[-1] == _entry(7)
                assert len(journal.entries) == whole


def test_garbage_in_the_middle_ends_it_there(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"shard": 1}\n', *lines[2:]]))
    with Journal(path) as journal:
        assert journal.entries == [_entry(0)]


def test_entries_can_be_taken_back(path):
    with Journal(path) as journal:
        journal.cut(1)
        journal.append(_entry(5))
    with Journal(path) as journal:
        assert journal.entries == [_entry(0), _entry(5)]
        journal.cut(9)  # there are not so many
        assert len(journal.entries) == 2


def test_a_new_start_forgets_the_old_one(path):
    with Journal(path) as journal:
        journal.start({"recipe": 2})
    with Journal(path) as journal:
        assert (journal.identity, journal.entries) == ({"recipe": 2}, [])


def test_nobody_else_gets_in_while_it_is_open_not_even_another_process(path):
    code = (
        "import sys; from pathlib import Path; from vlp.data.journal import Journal; from vlp.errors import DataError\n"
        "try: Journal(Path(sys.argv[1])); print('in')\nexcept DataError as error: print(error)"
    )
    run = [sys.executable, "-c", code, str(path)]
    with Journal(path):
        with pytest.raises(DataError, match="another process is writing"):
            Journal(path)
        assert "another process is writing" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "in\n"


def test_removing_it_twice_spares_the_next_one(path):
    with Journal(path) as journal:
        journal.remove()
        assert not path.exists()
        path.write_text("of the next build")
        journal.remove()
        assert path.exists()


def test_a_failed_line_leaves_no_half_line(path, monkeypatch):
    before = path.read_bytes()
    real, calls = os.pwrite, []

    def half(file, content, offset):
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(file, content[:20], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with Journal(path) as journal:
        with pytest.raises(OSError, match="No space"):
            journal.append(_entry(4))
        assert len(journal.entries) == 3
    assert path.read_bytes() == before


def test_differences_name_the_keys():
    now = {"recipe": {"max_side_px": 64, "annotations": ["a", "b"]}, "vlp": "1"}
    assert differences(IDENTITY, now) == [
        'recipe.annotations.1: null there, "b" now',
        "recipe.max_side_px: null there, 64 now",
    ]
    assert differences(IDENTITY, json.loads(json.dumps(IDENTITY))) == []


def test_another_build_is_refused_in_one_line_and_the_same_is_not(path):
    with Journal(path) as journal:
        refuse_other(journal, IDENTITY, name="here")
        other = {f"key{number}": number for number in range(6)}
        with pytest.raises(DataError, match=r"here: .*key0: null there, 0 now.*and 5 more.*--again") as caught:
            refuse_other(journal, other, name="here")
        assert "\n" not in str(caught.value)
