import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vlp.errors import BackendError, ConfigError, DataError, PrivacyError
from vlp.reports.readers.openai import OpenaiReaderConfig

TEXT = "FINDINGS: Small left effusion. No pneumothorax.\nIMPRESSION: The bones are intact."
GOOD = {
    "statements": [
        {"sentence": 0, "quote": "Small left effusion", "finding": "pleural effusion", "certainty": "present",
         "side": "left", "zone": "none", "severity": "small"},
        {"sentence": 1, "quote": "No pneumothorax", "finding": "pneumothorax", "certainty": "absent",
         "side": "none", "zone": "none", "severity": "none"},
    ]
}  # fmt: skip


def completion(content, **choice):
    text = content if isinstance(content, str) else json.dumps(content)
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]}


class Server:
    """A local endpoint that gives scripted answers: (status, body, headers) in turn, the last one for ever."""

    def __init__(self):
        self.script, self.requests = [(200, completion(GOOD), {})], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body, dict(self.headers)))
                status, answer, headers = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def config(server, **settings):
    return OpenaiReaderConfig(base_url=server.url, model="m", backoff_s=0.001, attempts=3, **settings)


def test_an_answer_becomes_statements_with_spans(server):
    reading = config(server).build().read(TEXT)
    assert [
        (one.finding, one.certainty.value, one.location, one.severity, one.section) for one in reading.sentences
    ] == [
        ("pleural effusion", "present", "left", "small", "findings"),
        ("pneumothorax", "absent", None, None, "findings"),
        (None, "present", None, None, "impression"),
    ]
    assert TEXT[reading.sentences[0].start : reading.sentences[0].end] == "Small left effusion."
    ((path, body, headers),) = server.requests
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"]) == ("m", 0)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["statements"]
    assert "Authorization" not in headers


def test_what_is_not_in_the_text_is_dropped_and_counted(server):
    made_up = {**GOOD["statements"][0], "quote": "large right effusion"}
    swapped = {**GOOD["statements"][0], "side": "right"}
    turned = {**GOOD["statements"][1], "certainty": "present"}
    server.script = [(200, completion({"statements": [*GOOD["statements"], made_up, swapped, turned]}), {})]
    reading = config(server).build().read(TEXT)
    assert len(reading.sentences) == 3
    assert reading.left_out == {
        "model: not in the text": 1, "model: place not in the text": 1, "model: contradicts the words": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "failures",
    [
        [(500, "", {}), (429, "", {"Retry-After": "0"})],
        [(200, completion("no JSON"), {}), (200, completion({"statements": [{"sentence": "x"}]}), {})],
        [(200, {"error": "overloaded"}, {}), (200, completion(GOOD, finish_reason="length"), {})],
        [(200, completion("x", message={"content": None}), {}), (503, "", {})],
    ],
)
def test_it_asks_again_after_what_may_go_better(server, failures):
    server.script = [*failures, (200, completion(f"```json\n{json.dumps(GOOD)}\n```"), {})]
    assert len(config(server).build().read(TEXT).sentences) == 3
    assert len(server.requests) == 3


def test_it_waits_as_long_as_the_server_asks_up_to_a_limit(server):
    server.script = [(429, "", {"Retry-After": "0.3"}), (429, "", {"Retry-After": "99"}), (200, completion(GOOD), {})]
    started = time.monotonic()
    config(server, longest_wait_s=0.4).build().read(TEXT)
    assert 0.7 <= time.monotonic() - started < 5


def test_it_gives_up_in_plain_words_without_the_report(server):
    server.script = [(500, "", {})]
    with pytest.raises(BackendError, match="status 500 after 3 attempts"):
        config(server).build().read(TEXT)
    server.script = [(200, completion({"statements": [{"sentence": 0, "quote": "Small left effusion"}]}), {})]
    with pytest.raises(DataError, match="answered 3 times") as caught:
        config(server).build().read(TEXT)
    assert "effusion" not in str(caught.value)
    for status, hint in ((401, "api_key_env"), (404, "base_url"), (400, "answer_format"), (418, "refuses")):
        before = len(server.requests)
        server.script = [(status, "", {})]
        with pytest.raises(BackendError, match=hint):
            config(server).build().read(TEXT)
        assert len(server.requests) == before + 1


def test_no_server_is_a_fault_in_plain_words(server):
    server.close()
    with pytest.raises(BackendError, match="is the server running"):
        config(server).build().read(TEXT)


def test_answers_are_cached_by_text_prompt_and_model_without_words(server, tmp_path):
    settings = {"cache": tmp_path / "cache", "audit": tmp_path / "audit" / "log.jsonl"}
    first = config(server, **settings).build().read(TEXT)
    again = config(server, **settings).build().read(TEXT)
    assert first == again
    assert len(server.requests) == 1
    config(server, **settings).build().read(TEXT + " ")
    OpenaiReaderConfig(base_url=server.url, model="other", **settings).build().read(TEXT)
    config(server, contradictions=True, **settings).build().read(TEXT)
    assert len(server.requests) == 4
    lines = [json.loads(line) for line in settings["audit"].read_text().splitlines()]
    assert [line["cached"] for line in lines] == [False, True, False, False, False]
    assert lines[0]["text_sha256"] == lines[1]["text_sha256"] != lines[2]["text_sha256"]
    assert (lines[0]["kept"], lines[0]["attempts"], lines[0]["dropped"]) == (2, 1, {})
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "Small left" not in written
    assert "bones" not in written


def test_the_audit_holds_words_only_where_asked(server, tmp_path):
    config(server, audit=tmp_path / "log", audit_text=True).build().read(TEXT)
    line = json.loads((tmp_path / "log").read_text())
    assert line["text"] == TEXT
    assert json.loads(line["answer"]) == GOOD
    with pytest.raises(BackendError, match="audit"):
        config(server, audit=tmp_path).build().read(TEXT)


def test_nothing_is_asked_about_a_report_without_sentences(server):
    assert config(server).build().read("INDICATION: Cough.").sentences == ()
    assert not server.requests


def test_a_key_comes_from_the_environment_and_proxies_do_not(server, monkeypatch):
    with pytest.raises(ConfigError, match="VLP_TEST_KEY is not set"):
        config(server, api_key_env="VLP_TEST_KEY").build()
    monkeypatch.setenv("VLP_TEST_KEY", "s3cret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    config(server, api_key_env="VLP_TEST_KEY", answer_format="json_object").build().read(TEXT)
    ((_, body, headers),) = server.requests
    assert headers["Authorization"] == "Bearer s3cret"
    assert body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    "url", ["https://api.example.org/v1", "http://10.0.0.3:8000/v1", "http://localhost.evil.org/v1"]
)
def test_reports_do_not_leave_this_machine_unasked(url):
    with pytest.raises(PrivacyError, match="remote: true"):
        OpenaiReaderConfig(base_url=url, model="m").build()
    assert OpenaiReaderConfig(base_url=url, model="m", remote=True).build().name.startswith("openai:m:")


@pytest.mark.parametrize("url", ["http://localhost:11434/v1", "http://127.0.0.2/v1", "http://[::1]:8000/v1"])
def test_this_machine_is_known_by_all_its_names(url):
    OpenaiReaderConfig(base_url=url, model="m").build()


def test_it_travels_to_other_processes(server):
    import pickle

    reader = config(server).build()
    reader.read(TEXT)
    assert pickle.loads(pickle.dumps(reader)).read(TEXT) == reader.read(TEXT)
