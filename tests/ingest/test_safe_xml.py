import pytest

from vlp.errors import DataError
from vlp.ingest.safe_xml import MAX_BYTES, read_xml


def _read(folder, content):
    path = folder / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_xml(path)


def test_elements_text_and_the_entities_of_xml_itself_are_read(tmp_path):
    root = _read(tmp_path, '<a x="1 &amp; 2"><b>5 &lt; 6 &#228;</b><b/>\n</a>')
    assert root.get("x") == "1 & 2"
    assert [part.text for part in root.iter("b")] == ["5 < 6 ä", None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_encodings_are_those_the_file_states(tmp_path, encoding):
    name = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    root = _read(tmp_path, f'<?xml version="1.0" encoding="{name}"?><a>größer</a>'.encode(encoding))
    assert root.text == "größer"


LAUGHS = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 9))


@pytest.mark.parametrize(
    "content",
    [
        f'<!DOCTYPE a [<!ENTITY e0 "ha">{LAUGHS}]><a>&e8;</a>',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]><a>&e;</a>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]><a/>',
        "<!DOCTYPE a><a/>",
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>'.encode("utf-16"),
    ],
)
def test_document_types_are_refused_whatever_they_hold(tmp_path, content):
    with pytest.raises(DataError, match="document type"):
        _read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<a><b></a>", "line 1: not XML"),
        ("<a>\n<b>", "line 2: not XML"),
        ("", "not XML"),
        ("no xml", "not XML"),
        ("<a>&unknown;</a>", "not XML"),
        (b"<a>\xff</a>", "not XML"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "not XML|encoding"),
        ("<a>" * 101 + "</a>" * 101, "nested too deeply"),
    ],
)
def test_what_is_no_xml_is_refused_by_file_and_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        _read(tmp_path, content)
    assert str(error.value).startswith(str(tmp_path / "a.xml"))


def test_files_that_are_missing_or_too_large_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_xml(tmp_path / "absent.xml")
    path = tmp_path / "a.xml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="larger than 16 MiB"):
        read_xml(path)
