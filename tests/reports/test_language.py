import pytest

from vlp.reports.language import UNDETERMINED, detect_language, is_foreign


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The heart is enlarged. There is no pneumothorax.", "en"),
        ("NO FOCAL CONSOLIDATION, PLEURAL EFFUSION, OR PNEUMOTHORAX.", "en"),
        ("Lungs clear. Heart normal.", "en"),
        ("Right PICC in the SVC, no pneumothorax.", "en"),
        ("COPD changes without acute process in the chest.", "en"),
        ("Kein Pneumothorax. Kleiner Pleuraerguss links.", "de"),
        ("Befund: Das Herz ist nicht vergrößert, die Lunge ist frei.", "de"),
        ("No se observa neumotórax. Derrame pleural izquierdo.", "es"),
        ("sin hallazg patolog . cardiomegali . derram pleural", "es"),
        ("Pas de pneumothorax. Épanchement pleural à gauche avec les poumons clairs.", "fr"),
        ("Sem derrame pleural. Coração de tamanho normal.", "pt"),
        ("Non si osservano lesioni. Cuore nei limiti.", "it"),
        ("PTX.", UNDETERMINED),
        ("", UNDETERMINED),
        ("両側胸水を認める。", UNDETERMINED),
        ("___ XXXX 3.5", UNDETERMINED),
    ],
)
def test_a_language_is_told_by_its_little_words(text, language):
    assert detect_language(text) == language


def test_real_reports_in_english_are_english():
    from vlp.ingest.phantom.history import HistoryConfig, person
    from vlp.ingest.phantom.prose import write_report

    for index in range(30):
        for truth in person(index, seed=5, settings=HistoryConfig()):
            assert not is_foreign(detect_language(write_report(truth)))


@pytest.mark.parametrize(("language", "foreign"), [("en", False), ("en-US", False), ("und", False), ("", False),
                                                   ("es", True), ("de-AT", True)])  # fmt: skip
def test_only_what_is_surely_another_language_is_kept_from_the_rules(language, foreign):
    assert is_foreign(language) is foreign
