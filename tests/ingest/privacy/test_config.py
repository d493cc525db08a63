import pytest
import yaml

from vlp.config import dump, load, validate
from vlp.errors import ConfigError
from vlp.ingest.privacy.config import PrivacyConfig

SECRET = "0F1E2D3C4B5A69788796A5B4C3D2E1F00F1E2D3C4B5A6978"


def test_the_default_masks_and_needs_no_key():
    config = PrivacyConfig()
    assert (config.pseudonyms, config.phi_scan, config.on_phi, config.dates) == ("off", "rules", "mask", "drop")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"pseudonyms": "keyed"}, "give either key_file or key_env"),
        ({"pseudonyms": "keyed", "key_file": "k", "key_env": "K"}, "give either key_file or key_env"),
        ({"key_env": "K"}, "nothing uses it"),
        ({"dates": "shift"}, "needs pseudonyms: keyed"),
        ({"pseudonyms": "keyed", "key_env": "K", "dates": "shift", "phi_scan": "off"}, "dates to be found"),
        ({"namespace": "a\0b"}, "null character"),
        ({"phi_scan": "magic"}, "phi_scan"),
        ({"phi_scan": "transformer"}, "phi_scan"),
        ({"phi_budget": 1.5}, "phi_budget"),
        ({"max_shift_days": 0}, "max_shift_days"),
    ],
)
def test_what_cannot_be(values, reason):
    with pytest.raises(ConfigError, match=reason):
        validate(PrivacyConfig, values, where="here")


@pytest.mark.parametrize("field", ["key_env", "key", "keyfile"])
def test_a_key_in_the_configuration_is_refused_and_not_repeated(field):
    for secret in (SECRET, SECRET.lower(), "a key with spaces, 32 characters long"):
        with pytest.raises(ConfigError) as caught:
            validate(PrivacyConfig, {"pseudonyms": "keyed", field: secret}, where="here")
        assert secret not in str(caught.value)


def test_the_written_configuration_names_the_place_and_not_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("VLP_TEST_KEY", SECRET)
    path = tmp_path / "privacy.yaml"
    path.write_text("pseudonyms: keyed\nkey_env: VLP_TEST_KEY\nphi_scan: off\ndates: keep\n")
    config = load(PrivacyConfig, path)
    written = dump(config)
    assert SECRET not in written
    assert yaml.safe_load(written)["phi_scan"] == "off"
    assert validate(PrivacyConfig, yaml.safe_load(written), where="again") == config
