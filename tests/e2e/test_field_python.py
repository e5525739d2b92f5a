"""What other people's tools and habits do to our objects, as users of DGL, PyTorch and Lightning have met it."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import BINARY, TINY, command, environment, events, run, start, wait_for_steps

import atomica
from atomica.data.origin import Origin
from atomica.errors import DataError
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.runner import main

REGRESSION = '[[head]]\nkind = "regression"\nlabel = "label_size"\nhidden = 8\n'
OTHER_EDGES = {"layers = 1": "layers = 1\nk_neighbors = 3\nblock_global = false", BINARY: REGRESSION}
"""A model that wants other graphs than those that are made unasked."""


def small(**settings):
    chosen = {"atom_hidden": 8, "block_hidden": 8, "edge_size": 4, "layers": 1, **settings}
    return atomica.Model(atomica.EncoderConfig(**chosen))


@pytest.fixture(scope="module")
def trained(write_run):
    """The folder of a run on one partner, with edges of its own."""
    spec, out = write_run(TINY, OTHER_EDGES)
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    return out


@pytest.fixture(scope="module")
def narrow(tiny_set, tmp_path_factory):
    """The data set `tiny_set` with another cutoff."""
    folder = tmp_path_factory.mktemp("narrow")
    arguments = [
        "build-graphs",
        str(tiny_set.parent / "index.csv"),
        "--out",
        str(folder / "set"),
        "--cutoff",
        "6.5",
    ]
    assert atomica._prep.run(arguments) == 0
    return folder / "set"


def refused(capsys, *arguments):
    """What the command says to what it does not do."""
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------------------------- what a model was made for


def test_predictions_in_python_are_those_of_the_run(trained, tiny_set):
    """The README's way made other graphs than the model was trained on, and other predictions."""
    model, data = atomica.load(trained / "checkpoints" / "best"), atomica.open_dataset(tiny_set)
    with (trained / "predictions.csv").open() as stream:
        written = {row["id"]: float(row["prediction"]) for row in csv.DictReader(stream)}
    ids = list(written)
    for given in (data.graphs(ids), data[ids], data.graphs([i in written for i in data.ids])):
        found = model.predict(given)["regression"].tolist()
        assert found == pytest.approx(list(written.values()), rel=1e-4, abs=1e-4)


def test_a_model_says_what_it_was_made_for(trained, tiny_set):
    description = json.loads((trained / "checkpoints" / "best" / "model.json").read_text())
    assert description["format"] == 2
    inputs = description["inputs"]
    assert inputs["view"] == "segment0"
    assert inputs["edges"]["k_neighbors"] == 3
    assert inputs["edges"]["block_global"] is False
    assert inputs["data"] == {
        "cutoff": 8.0, "rule": "all-pairs", "fragments": "none", "fragments_sha256": None, "schema": 2
    }  # fmt: skip
    assert inputs["labels"] == {"regression": {"column": "label_size"}}


def test_models_of_the_first_format_are_read(trained, tiny_set, tmp_path):
    """They say nothing of their data, and take whatever they are given."""
    folder = shutil.copytree(trained / "checkpoints" / "best", tmp_path / "old")
    (folder / "checksums.json").unlink()
    description = json.loads((folder / "model.json").read_text())
    del description["inputs"]
    (folder / "model.json").write_text(json.dumps({**description, "format": 1}))
    model = atomica.load(folder)
    assert model.made_for.view is None
    assert len(atomica.embed(tiny_set, model, input="segment1")) == 60


def test_embeddings_are_made_as_the_model_was_trained(trained, tiny_set, narrow):
    model = atomica.load(trained / "checkpoints" / "best")
    data = atomica.open_dataset(tiny_set)
    model.train()
    found = atomica.embed(tiny_set, model)
    assert model.training, "the caller's model was left in another mode"
    with torch.no_grad():
        right = model.eval().encode([record.view("segment0") for record in data[:5]])
    np.testing.assert_allclose(found.complex[:5], right.graph.numpy(), atol=2e-6)
    for given, rows in ((data, slice(None)), (data[:7], slice(7)), (data[3], slice(3, 4))):
        np.testing.assert_allclose(atomica.embed(given, model).complex, found.complex[rows], atol=2e-6)
    with pytest.raises(DataError, match="'complex', and the model was trained with 'segment0'"):
        atomica.embed(tiny_set, model, input="complex")
    with pytest.raises(DataError, match=r"cutoff 6.5 Å, and the model was trained with 8 Å"):
        atomica.embed(narrow, model)
    assert len(atomica.embed(narrow, model, input="complex", force=True)) == 60
    assert model.made_for.view == "segment0"


@pytest.mark.parametrize("job", ["embed", "score", "evaluate"])
def test_jobs_take_what_the_model_was_trained_on(trained, tiny_set, narrow, tmp_path, capsys, job):
    spec = tmp_path / "spec.toml"
    own = "[evaluate]\nlabel = 'label_size'\n" if job == "evaluate" else ""
    spec.write_text(
        f"[run]\nname = '{job}'\njob = '{job}'\nout = '{tmp_path}/out'\n[data]\nsource = '{tiny_set}'\nsplit = 'test'\n"
        f"[model]\nweights = '{trained}/checkpoints/best'\n[device]\nkind = 'cpu'\n{own}"
    )
    assert main([str(spec), "--dry-run"]) == 0
    assert "segment0 alone" in capsys.readouterr().out
    said = refused(capsys, spec, "--set", "data.input=complex")
    assert 'data.input = "complex"' in said
    assert "the model was trained with 'segment0'" in said
    said = refused(capsys, spec, "--set", f"data.source={narrow}")
    assert "cutoff 6.5 Å, and the model was trained with 8 Å" in said
    forced = ["--set", f"data.source={narrow}", "--set", "data.input=complex", "--set", "data.force=true"]
    assert main([str(spec), *forced]) == 0


def test_structures_are_cut_as_the_model_was_trained(trained, narrow, tiny_set, write_run, tmp_path, capsys):
    spec, out = write_run(TINY, {f"{tiny_set}": str(narrow)})
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    model = atomica.load(out / "checkpoints" / "best")
    assert model.made_for.origin == Origin(6.5, "all-pairs", "none", None, 2)
    found = atomica.embed(tiny_set.parent / "index.csv", model)
    assert found.records[0].origin.cutoff == 6.5
    with pytest.raises(DataError, match=r"cutoff 8 Å, and the model was trained with 6.5 Å"):
        atomica.embed(tiny_set.parent / "index.csv", model, cutoff=8.0)


def test_parts_of_another_making_are_refused(write_run, narrow, tiny_set, trained, capsys):
    spec, _ = write_run(TINY)
    said = refused(capsys, spec, "--set", f"data.test={narrow}")
    assert "data.test" in said
    assert "built with cutoff 6.5 Å, and 8 Å in data.train" in said
    said = refused(capsys, spec, "--set", f'data.train=["{tiny_set}", "{narrow}"]')
    assert "built with cutoff 6.5 Å, and 8 Å in" in said
    best = trained / "checkpoints" / "best"
    init = ["--set", f"model.init={best}", "--set", "model.k_neighbors=3", "--set", f"data.train={narrow}"]
    said = refused(capsys, spec, *init)
    assert "cutoff 6.5 Å, and the model was trained with 8 Å" in said
    assert main([str(spec), *init, "--set", "model.force=true", "--dry-run"]) == 0


# ----------------------------------------------------------------------------------------------- saving


def test_a_model_knows_the_kinds_of_its_heads(tmp_path):
    config = small().config
    model = atomica.Model(config, {"pk": RegressionHead(RegressionConfig(), config)})
    model.save(tmp_path)
    assert type(atomica.load(tmp_path).head("pk")) is RegressionHead


def test_a_head_that_nobody_could_load_is_not_saved(tmp_path):
    class Own(RegressionHead):
        pass

    config = small().config
    for kinds in (None, {"own": "binary"}):
        with pytest.raises(atomica.AtomicaError, match="head 'own' cannot be saved"):
            atomica.Model(config, {"own": Own(RegressionConfig(), config)}, kinds=kinds).save(tmp_path)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------- folders and paths


@pytest.fixture
def run_folder(write_run):
    """A run of one epoch, and a way to start it again."""
    spec, out = write_run(TINY)
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    return spec, out


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("flag", ["--resume", "--start-or-resume"])
def test_a_copied_run_goes_on_where_it_is(run_folder, tmp_path, flag):
    """It went on in the folder that it was copied from."""
    _, out = run_folder
    before = contents(out)
    copied = shutil.copytree(out, tmp_path / "copied")
    assert main([str(copied / "spec.toml"), flag, "--set", "train.epochs=2"]) == 0
    assert contents(out) == before
    assert [one["epoch"] for one in events(copied, "epoch")] == [0, 1, 2]
    moved = copied.rename(tmp_path / "moved")
    assert main([str(moved / "spec.toml"), flag, "--set", "train.epochs=3"]) == 0
    assert [one["epoch"] for one in events(moved, "epoch")] == [0, 1, 2, 3]
    assert not copied.exists()


def test_a_run_that_has_begun_never_starts_from_scratch(run_folder, tmp_path, capsys):
    _, out = run_folder
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(out / "spec.toml", tmp_path / "alone" / "spec.toml")
    assert "beside it is nothing to go on from" in refused(capsys, alone, "--start-or-resume")
    shutil.rmtree(out / "checkpoints")
    said = refused(capsys, out / "spec.toml", "--start-or-resume")
    assert "checkpoints/last is missing" in said
    again = ["--set", f"run.out={tmp_path}/anew", "--set", "train.epochs=1"]
    assert main([str(out / "spec.toml"), *again]) == 0
    assert (tmp_path / "anew" / "checkpoints" / "last").is_dir()


def test_home_and_variables_in_paths(write_run, tiny_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sets").symlink_to(tiny_set.parent)
    spec, _ = write_run(TINY, {str(tiny_set): "~/sets/shards"})
    assert main([str(spec), "--dry-run", "--set", "run.out=$HOME/runs/{name}"]) == 0
    assert f"nothing was written to {tmp_path}/runs/tiny" in capsys.readouterr().out
    said = refused(capsys, spec, "--set", "data.test=$NO_SUCH_PLACE/set")
    assert "data.test" in said
    assert "no environment variable NO_SUCH_PLACE" in said
    assert "there is no user nobody-of-that-name" in refused(
        capsys, spec, "--set", "data.test=~nobody-of-that-name/set"
    )
    assert len(atomica.open_dataset("~/sets/shards")) == 60


# ------------------------------------------------------------------------------------------------- leniency, messages


@pytest.mark.parametrize("text", ["1_000", "٣", "１２", "1e5_0", "0x10", "inf", "1,5", "True"])
def test_labels_that_only_python_reads_are_no_numbers(text):
    _, known = RegressionHead.encode_labels(RegressionConfig(), [text, " 6.5 ", "-.5", "1.", "2E3"])
    assert known.tolist() == [False, True, True, True, True]


def test_labels_beyond_float32_are_told():
    with pytest.raises(DataError, match="label '1e300' is beyond what float32 can hold"):
        RegressionHead.encode_labels(RegressionConfig(), ["1.0", "1e300"])


def test_targets_of_another_shape_are_told():
    """PyTorch would spread [G] and [G, 1] over each other, to [G, G]."""
    config = small().config
    model = atomica.Model(config, {"pk": RegressionHead(RegressionConfig(), config)})
    graphs = atomica.open_dataset("demo://pockets").graphs(range(3))
    for wrong in (torch.zeros(3, 1), torch.zeros(1), torch.zeros(())):
        with pytest.raises(
            DataError, match=r"targets of head pk have the shape \[.*\], and its output \[3\]"
        ):
            model.loss(graphs, {"pk": wrong})
    assert torch.isfinite(model.loss(graphs, {"pk": torch.zeros(3)}).total)


def test_a_run_leaves_the_process_as_it_was(write_run):
    spec, _ = write_run(TINY, {"threads = 1": "threads = 3"})
    torch.manual_seed(8)
    torch.set_num_threads(2)
    expected = torch.get_rng_state().clone(), np.random.get_state()[1].copy()
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert np.array_equal(np.random.get_state()[1], expected[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {'positive = "yes"\nnegative = "no"': 'positive = "1"'},
            r"no row is labelled '1'; the values are 'yes' \(18\), 'no' \(18\)",
        ),
        ({'kind = "cpu"': 'kind = "gpu"'}, 'did you mean "cuda"'),
        (
            {'name = "tiny"': 'name = "tiny"\njob = "trian"'},
            r'run.job = "trian": must be one of .*; did you mean "train"',
        ),
        (
            {"epochs = 3": "epochs = 3\nlearning_rate = .001"},
            r"spec.toml:\d+: not valid TOML.*a number begins with a digit: 0.001",
        ),
    ],
)
def test_messages_name_the_cause(write_run, capsys, changes, message):
    spec, out = write_run(TINY, changes)
    said = refused(capsys, spec)
    assert re.search(message, said), said
    assert said.count("\n") <= 3, "other complaints follow from the first"
    assert not out.exists()


def test_a_spec_may_begin_with_a_mark(write_run):
    spec, _ = write_run(TINY)
    spec.write_bytes(b"\xef\xbb\xbf" + spec.read_bytes())
    assert main([str(spec), "--dry-run"]) == 0


def test_splits_of_other_names_are_listed(write_run, tiny_set, tmp_path, capsys):
    index = (
        (tiny_set.parent / "index.csv").read_text().replace(",train,", ",Train,").replace(",valid,", ",val,")
    )
    (tiny_set.parent / "other.csv").write_text(index)
    assert (
        atomica._prep.run(
            ["build-graphs", str(tiny_set.parent / "other.csv"), "--out", str(tmp_path / "set")]
        )
        == 0
    )
    spec, _ = write_run(TINY, {str(tiny_set): str(tmp_path / "set")})
    said = refused(capsys, spec)
    assert (
        "its splits are 'Train' (36), 'val' (12), 'test' (12), and must be called train, valid, test" in said
    )


def test_a_run_named_as_a_model_is_explained(run_folder):
    _, out = run_folder
    for place in (out, out / "checkpoints"):
        with pytest.raises(DataError, match=f"did you mean {out}/checkpoints/best?"):
            atomica.load(place)


def test_shards_are_closed_when_they_are_not_used(tiny_set):
    """Many data sets, or many shards, were too many open files."""
    before = len(os.listdir("/proc/self/fd"))
    opened = [atomica.open_dataset(tiny_set) for _ in range(40)]
    records = [data[row] for data in opened for row in (0, 30, 59)]
    assert len(os.listdir("/proc/self/fd")) - before < 10
    assert float(records[-1].positions.sum()) == float(records[2].positions.sum())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(0)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
    try:
        with pytest.raises(atomica.AtomicaError, match=r"too many open files in this process; .*ulimit -n"):
            opened[0].column("label")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ------------------------------------------------------------------------------------------------------ said in time


def test_a_folder_that_nothing_can_be_written_to_is_told_before(write_run, capsys, tmp_path):
    """Below a file, and where even root may not: the dry run says so too."""
    spec, _ = write_run(TINY)
    (tmp_path / "file").write_text("")
    for place, message in (
        (tmp_path / "file" / "run", "is a file"),
        ("/proc/atomica/run", "cannot be written to"),
    ):
        for more in ((), ("--dry-run",)):
            said = refused(capsys, spec, *more, "--set", f"run.out={place}")
            assert message in said
            assert "run.out" in said


def test_a_metric_that_the_labels_leave_undefined_is_told_before(write_run, tiny_set, tmp_path, capsys):
    rows = list(csv.reader((tiny_set.parent / "index.csv").open()))
    for row in rows[1:]:
        row[-1] = "7" if row[5] == "valid" else row[-1]
    with (tiny_set.parent / "flat.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert (
        atomica._prep.run(["build-graphs", str(tiny_set.parent / "flat.csv"), "--out", str(tmp_path / "set")])
        == 0
    )
    spec, out = write_run(TINY, {BINARY: REGRESSION, str(tiny_set): str(tmp_path / "set")})
    for more in ((), ("--dry-run",)):
        said = refused(capsys, spec, *more, "--set", "train.monitor=spearman")
        assert (
            "spearman means nothing for the validation labels of head regression, which are '7' (12)" in said
        )
    assert not out.exists()
    assert main([str(spec), "--dry-run"]) == 0


# ------------------------------------------------------------------------------------------- outputs for other programs


def strict(text):
    """JSON as other programs read it, without Python's NaN."""

    def wrong(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=wrong)


def test_undefined_metrics_are_null_and_files_strict(write_run, tiny_set, tmp_path):
    """Metrics of one class were 0 or 1."""
    rows = [
        row
        for row in csv.reader((tiny_set.parent / "index.csv").open())
        if row[5] != "test" or row[4] == "yes"
    ]
    with (tiny_set.parent / "one.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert (
        atomica._prep.run(["build-graphs", str(tiny_set.parent / "one.csv"), "--out", str(tmp_path / "set")])
        == 0
    )
    spec, out = write_run(TINY, {str(tiny_set): str(tmp_path / "set")})
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    metrics = strict((out / "evaluation.json").read_text())["metrics"]
    assert [metrics[name] for name in ("auroc", "auprc", "mcc")] == [None] * 3
    assert metrics["accuracy"] is not None
    for line in (out / "metrics.jsonl").read_text().splitlines():
        strict(line)
    assert (out / "report.html").is_file()


def test_predictions_of_classes_name_them(write_run):
    head = '[[head]]\nkind = "multiclass"\nclasses = ["no", "yes"]\n'
    spec, out = write_run(TINY, {BINARY: head})
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    for row in rows:
        shares = {name: float(row[name]) for name in ("no", "yes")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(shares, key=shares.get)
    spec, out = write_run(TINY)
    assert main([str(spec), "--set", "train.epochs=1"]) == 0
    for row in csv.DictReader((out / "predictions.csv").open()):
        assert row["predicted"] == ("yes" if float(row["probability"]) >= 0.5 else "no")


def test_a_terminal_may_know_ascii_alone(write_run):
    spec, _ = write_run(TINY)
    env = environment(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    for arguments in (["--list"], [spec, "--dry-run"], [spec, "--dry-run", "--set", "run.name=Å"]):
        done = run(*arguments, env=env)
        assert "UnicodeEncodeError" not in done.stderr
        assert done.returncode in (0, 2)


def test_a_run_outlives_who_reads_it(write_run):
    """As `atomica-run … | head -1` does."""
    spec, out = write_run(TINY)
    words = " ".join(map(str, command(spec, "--set", "train.epochs=2")))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -n 1"],
        env=environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "evaluation.json").is_file()
    assert "nobody reads the output any more" in (out / "log.txt").read_text()
    listing = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {' '.join(command('--list'))} | head -n 1"],
        env=environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (listing.returncode, listing.stderr) == (0, "")


def test_a_lost_terminal_ends_a_run_as_a_request_does(write_run):
    spec, out = write_run(TINY, {"epochs = 3": "epochs = 3000"})
    with start(spec) as process:
        wait_for_steps(process, out, 3)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=120) == 130
    assert (out / "checkpoints" / "last").is_dir()


@pytest.mark.parametrize("program", ["atomica.runner", "atomica.prep.command"])
def test_both_commands_tell_their_version(program):
    words = [sys.executable, "-c", f"import sys; from {program} import main; sys.exit(main(['--version']))"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.split()[-1] == atomica.__version__


# ---------------------------------------------------------------------------------------------- notes that save people


def dry(capsys, spec, *more):
    capsys.readouterr()
    assert main([str(spec), "--dry-run", *more]) == 0
    return capsys.readouterr().out


def test_the_same_complex_under_two_ids_is_noted(write_run, tiny_set, tmp_path, capsys):
    rows = list(csv.reader((tiny_set.parent / "index.csv").open()))
    train = next(row for row in rows if row[5] == "train")
    twin = ["twin", *train[1:5], "test", *train[6:]]
    with (tiny_set.parent / "twins.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([*rows, twin])
    assert (
        atomica._prep.run(
            ["build-graphs", str(tiny_set.parent / "twins.csv"), "--out", str(tmp_path / "set")]
        )
        == 0
    )
    said = dry(capsys, write_run(TINY, {str(tiny_set): str(tmp_path / "set")})[0])
    assert "1 complexes of test are in train under another id" in said
    assert f"twin is {train[0]}" in said
    assert "under another id" not in dry(capsys, write_run(TINY)[0])


def test_a_named_test_set_is_taken_whole(write_run, tiny_set, tmp_path, capsys):
    spec, _ = write_run(TINY)
    other = shutil.copytree(tiny_set, tmp_path / "other")
    said = dry(capsys, spec, "--set", f"data.test={other}")
    assert "test    60 complexes" in said
    assert "all 60 complexes of data.test are taken, though its split column says test of 12" in said
    assert "test    12 complexes" in dry(capsys, spec, "--set", f"data.test={tiny_set}")


def test_classes_without_rows_are_noted(write_run, capsys):
    head = '[[head]]\nkind = "multiclass"\nclasses = ["no", "yess"]\n'
    spec, _ = write_run(TINY, {BINARY: head.replace('"no", ', '"no", "yes", "never", ')})
    said = dry(capsys, spec)
    assert "class 'never' of head multiclass has no training row" in said
    assert "class 'yess' of head multiclass has no training row" in said


def relabelled(tiny_set, target, change):
    """The data set with other labels of size."""
    rows = list(csv.reader((tiny_set.parent / "index.csv").open()))
    for row in rows[1:]:
        row[-1] = row[-1] and change(float(row[-1]))
    index = tiny_set.parent / f"{target.name}.csv"
    with index.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert atomica._prep.run(["build-graphs", str(index), "--out", str(target)]) == 0
    return target


def test_labels_in_the_thousands_are_learnt_and_given_back(write_run, tiny_set, tmp_path, capsys):
    far = relabelled(tiny_set, tmp_path / "far", lambda size: f"{1000 * size + 1e6:.0f}")
    spec, out = write_run(TINY, {BINARY: REGRESSION, str(tiny_set): str(far)})
    assert "standard deviations from their mean, and predicts in their unit" in dry(capsys, spec)
    assert main([str(spec)]) == 0
    found = [float(row["prediction"]) for row in csv.DictReader((out / "predictions.csv").open())]
    assert all(1_003_000 < one < 1_014_000 for one in found)
    head = json.loads((out / "checkpoints" / "best" / "model.json").read_text())["heads"][0]
    assert head["label_scale"][0] == pytest.approx(1_008_000, rel=2e-3)
    again, _ = write_run(TINY, {BINARY: REGRESSION, str(tiny_set): str(far)})
    init = [
        "--set",
        f"model.init={out}/checkpoints/best",
        "--set",
        "train.epochs=1",
        "--set",
        f"run.out={tmp_path}/on",
    ]
    assert main([str(again), *init]) == 0
    kept = json.loads((tmp_path / "on" / "checkpoints" / "best" / "model.json").read_text())["heads"][0]
    assert kept["label_scale"] == head["label_scale"]


def test_labels_that_are_all_the_same_are_noted(write_run, tiny_set, tmp_path, capsys):
    flat = relabelled(tiny_set, tmp_path / "flat", lambda size: "7.5")
    said = dry(capsys, write_run(TINY, {BINARY: REGRESSION, str(tiny_set): str(flat)})[0])
    assert "the training labels of head regression are all 7.5" in said
