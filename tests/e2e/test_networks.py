"""Jobs on pockets and embeddings: networks of interfaces, annotation by ensembles, from a folder of structures on."""

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import networkx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import atomica
from atomica import runner
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.heads.multiclass import MulticlassConfig, MulticlassHead

SMALL = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=8)


def saved(folder, seed, heads=None, kinds=None):
    torch.manual_seed(seed)
    made = {name: cls(config, SMALL) for name, (cls, config) in (heads or {}).items()}
    model = atomica.Model(SMALL, made, kinds=kinds)
    model.save(folder)
    return str(folder)


def job(tmp_path, name, text, *arguments):
    """Run a spec; gives exit code and folder."""
    spec = tmp_path / f"{name}.toml"
    spec.write_text(
        f'[run]\nname = "{name}"\njob = "{name.partition("-")[0]}"\nout = "{tmp_path}/{{name}}"\n{text}'
    )
    return runner.main([str(spec), *arguments]), tmp_path / name


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def embedded(tiny_set, tmp_path_factory):
    """Embeddings of 60 complexes by an untrained model."""
    folder = tmp_path_factory.mktemp("embedded")
    weights = saved(folder / "model", 0)
    text = f'[data]\nsource = "{tiny_set}"\n[model]\nweights = "{weights}"\n[embed]\ntables = ["complexes"]\n'
    code, out = job(folder, "embed", text)
    assert code == 0
    return out


def test_a_network_with_groups(embedded, tmp_path, capsys):
    groups = tmp_path / "groups.csv"
    table = pq.read_table(embedded / "complexes.parquet")
    charged = [row["id"] for row in table.to_pylist() if dict(row["labels"])["label"] == "yes"]
    groups.write_text(
        "id,group\n" + "".join(f"{name},charged\n" for name in charged) + "nobody,charged\nnobody,x\n"
    )
    text = f'[network]\nembeddings = "{embedded}"\nneighbors = 4\ngroups = "{groups}"\npermutations = 99\n'
    code, out = job(tmp_path, "network", text)
    assert code == 0
    nodes, edges = pq.read_table(out / "nodes.parquet"), pq.read_table(out / "edges.parquet")
    assert nodes.num_rows == 60
    unit = dict(zip(table.column("id").to_pylist(), table.column("embedding").to_pylist(), strict=True))
    kind = dict(zip(nodes.column("id").to_pylist(), nodes.column("modality").to_pylist(), strict=True))
    for edge in edges.to_pylist():
        assert kind[edge["source"]] == kind[edge["target"]] == edge["modality"]
        assert abs(np.dot(unit[edge["source"]], unit[edge["target"]]) - edge["cosine"]) < 1e-5
    result = json.loads((out / "result.json").read_text())
    assert result["figures"]["edges"] == edges.num_rows
    assert result["figures"]["group_ids_not_found"] == 1
    for modality in set(kind.values()):
        graph = networkx.read_graphml(out / f"{modality}.graphml")
        own = [row for row in nodes.to_pylist() if row["modality"] == modality]
        assert {name: data["degree"] for name, data in graph.nodes(data=True)} == {
            r["id"]: r["degree"] for r in own
        }
        assert min(dict(graph.degree).values()) >= min(4, len(own) - 1)
        parts = sorted(map(len, networkx.connected_components(graph)), reverse=True)
        assert parts == np.bincount([row["component"] for row in own]).tolist()
    tests = rows_of(out / "groups.csv")
    assert {row["group"] for row in tests} == {"charged", "x"}
    tested = [row for row in tests if int(row["entities"]) > 1]
    assert tested
    assert all(0.01 <= float(row["edges_p"]) <= float(row["edges_q"]) <= 1 for row in tested)
    assert all(row["edges_p"] == "" for row in tests if int(row["entities"]) < 2)
    assert len(rows_of(out / "components.csv")) >= len(set(kind.values()))
    other = tmp_path / "again"
    assert runner.main([str(out / "spec.toml"), "--set", f"run.out={other}"]) == 0
    for name in ("groups.csv", "components.csv", "Ppeptide.graphml"):
        assert (out / name).read_bytes() == (other / name).read_bytes()


def test_what_is_too_large_for_graphml_is_noted_in_the_log(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("atomica.jobs.network.GRAPHML_EDGES", 0)
    code, out = job(tmp_path, "network", f'[network]\nembeddings = "{embedded}"\nneighbors = 2\n')
    assert code == 0
    assert not list(out.glob("*.graphml"))
    assert "too large for GraphML, see edges.parquet" in (out / "log.txt").read_text()


def test_entities_are_not_joined_with_themselves_and_hostile_names_survive(embedded, tmp_path):
    table = pq.read_table(embedded / "complexes.parquet")
    ids = table.column("id").to_pylist()
    ids[0] = "<a & \x00 b>"
    pq.write_table(table.set_column(table.column_names.index("id"), "id", [ids]), tmp_path / "mine.parquet")
    text = f'[network]\nembeddings = "{tmp_path}/mine.parquet"\nentity = "label"\nby_modality = false\n'
    code, out = job(tmp_path, "network", text)
    assert code == 0
    label = dict(zip(ids, (dict(row)["label"] for row in table.column("labels").to_pylist()), strict=True))
    edges = pq.read_table(out / "edges.parquet").to_pylist()
    assert edges
    assert all(label[edge["source"]] != label[edge["target"]] for edge in edges)
    names = {node.get("id") for node in ET.parse(out / "all.graphml").iter() if node.tag.endswith("node")}
    assert "<a & \ufffd b>" in names


def test_what_is_wrong_with_a_network_is_told_at_once(embedded, tmp_path, capsys):
    (tmp_path / "groups.csv").write_text("id,group\nsomebody,x\n")
    text = f'[network]\nembeddings = "{embedded}"\nentity = "gene"\nnull = "uniform"\nneighbours = 3\n'
    code, out = job(tmp_path, "network-1", text)
    said = capsys.readouterr().err
    assert code == 2
    assert "did you mean network.neighbors?" in said
    code, out = job(tmp_path, "network-2", text.replace("neighbours", "neighbors"))
    said = capsys.readouterr().err
    assert "no column or label 'gene'" in said
    assert "network.null" in said
    assert "no effect: network.groups is not given" in said
    code, out = job(
        tmp_path, "network-3", f'[network]\nembeddings = "{embedded}"\ngroups = "{tmp_path}/groups.csv"\n'
    )
    assert "none of its ids is an entity of the embeddings" in capsys.readouterr().err
    code, out = job(tmp_path, "network-4", f'[network]\nembeddings = "{tmp_path}/absent"\n')
    assert "no such file; run a job of kind embed first" in capsys.readouterr().err
    code, out = job(tmp_path, "network-5", f'[network]\nembeddings = "{embedded}"\nneighbors = 0\n')
    assert "give a cutoff above 0" in capsys.readouterr().err
    assert code == 2
    assert not out.exists()


# ------------------------------------------------------------------------------------------------- annotate


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Three untrained classifiers: two that say yes or no, one that knows both classes."""
    folder = tmp_path_factory.mktemp("members")
    yes = BinaryConfig(positive="yes", negative="no", hidden=8)
    both = MulticlassConfig(classes=("no", "yes"))
    return [
        saved(folder / "one", 1, {"binds": (BinaryHead, yes)}, {"binds": "binary"}),
        saved(folder / "two", 2, {"binds": (BinaryHead, yes)}, {"binds": "binary"}),
        saved(folder / "three", 3, {"which": (MulticlassHead, both)}, {"which": "multiclass"}),
    ]


def annotate(tiny_set, members, *, more=""):
    return (
        f'[data]\nsource = "{tiny_set}"\nsplit = "test"\ninput = "segment0"\n'
        f'[annotate]\nvalidation = "{tiny_set}"\n{more}\n'
        f"[annotate.members]\nyes = {json.dumps(members)}\nno = {json.dumps(members[2:])}\n"
    )


def test_pockets_are_called_by_the_mean_of_their_members(tiny_set, members, tmp_path, capsys):
    code, out = job(tmp_path, "annotate", annotate(tiny_set, members))
    assert code == 0
    data = atomica.open_dataset(tiny_set)
    pockets = np.flatnonzero(np.array(data.splits) == "test")
    slow = {"yes": np.zeros(len(pockets)), "no": np.zeros(len(pockets))}
    for path in members:
        model = atomica.load(path, "cpu")
        for place, row in enumerate(pockets):
            predicted = model.predict(data.graphs([row], input="segment0"))
            if "binds" in predicted:
                slow["yes"][place] += predicted["binds"][0] / 3
            else:
                slow["yes"][place] += predicted["which"][0, 1] / 3
                slow["no"][place] += predicted["which"][0, 0]
    ensemble = json.loads((out / "ensemble.json").read_text())["classes"]
    table = rows_of(out / "annotations.csv")
    assert [row["id"] for row in table] == [data.ids[row] for row in pockets]
    long = pq.read_table(out / "annotations.parquet").to_pylist()
    assert len(long) == 2 * len(pockets)
    for name, found in slow.items():
        np.testing.assert_allclose([float(row[f"P({name})"]) for row in table], found, atol=1e-5)
        threshold = ensemble[name]["threshold"]
        called = [row["called"] for row in long if row["class"] == name]
        assert called == [row["probability"] >= threshold for row in long if row["class"] == name]
        assert called == [name in row["classes"].split("; ") for row in table]
        assert ensemble[name]["learnt"]["pockets"] == 12
    assert all(row["spread"] == 0 for row in long if row["class"] == "no")
    log = (out / "log.txt").read_text()
    assert f"learnt  yes: threshold {ensemble['yes']['threshold']:.4f} by f1, from 12 pockets" in log
    # Interrupted after its thresholds were learnt, it goes on with them.
    before = {name: (out / name).read_bytes() for name in ("annotations.csv", "ensemble.json")}
    for name in ("result.json", "annotations.csv", "annotations.parquet"):
        (out / name).unlink()
    code, _ = job(tmp_path, "annotate", annotate(tiny_set, members), "--resume")
    assert code == 0
    assert {name: (out / name).read_bytes() for name in before} == before
    assert runner.main([str(out / "spec.toml"), "--dry-run"]) == 0
    # The ensemble, with its thresholds, on something else.
    text = (
        f'[data]\nsource = "{tiny_set}"\ninput = "segment0"\n[annotate]\nensemble = "{out}/ensemble.json"\n'
    )
    code, other = job(tmp_path, "annotate-all", text)
    assert code == 0
    whole = {row["id"]: row for row in rows_of(other / "annotations.csv")}
    for row in table:
        assert row["classes"] == whole[row["id"]]["classes"]
    atomica.Model(SMALL, {"binds": BinaryHead(BinaryConfig(), SMALL)}, kinds={"binds": "binary"}).save(
        tmp_path / "moved"
    )
    changed = json.loads((out / "ensemble.json").read_text())
    changed["classes"]["yes"]["members"][0]["path"] = "moved"
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    text = text.replace(f"{out}/ensemble.json", f"{tmp_path}/changed.json")
    code, _ = job(tmp_path, "annotate-changed", text)
    assert code == 2
    assert "its weights are not those that the thresholds" in capsys.readouterr().err


def test_what_is_wrong_with_an_ensemble_is_told(tiny_set, members, tmp_path, capsys):
    plain = saved(tmp_path / "plain", 5)
    for name, text, message in (
        ("2", annotate(tiny_set, [*members[:1], plain, members[2]]), "0 of its heads answer for class 'yes'"),
        (
            "3",
            annotate(tiny_set, members, more="precision = 0.8"),
            'no effect: annotate.rule is not "precision"',
        ),
        (
            "4",
            annotate(tiny_set, members, more="[annotate.thresholds]\nyes = 0.5\nno = 0.5\n"),
            "has a threshold already",
        ),
        (
            "5",
            annotate(tiny_set, members, more="[annotate.thresholds]\nzinc = 0.5\n"),
            "'zinc' has no members here",
        ),
        (
            "6",
            annotate(tiny_set, members).replace(f'validation = "{tiny_set}"', ""),
            "nothing says what the threshold of",
        ),
        (
            "7",
            annotate(tiny_set, members).replace(f'validation = "{tiny_set}"', 'validation = "absent"'),
            "absent: no such",
        ),
    ):
        code, out = job(tmp_path, f"annotate-{name}", text)
        said = capsys.readouterr().err
        assert code == 2
        assert message in said
        assert not out.exists()
    code, out = job(tmp_path, "annotate-8", annotate(tiny_set, members, more='label = "batch_of"'))
    assert code == 1
    assert "no row is labelled 'yes' or 'no'" in capsys.readouterr().err


def test_from_a_folder_of_structures_to_a_network(tiny_set, tmp_path):
    """The way of a user without an index: interfaces are found, embedded, joined; pockets come from scores as well."""
    folder = tmp_path / "structures"
    folder.mkdir()
    for file in sorted(tiny_set.parent.glob("c0*.pdb")):
        lines = [
            f"{line[:60]}{0.9 if line[21] == 'A' else 0.1:6.2f}{line[66:]}"
            if line.startswith("ATOM")
            else line
            for line in file.read_text().splitlines()
        ]
        (folder / file.name).write_text("\n".join(lines) + "\n")
    weights = saved(tmp_path / "model", 0)
    common = f'[data]\nsource = "{folder}"\n{{}}\n[model]\nweights = "{weights}"\n[embed]\ntables = ["complexes"]\n'
    for name, more, kinds, count in (
        ("embed-found", "", {"Ppeptide"}, 9),
        ("embed-scored", "pockets_above = 0.5", {"other"}, 10),
    ):
        code, out = job(tmp_path, name, common.format(more))
        assert code == 0
        code, network = job(tmp_path, f"network-{name}", f'[network]\nembeddings = "{out}"\nneighbors = 2\n')
        assert code == 0
        nodes = pq.read_table(network / "nodes.parquet").to_pylist()
        assert len(nodes) == count
        assert {row["modality"] for row in nodes} == kinds
        assert min(row["degree"] for row in nodes) >= 2


ROOT = Path(__file__).parents[2]


def test_the_specs_of_this_folder_run(embedded, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(embedded, "outputs/embed")
    assert runner.main([str(ROOT / "runs" / "network.toml")]) == 0
    assert (tmp_path / "outputs/network/Ppeptide.graphml").is_file()
    config = BinaryConfig(positive="nucleic", negative="protein", hidden=8)
    for name in ("ligand", "ligand-1"):
        saved(tmp_path / "outputs" / name / "checkpoints/best", 0, {"binary": (BinaryHead, config)})
    assert runner.main([str(ROOT / "runs" / "annotate.toml"), "--dry-run"]) == 0
    assert "56 complexes of demo://pockets, segment0 alone" in capsys.readouterr().out
    for name in ("network", "annotate"):
        text = (ROOT / "runs" / f"{name}.toml").read_text()
        assert f"\n#     atomica-run runs/{name}.toml" in text
        assert f"[`{name}.toml`]({name}.toml)" in (ROOT / "runs" / "README.md").read_text()
