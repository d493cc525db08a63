"""A language model behind any OpenAI-compatible endpoint (vLLM, ollama, llama.cpp ...) as a reader.

The sentences of a report are asked about together, with a JSON schema for the answer.  What comes back is checked word
by word (`verify`), counted and cached; an audit file says what was asked and kept, by hashes.  Reports stay on this
machine unless the configuration says that they may leave it.
"""

import datetime
import ipaddress
import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from vlp.config import Config
from vlp.errors import BackendError, ConfigError, DataError, PrivacyError
from vlp.reports.reader import Reading
from vlp.reports.readers import prompt, verify
from vlp.reports.readers.cache import AnswerCache, Kept, sha256
from vlp.reports.readers.reader import Answer, load_package, read_by_sentence

if TYPE_CHECKING:
    import httpx

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses after which asking again makes sense."""


class OpenaiReaderConfig(Config):
    """Read by a language model behind an OpenAI-compatible endpoint."""

    kind: Literal["openai"] = "openai"
    base_url: str = "http://localhost:8000/v1"
    """Where the server listens, up to and with the version ("http://localhost:11434/v1" for ollama)."""
    model: str
    """The name the server knows the model by."""
    remote: bool = False
    """Whether reports may be sent to another machine than this one."""
    api_key_env: str | None = None
    """The environment variable that holds the key, where the server asks for one."""
    answer_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the server is told the form of the answer; older ones know "json_object" alone."""
    contradictions: bool = False
    """Whether a statement is kept that says the opposite of what the rules read in the same sentence."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 5
    """How often one report is asked about before giving up."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    backoff_s: Annotated[float, Field(ge=0)] = 1.0
    """Seconds before the second attempt; each further one waits twice as long, and a little by chance."""
    longest_wait_s: Annotated[float, Field(ge=0)] = 60.0
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    cache: Path | None = None
    """Folder that keeps checked answers (no text); null asks every time."""
    audit: Path | None = None
    """File that gets one JSON line per report: hashes and counts."""
    audit_text: bool = False
    """Whether the audit file holds the report and the answer in words too."""

    def build(self) -> "OpenaiReader":
        """The reader.

        Raises:
            PrivacyError: the server is on another machine and `remote` is not set.
            ConfigError: the key's environment variable is not set.
            BackendError: httpx is not installed.
        """
        if not (self.remote or _is_here(self.base_url)):
            host = urlsplit(self.base_url).hostname or self.base_url
            raise PrivacyError(
                f"reader: {host} is another machine, reports would leave this one; remote: true allows it"
            )
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise ConfigError(f"reader: api_key_env: the environment variable {self.api_key_env} is not set")
        load_package("httpx", package="httpx", reader=self.kind)
        return OpenaiReader(self)


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _TryAgainError(Exception):
    """An attempt that failed and may go better; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, *, wait: float | None = None, answered: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.answered = answered


class OpenaiReader:
    """Asks an endpoint; see `OpenaiReaderConfig.build`, which checks what this needs."""

    def __init__(self, config: OpenaiReaderConfig) -> None:
        self._config = config
        self._cache = AnswerCache(config.cache)

    @property
    def name(self) -> str:
        """The model and the version of what it is asked."""
        return f"openai:{self._config.model}:{prompt.VERSION}.{verify.VERSION}"

    def read(self, text: str, *, language: str | None = None) -> Reading:
        """The statements of one report.

        Raises:
            BackendError: the server does not answer, or refuses.
            DataError: its answers to this report have not the form that was asked for.
        """
        return read_by_sentence(text, lambda sentences: self._answer(text, sentences), language=language)

    def _answer(self, text: str, sentences: Sequence[str]) -> Answer:
        if not sentences:
            return [], Counter()
        config = self._config
        text_sha256 = sha256(text)
        how = json.dumps([config.contradictions, prompt.VERSION, verify.VERSION])
        key = sha256(text_sha256, *sentences, config.model, how)
        kept = self._cache.get(key)
        cached = kept is not None and len(kept.statements) == len(sentences)
        content = ""
        if kept is None or not cached:
            content, said, attempts = self._ask(sentences, seed=key)
            statements, dropped = verify.verify(said, sentences, contradictions=config.contradictions)
            kept = Kept(statements, dropped, sha256(content), attempts)
            self._cache.put(key, kept)
        self._write_audit(text, text_sha256, content, kept, cached=cached)
        return kept.statements, Counter({f"model: {reason}": count for reason, count in kept.dropped.items()})

    def _ask(self, sentences: Sequence[str], *, seed: str) -> tuple[str, list[prompt.Said], int]:
        """(answer, its statements, attempts it took)."""
        config, chance = self._config, random.Random(seed)
        failure = _TryAgainError("no attempt was made")
        for attempt in range(config.attempts):
            if attempt:
                wait = config.backoff_s * 2 ** (attempt - 1) * chance.uniform(1.0, 1.5)
                time.sleep(min(config.longest_wait_s, max(wait, failure.wait or 0.0)))
            try:
                content = self._post(sentences)
                return content, _parsed(content), attempt + 1
            except _TryAgainError as error:
                failure = error
        if failure.answered:
            raise DataError(
                f"a report was answered {config.attempts} times without the statements asked for: {failure}"
            )
        raise BackendError(f"{config.base_url}: {failure} after {config.attempts} attempts; is the server running?")

    def _post(self, sentences: Sequence[str]) -> str:
        """The text of one answer."""
        import httpx

        config = self._config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": prompt.messages(sentences),
            "temperature": 0,
            "seed": 0,
            "max_tokens": config.max_tokens,
        }
        if config.answer_format == "json_schema":
            form = {"name": "statements", "strict": True, "schema": prompt.schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif config.answer_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        try:
            response = self._client.post("chat/completions", json=body)
        except httpx.TransportError as error:
            raise _TryAgainError(f"no connection ({type(error).__name__})") from None
        if response.status_code in _TRANSIENT:
            raise _TryAgainError(f"status {response.status_code}", wait=_seconds(response.headers.get("retry-after")))
        if response.status_code != 200:
            raise BackendError(f"{config.base_url}: {_refusal(response.status_code)}")
        return _content(response)

    @cached_property
    def _client(self) -> "httpx.Client":
        import httpx

        config = self._config
        key = os.environ.get(config.api_key_env) if config.api_key_env else None
        return httpx.Client(
            base_url=config.base_url.rstrip("/") + "/",
            timeout=config.timeout_s,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # A proxy named by the environment would carry reports away from this machine.
            trust_env=not _is_here(config.base_url),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._config,)  # connections do not travel to other processes

    def _write_audit(self, text: str, text_sha256: str, content: str, kept: Kept, *, cached: bool) -> None:
        config = self._config
        if config.audit is None:
            return
        line: dict[str, Any] = {
            "time": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
            "reader": self.name,
            "server": urlsplit(config.base_url).netloc.rpartition("@")[2],
            "text_sha256": text_sha256,
            "answer_sha256": kept.answer_sha256,
            "cached": cached,
            "attempts": kept.attempts,
            "kept": sum(map(len, kept.statements)),
            "dropped": dict(kept.dropped),
        }
        if config.audit_text:
            line |= {"text": text, "answer": content}
        try:
            config.audit.parent.mkdir(parents=True, exist_ok=True)
            with config.audit.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise BackendError(f"{config.audit}: cannot write the audit file: {error.strerror}") from None


def _content(response: "httpx.Response") -> str:
    try:
        choice = response.json()["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise _TryAgainError("the response is no chat completion", answered=True) from None
    if choice.get("finish_reason") == "length":
        raise _TryAgainError("the answer was cut off; raise max_tokens", answered=True)
    if not isinstance(content, str):
        raise _TryAgainError("the answer holds no text", answered=True)
    return content


def _parsed(content: str) -> list[prompt.Said]:
    """The statements of an answer; words around the JSON object (a code fence) are let pass."""
    start, end = content.find("{"), content.rfind("}") + 1
    try:
        return prompt.Answered.model_validate_json(content[start:end] if start >= 0 else content).statements
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"]) or "the answer"
        raise _TryAgainError(f"{place}: {fault['msg']}", answered=True) from None


def _seconds(header: str | None) -> float | None:
    """The wait a "Retry-After" header asks for; a date in it is not understood."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _refusal(status: int) -> str:
    hints = {
        400: "it does not take the request; does it know the model, and answer_format?",
        401: "it wants a key; name its environment variable in api_key_env",
        403: "it refuses the key",
        404: "there is no such model or path; base_url ends in the version, e.g. /v1",
    }
    return f"status {status}: {hints.get(status, 'it refuses the request')}"
