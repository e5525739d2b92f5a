"""Whole runs of `atomica-run`: what is written, what is refused, interrupted and resumed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from helpers import BINARY, TINY, changed, command, environment, events, run

import atomica
import atomica.errors
from atomica.environment import untouched
from atomica.files import FOLDER_LOCK, LOG, Lock
from atomica.jobs.folder import check
from atomica.runner import main
from atomica.spec import Issues, tomllib
from atomica.spec.source import Source

SPEC = changed(
    TINY,
    {
        "layers = 1": "layers = 1\ndropout = 0.1",
        "epochs = 3\n": """\
epochs = 4
learning_rate = 3e-3
[train.schedule]
kind = "cosine"
warmup_steps = 3
""",
        "tensorboard = false\n": "",
    },
)


@pytest.fixture(scope="module")
def write_spec(write_run):
    return partial(write_run, SPEC)


def losses(out):
    """Everything in metrics.jsonl that must not depend on the machine's mood."""
    return [{k: v for k, v in event.items() if k not in ("complexes_per_s", "wait")} for event in events(out)]


@pytest.fixture(scope="module")
def finished(write_spec):
    """An undisturbed run."""
    path, out = write_spec()
    result = run(path)
    assert result.returncode == 0, result.stderr
    return path, out, result


# --------------------------------------------------------------------------------------------- a whole run


def test_a_run_writes_everything(finished):
    _, out, result = finished
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"spec.toml", "metrics.jsonl", "log.txt", "evaluation.json", "predictions.csv"} <= names
    for name in ("best", "last"):
        assert {
            f"checkpoints/{name}/{file}" for file in ("model.safetensors", "model.json", "state.json")
        } <= names
    assert not [name for name in names if name.endswith((".tmp", ".new", ".old", ".pkl", ".pt"))]
    # Not on a terminal: one plain line per epoch, no bar and no control characters.
    lines = [line for line in result.stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["0/4", "1/4", "2/4", "3/4", "4/4"]
    assert "\x1b" not in result.stderr + result.stdout
    assert "valid auroc" in lines[0]
    assert "complexes/s in training" in result.stdout
    assert "peak memory" in result.stdout
    # The log holds all of it, each line with the time.
    log = (out / "log.txt").read_text().splitlines()
    told = [line for line in (result.stdout + result.stderr).splitlines() if line]
    assert sorted(line[21:] for line in log) == sorted(told)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line[:21]) for line in log)


def test_metrics_are_recorded(finished):
    _, out, _ = finished
    records = events(out)
    steps = [record for record in records if record["event"] == "step"]
    epochs = [record for record in records if record["event"] == "epoch"]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    assert [record["epoch"] for record in epochs] == [0, 1, 2, 3, 4]
    solved, *epochs = epochs
    assert {"valid_loss", "valid_auroc", "valid_auprc"} <= set(solved)
    assert not any(name.startswith("train_") for name in solved)
    assert {"train_loss", "valid_loss", "valid_auroc", "valid_auprc", "complexes_per_s"} <= set(epochs[0])
    rates = [record["learning_rate"] for record in steps]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert records[-1]["event"] == "test"


def test_tensorboard_shows_the_same_numbers(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, out, _ = finished
    reader = EventAccumulator(str(out / "tensorboard"))
    reader.Reload()
    written = [(record["step"], record["loss"]) for record in events(out) if record["event"] == "step"]
    read = [(event.step, event.value) for event in reader.Scalars("step/loss")]
    assert [step for step, _ in read] == [step for step, _ in written]
    assert [value for _, value in read] == pytest.approx([value for _, value in written], rel=1e-6)
    steps = [event.step for event in reader.Scalars("epoch/valid_auroc")]
    assert len(steps) == 5
    assert steps[0] == 0  # of the head as it is solved


def test_evaluation_and_predictions_belong_together(finished, tiny_set):
    from sklearn.metrics import average_precision_score, roc_auc_score

    _, out, result = finished
    report = json.loads((out / "evaluation.json").read_text())
    head = report["heads"]["binary"]
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    dataset = atomica.open_dataset(tiny_set)
    test = [i for i, split in enumerate(dataset.splits) if split == "test"]
    assert [row["id"] for row in rows] == [dataset.ids[i] for i in test]
    assert [row["label"] for row in rows] == [dataset.column("label")[i] for i in test]
    truth = [row["label"] == "yes" for row in rows]
    assert list(head["baselines"]) == ["majority", "regression on counts", "nearest by counts"]
    for column, found in {"probability": head["model"], **head["baselines"]}.items():
        scores = [float(row[column]) for row in rows]
        assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
        assert found["auprc"]["value"] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
        assert found["auroc"]["low"] <= found["auroc"]["value"] <= found["auroc"]["high"]
    assert head["base_rate"] == pytest.approx(sum(truth) / len(truth))
    assert head["resamples"] == 1000
    assert head["classes"]["test"] == {"no": truth.count(False), "yes": truth.count(True)}
    assert report["run"]["training_complexes_per_s"] > 0
    assert report["run"]["peak_memory_mib"] > 50
    for conclusion in head["conclusions"]:
        assert re.search("(includes|does not include) the best baseline's", conclusion)
        assert conclusion in result.stdout
    assert head["verdict"] in result.stdout


def test_a_model_that_says_the_same_of_all_is_told_of(write_run, capsys):
    """After two epochs, with what to change, and beside what it is worth in the end."""
    head = '[[head]]\nkind = "multiclass"\nclasses = ["yes", "no"]\n'
    slow = 'epochs = 2\nlearning_rate = 1e-30\nmonitor = "loss"\nsolve_heads = false'
    changes = {BINARY: head, "epochs = 3": slow}
    path, out = write_run(TINY, changes)
    assert main([str(path)]) == 0
    told = (out / "log.txt").read_text()
    warnings = [line for line in told.splitlines() if "warning head multiclass says" in line]
    assert len(warnings) == 1
    assert re.search(
        r"says (yes|no) for all 12 validation complexes after epoch 2. If it stays so", warnings[0]
    )
    assert "it has learnt nothing that differs" in capsys.readouterr().out
    entry = json.loads((out / "evaluation.json").read_text())["heads"]["multiclass"]
    assert entry["monotony"].endswith("for all 12")
    assert "it has learnt nothing that differs" in (out / "report.html").read_text()


def test_the_best_checkpoint_gives_the_predictions(finished, tiny_set):
    _, out, _ = finished
    model = atomica.load(out / "checkpoints" / "best", device="cpu")
    dataset = atomica.open_dataset(tiny_set)
    for row in csv.DictReader((out / "predictions.csv").open()):
        index = dataset.ids.index(row["id"])
        graph = dataset.graphs([index], input="segment0", **model.config.graph_options())
        assert float(model.predict(graph)["binary"][0]) == pytest.approx(float(row["probability"]), abs=2e-5)


def test_the_resolved_spec_holds_every_setting_and_runs_again(finished, tmp_path, monkeypatch):
    from atomica.jobs.train.spec import settings

    _, out, _ = finished
    tree = tomllib.loads((out / "spec.toml").read_text())
    for row in settings():
        section, *keys = row.key.split(".")
        if row.doc.startswith("(") and not row.doc.startswith(("(binary)", "(equivariant)")):
            continue  # a key of another kind of head or encoder
        node = tree[section]
        if section == "head":
            node, keys = node[0], keys[1:]
        for key in keys[:-1]:
            node = node[key]
        assert keys[-1] in node or row.default in ("absent", "empty"), row.key
    assert tree["run"]["out"] == str(out)
    # Other folder, other current directory, other number of loader threads: the same losses, bit for bit.
    again = tmp_path / "again"
    monkeypatch.chdir(tmp_path)
    assert main([str(out / "spec.toml"), "--set", f"run.out={again}", "--set", "data.loader_threads=2"]) == 0
    assert losses(again) == losses(out)
    assert (again / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()
    weights = [(folder / "checkpoints/last/model.safetensors").read_bytes() for folder in (out, again)]
    assert weights[0] == weights[1]


def test_several_threads_are_deterministic():
    """The gradient of an indexing is summed in a fixed order; too rare a difference to be seen in a small run."""
    import torch

    from atomica.jobs.sections import DeviceConfig

    with untouched():
        DeviceConfig(threads=2).use(torch.device("cpu"))
        assert torch.get_num_threads() == 2
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(0, 50, (20_000,), generator=generator)
        weight = torch.randn(20_000, 32, generator=generator)
        gradients = []
        for _ in range(20):
            x = torch.zeros(50, 32, requires_grad=True)
            (x[index] * weight).sum().backward()
            gradients.append(x.grad)
        assert all(torch.equal(gradients[0], gradient) for gradient in gradients)


def test_what_was_not_changed_is_not_put_back(monkeypatch):
    """Nor is more of PyTorch imported for it, which fails where Ctrl-C has cut an import short."""
    import torch

    def cut_short(*given, **more):
        raise ImportError("cannot import name '_inductor' from 'torch'")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "use_deterministic_algorithms", cut_short)
        with untouched():
            pass
    before = torch.are_deterministic_algorithms_enabled()
    with untouched():
        torch.use_deterministic_algorithms(not before)
    assert torch.are_deterministic_algorithms_enabled() == before


# --------------------------------------------------------------------------------- interrupted and resumed


def interrupt(path, out, number, after):
    """Start a run and send it a signal once `after` steps are recorded; returns its exit code and stderr."""
    with subprocess.Popen(
        command(path), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            file = out / "metrics.jsonl"
            if file.is_file() and file.read_text().count('"step",') >= after:
                process.send_signal(number)
                break
            time.sleep(0.005)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors


@pytest.mark.parametrize(("number", "after"), [(signal.SIGTERM, 9), (signal.SIGINT, 2)])
def test_an_interrupted_run_goes_on_as_if_undisturbed(finished, write_spec, number, after):
    _, undisturbed, _ = finished
    path, out = write_spec()
    code, errors = interrupt(path, out, number, after)
    assert code == 130, errors
    assert "checkpoint written; go on with --resume" in errors
    assert not (out / "evaluation.json").exists()
    # As after a crash: records that the checkpoint knows nothing of, the last one cut short.
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"event": "step", "epoch": 9, "step": 10000, "loss": 0}\n{"event": "st')
    assert main([str(path), "--resume"]) == 0
    assert losses(out) == losses(undisturbed)
    for name in ("last", "best"):
        one, two = (folder / "checkpoints" / name / "model.safetensors" for folder in (out, undisturbed))
        assert one.read_bytes() == two.read_bytes()
    assert (out / "predictions.csv").read_bytes() == (undisturbed / "predictions.csv").read_bytes()


def test_checkpoints_kept_by_the_hour_are_complete(finished, write_spec):
    """One after every step here; the run goes on from an early one to the same end."""
    path, out = write_spec()
    assert main([str(path), "--set", "train.checkpoints.hours=1e-9"]) == 0
    folder = out / "checkpoints"
    kept = sorted(place.name for place in folder.glob("step-*"))
    steps = [event["step"] for event in events(out) if event["event"] == "step"]
    assert kept == [f"step-{step:08}" for step in range(max(steps))]
    shutil.rmtree(folder / "last")
    shutil.copytree(folder / "step-00000003", folder / "last")
    assert main([str(path), "--set", "train.checkpoints.hours=0", "--resume"]) == 0
    assert losses(out) == losses(finished[1])


def test_a_resumed_run_stays_one_run_of_weights_and_biases(write_spec, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    path, out = write_spec({"epochs = 4": "epochs = 1"})
    words = [str(path), "--set", "log.wandb.mode=offline", "--set", "log.tensorboard=false"]
    assert main(words) == 0
    assert main([*words, "--set", "train.epochs=2", "--resume"]) == 0
    assert [event["epoch"] for event in events(out) if event["event"] == "epoch"] == [0, 1, 2]
    folders = [place.name for place in (out / "wandb").glob("offline-run-*")]
    assert {name.rpartition("-")[2] for name in folders} == {(out / "wandb" / "id").read_text()}
    assert len(folders) == 2  # `wandb sync` puts files of one run together, by the time of their start


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_damaged_checkpoint_is_not_loaded(finished, tmp_path, name):
    """A flipped bit that is still valid safetensors and JSON."""
    best = shutil.copytree(finished[1] / "checkpoints" / "best", tmp_path / "best")
    content = bytearray((best / name).read_bytes())
    content[content.rindex(b"0")] ^= 1
    (best / name).write_bytes(content)
    with pytest.raises(
        atomica.errors.DataError, match=f"best: damaged model .{name} is not what was written"
    ):
        atomica.load(best)
    (best / "checksums.json").unlink()  # a folder without them is taken as it is
    assert atomica.load(best).kinds


def test_a_finished_run_can_be_trained_longer_but_not_otherwise(finished, write_spec, capsys):
    path, out = write_spec({'kind = "cosine"': 'kind = "constant"', "epochs = 4": "epochs = 1"})
    assert main([str(path)]) == 0
    assert main([str(path)]) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert main([str(path), "--resume", "--set", "train.learning_rate=0.5"]) == 2
    assert "train.learning_rate: 0.003 then, 0.5 now" in capsys.readouterr().err
    before = events(out)
    assert main([str(path), "--resume", "--set", "train.epochs=2"]) == 0
    after = events(out)
    assert [r["epoch"] for r in after if r["event"] == "epoch"] == [0, 1, 2]
    kept = [record for record in before if record["event"] != "test"]
    assert after[: len(kept)] == kept
    with Lock(out / FOLDER_LOCK):  # as a process does that writes into the folder
        assert main([str(path), "--resume", "--set", "train.epochs=3"]) == 2
    assert f"another process is at work on the run in {out}" in capsys.readouterr().err
    assert events(out) == after
    assert main([str(path), "--resume", "--set", "train.epochs=1"]) == 2
    assert "train.epochs = 1: the run to resume is in epoch 2 already" in capsys.readouterr().err


def test_resume_without_a_checkpoint(write_spec, capsys):
    path, out = write_spec()
    assert main([str(path), "--resume"]) == 2
    assert "holds nothing to resume" in capsys.readouterr().err
    assert not out.exists()


# ------------------------------------------------------------------------------------------------- refusals


def test_a_misspelt_key_on_the_command_line(write_spec):
    path, out = write_spec({"epochs = 4": "epoch = 4"})
    result = run(path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert (
        result.stderr == f"atomica-run: {path}:25: train.epoch = 4: unknown key; did you mean train.epochs?\n"
    )
    assert not out.exists()


MISTAKES = [
    ("epochs = 4", 'epochs = "4"', r'spec.toml:25: train.epochs = "4": expected a whole number'),
    ('input = "segment0"', 'test = "/nowhere"', r'toml:7: data.test = "/nowhere": no such folder'),
    ('input = "segment0"', 'fragments = "ps_300"', r"built with fragment vocabulary 'none', but .*'ps_300'"),
    ('"binary"', '"binry"', r'head.0.kind = "binry": must be one of .*; did you mean "binary"\?'),
    ("hidden = 8\n\n", "hiden = 8\n\n", r"head.0.hiden = 8: unknown key; did you mean head.0.hidden\?"),
    ('positive = "yes"', 'positive = "yes"\nlabel = "lable"', r"head.0.label = \"lable\": .*has no column"),
    ('"yes"\nnegative = "no"', '"maybe"\nnegative = "never"', r"head.0.positive = \"maybe\": .*'yes' \("),
    ("atom_hidden = 8", "atom_hidden = 7", r"spec.toml:12: model.atom_hidden = 7: must be"),
    ("dropout = 0.1", "modality_embedding = true", r"model.modality_embedding = true: has no effect"),
    ("epochs = 4", 'epochs = 4\nmonitor = "rmse"', r'train.monitor = "rmse": must be one of loss, '),
    ("epochs = 4", 'epochs = 4\nmonitor = "a: b"', r'train.monitor = "a: b": must be one of loss, '),
    ("max_item_blocks = 64", "max_item_blocks = 65", r"= 65: must be at most data.batch_blocks"),
    ("max_item_blocks = 64", "max_item_blocks = 2", r"data.train = .*has no complexes .*more than 2 blocks"),
    ("every_steps = 1", "[trian]\nepochs = 3", r"spec.toml:36: trian: unknown key; did you mean train\?"),
    ("[[head]]", "[head]", r"spec.toml:18: head: a model needs a head: write \[\[head\]\]"),
    ("every_steps = 1", "[broken", r"spec.toml:36: not valid TOML"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES)
def test_what_is_wrong_is_named_and_nothing_is_written(write_spec, capsys, right, wrong, message):
    path, out = write_spec({right: wrong})
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err), captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not out.exists()


def test_all_that_is_wrong_is_reported_at_once(write_spec, capsys):
    replace = {
        "epochs = 4": 'epochs = "4"',
        "atom_hidden = 8": "atom_hiden = 8",
        'input = "segment0"': 'valid = "/no"',
    }
    path, out = write_spec(replace)
    assert main([str(path)]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"atomica-run: 3 errors in {path}\n")
    for key in ("data.valid", "model.atom_hiden", "train.epochs"):
        assert key in text
    assert not out.exists()


def test_a_folder_that_is_not_a_run_is_left_alone(write_spec, capsys):
    path, out = write_spec()
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert main([str(path)]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [entry.name for entry in out.iterdir()] == ["thesis.txt"]


def test_a_folder_that_another_process_of_the_job_just_fills_is_not_refused(tmp_path):
    """Its lock is there first; a log or a spec that is being written may be all that is there beside it."""
    for left, refused in (((FOLDER_LOCK, LOG), False), ((FOLDER_LOCK,), False), ((LOG,), True), ((), False)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in left:
            (folder / name).touch()
        issues = Issues(Source("spec.toml", {}, {}, {}))
        check(folder, issues, begun=False, resume=False, dry=False)
        assert bool(issues.found) == refused, left


def test_usage(capsys):
    for arguments in ([], ["a.toml", "--no-such-option"], ["a.toml", "b.toml"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    assert main(["/nowhere/spec.toml"]) == 2
    assert "no such spec file" in capsys.readouterr().err


def test_help_is_immediate():
    code = "import sys, atomica.runner as r\ntry: r.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    began = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert time.perf_counter() - began < 2  # half a second on an idle machine
    assert result.stdout.endswith("False\n")
    assert "--set head.0.positive=ZN" in result.stdout


def test_the_command_line_stays_small(capsys):
    """A new option needs a reason: what belongs to a run belongs into its spec."""
    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, flags=re.MULTILINE))
    # Whether there is something to resume, a scheduler that repeats a command cannot write into its spec.
    how = {"--dry-run", "--resume", "--start-or-resume", "--devices", "--shard"}
    without = {"--list", "--schema", "--doctor", "--export", "--licence", "--verify"}  # a spec
    assert options == {"--help", "--set", "--version", *how, *without}


# -------------------------------------------------------------------------------------------------- the rest


def test_dry_run_checks_everything_and_writes_nothing(write_spec, capsys):
    path, out = write_spec()
    changes = ["head.0.name=answer", "train.rates.encoder=1e-3", "train.freeze=['encoder.atoms.kinds']"]
    assert main([str(path), "--dry-run", *(word for change in changes for word in ("--set", change))]) == 0
    text = capsys.readouterr().out
    for pattern in (
        r"model +equivariant encoder, [\d,]+ parameters, heads: answer",
        r"steps +\d+ per epoch of \d+ blocks \([\d.]+ complexes\) on average, \d+ at most, over all ranks; 4 epochs",
        r"host +.+, \d+ cores, 1 threads, [\d.]+ GiB",
        r"module +encoder.atoms +[\d,]+ parameters, rate 0.001, 16 frozen\n",
        r"module +heads.answer +[\d,]+ parameters\n",
        r"time +about \d+:\d\d:\d\d per epoch, \d+:\d\d:\d\d for all",
        r"memory +\d+ MiB at the peak, .* [1-9]\d* kept for the backward pass; [\d.]+ GiB were free",
        r"disk +[\d.]+ MiB per checkpoint; [\d.]+ GiB are free in /",
        r"train +\d+ complexes .*\(\d+ no, \d+ yes\)",
        r"test +\d+ complexes .*\(\d+ no, \d+ yes\)",
        r"batch +\d+ complexes, \d+ blocks, the largest: loss \d",
        r"nothing was written",
    ):
        assert re.search(pattern, text), (pattern, text)
    sizes = re.findall(r"^module .* ([\d,]+) parameters", text, flags=re.M)
    total = re.search(r"model +equivariant encoder, ([\d,]+) parameters", text)[1]
    assert sum(int(size.replace(",", "")) for size in sizes) == int(total.replace(",", ""))
    assert not out.exists()


def test_a_dry_run_takes_the_share_of_one_process(write_spec, capsys):
    """With --devices 2 and two parts each: about half the complexes, and the loss of the whole batch in one process."""
    path, _ = write_spec()

    def said(*words):
        assert main([str(path), "--dry-run", *words]) == 0
        (line,) = re.findall(
            r"batch +(\d+) complexes, (\d+) blocks, the largest(.*): loss ([\d.]+)", capsys.readouterr().out
        )
        return int(line[0]), int(line[1]), line[2], float(line[3])

    count, blocks, shared, loss = said("--set", "model.dropout=0")
    assert shared == ""
    assert said("--set", "model.dropout=0", "--set", "device.accumulate=2") == (
        count,
        blocks,
        ", in 2 shares",
        loss,
    )
    few, fewer, shared, _ = said("--devices", "2", "--set", "device.accumulate=2")
    assert 0 < few < count
    assert abs(2 * fewer - blocks) < blocks / 2
    assert shared == ", the share of one of 2 processes, in 2 shares"


def test_the_kernel_can_be_chosen_and_is_named(write_spec, capsys):
    path, _ = write_spec()
    for choice, named in (("torch", "torch"), ("auto", "rust")):
        assert main([str(path), "--dry-run", "--set", f"device.kernel={choice}"]) == 0
        assert f"on cpu, {named} convolution" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run(write_spec, capsys):
    path, out = write_spec()
    # `weight_decay` times `learning_rate` above 2 makes the weights grow without bound.
    code = main([str(path), "--set", "train.learning_rate=1e20", "--set", "train.weight_decay=1e18"])
    text = capsys.readouterr().err
    assert code == 1
    assert re.search(
        r"the (loss|gradient norm) is (nan|inf) in step \d+ .*; complexes of this step: \w+", text
    )
    assert (out / "checkpoints" / "last" / "state.json").is_file()
    assert not (out / "evaluation.json").exists()


def test_early_stopping_and_balanced_sampling(write_spec, capsys):
    path, out = write_spec({'input = "segment0"': 'input = "complex"\nsampler = "balanced"'})
    changes = ("train.learning_rate=1e-30", "train.patience=2", "train.epochs=9", "train.monitor=auroc")
    assert main([str(path), *(word for change in changes for word in ("--set", change))]) == 0
    assert "best    epoch 0 of 2, stopped early: valid auroc" in capsys.readouterr().out
    assert [record["epoch"] for record in events(out) if record["event"] == "epoch"] == [0, 1, 2]
