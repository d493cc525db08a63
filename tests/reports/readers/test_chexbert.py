import sys
from types import ModuleType

import pytest

from vlp.errors import BackendError
from vlp.reports.readers.chexbert import ChexbertReaderConfig

NAMES = ["Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
         "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
         "No Finding"]  # fmt: skip
ANSWERS = {
    "Small left effusion.": {"Pleural Effusion": 1},
    "No pneumothorax.": {"Pneumothorax": 0, "No Finding": 1},
    "This may be edema.": {"Edema": -1},
    "The bones are intact.": {"No Finding": 1},
    "Right upper and left lower opacities.": {"Lung Opacity": 1},
    "No acute cardiopulmonary process.": {"No Finding": 1},
    "Big heart shadow.": {"Cardiomegaly": 1},
}


class Fake:
    target_names = NAMES

    def __init__(self, device):
        assert device == "cpu"

    def get_label(self, report, mode):
        assert mode == "classification"
        return [ANSWERS[report].get(name, "") for name in NAMES]


@pytest.fixture
def package(monkeypatch):
    module = ModuleType("f1chexbert")
    module.F1CheXbert = Fake
    monkeypatch.setitem(sys.modules, "f1chexbert", module)
    return module


def test_labels_become_statements_where_the_rules_see_them(package):
    reading = ChexbertReaderConfig().build().read(" ".join(ANSWERS))
    assert [(one.finding, one.certainty.value, one.location, one.severity) for one in reading.sentences] == [
        ("pleural effusion", "present", "left", "small"),
        ("pneumothorax", "absent", None, None),
        ("edema", "uncertain", None, None),
        (None, "present", None, None),
        ("lung opacity", "present", "right upper", None),
        ("lung opacity", "present", "left lower", None),
        ("no finding", "present", None, None),
        ("cardiomegaly", "present", None, None),
    ]


def test_weights_that_cannot_be_loaded_are_a_fault_in_plain_words(package):
    def fail(device):
        raise OSError("some hub is not there")

    package.F1CheXbert = fail
    with pytest.raises(BackendError, match="weights of CheXbert cannot be loaded"):
        ChexbertReaderConfig().build().read("No pneumothorax.")


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "f1chexbert", None)
    with pytest.raises(BackendError, match="pip install f1chexbert"):
        ChexbertReaderConfig().build()
