import csv
import gzip
import json
import tarfile
from collections import Counter

import pytest

from tests.ingest.archives.replicas import open_i as replica
from tests.ingest.archives.replicas import open_i_kaggle, open_i_r2gen
from tests.ingest.real_data import real_data
from vlp.errors import DataError
from vlp.ingest.archives.open_i_reports import KaggleReports, R2GenReports, XmlReports, bare_name, find_reports


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("CXR1_1_IM-0001-3001", "1_IM-0001-3001"),
        ("1_IM-0001-3001", "1_IM-0001-3001"),
        ("CXR4_IM-2050-1001", "4_IM-2050-1001"),
        ("CXR11_1_IM-0001-3001", "CXR11_1_IM-0001-3001"),
        ("another", "another"),
    ],
)
def test_all_layouts_share_a_part_of_an_images_name(name, bare):
    assert bare_name(name) == bare


def test_the_layout_is_told_by_what_is_there(tmp_path):
    for builder, kind in ((replica, XmlReports), (open_i_kaggle, KaggleReports), (open_i_r2gen, R2GenReports)):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        builder.build(folder)
        assert isinstance(find_reports(folder, None), kind)
    with pytest.raises(DataError, match="is this Open-I"):
        find_reports(tmp_path, None)


def test_xml_files_come_by_number_and_lie_in_the_folder_or_below(tmp_path):
    for number in (10, 9, 100):
        (tmp_path / f"{number}.xml").write_text(f'<eCitation><uId id="CXR{number}"/></eCitation>')
    reports = find_reports(tmp_path, None)
    assert list(reports.units()) == ["9", "10", "100"]
    assert [reports.entry(unit).id for unit in reports.units()] == ["CXR9", "CXR10", "CXR100"]
    with pytest.raises(DataError, match="not a unit"):
        reports.entry("../9")


def test_a_report_without_its_number_is_a_fault(tmp_path):
    (tmp_path / "1.xml").write_text("<eCitation><MeSH/></eCitation>")
    with pytest.raises(DataError, match="report 1 of 1: there is no uId"):
        XmlReports(tmp_path).entry("1")


def test_a_licence_of_its_own_is_kept(tmp_path):
    (tmp_path / "1.xml").write_text('<e><uId id="CXR1"/><licenseURL>http://example.org/by/4.0/</licenseURL></e>')
    assert XmlReports(tmp_path).entry("1").license == "http://example.org/by/4.0/"


@pytest.mark.parametrize("content", ["[]", '{"train": []}', '{"train": [], "val": [], "test": []}', "{"])
def test_an_annotation_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "annotation.json").write_text(content)
    with pytest.raises(DataError, match=r"annotation\.json"):
        R2GenReports(tmp_path).units()


def test_a_changed_annotation_file_is_read_again(tmp_path):
    open_i_r2gen.build(tmp_path)
    reports = R2GenReports(tmp_path)
    before = len(reports.units())
    content = dict(open_i_r2gen.RECORDS, test=[])
    (tmp_path / "annotation.json").write_text(json.dumps(content))
    assert len(reports.units()) == before - 1


@pytest.fixture(scope="module")
def real_reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_i")
    with tarfile.open(real_data("native", "openi", "NLMCXR_reports_subset.tgz")) as archive:
        archive.extractall(folder, filter="data")
    return XmlReports(folder)


@pytest.mark.real_data
def test_both_copies_of_the_real_reports_agree(real_reports):
    original = real_reports
    entries = {(entry := original.entry(unit)).id: entry for unit in original.units()}
    assert len(entries) == 3184
    assert {entry.license for entry in entries.values()} == {"CC BY-NC-ND 4.0"}
    copy = KaggleReports(real_data("native", "openi"))
    differ = Counter()
    for unit in copy.units():
        entry = copy.entry(unit)
        other = entries[entry.id]
        differ["codes"] += entry.codes != other.codes
        differ["pictures"] += {bare_name(p.name) for p in entry.pictures} != {bare_name(p.name) for p in other.pictures}
        # Kaggle's copy has lost two indications that began with "+" and "-".
        differ["text"] += entry.text != other.text
        differ["findings"] += entry.text.partition("FINDINGS")[2] != other.text.partition("FINDINGS")[2]
    assert len(copy.units()) == 3080
    assert differ == {"codes": 0, "pictures": 3, "text": 2, "findings": 0}


@pytest.mark.real_data
def test_real_sections_are_those_of_an_independent_reading(real_reports):
    reports = real_reports
    with gzip.open(real_data("text", "iu_xray_reports.jsonl.gz"), "rt", encoding="utf-8") as lines:
        expected = {str(entry["uid"]).removeprefix("CXR"): entry for entry in map(json.loads, lines)}
    for unit in list(reports.units())[::7]:
        entry, other = reports.entry(unit), expected[unit]
        for name in ("comparison", "indication", "findings", "impression"):
            if (other[name] or "").strip():
                assert f"{name.upper()}: {other[name].strip()}" in entry.text
            else:
                assert f"\n{name.upper()}: " not in f"\n{entry.text}"
        assert list(entry.codes) == other["mesh_major"]
        assert [picture.name for picture in entry.pictures] == other["image_ids"]


@pytest.mark.real_data
def test_kaggles_real_header_is_the_replicas(tmp_path):
    open_i_kaggle.build(tmp_path)
    path = real_data("native", "openi", "indiana_reports.csv.gz")
    with gzip.open(path, "rt") as real, (tmp_path / "indiana_reports.csv").open() as made:
        assert next(csv.reader(real)) == next(csv.reader(made))
