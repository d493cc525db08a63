import io
import json
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.data.packing import encode_study, header, pack
from vlp.data.schema import shard_key
from vlp.errors import DataError
from vlp.records import Certainty, Report


def test_packed_bytes_are_the_members_tarfile_would_write(make_study):
    packed = pack(encode_study(make_study(1, views=("lateral", "PA"))), salt="salt")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for suffix, offset, size in packed.places:
            member = tarfile.TarInfo(f"{packed.key}.{suffix}")
            member.size, member.mode = size, 0o644
            tar.addfile(member, io.BytesIO(packed.content[offset : offset + size]))
            written = tar.offset
    assert packed.content == buffer.getvalue()[:written]
    assert [suffix for suffix, _, _ in packed.places] == ["jpg", "view1.jpg", "txt", "json"]


_LETTERS = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/")


@given(name=st.text(alphabet=_LETTERS, min_size=1, max_size=100), size=st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(name, size):
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    assert header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)


def test_what_the_manifest_needs_travels_with_the_bytes(make_study):
    loaded = make_study(3, views=("lateral", "AP"), person="p")
    packed = pack(encode_study(loaded), salt="salt")
    assert packed.key == shard_key("study.3", "salt")
    assert (packed.split, packed.patient, packed.views) == ("train", "p", ("AP", "lateral"))
    assert packed.sentences == {"report": 2}
    assert packed.labels == {"pneumothorax": Certainty.ABSENT, "edema": Certainty.PRESENT}
    assert (packed.labels_origin, packed.license, packed.synthetic) == ("source", "CC0", True)
    places = {suffix: packed.content[offset : offset + size] for suffix, offset, size in packed.places}
    assert json.loads(places["json"])["key"] == packed.key
    assert places["txt"].decode() == loaded.study.report.text


def test_broken_encoding_is_a_fault_and_no_crash(make_study):
    loaded = make_study(1)
    broken = replace(loaded, study=replace(loaded.study, report=Report(text="half \ud800"), sentences=()))
    with pytest.raises(DataError, match="half a character"):
        pack(encode_study(broken), salt="")
    broken = replace(loaded, study=replace(loaded.study, source="half \ud800"))
    with pytest.raises(DataError):
        pack(encode_study(broken), salt="")


def test_a_study_without_split_is_refused(make_study):
    with pytest.raises(DataError, match="without a split"):
        pack(encode_study(make_study(1, split=None)), salt="")
