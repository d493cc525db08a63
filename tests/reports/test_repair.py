import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.reports.repair import repair

RTF = (
    r"{\rtf1\ansi\deff0{\fonttbl{\f0\fswiss Arial;}}{\colortbl;\red0\green0\blue0;}{\*\generator Made by;}"
    "\n"
    r"\viewkind4\f0\fs20 IMPRESSION:\par No {\b definite} edema.\par Caf\'e9 \u8211? na\'efve \{x\}\par}"
)


@pytest.mark.parametrize(
    ("damaged", "text", "kinds"),
    [
        ("\ufeffNo edema.", "No edema.", {"byte order mark"}),
        ("ï»¿No edema.", "No edema.", {"byte order mark"}),
        ("No edema.\r\nClear.\rDone.", "No edema.\nClear.\nDone.", {"carriage return"}),
        ("No\x00 edema\x07.", "No edema.", {"control character"}),
        ("No\u200b edema\u202e.", "No edema.", {"invisible character"}),
        (r"No edema.\.br\Clear \T\ dry.\.sp\End", "No edema.\nClear & dry.\nEnd", {"HL7 escape"}),
        ("Sin neumonÃ­a.", "Sin neumonía.", {"misread UTF-8"}),
        ("unauffÃ¤llig, groÃŸ â€“ â€œgutâ€\x9d", "unauffällig, groß – “gut”", {"misread UTF-8"}),
        (RTF, "IMPRESSION:\nNo definite edema.\nCafé – naïve {x}\n", {"RTF"}),
    ],
)
def test_what_was_damaged_is_as_it_was_meant(damaged, text, kinds):
    repaired = repair(damaged)
    assert repaired.text == text
    assert set(repaired.changes) == kinds
    assert all(count > 0 for count in repaired.changes.values())


@pytest.mark.parametrize(
    "text", ["No edema.\n", "Größe, café, neumonía – “gut”", r"5 \ 6 \n", "Â", "3 × 4 ±", "{rtf}", ""]
)
def test_a_sound_text_stays(text):
    assert repair(text).text == text
    assert not repair(text).changes


def test_every_change_is_counted():
    assert repair("a\r\nb\r\nc\x00").changes == {"carriage return": 2, "control character": 1}


@given(st.text(alphabet="aé \n.ñü–", max_size=60))
def test_misread_text_is_read_again_in_full(text):
    misread = "".join(
        bytes([byte]).decode("cp1252") if byte not in {0x81, 0x8D, 0x8F, 0x90, 0x9D} else chr(byte)
        for byte in text.encode()
    )
    assert repair(misread).text == text


@given(st.text() | st.text(alphabet=r"\{}abpar'*\.br", max_size=40).map(lambda text: "{\\rtf1 " + text))
def test_anything_is_repaired_without_a_fault(text):
    assert "\x00" not in repair(text).text
