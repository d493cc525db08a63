import json

import pytest
from pydantic import ValidationError

from vlp.reports.findings import VOCABULARY
from vlp.reports.readers.prompt import Answered, messages, schema


def test_the_sentences_are_numbered_and_every_finding_is_named():
    system, user = messages(["Left\n effusion.", 'No "edema".'])
    assert json.loads(user["content"]) == [
        {"sentence": 0, "text": "Left effusion."},
        {"sentence": 1, "text": 'No "edema".'},
    ]
    assert all(name in system["content"] for name in VOCABULARY)


def test_an_answer_by_the_schema_is_one_that_is_understood():
    item = schema()["properties"]["statements"]["items"]
    assert item["required"] == list(item["properties"])
    values = {name: field.get("enum", [0 if field["type"] == "integer" else "x"])[0] for name, field in
              item["properties"].items()}  # fmt: skip
    (said,) = Answered.model_validate({"statements": [values]}).statements
    assert said.model_dump() == values


@pytest.mark.parametrize(
    "answer", ["{}", "[]", '{"statements": [{"sentence": "0"}]}', '{"statements": [{"sentence": 0, "quote": "x"}]}']
)
def test_an_answer_of_another_form_is_refused(answer):
    with pytest.raises(ValidationError):
        Answered.model_validate_json(answer)
