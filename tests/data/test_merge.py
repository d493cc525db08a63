from contextlib import suppress

import fsspec
import pytest

from vlp.data.journal import Journal, Refused
from vlp.data.manifest import QUARANTINE_NAME, read_manifest
from vlp.data.merge import merge
from vlp.data.reader import open_shards
from vlp.data.remote import Remote
from vlp.data.storage import Folder
from vlp.data.validate import check
from vlp.data.writer import ShardWriter
from vlp.errors import DataError

FACTS = {"recipe": {"made": "here"}, "source_fingerprint": "f"}
REFUSED = Refused(unit="u", code="unreadable_image", message="line 3: damaged")


def _write(target, studies, *, part=None, refused=(), per_shard=3, **settings):
    with ShardWriter(
        target, samples_per_shard=per_shard, recipe=FACTS["recipe"], source_fingerprint="f", **settings
    ) as writer:
        for study in studies:
            writer.write(study)
        writer.facts = {"read": len(studies) + len(refused), "left_out": {}, "privacy": {"dates": 0}}
        writer.facts |= {"part": part} if part else {}
        writer.faults.update(line.code for line in refused)
        if refused:
            writer.beside[QUARANTINE_NAME] = b"".join(line.model_dump_json().encode() + b"\n" for line in refused)
    return writer.manifest


@pytest.fixture
def studies(make_study):
    return [make_study(number, split="test" if number % 4 == 3 else "train") for number in range(11)]


@pytest.fixture(params=["folder", "remote"])
def whole(request, tmp_path):
    if request.param == "folder":
        yield Folder(tmp_path / "out" / "s")
        return
    yield Remote("memory://bucket/shards", tmp_path / "staging")
    fsspec.filesystem("memory").store.clear()


def _parts(whole, studies, cuts, **settings):
    edges = [0, *cuts, len(studies)]
    parts = [whole.part(f"{number:04d}") for number in range(1, len(edges))]
    for number, part in enumerate(parts):
        chosen = studies[edges[number] : edges[number + 1]]
        refused = (REFUSED,) if number == 1 else ()
        _write(part, chosen, part=f"{number + 1}/{len(parts)}", refused=refused, **settings)
    return parts


def _approve(manifest, refused):
    assert len(refused) == sum(manifest.faults.values())


def _samples(folder):
    reader = open_shards(folder)
    return {
        (split, key): tuple(reader.member(key, suffix) for suffix in reader.sample(key).members)
        for split in ("train", "val", "test")
        for key in reader.keys(split)
    }


@pytest.mark.parametrize("cuts", [(4,), (1, 2, 9), (0, 5, 5), (11,)])
def test_however_it_is_cut_the_whole_is_what_one_job_writes(studies, tmp_path, cuts):
    """Parts without a study, too: of more parts than units some are empty."""
    one = _write(tmp_path / "one", studies)
    whole = Folder(tmp_path / "out" / "s")
    merged = merge(_parts(whole, studies, cuts), whole, facts=FACTS, approve=_approve)
    assert check(whole.folder) == []
    assert _samples(whole.folder) == _samples(tmp_path / "one")
    assert list(_samples(whole.folder)) == list(_samples(tmp_path / "one"))
    same = {"read": 12, "faults": {"unreadable_image": 1}, "shards": merged.shards}
    assert merged == one.model_copy(update=same)
    assert (whole.folder / QUARANTINE_NAME).read_text() == REFUSED.model_dump_json() + "\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["s"]


def test_shards_keep_their_bytes_and_get_new_numbers(whole, studies):
    parts = _parts(whole, studies, (6,))
    before = [shard.sha256 for part in parts for shard in part.manifest().shards if shard.split == "train"]
    merged = merge(parts, whole, facts=FACTS, approve=_approve)
    assert whole.finished() == merged
    train = [shard for shard in merged.shards if shard.split == "train"]
    assert [shard.sha256 for shard in train] == before
    assert [shard.name for shard in train] == [f"train-{number:06d}.tar" for number in range(len(train))]
    assert all(part.names() == [] for part in parts)


def test_a_missing_or_unfinished_part_is_named(whole, studies):
    parts = _parts(whole, studies, (6,))
    parts[1].delete()
    with pytest.raises(DataError, match=r"part 2/2 is not finished; run it \(again\) with part=2/2"):
        merge(parts, whole, facts=FACTS, approve=_approve)
    assert parts[0].finished() is not None
    assert whole.finished() is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"recipe": {"made": "there"}}, "recipe.made: .here. there, .there. now"),
        ({"source_fingerprint": "g"}, "source_fingerprint"),
        ({"vlp_version": "9"}, "vlp_version"),
    ],
)
def test_a_part_of_something_else_is_refused(whole, studies, facts, reason):
    parts = _parts(whole, studies, (6,))
    with pytest.raises(DataError, match=rf"part 1/2 was made of something else \({reason}"):
        merge(parts, whole, facts=FACTS | facts, approve=_approve)


def test_parts_of_another_partition_are_refused(whole, studies):
    parts = _parts(whole, studies, (2, 6))
    with pytest.raises(DataError, match=r"part 1/2 was made of something else \(part: .1/3. there"):
        merge(parts[:2], whole, facts=FACTS, approve=_approve)


def test_no_study_twice(whole, studies):
    parts = _parts(whole, [*studies[:6], *studies[5:]], (6,))
    with pytest.raises(DataError, match="is in an earlier part, too"):
        merge(parts, whole, facts=FACTS, approve=_approve)


def test_nobody_in_two_splits(whole, make_study):
    parts = _parts(whole, [make_study(1, person="p"), make_study(2, person="p", split="val")], (1,))
    with pytest.raises(DataError, match=r"stands in two splits \(train and val\)"):
        merge(parts, whole, facts=FACTS, approve=_approve)


def test_what_is_not_approved_leaves_parts_and_target_alone(whole, studies):
    parts = _parts(whole, studies, (6,))

    def refuse(manifest, refused):
        assert list(refused) == [REFUSED]
        raise DataError("too many")

    with pytest.raises(DataError, match="too many"):
        merge(parts, whole, facts=FACTS, approve=refuse)
    assert all(part.finished() for part in parts)
    assert whole.finished() is None
    merge(parts, whole, facts=FACTS, approve=_approve)


def test_a_merge_that_breaks_off_can_be_done_again(studies, tmp_path, monkeypatch):
    whole = Folder(tmp_path / "out" / "s")
    _write(whole, studies[:1])
    before = read_manifest(whole.folder)
    parts = _parts(whole, studies, (2, 6))
    real, calls = Folder.adopt, []

    def adopt(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "adopt", adopt)
        with pytest.raises(DataError, match="cannot write shards: No space left on device"):
            merge(parts, whole, facts=FACTS, approve=_approve)
    assert read_manifest(whole.folder) == before
    whole.partial.mkdir()
    (whole.partial / "train-000000.tar").write_bytes(b"what a kill leaves")
    merge(parts, whole, facts=FACTS, approve=_approve)
    assert check(whole.folder) == []
    assert open_shards(whole.folder).manifest.num_studies == 11


def test_an_unfinished_build_of_the_whole_is_not_swept_away(studies, tmp_path):
    whole = Folder(tmp_path / "out" / "s")
    parts = _parts(whole, studies, (6,))
    with suppress(KeyboardInterrupt), Journal(whole.journal) as journal:
        journal.start({})
        with ShardWriter(whole, samples_per_shard=2, journal=journal) as writer:
            for study in studies:
                writer.write(study)
            raise KeyboardInterrupt
    with pytest.raises(DataError, match="a build of the whole was broken off there"):
        merge(parts, whole, facts=FACTS, approve=_approve)
    assert whole.journal.exists()


def test_a_damaged_quarantine_is_named(whole, studies):
    parts = _parts(whole, studies, (6,))
    if isinstance(whole, Folder):
        (parts[1].folder / QUARANTINE_NAME).write_text("{half a li")
    else:
        parts[1]._files.pipe_file(f"{parts[1]._path}/{QUARANTINE_NAME}", b"{half a li")
    with pytest.raises(DataError, match=r"quarantine\.jsonl: damaged"):
        merge(parts, whole, facts=FACTS, approve=_approve)
