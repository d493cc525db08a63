import pickle

from vlp.config import dump, validate
from vlp.reports import read_report
from vlp.reports.readers.rules import RulesReaderConfig


def test_the_rules_are_a_reader_and_travel_to_other_processes():
    reader = pickle.loads(pickle.dumps(RulesReaderConfig().build()))
    assert reader.read("Left effusion.") == read_report("Left effusion.")
    assert reader.read("Left effusion.", language="es").sentences[0].finding is None


def test_its_configuration_has_nothing_to_set():
    assert validate(RulesReaderConfig, {"kind": "rules"}, where="here") == RulesReaderConfig()
    assert dump(RulesReaderConfig()) == "kind: rules\n"
