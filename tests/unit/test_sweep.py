"""The section `[sweep]`: what it accepts, and that each value is tried before anything starts."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna")

from atomica import spec
from atomica.errors import SpecError
from atomica.runner import main
from atomica.sweep import Range, SweepConfig, _check_values, read_sweep

PLAIN = """\
[run]
name = "tiny"
out = "out"
[data]
train = "demo://pockets"
[[head]]
kind = "binary"
positive = "nucleic"
"""


def reading(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(PLAIN + text)
    source = spec.load(path)
    issues = spec.Issues(source)
    config = read_sweep(source, issues)
    if config is not None:
        _check_values(source.without("sweep"), config, issues)
    issues.raise_any()
    return config


def test_keys_with_lists_and_ranges(tmp_path):
    config = reading(
        tmp_path,
        """\
[sweep]
method = "random"
trials = 7
[sweep.keys]
"train.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
train.schedule = [{ kind = "constant" }, { kind = "cosine", min_factor = 0.1 }]
model.layers = { low = 1, high = 4 }
[sweep.keys.head.0]
hidden = [8, 16]
dropout.low = 0.0
dropout.high = 0.5
dropout.step = 0.25
""",
    )
    assert config.keys == {
        "train.learning_rate": Range(1e-4, 1e-2, log=True),
        "train.schedule": ('{kind = "constant"}', '{kind = "cosine", min_factor = 0.1}'),
        "model.layers": Range(1, 4),
        "head.0.hidden": ("8", "16"),
        "head.0.dropout": Range(0.0, 0.5, step=0.25),
    }
    assert config.number == 7
    assert config.keys["model.layers"].values() == ("1", "2", "3", "4")
    assert config.keys["head.0.dropout"].values() == ("0.0", "0.25", "0.5")
    assert Range(0.1, 0.7, step=0.1).values()[-1] == spec.show(0.1 + 6 * 0.1)
    assert SweepConfig().number == 20
    grid = SweepConfig(method="grid", keys={"a": ("1", "2", "3"), "b": Range(1, 4, step=2)})
    assert grid.number == 6


def test_ranges_in_optunas_terms():
    from optuna.distributions import FloatDistribution, IntDistribution

    assert Range(1, 9).distribution() == IntDistribution(1, 9)
    assert Range(1, 9, step=2).distribution() == IntDistribution(1, 9, step=2)
    assert Range(1, 9.0).distribution() == FloatDistribution(1.0, 9.0)
    assert Range(1e-4, 1e-2, log=True).distribution() == FloatDistribution(1e-4, 1e-2, log=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sweep]\n", r"toml:9: sweep.keys: name the keys to try"),
        (
            "[sweep]\ntrails = 3\nkeys.run.seed = [1, 2]",
            r"toml:10: sweep.trails = 3: .*did you mean sweep.trials\?",
        ),
        (
            "[sweep]\nprune_after = 3\nkeys.run.seed = [1, 2]",
            r'prune_after = 3: has no effect with prune = "none"',
        ),
        (
            '[sweep]\nmethod = "grid"\ntrials = 3\nkeys.run.seed = [1, 2]',
            r'sweep.trials = 3: has no effect with method = "grid"',
        ),
        (
            '[sweep]\nmethod = "grid"\n[sweep.keys]\ntrain.learning_rate = { low = 0.1, high = 1 }',
            r"toml:12: sweep.keys.train.learning_rate = .*: a grid needs a list of values, or a range with a step",
        ),
        ("[sweep.keys]\nrun.out = ['a', 'b']", r"sweep.keys.run.out = .*is not for a sweep to change"),
        (
            "[sweep.keys]\nrun.seed = 3",
            r"toml:10: sweep.keys.run.seed = 3: expected a list of different values",
        ),
        ("[sweep.keys]\nrun.seed = [3, 3]", r"expected a list of different values"),
        ("[sweep.keys]\nrun.seed = [3]", r"expected a list of different values"),
        ("[sweep.keys]\nrun.seed = { low = 3 }", r"toml:10: sweep.keys.run.seed.high: this key is required"),
        (
            "[sweep.keys]\nrun.seed = { low = 3, hihg = 4 }",
            r"seed.hihg = 4: .*did you mean sweep.keys.run.seed.high",
        ),
        ("[sweep.keys]\nrun.seed = { low = 3, high = 3 }", r"seed.high = 3: must be more than low \(3\)"),
        (
            "[sweep.keys]\nrun.seed = { low = 0, high = 3, log = true }",
            r"low = 0: must be more than 0 on a log",
        ),
        ("[sweep.keys]\nrun.seed = { low = 1, high = 3, step = 0.5 }", r"step = 0.5: must be a whole number"),
        # Values are tried on the spec.
        (
            "[sweep.keys]\ntrain.epoch = [1, 2]",
            r"toml:10: sweep.keys.train.epoch: 1: .*did you mean train.epochs\?",
        ),
        ("[sweep.keys]\nmodel.block_hidden = [8, 7]", r"sweep.keys.model.block_hidden: 7: must be .* 4"),
        ("[sweep.keys]\nhead.1.hidden = [8, 9]", r"sweep.keys.head.1.hidden: head has 1 elements"),
        (
            "[sweep.keys]\ntrain.schedule.min_factor = [0.1, 0.2]",
            r"min_factor: 0.1: has no effect with a schedule of kind constant",
        ),
        (
            "[sweep.keys]\ntrain.epochs = { low = 0, high = 3 }",
            r"sweep.keys.train.epochs: 0: must be at least 1",
        ),
    ],
)
def test_mistakes(tmp_path, text, message):
    with pytest.raises(SpecError, match=message):
        reading(tmp_path, text)


def test_mistakes_of_spec_and_sweep_are_reported_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(
        PLAIN + "[train]\nepochs = 0\n[sweep]\ntrials = 0\nkeys.run.seed = [1, 2]"
    )
    assert main(["spec.toml"]) == 2
    error = capsys.readouterr().err
    assert "2 errors in spec.toml" in error
    assert "spec.toml:10: train.epochs = 0: must be at least 1" in error
    assert "spec.toml:12: sweep.trials = 0: must be at least 1" in error
    assert not (tmp_path / "out").exists()
