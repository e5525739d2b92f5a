"""The section `[sweep]`: what it accepts, and that each value is tried before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("optuna")

from atomica import spec
from atomica.errors import SpecError
from atomica.runner import main
from atomica.sweep.config import Range, SweepConfig, check_values, read_sweep

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
        check_values(source.without("sweep"), config, issues)
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
            "[sweep.keys]\nhead.1.label = ['a: b', 'c: d']",
            r"(?m)sweep.keys.head.1.label: head has 1 elements; .*0$",
        ),
        (
            "[sweep.keys]\ntrain.schedule.min_factor = [0.1, 0.2]",
            r"min_factor: 0.1: has no effect with a schedule of kind constant",
        ),
        (
            "[train]\nrefit = true\n[sweep.keys]\nrun.seed = [1, 2]",
            r"toml:10: train.refit = true: trains on the rows that trials are compared by; set it to false",
        ),
        (
            "[sweep.keys]\ntrain.epochs = { low = -1, high = 3 }",
            r"sweep.keys.train.epochs: -1: must be at least 0",
        ),
    ],
)
def test_mistakes(tmp_path, text, message):
    with pytest.raises(SpecError, match=message):
        reading(tmp_path, text)


def test_mistakes_of_spec_and_sweep_are_reported_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(
        PLAIN + "[train]\nepochs = -1\n[sweep]\ntrials = 0\nkeys.run.seed = [1, 2]"
    )
    assert main(["spec.toml"]) == 2
    error = capsys.readouterr().err
    assert "2 errors in spec.toml" in error
    assert "spec.toml:10: train.epochs = -1: must be at least 0" in error
    assert "spec.toml:12: sweep.trials = 0: must be at least 1" in error
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------- trials, without running any


SWEEP = """\
[model]
atom_hidden = 8
block_hidden = 8
edge_size = 4
layers = 1
[sweep]
method = "{method}"
{trials}
[sweep.keys]
train.learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}
model.dropout = [0.0, 0.1, 0.2]
"""


@pytest.fixture
def make(tmp_path):
    """Makes a sweep in a folder of its own; `resume` as on the command line."""
    from atomica.jobs.job import Request
    from atomica.sweep.plan import plan_sweep

    def made(name, method="random", *, resume=False, dry=True, trials="trials = 5", old="", new=""):
        path = tmp_path / f"{name}.toml"
        path.write_text((PLAIN + SWEEP.format(method=method, trials=trials)).replace(old or "\0", new))
        source = spec.load(path, [f"run.out={tmp_path / name}"])
        return plan_sweep(source, Request(resume=resume, dry=dry))[0]

    return made


def run_through(sweep, kills=()):
    """Take trials one by one, and give each a value; before those in `kills` the process is as if killed."""
    from atomica.sweep.study import joined, next_trial, values_of

    found, killed = {}, set()
    while True:
        with joined(sweep) as (study, before):
            assert before == bool(sweep.resume)
            while (taken := next_trial(sweep, study)) is not None:
                trial, lock = taken
                assert trial.number not in found
                with lock:
                    if trial.number in kills and trial.number not in killed:
                        killed.add(trial.number)
                        break
                    found[trial.number] = values_of(trial)
                    study.tell(trial, float(found[trial.number]["train.learning_rate"]))
            else:
                return found
        sweep = replace(sweep, resume=True)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_sweep_that_was_killed_draws_the_same_trials(make, method):
    undisturbed = run_through(make("one", method))
    assert sorted(undisturbed) == list(range(5))
    assert len({str(values) for values in undisturbed.values()}) == 5
    assert run_through(make("two", method), kills={0, 3}) == undisturbed
    # One that is asked for more trials goes on with others.
    more = run_through(make("one", method, resume=True, trials="trials = 7"))
    assert sorted(more) == [5, 6]
    assert not {str(values) for values in more.values()} & {str(values) for values in undisturbed.values()}


def test_processes_take_different_trials_and_those_of_the_dead(make):
    from atomica.sweep.study import joined, next_trial

    sweep = make("both")
    with joined(sweep) as (study, begun), joined(sweep) as (other, begun_there):
        assert (begun, begun_there) == (False, True)
        taken = [next_trial(sweep, one) for one in (study, other, study, other)]
        assert [trial.number for trial, _ in taken] == [0, 1, 2, 3]
        taken[1][1].release()  # its process is gone
        taken.append(next_trial(sweep, study))
        assert (taken[4][0].number, taken[4][0].params) == (1, taken[1][0].params)
        taken.append(next_trial(sweep, other))
        assert taken[5][0].number == 4
        assert next_trial(sweep, other) is None
    with pytest.raises(SpecError, match="holds a sweep already; add --resume"), joined(sweep):
        pass
    with pytest.raises(SpecError, match=r"started otherwise\n(.|\n)*0.1"):
        make("both", resume=True, dry=False, old="[0.0, 0.1, 0.2]", new="[0.0, 0.1]")
    assert make("both", resume=None, dry=False).plan == sweep.plan


def test_a_kill_while_a_trial_is_drawn_or_written_down(make):
    """A trial without all its values, half a line in the journal, a grid of which half is laid out."""
    from optuna.distributions import FloatDistribution

    from atomica.sweep.plan import STORE
    from atomica.sweep.study import joined, next_trial, values_of

    sweep = make("cut")
    with joined(sweep) as (study, _):
        study.ask(fixed_distributions={"train.learning_rate": FloatDistribution(1e-4, 1e-2, log=True)})
    journal = sweep.folder / STORE
    with journal.open("a") as stream:
        stream.write('{"op_code":4,"wor')
    journal.with_name(f"{STORE}.lock").symlink_to(journal)
    sweep = replace(sweep, resume=True)
    with joined(sweep) as (study, _):
        trial, lock = next_trial(sweep, study)
        assert trial.number == 0
        assert set(values_of(trial)) == set(sweep.config.keys)
        lock.release()

    grid = make("grid", "grid", trials="", old="{ low = 1e-4, high = 1e-2, log = true }", new="[1e-4, 1e-3]")
    with joined(grid):
        lines = (grid.folder / STORE).read_text().splitlines(keepends=True)
    assert len(lines) > 6
    (grid.folder / STORE).write_text("".join(lines[:4]))
    drawn = [tuple(values.values()) for values in run_through(replace(grid, resume=True)).values()]
    assert sorted(drawn) == [(rate, drop) for rate in ("0.0001", "0.001") for drop in ("0.0", "0.1", "0.2")]
