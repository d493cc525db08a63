from pathlib import Path

import pytest
import yaml

from vlp.ingest.phantom import truth
from vlp.prompts import lexicon
from vlp.prompts.descriptors import load_descriptors
from vlp.prompts.protocols import PROTOCOLS
from vlp.reports.findings import VOCABULARY

PHRASES = Path(truth.__file__).with_name("phrases.yaml")


def strings(data: object) -> list[str]:
    if isinstance(data, dict):
        return [text for value in data.values() for text in strings(value)]
    if isinstance(data, list):
        return [text for value in data for text in strings(value)]
    return [data] if isinstance(data, str) else []


def plain(text: str) -> str:
    return " ".join(part for part in text.replace("(", " ").replace("|", " ").split() if not part.startswith("$"))


@pytest.mark.parametrize(
    ("text", "expected", "hidden", "rewritten"),
    [
        ("There is  a\tmass.\n", "There is a mass.", 0, False),
        ("ma\u200bss\u202e", "mass", 2, False),
        ("\x1b[1;31mmass\x1b[0m", "mass", 11, False),
        ("mass\r\nERROR forged", "mass ERROR forged", 0, False),
        ("a\x00b\x07", "ab", 2, False),
        ("ｍａｓｓ", "mass", 0, True),
        ("e\u0301panchement", "épanchement", 0, False),
        ("\ufb01brosis", "fibrosis", 0, True),
        ("<b>{{x}}</b>", "<b>{{x}}</b>", 0, False),
        ("", "", 0, False),
    ],
)
def test_cleaning(text: str, expected: str, hidden: int, rewritten: bool) -> None:
    clean = lexicon.cleaned(text)
    assert (clean.text, clean.hidden, clean.rewritten) == (expected, hidden, rewritten)
    assert lexicon.cleaned(clean.text) == lexicon.Cleaned(text=clean.text, hidden=0, rewritten=False)


def test_scripts() -> None:
    assert lexicon.other_script("effusion, Erguß, épanchement 3 cm?") == (0, 26)
    assert lexicon.other_script("\u0435ffusion") == (1, 8), "a Cyrillic letter that looks like an e"
    assert lexicon.other_script("胸水 x") == (2, 3)
    assert lexicon.other_script("12 ...") == (0, 0)


def test_the_words_of_every_phrase_book_are_known() -> None:
    book = strings(yaml.safe_load(PHRASES.read_text(encoding="utf-8")))
    descriptors = load_descriptors()
    asked = [text for pair in descriptors.all for text in (pair.positive, pair.negative, pair.anatomy)]
    published = [
        text
        for protocol in PROTOCOLS.values()
        for finding in descriptors.findings
        for ask in protocol.pairs(finding, descriptors)
        for text in (*ask.positives, *ask.negatives)
    ]
    findings = [word for entry in VOCABULARY.values() for word in (entry.name, entry.noun, entry.display)]
    unknown = {word for text in [*map(plain, book), *asked, *published, *findings] for word in lexicon.unknown(text)[0]}
    assert unknown <= {"ly", "th", "sex"}, unknown  # pieces around the phrase book's $names


def test_what_says_nothing_does_not_count_and_what_is_no_word_does() -> None:
    assert lexicon.unknown("There is a mass of the lung") == ((), 2)
    assert lexicon.unknown("There is xyzzy") == (("xyzzy",), 1)
    assert lexicon.unknown("mass 🚀") == (("🚀",), 2)
    assert lexicon.unknown("1 2 3") == ((), 0)
    assert lexicon.meant("pneumotorax") == "pneumothorax"
    assert lexicon.meant("qqqq") is None


@pytest.mark.parametrize("text", ["left right lung", "the left-sided right effusion", "Right-left", "upper lower lobe"])
def test_neighbours_that_exclude_each_other(text: str) -> None:
    assert lexicon.clash(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "left and right lung",
        "left lung, right base",
        "right upper and lower lobe",
        "small to large",
        "left upper lobe",
        "",
    ],
)
def test_what_contradicts_nothing(text: str) -> None:
    assert lexicon.clash(text) is None


def test_kinds_of_words() -> None:
    assert lexicon.elsewhere("Fracture of the knee and the knees or a hip") == ("knee", "hip")
    assert lexicon.elsewhere("There is a fracture of the clavicle") == ()
    assert lexicon.denials("There is no effusion without a shift") == ("no", "without")
    assert lexicon.denials("free air") == ()
    assert lexicon.hedges("There may be a possible mass") == ("may", "possible")
    assert lexicon.changes("New opacity, increased density") == ("new",)
