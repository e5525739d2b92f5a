"""Invariants of all features, and their pools, against what the original computes."""

import json

import pytest
import torch
from safetensors import safe_open

import atomica
from atomica import compat
from atomica.nn.representations import Representation

BAR = 5e-6
"""Of the largest value."""


def read(models, name):
    with safe_open(models / f"{name}.safetensors", "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping


@pytest.fixture(scope="module")
def case(models):
    """The model, the arrays of the batch, and the numbers."""
    metadata, base = read(models, "encoder_global")
    weights = {key[2:]: value for key, value in base.items() if key.startswith("w.")}
    model = compat.from_reference(json.loads(metadata["config"]), weights)
    arrays = {key: base[f"in.{key}"] for key in ("X", "B", "A", "block_lengths", "segment_ids", "lengths")}
    return model, arrays, read(models, "z_encoder_global")[1]


def single(arrays, index):
    lengths, sizes = arrays["lengths"], arrays["block_lengths"]
    first = int(lengths[:index].sum())
    blocks = slice(first, first + int(lengths[index]))
    atoms = slice(int(sizes[: blocks.start].sum()), int(sizes[: blocks.stop].sum()))
    own = {key: arrays[key][blocks] for key in ("B", "block_lengths", "segment_ids")}
    return {**own, "X": arrays["X"][atoms], "A": arrays["A"][atoms], "lengths": lengths[index : index + 1]}


def representation(key):
    """z_interface.0.mean_std_global, as files of numbers name it."""
    name, *rest = key.split(".")
    segment = int(rest.pop(0)) if name.endswith("interface") else 0
    return Representation(name, *rest[:1], segment=segment)


@pytest.mark.parametrize("prefix", ["out", *(f"single.{index}" for index in range(4))])
def test_of_the_batch_and_alone(case, prefix):
    model, arrays, numbers = case
    own = arrays if prefix == "out" else single(arrays, int(prefix[-1]))
    graph = atomica.graph_from_arrays(**own, **model.config.graph_options())
    keys = [key for key in numbers if key.startswith(f"{prefix}.") and ".node." not in key]
    wanted = [representation(key.removeprefix(f"{prefix}.")) for key in keys]
    assert {f"{prefix}.{one}" for one in wanted} == set(keys)
    with torch.no_grad():
        found = model.represent(graph, *wanted)
    for key, one, values in zip(keys, wanted, found, strict=True):
        bar = BAR * float(numbers[key].abs().max())
        torch.testing.assert_close(values, numbers[key], atol=bar, rtol=0, msg=key)
        assert sum(one.parts_of(model.config).values()) == values.shape[1], key


def test_features_of_nodes(case):
    model, arrays, numbers = case
    graph = atomica.graph_from_arrays(**arrays, **model.config.graph_options())
    with torch.no_grad():
        found = model.encoder.detailed(model.inputs(graph), blocks=True)
    for name, level in (("atom", found.atoms), ("block", found.blocks)):
        values = found.atoms.features if name == "atom" else level.values
        expected = numbers[f"out.node.{name}"]
        bar = BAR * float(expected.abs().max())
        torch.testing.assert_close(level.layout.to_e3nn(values), expected, atol=bar, rtol=0)
