import logging
import subprocess
import sys
from pathlib import Path

import pytest

from vlp.errors import DataError
from vlp.retrieval.facts import FILE_NAME, IndexFacts, read_facts
from vlp.retrieval.segments import SEGMENTS
from vlp.retrieval.writing import JOURNAL, LOCK, Write, Writer, append, read_journal, write_facts

FACTS = IndexFacts(vlp_version="1", checkpoint="a" * 64, dim=4)
NEXT = FACTS.model_copy(update={"generation": 2})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / SEGMENTS).mkdir()
    write_facts(tmp_path, FACTS)
    return tmp_path


def test_a_generation_counts_once_it_is_committed(folder: Path) -> None:
    with Writer(folder) as writer:
        writer.begin("add")
        assert read_facts(folder) == FACTS
        writer.commit(NEXT, what="add", counts={"added": 3})
    assert read_facts(folder) == NEXT
    assert [(line.what, line.state, line.generation) for line in read_journal(folder)] == [
        ("add", "begun", 2),
        ("add", "complete", 2),
    ]
    assert read_journal(folder)[-1].counts == {"added": 3}


def test_what_no_generation_names_is_removed(folder: Path) -> None:
    with Writer(folder) as writer:
        place, name = writer.place()
        assert name == "000001"
        place.mkdir()
        writer.keep(name)
        (folder / SEGMENTS / ".partial-000007").mkdir()
    (folder / ".partial-abc").write_text("half a file")
    with Writer(folder):
        assert list((folder / SEGMENTS).iterdir()) == []
        assert sorted(path.name for path in folder.iterdir()) == [LOCK, FILE_NAME, SEGMENTS]


def test_a_write_that_was_broken_off_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(folder, Write(generation=2, what="add", state="begun"))
    with caplog.at_level(logging.WARNING, logger="vlp.retrieval.writing"), Writer(folder):
        pass
    assert "a write (add) was broken off and had no effect" in caplog.text


def test_a_write_that_lacks_only_its_line_is_complete(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(folder, Write(generation=2, what="remove", state="begun"))
    write_facts(folder, NEXT)
    with Writer(folder):
        pass
    assert caplog.text == ""
    assert [line.state for line in read_journal(folder)] == ["begun", "complete"]


def test_a_torn_line_of_the_journal_is_dropped(folder: Path) -> None:
    append(folder, Write(generation=2, what="add", state="begun"))
    whole = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(whole + whole[:-9])
    assert len(read_journal(folder)) == 1
    append(folder, Write(generation=2, what="add", state="complete"))
    assert [line.state for line in read_journal(folder)] == ["begun", "complete"]


def test_one_writer_at_a_time_of_all_processes(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vlp.retrieval.writing import Writer\n"
        "with Writer(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataError, match="another process is writing this index"), Writer(folder):
        pass
    holder.kill()
    holder.communicate()
    with Writer(folder):
        pass


def test_there_must_be_an_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an index"), Writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
