"""`run.job = "predict"`, `atomica.predict`, `atomica.fit`: answers for structures that nobody has labelled."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from helpers import BINARY, ROOT, TINY, changed, run

import atomica
from atomica import fitting
from atomica.analysis.familiarity import TrainingSet, learnt_from
from atomica.errors import SpecError
from atomica.files import TRAINING_SET
from atomica.fitting import Fitted
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.heads.residue import ResidueBinaryConfig, ResidueBinaryHead
from atomica.prep.split import strata
from atomica.runner import main


@pytest.fixture(scope="module")
def trained(write_run_once):
    """The folder of a run on the small set with a binary head."""
    path, out = write_run_once(TINY, {"epochs = 3": "epochs = 1"})
    assert main([str(path)]) == 0
    return out


@pytest.fixture(scope="module")
def write_run_once(tiny_set, tmp_path_factory):
    def write(text, changes=None):
        folder = tmp_path_factory.mktemp("run")
        text = text.format(out=folder / "out", data=tiny_set)
        (folder / "spec.toml").write_text(changed(text, changes))
        return folder / "spec.toml", folder / "out"

    return write


def predict(folder, source, weights, more="", split=""):
    """Run the job; its exit code and folder."""
    named = source if source.startswith("[") else f'"{source}"'
    text = f'[run]\nname = "predict"\njob = "predict"\nout = "{folder}/out"\n[data]\nsource = {named}\n'
    text += f'split = "{split}"\n' if split else ""
    text += f'[model]\nweights = "{weights}"\n{more}[device]\nkind = "cpu"\nthreads = 1\n'
    (folder / "predict.toml").write_text(text)
    return main([str(folder / "predict.toml")]), folder / "out"


def table(path):
    return list(csv.DictReader(path.open()))


def test_predictions_are_those_of_the_evaluation(trained, tiny_set, tmp_path):
    code, out = predict(tmp_path, str(tiny_set), trained / "checkpoints" / "best", split="test")
    assert code == 0
    found, known = table(out / "predictions.csv"), table(trained / "predictions.csv")
    assert [row["id"] for row in found] == [row["id"] for row in known]
    for one, other in zip(found, known, strict=True):
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
        assert one["predicted"] == ("yes" if float(one["probability"]) >= 0.5 else "no")
        assert (one["partner0"], one["partner1"]) == ("A", "B")
    arrow = pq.read_table(out / "predictions.parquet")
    assert arrow.column("id").to_pylist() == [row["id"] for row in found]
    page = (out / "report.html").read_text()
    assert "nearest_training" in page
    assert "Predictions" in page


def test_structures_without_labels_and_one_that_cannot_be_read(trained, tiny_set, tmp_path):
    """In Python the same as by the command; what is damaged is listed, and the others are answered."""
    new = tmp_path / "new"
    new.mkdir()
    for index in (3, 4, 5):
        (new / f"c{index:02}.pdb").write_text((tiny_set.parent / f"c{index:02}.pdb").read_text())
    (new / "damaged.pdb").write_text(
        "ATOM      1  N   LYS A   1      xx.xxx   0.000   0.000  1.00  0.00           N\n"
    )
    weights = trained / "checkpoints" / "best"
    code, out = predict(tmp_path, str(new), weights)
    assert code == 3
    rows = table(out / "predictions.csv")
    assert {row["source_path"].rpartition("/")[2] for row in rows} == {"c03.pdb", "c04.pdb", "c05.pdb"}
    assert "damaged.pdb" in (out / "failures.jsonl").read_text()
    found = atomica.predict(new, weights, device="cpu")
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        found["probability"].tolist(), abs=1e-6
    )
    assert len(found.failures) == 1
    frame = found.to_pandas()
    assert list(frame["id"]) == [row["id"] for row in rows]
    polars = pytest.importorskip("polars")
    assert polars.DataFrame(found).shape == frame.shape


def test_all_that_was_learnt_from_is_remembered_though_few_coordinates_are_kept(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    kept, others = tuple(f"kept{n}" for n in range(20)), tuple(f"other{n}" for n in range(30))
    atomica.load("base", "cpu").save(tmp_path / "model")
    TrainingSet.of(vectors, kept, "h_graph", others).save(tmp_path / "model")
    asked = [*kept[:5], *others[:5], *others[:5], "new"]
    assert TrainingSet.load(tmp_path / "model").has(asked).tolist() == [True] * 15 + [False]
    assert (
        learnt_from([tmp_path / "model"], asked) == "15 of 16 complexes are among those that were learnt from"
    )
    assert learnt_from([tmp_path / "model"], ["new"]) == ""


def test_how_far_is_told_by_the_training_complexes(trained, tiny_set, tmp_path):
    weights = trained / "checkpoints" / "best"
    kept = TrainingSet.load(weights)
    dataset = atomica.open_dataset(tiny_set)
    train = [name for name, split in zip(dataset.ids, dataset.splits, strict=True) if split == "train"]
    assert list(kept.ids) == train
    found = atomica.predict(tiny_set, weights, device="cpu")
    distance = dict(zip(found["id"], found["distance"], strict=True))
    nearest = dict(zip(found["id"], found["nearest_training"], strict=True))
    assert all(nearest[name] == name and distance[name] < 1e-2 for name in train)
    others = [name for name in dataset.ids if name not in train]
    assert min(distance[name] for name in others) > 0.1
    demo = atomica.predict("demo://pockets", weights, device="cpu")
    assert np.median(demo["distance"]) > np.median([distance[name] for name in others])
    assert np.mean(demo["percentile"] >= 99) > 0.5
    # Weights without it say so; with the data named it is found again.
    bare = tmp_path / "bare"
    atomica.load(weights, "cpu").save(bare)
    assert "distance" not in atomica.predict(tiny_set, bare, device="cpu").table.column_names
    again = atomica.predict(tiny_set, bare, train=tiny_set, device="cpu")
    assert again["distance"].tolist() == pytest.approx(found["distance"].tolist(), abs=1e-3)
    (weights / TRAINING_SET).rename(tmp_path / TRAINING_SET)
    try:
        (weights / TRAINING_SET).write_bytes(b"no safetensors")
        code, _ = predict(tmp_path, str(tiny_set), weights)
        assert code == 2
    finally:
        (tmp_path / TRAINING_SET).replace(weights / TRAINING_SET)


def test_members_answer_together(write_run_once, tiny_set, tmp_path):
    head = '[[head]]\nkind = "multiclass"\nclasses = ["yes", "no"]\n'
    path, out = write_run_once(TINY, {BINARY: head, "epochs = 3": "epochs = 0\nseeds = 2"})
    assert run(path).returncode == 0
    code, folder = predict(tmp_path, str(tiny_set), out, '[predict]\nrank = "P(yes)"\ntop = 5\n', "test")
    assert code == 0
    rows = table(folder / "predictions.csv")
    each = [
        atomica.predict(tiny_set, out / "members" / f"seed{seed}" / "checkpoints" / "best", device="cpu")
        for seed in (0, 1)
    ]
    place = {name: index for index, name in enumerate(each[0]["id"])}
    for row in rows:
        said = [float(one["P(yes)"][place[row["id"]]]) for one in each]
        assert float(row["P(yes)"]) == pytest.approx(np.mean(said), abs=1e-5)
        assert float(row["spread"]) == pytest.approx(np.std(said, ddof=1), abs=1e-5)
        assert float(row["P(yes)"]) + float(row["P(no)"]) == pytest.approx(1, abs=1e-5)
    ranked = table(folder / "ranked.csv")
    best = sorted(rows, key=lambda row: -float(row["P(yes)"]))[:5]
    assert [row["id"] for row in ranked] == [row["id"] for row in best]
    assert [row["rank"] for row in ranked] == ["1", "2", "3", "4", "5"]
    assert json.loads((folder / "result.json").read_text())["figures"]["complexes"] == len(rows)


def test_heads_on_blocks_give_a_table_and_structures(tiny_set, tmp_path):
    torch.manual_seed(0)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    head = ResidueBinaryHead(ResidueBinaryConfig(positive="touches"), config)
    atomica.Model(config, {"residues": head}).save(tmp_path / "model")
    code, out = predict(
        tmp_path, str(tiny_set), tmp_path / "model", f'[predict]\nroot = "{tiny_set.parent}"\n', "test"
    )
    assert code == 0
    blocks = table(out / "blocks.csv")
    dataset = atomica.open_dataset(tiny_set)
    row = int(blocks[0]["row"])
    mine = [one for one in blocks if int(one["row"]) == row]
    record = dataset[row]
    assert len(mine) == len(record.block_types) - 2  # but the global blocks
    said = atomica.load(tmp_path / "model", "cpu").predict([record])["residues"]
    assert [float(one["probability"]) for one in mine] == pytest.approx(
        said[[int(one["block"]) for one in mine]].tolist(), abs=1e-6
    )
    coloured = (out / "structures" / f"{record.id}.pdb").read_text().splitlines()
    first = next(line for line in coloured if line.startswith("ATOM"))
    assert float(first[60:66]) == pytest.approx(100 * float(mine[0]["probability"]), abs=0.01)
    page = (out / "report.html").read_text()
    assert "Along the sequence" in page
    assert 'id="ngl"' in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[predict]\nheads = ["size"]\n', "no such head that answers"),
        ('[predict]\nrank = "energy"\n', "no such column"),
        ("[predict]\ntop = 5\n", "has no effect: predict.rank names no column"),
        ('[predict]\nroot = "nowhere"\n', "no such folder"),
    ],
)
def test_what_cannot_be_asked(trained, tiny_set, tmp_path, capsys, more, said):
    code, out = predict(tmp_path, str(tiny_set), trained / "checkpoints" / "best", more)
    assert code == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_rows_of_a_split_that_is_not_there(trained, tiny_set, tmp_path, capsys):
    weights = trained / "checkpoints" / "best"
    code, out = predict(tmp_path, str(FIELD / "recep.pdb"), weights, split="test")
    assert code == 2
    assert "have no splits, so none is test; leave it empty" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(SpecError, match="have no splits"):
        atomica.predict((), weights, receptor="a.pdb", ligands=["b.sdf"], split="test")
    (tmp_path / "index.csv").write_text(
        f"id,path,chain1,chain2,split\none,{tiny_set.parent}/c00.pdb,A,B,train\n"
    )
    assert predict(tmp_path, str(tmp_path / "index.csv"), weights, split="test")[0] == 1
    assert "no complex is left of split test; there are train (1); empty: all" in capsys.readouterr().err


def test_a_model_without_heads_embeds(tiny_set, tmp_path, capsys):
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    atomica.Model(config).save(tmp_path / "model")
    code, _ = predict(tmp_path, str(tiny_set), tmp_path / "model")
    assert code == 2
    assert "embed gives its vectors" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- screening

FIELD = ROOT / "tests" / "fixtures" / "field"


def test_many_molecules_against_one_receptor(tmp_path, capsys):
    torch.manual_seed(0)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    model = atomica.Model(config, {"affinity": RegressionHead(RegressionConfig(), config)})
    model.save(tmp_path / "model")
    pose = (FIELD / "lig.pdbqt").read_text()
    titled = "".join(
        f"MODEL {n}\n{pose.replace('Name = x', f'Name = {title}')}\nENDMDL\n" for n, title in enumerate("aab")
    )
    (tmp_path / "poses.pdbqt").write_text(titled)
    (tmp_path / "more").mkdir()
    shutil.copy(FIELD / "lig.pdb", tmp_path / "more")
    (tmp_path / "more" / "notes.txt").write_text("no molecule")
    ligands = [str(tmp_path / "poses.pdbqt"), str(tmp_path / "more")]
    text = (
        f'[run]\nname = "screen"\njob = "predict"\nout = "{tmp_path}/{{name}}"\n'
        f'[data]\nreceptor = "{FIELD}/recep.pdb"\nligands = {ligands}\n'
        f'[model]\nweights = "{tmp_path}/model"\n[predict]\nrank = "-prediction"\n[device]\nthreads = 1\n'
    )
    (tmp_path / "screen.toml").write_text(text)
    assert main([str(tmp_path / "screen.toml")]) == 0
    ranked = table(tmp_path / "screen" / "ranked.csv")
    assert sorted(row["id"] for row in ranked) == ["a_0", "a_1", "b", "lig"]
    files = {row["id"]: (row["ligand_path"], row["ligand_index"]) for row in ranked}
    assert files["b"] == (ligands[0], "2")
    assert files["lig"] == (f"{ligands[1]}/lig.pdb", "0")
    values = [float(row["prediction"]) for row in ranked]
    assert values == sorted(values)
    found = atomica.predict((), model, receptor=str(FIELD / "recep.pdb"), ligands=ligands)
    assert sorted(found["prediction"].tolist()) == pytest.approx(values, abs=1e-5)
    words = [str(tmp_path / "screen.toml"), "--set", "run.name=other"]
    assert main([*words, "--set", "data.source=demo://pockets"]) == 2
    assert "has no place beside data.receptor" in capsys.readouterr().err
    assert main([*words, "--set", "data.ligands=[]"]) == 2
    assert f'data.receptor = "{FIELD}/recep.pdb": needs data.ligands' in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*words, "--set", f'data.ligands=["{tmp_path}/x.sdf", "{tmp_path}/empty"]']) == 2
    told = capsys.readouterr().err
    assert "data.ligands = " in told
    assert "x.sdf: no such file" in told
    assert "empty: holds no files of molecules" in told


# ------------------------------------------------------------------------------------------------------- fit


def test_three_lines_from_an_index_to_predictions(tiny_set, tmp_path):
    small = {"model.atom_hidden": 8, "model.block_hidden": 8, "model.edge_size": 4, "model.layers": 1}
    small |= {"train.epochs": 1, "device.threads": 1, "log.tensorboard": False, "data.input": "segment0"}
    index = tmp_path / "index.csv"
    rows = list(csv.DictReader((tiny_set.parent / "index.csv").open()))
    with index.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "path", "chain1", "chain2", "binds"])
        writer.writeheader()
        for row in rows:
            path = tiny_set.parent / row["path"]
            one = {"id": row["id"], "path": path, "chain1": "A", "chain2": "B", "binds": row["label"]}
            writer.writerow(one)
    drawn = {"label": "binds", "init": None, "seeds": 2, "out": tmp_path / "fit", "quiet": True}
    fitted = atomica.fit(index, settings=small, **drawn)
    assert fitted.evaluation["heads"]["binary"]["kind"] == "binary"
    assert {"split", "cluster"} <= set(
        (tmp_path / "fit" / "index.csv").read_text().splitlines()[0].split(",")
    )
    saved = fitted.save(tmp_path / "model")
    new = [tiny_set.parent / "c00.pdb", tiny_set.parent / "c01.pdb"]
    one, other = fitted.predict(new), atomica.predict(new, saved)
    assert one["probability"].tolist() == other["probability"].tolist()
    assert "spread" in one.table.column_names
    # The same call finds the work done.
    again = atomica.fit(index, settings=small, **drawn)
    assert again.evaluation == fitted.evaluation
    index.write_text(index.read_text().replace(",yes", ",maybe"))
    with pytest.raises(
        atomica.AtomicaError, match="made of another index, or of this one before it was changed"
    ):
        atomica.fit(index, settings=small, **drawn)
    with index.open("w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(
            [["id", "path", "chain1", "chain2", "binds"]]
            + [[row["id"], tiny_set.parent / row["path"], "A", "B", f" {row['label']} "] for row in rows]
        )
    # By default a head is solved on the weights of the package, and the graphs are built as those want them.
    quick = {"device.threads": 1, "log.tensorboard": False}
    solved = atomica.fit(index, label="binds", out=tmp_path / "solved", settings=quick, quiet=True)
    model = atomica.load(solved.weights)
    for name, same in (("atom_types.weight", True), ("blocks.layers.0.radial.weight", False)):
        states = [one.encoder.state_dict()[name] for one in (model, atomica.load("base"))]
        assert torch.equal(*states) == same
    assert model.made_for.origin == atomica.load("base").made_for.origin
    assert solved.evaluation["checkpoint"]["epoch"] == 6
    assert "spread" not in solved.predict(new).table.column_names
    with pytest.raises(atomica.AtomicaError, match="other sizes: layers is 3 there, 2 here(.|\n)*init=None"):
        atomica.fit(index, label="binds", out=tmp_path / "sizes", settings={"model.layers": 2}, quiet=True)
    assert not (tmp_path / "sizes").exists()
    with pytest.raises(atomica.AtomicaError, match="no column 'affinity'"):
        atomica.fit(index, label="affinity", out=tmp_path / "no")
    with pytest.raises(atomica.AtomicaError, match="is there already"):
        fitted.save(tmp_path / "model")


def test_heads_for_numbers_are_left_as_they_are_solved_on_given_weights():
    epochs = {
        kind: fitting._given("base", kind)["train.epochs"]
        for kind in ("affinity", "residue_regression", "binary")
    }
    assert epochs == {"affinity": 0, "residue_regression": 0, "binary": 6}


def test_numbers_are_learnt_anew_from_weights_that_know_others(tiny_set, tmp_path):
    """The head of an earlier fit answers what that was asked, and is not taken for this one's."""
    quick = {"device.threads": 1, "log.tensorboard": False}
    small = {"model.atom_hidden": 8, "model.block_hidden": 8, "model.edge_size": 4, "model.layers": 1}
    first = atomica.fit(
        tiny_set, label="label_size", init=None, seeds=1, out=tmp_path / "one", quiet=True,
        settings={**quick, **small, "train.epochs": 0},
    )  # fmt: skip
    again = atomica.fit(
        tiny_set, label="label_size", init=first.weights, out=tmp_path / "two", settings=quick, quiet=True
    )
    assert list(again.evaluation["heads"]) == ["regression_2"]
    log = (tmp_path / "two" / "run" / "log.txt").read_text()
    assert "solved  heads on the encoder as it starts: regression_2" in log


def test_two_of_three_words_make_a_binary_head(tiny_set, tmp_path):
    asked = {"label": "batch_of", "kind": "binary", "out": tmp_path / "fit", "init": None}
    with pytest.raises(
        atomica.AtomicaError, match="has 6 different labels, and a binary head tells two apart"
    ):
        atomica.fit(tiny_set, **asked)
    head = fitting._head(["a", "b", "c"], "binary", "x", ("head.0.positive", "head.0.negative"))
    assert head == {"head.0.kind": "binary"}
    for words, positive in (("1110", "1"), ("0001", "1"), (["No", "Yes", "Yes"], "Yes"), ("aab", "b")):
        assert fitting._head(list(words), None, "x", ())["head.0.positive"] == positive


def test_one_label_that_is_no_number_does_not_make_classes_of_numbers():
    numbers = [str(n / 4) for n in range(40)]
    with pytest.warns(UserWarning, match="1 of 41 labels of column 'x' are no numbers, such as '>5'"):
        assert fitting._head([*numbers, ">5"], None, "x", ()) == {"head.0.kind": "regression"}
    kinds = strata([*numbers, ">5", "NA"])
    assert len(set(kinds)) == 6
    assert kinds[-2:] == ["", ""]


def test_fit_tells_what_was_not_built_and_begins_anew_where_nothing_was_trained(tiny_set, tmp_path, capfd):
    rows = list(csv.DictReader((tiny_set.parent / "index.csv").open()))

    def index(folder, lost):
        path = tmp_path / "index.csv"
        lines = [
            f"{row['id']},{folder / row['path'] if n >= lost else 'gone.pdb'},A,B,{row['label']}"
            for n, row in enumerate(rows)
        ]
        path.write_text("\n".join(["id,path,chain1,chain2,binds", *lines]) + "\n")
        return path

    asked = {"label": "binds", "out": tmp_path / "fit", "quiet": True}
    asked["settings"] = {"train.epochs": 0, "device.threads": 1, "log.tensorboard": False}
    with pytest.raises(atomica.AtomicaError, match="nothing to go by: 60 of 60 rows(.|\n)*cannot be read"):
        atomica.fit(index(tmp_path / "nowhere", 0), **asked)
    with pytest.warns(UserWarning, match="3 inputs could not be read"):
        fitted = atomica.fit(index(tiny_set.parent, 3), **asked)
    assert len(fitted.failures) == 3
    assert "epoch" not in "".join(capfd.readouterr())


def test_what_cannot_be_learnt_from_is_told_before_anything_is_built(tiny_set, tmp_path):
    rows = list(csv.DictReader((tiny_set.parent / "index.csv").open()))

    def index(name, labels):
        path = tmp_path / name
        lines = [
            f"{row['id']},{tiny_set.parent / row['path']},A,B,{label}"
            for row, label in zip(rows, labels * len(rows), strict=False)
        ]
        path.write_text("\n".join(["id,path,chain1,chain2,binds", *lines]) + "\n")
        return path

    two = index("two.csv", ["yes", "no", "nan"])
    for data, settings, told in (
        (index("one.csv", ["yes"]), {}, "labels of column 'binds' are 'yes': nothing tells one"),
        (index("none.csv", ["", "nan", "NaN"]), {}, "none.csv: no complex has a label in column 'binds'"),
        (two, {"train.epoch": 1}, "did you mean train.epochs"),
        (pd.DataFrame({"id": ["a"], "path": ["a.pdb"], "binds": ["yes"]}), {}, "frame.to_csv"),
        ([two, two], {}, "2 paths: fit takes one index"),
        (tmp_path / "gone.csv", {}, "gone.csv: no such index or data set"),
    ):
        with pytest.raises(atomica.AtomicaError, match=told):
            atomica.fit(data, label="binds", out=tmp_path / "fit", settings=settings)
        assert not (tmp_path / "fit").exists()


def test_calls_in_memory_tell_of_what_is_left_when_they_end(trained, tiny_set, tmp_path, capfd):
    """Not of folders that are gone; what could not be read is a warning, and what a failure says is said in it."""
    model = atomica.load(trained / "checkpoints" / "best", "cpu")
    folder = tmp_path / "my structures ß"
    folder.mkdir()
    shutil.copy(tiny_set.parent / "c00.pdb", folder / "protéine 1.pdb")
    (folder / "bad.pdb").write_text("no structure\n")
    index = folder / "my index.csv"
    index.write_text("id,path,chain1,chain2\ngood,protéine 1.pdb,A,B\nbad,bad.pdb,A,B\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"1 inputs could not be read.*bad: .*holds no atoms"):
        found = atomica.predict(index, model)
    assert repr(found).startswith("Predictions(1 complexes, 1 inputs failed; row, id, ")
    with pytest.warns(UserWarning, match="holds no atoms") as told:
        Fitted(trained).predict(index)
    assert [one.filename for one in told] == [__file__]
    with pytest.warns(UserWarning, match="holds no atoms"):
        assert len(atomica.embed([index], model).failures) == 1
    with pytest.raises(
        atomica.AtomicaError, match=r"bad\.pdb: holds no complex.*1 failed: bad: .*holds no atoms"
    ):
        atomica.predict(folder / "bad.pdb", model)
    with pytest.raises(atomica.AtomicaError, match=r"frame\.to_csv"):
        atomica.embed(pd.DataFrame({"path": ["a.pdb"]}), model)
    told = capfd.readouterr()
    assert "atomica-" not in told.out + told.err
