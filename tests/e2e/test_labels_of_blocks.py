"""Heads on blocks and on several questions: trained, resumed, evaluated, from a CSV of labels to structures."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from helpers import HEADLESS, TORCHRUN, changed
from helpers import run as run_process

import atomica
from atomica.runner import main

BASE = changed(HEADLESS, {"epochs = 3": "epochs = 2\nlearning_rate = 3e-3"})
LABELS = """\
[[head]]
kind = "residue_{kind}"
label = "{label}"
{more}
hidden = 8
layers = 2
"""
CHARGED = ("LYS", "ARG", "GLU", "ASP")


@pytest.fixture(scope="module")
def labels(tiny_set, tmp_path_factory):
    """A CSV that says of each residue of the patches whether it is charged, and how far along the chain it is."""
    path = tmp_path_factory.mktemp("labels") / "residues.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "chain", "resnum", "icode", "charged", "kind", "place"])
        for record in (atomica.open_dataset(tiny_set)[row] for row in range(60)):
            names = zip(
                record.block_chains, record.block_resnums.tolist(), record.block_components, strict=True
            )
            for chain, number, component in names:
                if chain == "A" and number != 3:  # one of each patch has no label
                    charged = component in CHARGED
                    kind = "plus" if component in ("LYS", "ARG") else "minus" if charged else "none"
                    writer.writerow([record.id, chain, number, "", int(charged), kind, number / 10])
    return path


@pytest.fixture
def run(tiny_set, labels, tmp_path, capsys):
    def start(head, *changes, name="run"):
        path = tmp_path / f"{name}.toml"
        path.write_text(BASE.format(out=tmp_path / name, data=tiny_set) + head)
        code = main([str(path), *(word for change in changes for word in ("--set", change))])
        captured = capsys.readouterr()
        return code, tmp_path / name, captured.out, captured.err

    return start


BINARY = LABELS.format(kind="binary", label="charged", more='class_weights = "balanced"')


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_yes_or_no_for_each_residue(run, labels, tiny_set, tmp_path, capsys):
    file = f'data.block_labels="{labels}"'
    code, whole, said, errors = run(BINARY, file, name="whole")
    assert code == 0, errors
    assert re.search(r"train .*residue_binary: \d+ blocks with a label: \d+ 0, \d+ 1\)", said), said
    assert re.search(r"mean AUROC among the blocks of one complex, \d+ complexes: this model [01]\.", said), (
        said
    )
    # Stopped between epochs and resumed, it is the same run.
    code, out, _, errors = run(BINARY, file, "train.epochs=1", name="run")
    assert code == 0, errors
    assert main([str(out / "spec.toml"), "--resume", "--set", "train.epochs=2"]) == 0
    for name in ("evaluation.json", "predictions.csv"):
        assert len((out / name).read_text()) > 100
    assert (out / "predictions.csv").read_text() == (whole / "predictions.csv").read_text()
    rows = table(out / "predictions.csv")
    dataset = atomica.open_dataset(tiny_set)
    test = [dataset[row] for row, split in enumerate(dataset.splits) if split == "test"]
    seen = [record.view("segment0") for record in test]
    assert len(rows) == sum(int((record.block_types > 3).sum()) for record in seen)
    assert {row["id"].split(" ")[1] for row in rows} == {"A"}
    assert [row["label"] for row in rows if row["id"].endswith(" A 3")] == [""] * len(test)
    entry = json.loads((out / "evaluation.json").read_text())["heads"]["residue_binary"]
    assert entry["complexes"] == len([row for row in rows if row["label"]])
    assert entry["clusters"] == len(test)
    assert "regression on neighbours" in entry["baselines"]
    assert 0 <= entry["within"]["this model"] <= 1
    # Evaluated as a job: the same predictions, and structures with them as B-factors.
    job = tmp_path / "job.toml"
    text = (
        f'[run]\nname = "job"\njob = "evaluate"\nout = "{tmp_path}/{{name}}"\n[data]\nsource = "{tiny_set}"\n'
        f'split = "test"\n[model]\nweights = "{out}/checkpoints/best"\n[device]\nthreads = 1\nkind = "cpu"\n'
        f'[evaluate]\nlabel = "charged"\nroot = "{tiny_set.parent}"\n'
    )
    job.write_text(text + f'block_labels = "{labels}"\ntrain = "{tiny_set}"\n')
    capsys.readouterr()
    assert main([str(job)]) == 0, capsys.readouterr().err
    again = tmp_path / "job"
    for one, other in zip(table(again / "predictions.csv"), rows, strict=True):
        assert (one["id"], one["label"]) == (other["id"], other["label"])
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
    found = json.loads((again / "evaluation.json").read_text())["heads"]["residue_binary"]
    assert found["metrics"]["auroc"] == pytest.approx(entry["metrics"]["auroc"], abs=1e-4)
    assert found["best"] == entry["best"]
    first = test[0]
    lines = (again / "structures" / f"{first.id}.pdb").read_text().splitlines()
    shown = {
        int(line[22:26]): float(line[60:66]) for line in lines if line.startswith("ATOM") and line[21] == "A"
    }
    expected = [100 * float(row["probability"]) for row in rows if row["id"].startswith(first.id)]
    np.testing.assert_allclose([shown[number] for number in sorted(shown)], expected, atol=0.011)
    page = (again / "report.html").read_text()
    assert "Along the sequence" in page
    # Without labels it answers all the same.
    job.write_text(changed(text, {'"job"\njob': '"bare"\njob'}))
    assert main([str(job)]) == 0, capsys.readouterr().err
    bare = table(tmp_path / "bare" / "predictions.csv")
    assert [row["probability"] for row in bare] == [
        row["probability"] for row in table(again / "predictions.csv")
    ]


@pytest.mark.parametrize(
    ("kind", "label", "more", "metric"),
    [
        ("multiclass", "kind", 'classes = ["plus", "minus", "none"]', "balanced_accuracy"),
        ("regression", "place", 'readout = "block"', "rmse"),
    ],
)
def test_other_questions_about_residues(run, labels, kind, label, more, metric):
    head = LABELS.format(kind=kind, label=label, more=more)
    code, out, _, errors = run(
        head,
        f'data.block_labels="{labels}"',
        "data.keep_blocks=0.7",
        "data.keep_whole=0.25",
        'data.input="complex"',
    )
    assert code == 0, errors
    entry = json.loads((out / "evaluation.json").read_text())["heads"][f"residue_{kind}"]
    assert np.isfinite(entry["metrics"][metric])
    assert "neighbours" in " ".join(entry["baselines"])
    # Both partners are seen, and those of the second have no label.
    rows = table(out / "predictions.csv")
    assert {row["label"] for row in rows if row["id"].split(" ")[1] == "B"} == {""}
    assert "Along the sequence" in (out / "report.html").read_text()


def test_several_questions_about_a_complex(run, tiny_set, tmp_path, capsys):
    """Labels of the tiny set, as words that may stand together."""
    from atomica import _prep

    index = table(tiny_set.parent / "index.csv")
    for row in index:
        large = ["large"] if int(row["label_size"] or 0) > 8 else []
        row["words"] = "; ".join(([] if row["label"] == "no" else ["charged"]) + large) or "nothing"
        row["path"] = str(tiny_set.parent / row["path"])
    with (tmp_path / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(index[0]))
        writer.writeheader()
        writer.writerows(index)
    shards = tmp_path / "words"
    assert _prep.run(["build-graphs", str(tmp_path / "index.csv"), "--out", str(shards)]) == 0
    head = '[[head]]\nkind = "multilabel"\nlabel = "words"\nclasses = ["charged", "large"]\nhidden = 8\n'
    head += 'loss = "focal"\nclass_weights = "balanced"\n'
    code, whole, _, errors = run(head, f'data.train="{shards}"', name="whole")
    assert code == 0, errors
    code, out, _, errors = run(head, f'data.train="{shards}"', "train.epochs=1")
    assert main([str(out / "spec.toml"), "--resume", "--set", "train.epochs=2"]) == 0
    rows = table(out / "predictions.csv")
    assert rows == table(whole / "predictions.csv")
    assert {row["id"] for row in rows} == {row["id"] for row in index if row["split"] == "test"}
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("charged", "large"))
    entry = json.loads((out / "evaluation.json").read_text())["heads"]["multilabel"]
    assert 0 <= entry["metrics"]["auprc"] <= 1
    assert "regression on counts" in entry["baselines"]
    page = (out / "report.html").read_text()
    assert "Each question alone" in page
    job = tmp_path / "job.toml"
    job.write_text(
        f'[run]\nname = "job"\njob = "evaluate"\nout = "{tmp_path}/job"\n[data]\nsource = "{shards}"\n'
        f'split = "test"\n[model]\nweights = "{out}/checkpoints/best"\n[device]\nthreads = 1\nkind = "cpu"\n'
        '[evaluate]\nlabel = "words"\n'
    )
    capsys.readouterr()
    assert main([str(job)]) == 0, capsys.readouterr().err
    again = json.loads((tmp_path / "job" / "evaluation.json").read_text())["heads"]["multilabel"]
    assert again["metrics"]["auroc"] == pytest.approx(entry["metrics"]["auroc"], abs=1e-5)


REFUSED = [
    (BINARY, [], "a head of kind residue_… learns from them: name the file"),
    (
        BINARY,
        ['data.block_labels="{labels}"', 'head.0.label="charge"'],
        "has no column 'charge'; it has charged, kind, place",
    ),
    (
        BINARY,
        ['data.block_labels="{labels}"', 'head.0.positive="2"', 'head.0.negative="3"'],
        "no row is labelled '2'",
    ),
    (BINARY, ['data.block_labels="{tmp}/none.csv"'], "cannot be read"),
    (BINARY, ['data.block_labels="{tmp}/torn.csv"'], "torn.csv: line 3: resnum = 'x' is no whole number"),
    (
        BINARY,
        ['data.block_labels="{tmp}/twice.csv"'],
        "twice.csv: line 3: c00 has another label of A:4 before",
    ),
    (BINARY, ['data.block_labels="{tmp}/alike.csv"'], "all 2 labels of head 'residue_binary' are alike"),
    (BINARY, ['data.block_labels="{tmp}/short.csv"'], "short.csv: line 1: has no column resnum"),
    (BINARY, ['data.block_labels="{labels}"', "data.keep_whole=0.5"], "no effect with data.keep_blocks = 1"),
]


@pytest.mark.parametrize(("head", "changes", "message"), REFUSED, ids=lambda value: str(value)[-40:])
def test_what_is_wrong_is_said_before_the_start(run, labels, tmp_path, head, changes, message):
    for name, text in {
        "torn": "id,chain,resnum,charged\nc00,A,4,1\nc00,A,x,1\n",
        "twice": "id,chain,resnum,charged\nc00,A,4,1\nc00,A,4,0\n",
        "alike": "id,chain,resnum,charged\nc00,A,4,1\nc00,A,5,1\nc40,B,1,0\n",
        "short": "id,chain,charged\nc00,A,1\n",
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
    code, out, _, errors = run(head, *(change.format(labels=labels, tmp=tmp_path) for change in changes))
    assert code == 2
    assert message in errors
    assert not out.exists()


def test_labels_that_nothing_learns_from(run, labels):
    head = '[[head]]\nkind = "binary"\npositive = "yes"\n'
    code, _, _, errors = run(head, f'data.block_labels="{labels}"')
    assert code == 2
    assert "has no effect: no head learns from it" in errors


@pytest.mark.parametrize("readout", ["graph", "z"])
def test_a_vector_of_each_complex(run, tiny_set, tmp_path, readout):
    """A head that is handed the answer beside the structure knows it; one that asks for another length is refused."""
    from safetensors.numpy import save_file

    dataset = atomica.open_dataset(tiny_set)
    answers = {
        name: np.array([label == "yes", label == "no"], np.float32) * 3
        for name, label in zip(dataset.ids, dataset.column("label"), strict=True)
    }
    path = tmp_path / "vectors.safetensors"
    save_file(answers, path)
    head = f'[[head]]\nkind = "multiclass"\nclasses = ["yes", "no"]\nreadout = "{readout}"\nvector_size = 2\n'
    changes = [f'data.vectors="{path}"', "train.epochs=6", "train.learning_rate=1e-2"]
    code, out, _, errors = run(head, *changes, "model.layers=3" if readout == "z" else "model.layers=1")
    assert code == 0, errors
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["heads"]["multiclass"]["metrics"]["auroc"] > 0.95
    for change, message in [
        ("head.0.vector_size=3", "must hold [3] for each complex"),
        ("head.0.vector_size=0", "has no effect: no head has a vector_size"),
    ]:
        code, _, _, errors = run(head, *changes, change, name="wrong")
        assert code == 2
        assert message in errors
    code, _, _, errors = run(head, name="none")
    assert code == 2
    assert "heads read vectors of 2 numbers: name one file that has them" in errors


def test_two_processes_find_what_one_does(run, labels, tmp_path):
    """Ranks share batches of which some have no label at all, and weigh classes alike."""
    few = tmp_path / "few.csv"
    lines = labels.read_text().splitlines()
    few.write_text("\n".join(line for line in lines if line[:2] != "c2" or line.startswith("c29")) + "\n")
    file = f'data.block_labels="{few}"'
    code, out, _, errors = run(BINARY, file, "data.batch_blocks=30", "data.max_item_blocks=30", name="alone")
    assert code == 0, errors
    spec = tmp_path / "two.toml"
    spec.write_text((out / "spec.toml").read_text().replace(str(out), str(tmp_path / "two")))
    result = run_process(spec, words=TORCHRUN)
    assert result.returncode == 0, result.stderr
    one, two = (
        json.loads((tmp_path / name / "evaluation.json").read_text())["metrics"] for name in ("alone", "two")
    )
    assert set(one) == set(two)
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=2e-3), name
    rows = [table(tmp_path / name / "predictions.csv") for name in ("alone", "two")]
    for left, right in zip(*rows, strict=True):
        assert left["id"] == right["id"]
        assert float(left["probability"]) == pytest.approx(float(right["probability"]), abs=1e-3)


def test_seeds_of_a_head_on_blocks(run, labels):
    """The mean of two models is judged, block by block."""
    code, out, said, errors = run(
        BINARY,
        f'data.block_labels="{labels}"',
        "train.seeds=2",
        "train.epochs=1",
    )
    assert code == 0, errors
    rows = table(out / "predictions.csv")
    assert len({row["id"].split(" ")[0] for row in rows}) == 12
    assert len({row["id"] for row in rows}) == len(rows)
    entry = json.loads((out / "evaluation.json").read_text())["heads"]["residue_binary"]
    assert 0 < entry["within"]["complexes"] <= 12
    assert set(entry["single"]) == set(entry["metrics"])
    assert "ensemble of 2" in said
