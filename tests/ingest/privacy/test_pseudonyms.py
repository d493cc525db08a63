import base64
import copy
import hashlib
import hmac
import math
import os
import pickle
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.errors import PrivacyError
from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.pseudonyms import Pseudonyms, make_key_file, read_key

KEY = b"0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"
SECRET = "Zx9-planted-secret-Qq7-0123456789-abcdef"


def _config(**values) -> PrivacyConfig:
    return PrivacyConfig(pseudonyms="keyed", **values)


def test_it_is_hmac_sha256_of_domain_namespace_and_id():
    digest = hmac.new(KEY, b"person\0site a\0p10", hashlib.sha256).digest()
    made = Pseudonyms(KEY, namespace="site a").make("person", "p10")
    assert made[0] == "p"
    assert made[1:25] == base64.b32encode(digest).decode().lower()[:24]
    assert len(made) == 29


def test_it_never_changes():
    # Written down once: a change would cut the link between shards made before and after.
    pseudonyms = Pseudonyms(KEY)
    assert pseudonyms.make("person", "p10") == "pgdjlvjrwwnrgijgjfkkojsh7acj6"
    assert pseudonyms.make("study", "p10") == "sshk4yqdzgfvzvzigerma23xlh2zi"
    assert pseudonyms.make("image", "p10") == "i6c5yc4bqjszfh7vuevxpgpme4jfl"


def test_domains_namespaces_and_keys_are_apart():
    ids = {
        Pseudonyms(key, namespace=namespace).make(domain, "1")[1:]
        for key in (KEY, KEY[::-1])
        for namespace in ("", "b")
        for domain in ("person", "study", "image", "group")
    }
    assert len(ids) == 16
    # a namespace cannot be shifted into the id
    assert Pseudonyms(KEY, namespace="a").make("person", "b") != Pseudonyms(KEY).make("person", "a\0b")


def test_no_collisions_at_ten_million_by_width():
    bits = 24 * 5
    assert math.comb(10_000_000, 2) / 2**bits < 1e-22
    pseudonyms = Pseudonyms(KEY)
    made = [pseudonyms.make("person", f"p{number}") for number in range(30_000)]
    assert len(set(made)) == len(made)
    # Evenly spread: the first 25 bits alone collide as often as chance has it (13.4 pairs expected).
    collisions = len(made) - len({id_[1:6] for id_ in made})
    assert 4 <= collisions <= 30


@given(st.text(max_size=40), st.sampled_from(["person", "study", "image", "group"]))
def test_a_key_knows_its_pseudonyms_and_gives_them_once(id_, domain):
    pseudonyms = Pseudonyms(KEY)
    made = pseudonyms.make(domain, id_)
    assert pseudonyms.made(made)
    assert not pseudonyms.made(id_)
    assert not Pseudonyms(KEY[::-1]).made(made)
    assert not pseudonyms.made(made[:-1] + ("a" if made[-1] != "a" else "b"))
    with pytest.raises(PrivacyError, match="given once"):
        pseudonyms.make(domain, made)


@given(st.text(alphabet="psigabcdefghijklmnopqrstuvwxyz234567", min_size=29, max_size=29))
def test_ids_of_the_same_form_are_not_taken_for_pseudonyms(id_):
    assert not Pseudonyms(KEY).made(id_)


def test_the_key_cannot_be_read_or_sent():
    pseudonyms = Pseudonyms(SECRET.encode())
    assert SECRET not in repr(pseudonyms)
    assert pseudonyms.fingerprint() != Pseudonyms(KEY).fingerprint()
    for way in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="does not travel"):
            way(pseudonyms)


def test_a_key_file_is_private_and_never_replaced(tmp_path):
    path = tmp_path / "key"
    old = os.umask(0)
    try:
        make_key_file(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = read_key(_config(key_file=path))
    assert len(key) == 64
    with pytest.raises(PrivacyError, match="exists"):
        make_key_file(path)
    assert read_key(_config(key_file=path)) == key
    make_key_file(tmp_path / "other")
    assert read_key(_config(key_file=tmp_path / "other")) != key
    with pytest.raises(PrivacyError, match="cannot be made"):
        make_key_file(tmp_path / "nowhere" / "key")


@pytest.mark.parametrize(("mode", "accepted"), [(0o600, True), (0o640, True), (0o644, False), (0o602, False)])
def test_a_file_that_everybody_can_read_is_no_key(tmp_path, mode, accepted):
    path = tmp_path / "key"
    path.write_text(SECRET)
    path.chmod(mode)
    if accepted:
        assert read_key(_config(key_file=path)) == SECRET.encode()
    else:
        with pytest.raises(PrivacyError, match="chmod 600") as caught:
            read_key(_config(key_file=path))
        assert SECRET not in str(caught.value)


def test_a_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("VLP_TEST_KEY", f" {SECRET}\n")
    assert read_key(_config(key_env="VLP_TEST_KEY")) == SECRET.encode()
    monkeypatch.delenv("VLP_TEST_KEY")
    with pytest.raises(PrivacyError, match="VLP_TEST_KEY is not set"):
        read_key(_config(key_env="VLP_TEST_KEY"))


@pytest.mark.parametrize("key", [SECRET[:31], "", "ab" * 40, "   \n"])
def test_weak_keys_are_refused_without_being_shown(monkeypatch, tmp_path, key):
    monkeypatch.setenv("VLP_TEST_KEY", key)
    path = tmp_path / "key"
    path.write_text(key)
    path.chmod(0o600)
    for config in (_config(key_env="VLP_TEST_KEY"), _config(key_file=path)):
        with pytest.raises(PrivacyError, match="too short or too plain") as caught:
            read_key(config)
        assert not key.strip() or key.strip() not in str(caught.value)


def test_a_missing_or_huge_file(tmp_path):
    with pytest.raises(PrivacyError, match="cannot be read"):
        read_key(_config(key_file=tmp_path / "none"))
    path = tmp_path / "huge"
    path.write_bytes(b"x" * 5000)
    path.chmod(0o600)
    with pytest.raises(PrivacyError, match="larger than"):
        read_key(_config(key_file=path))
