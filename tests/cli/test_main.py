import logging
import signal
import sys
from pathlib import Path

import pytest

from vlp.cli.main import app, main
from vlp.errors import VlpError
from vlp.train.signals import Stopped

VERBS = {
    "ingest", "shards", "train", "evaluate", "calibrate", "explain", "report", "classify", "ground", "prompts", "embed",
    "index", "config", "doctor", "demo",
}  # fmt: skip
Run = tuple[int, str, str]


@pytest.fixture
def vlp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command as a person does; gives (exit status, stdout, stderr)."""

    def vlp(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["vlp", *map(str, arguments)])
        monkeypatch.setattr(logging.getLogger("vlp"), "handlers", [])
        monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return vlp


def test_help_lists_every_verb_and_what_this_is_not(vlp) -> None:
    status, out, _ = vlp("--help")
    assert status == 0
    words = out.split()
    assert set(words) >= VERBS
    assert "not a medical device" in " ".join(words)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(vlp, verb: str) -> None:
    status, out, _ = vlp(verb, "--help")
    assert status == 0
    assert out.lower().startswith("usage:")
    assert len(out.splitlines()) > 5


def test_verbs_are_those_the_help_is_tested_for() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names | {group.name for group in app.registered_groups} == VERBS


def test_a_fault_of_the_input_is_one_line_and_status_2(vlp, tmp_path: Path) -> None:
    status, out, err = vlp("train", tmp_path / "absent.yaml")
    assert (status, out) == (2, "")
    assert err == f"error: {tmp_path / 'absent.yaml'}: cannot read the configuration: No such file or directory\n"


def test_two_faults_are_two_lines(vlp, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("source: {kind: phantom, patient: 3}\noutput: x\nworkerz: 0\n")
    status, _, err = vlp("ingest", path)
    lines = err.splitlines()
    assert status == 2
    assert len(lines) == 2
    assert all(line.startswith(f"error: {path}: ") for line in lines)
    assert "did you mean 'patients'" in err
    assert "did you mean 'workers'" in err


@pytest.mark.parametrize("kind", [VlpError, *VlpError.__subclasses__()])
def test_every_kind_of_fault_is_caught(vlp, monkeypatch: pytest.MonkeyPatch, kind: type[VlpError]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("what, where, and what to do")

    monkeypatch.setattr("vlp.cli.doctor._device", fail)
    assert vlp("doctor") == (2, "", "error: what, where, and what to do\n")


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.cli.doctor._device", lambda: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["vlp", "doctor"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_an_interrupted_command_says_so(vlp, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr("vlp.cli.doctor._device", stop)
    status, _, err = vlp("doctor")
    assert status == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_work_that_a_signal_ended_says_which(vlp, monkeypatch: pytest.MonkeyPatch, number: int, status: int) -> None:
    def stop() -> None:
        raise Stopped(number)

    monkeypatch.setattr("vlp.cli.doctor._device", stop)
    assert vlp("doctor")[0] == status


@pytest.mark.parametrize("arguments", [("clasify",), ("classify",), ("shards", "check"), ("doctor", "--nonsense")])
def test_a_command_that_does_not_exist_is_refused_in_words(vlp, arguments: tuple[str, ...]) -> None:
    status, out, err = vlp(*arguments)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert err.strip()


def test_nothing_is_reported_behind_a_persons_back(vlp, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("WANDB_MODE", "NO_ALBUMENTATIONS_UPDATE"):
        monkeypatch.setenv(name, "x")  # so that what the command sets is taken back after the test
        monkeypatch.delenv(name)
    vlp("--help")
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    assert logging.getLogger("vlp").handlers
