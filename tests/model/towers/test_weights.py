"""Weight files: what is read, what is refused, and how tensors find their places."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vlp.errors import BackendError
from vlp.model.towers.weights import fit_by_name, fit_by_order, read_weights


def _network(channels=3):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4))


def _equal(network, weights):
    return all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_both_kinds_of_file_are_read(tmp_path, name, wrapper):
    weights = _network().state_dict()
    if name.endswith("safetensors"):
        save_file(weights, tmp_path / name)
    else:
        torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / name)
    network = _network()
    fit_by_name(network, read_weights(tmp_path / name), where=name)
    assert _equal(network, weights)


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"w": Harm()}, protocol=2))
    with pytest.raises(BackendError, match="more than tensors"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(("name", "content"), [("w.safetensors", b"no"), ("w.pth", b""), ("w.safetensors", None)])
def test_a_damaged_or_missing_file_is_one_line(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BackendError) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_names_may_have_a_prefix_and_a_head_is_left_out():
    weights = _network().state_dict()
    given = {f"visual.{name}": value for name, value in weights.items()} | {"text.w": torch.zeros(3)}
    network = _network()
    fit_by_name(network, given, where="file", prefix="visual.")
    assert _equal(network, weights)


def test_a_missing_tensor_is_named():
    weights = _network().state_dict()
    del weights["0.bias"]
    with pytest.raises(BackendError, match=r"0\.bias"):
        fit_by_name(_network(), weights, where="file")


def test_order_ignores_names_and_counters():
    weights = _network().state_dict()
    given = {f"x{index}": value for index, (name, value) in enumerate(weights.items()) if "num_" not in name}
    network = _network()
    fit_by_order(network, given | {"head": torch.zeros(2)}, where="file")
    assert _equal(network, weights)


def test_too_few_or_other_shapes_are_refused():
    weights = _network().state_dict()
    with pytest.raises(BackendError, match="needs 6"):
        fit_by_order(_network(), {"a": weights["0.weight"]}, where="file")
    with pytest.raises(BackendError, match="differ"):
        fit_by_name(_network(), weights | {"0.bias": torch.zeros(7)}, where="file")


def test_a_colour_filter_sums_to_a_gray_one():
    colour, gray = _network(3), _network(1)
    fit_by_name(gray, colour.state_dict(), where="file")
    image = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(gray.eval()(image), colour.eval()(image.expand(-1, 3, -1, -1)))
