"""The demo data set is what its README says, and the script that builds it decides as it says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import atomica
from atomica.demo import build
from atomica.prep import alike

FOLDER = Path(build.__file__).parent / "pockets"
PARTS = ("train", "valid", "test")
AMINO, BASES = range(4, 24), range(24, 32)


@pytest.fixture(scope="module")
def pockets():
    return atomica.open_dataset("demo://pockets")


@pytest.fixture(scope="module")
def facts():
    return json.loads((FOLDER / "provenance.json").read_text(encoding="utf-8"))


def test_enough_of_each_class(pockets, facts):
    labels, splits = pockets.column("label"), list(pockets.splits)
    counts = Counter(zip(splits, labels, strict=True))
    assert len(pockets) >= 150
    assert set(labels) == {"nucleic", "protein"}
    assert all(n >= 40 for n in Counter(labels).values())
    assert set(splits) == set(PARTS)
    for label in ("nucleic", "protein"):
        assert counts["test", label] >= 15
        assert counts["valid", label] >= 10
    assert facts["counts"] == {
        part: {label: counts[part, label] for label in ("nucleic", "protein")} for part in PARTS
    }


def test_small_enough_for_the_package():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6_000_000


def test_every_input_became_a_complex(pockets):
    counts = pockets.manifest["counts"]
    assert counts["complexes"] == counts["inputs"] == len(pockets)
    assert counts["failures"] == 0
    assert (FOLDER / "failures.jsonl").read_text(encoding="utf-8") == ""
    assert pockets.manifest["cutoff"] == build.CUTOFF


def test_no_cluster_in_two_parts(pockets):
    parts: dict[str, set[str]] = {}
    for column in ("cluster1", "cluster2"):
        for name, part in zip(pockets.column(column), pockets.splits, strict=True):
            parts.setdefault(name, set()).add(part)
    assert None not in parts
    assert [name for name, found in parts.items() if len(found) > 1] == []


def test_no_two_copies_of_an_interface(pockets):
    pairs = [frozenset(pair) for pair in zip(pockets.column("copy1"), pockets.column("copy2"), strict=True)]
    assert len(pairs) == len(set(pairs))


def test_pockets_of_different_parts_are_not_alike(pockets):
    """Does not rely on the stored clusters: sequences are read from the blocks and compared anew."""
    seen: dict[str, list[str]] = {part: [] for part in PARTS}
    for i in range(len(pockets)):
        pocket = pockets[i].segment(0)
        names = list(pocket.block_components)[1:]
        seen[pocket.split].append("".join(alike.one_letter(name, False) for name in names))
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        for one in seen[first]:
            for two in seen[second]:
                identity, *shares = alike.similarity(one, two, False)
                coverage = max(shares)
                assert identity < 0.5 or coverage < 0.5, (one, two)


def test_partners_are_what_the_label_says(pockets):
    for i in range(len(pockets)):
        record = pockets[i]
        normal = ~np.isin(record.block_types, (2, 3))  # modified residues are UNK, global blocks GLOBAL
        first, second = record.segment_ids == 0, record.segment_ids == 1
        assert np.isin(record.block_types[normal & first], AMINO).all(), record.id
        expected = BASES if record.labels["label"] == "nucleic" else AMINO
        assert np.isin(record.block_types[normal & second], expected).all(), record.id
        size = int(first.sum()) - 1
        assert build.POCKET_BLOCKS[0] <= size <= build.POCKET_BLOCKS[1], record.id
        assert len(record.block_types) - 2 <= build.COMPLEX_BLOCKS, record.id


def test_files_are_those_of_the_sources(pockets, facts):
    sources = {source.pdb_id: source for source in build.read_sources()}
    assert {source.kind for source in sources.values()} <= {"pypi-sdist", "pypi-wheel", "debian"}
    for i in range(len(pockets)):
        record = pockets[i]
        assert record.source_sha256 == sources[record.metadata["pdb_id"]].sha256, record.id
    used = Counter(pockets.column("pdb_id"))
    assert {entry["pdb_id"]: entry["interfaces"] for entry in facts["entries"]} == used
    assert set(used) == set(sources)
    for entry in facts["entries"]:
        source = sources[entry["pdb_id"]]
        assert (entry["package"], entry["version"]) == (source.package, source.version)
        assert (entry["path"], entry["sha256"]) == (source.path, source.sha256)
        assert f"| {entry['pdb_id']} |" in (FOLDER / "README.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------ script

LYSOZYME = (
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNCAKKIVSDGN"
)
UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


def chain(name: str, sequence: str = LYSOZYME, nucleic: bool = False, entry: str = "1abc") -> build.Chain:
    return build.Chain(entry, name, nucleic, sequence)


def row(pocket: build.Chain, partner: build.Chain, size: int = 30, other: int = 20) -> build.Row:
    return build.Row(pocket, partner, "A" * size, other)


def test_similarity():
    assert alike.similarity(LYSOZYME, LYSOZYME, False) == (1.0, 1.0, 1.0)
    assert alike.similarity(LYSOZYME, UBIQUITIN, False) == (0.0, 0.0, 0.0)
    identity, coverage, other = alike.similarity(LYSOZYME, LYSOZYME[:50].replace("R", "X"), False)
    assert 0.85 < identity < 1.0
    assert (coverage, other) == (50 / len(LYSOZYME), 1.0)
    assert alike.similarity("ACGTTGCAACGTTTAGC", "ACGTTGCAACGTTTAGC", True) == (1.0, 1.0, 1.0)
    assert alike.similarity("ACGTTGCAACGTTTAGC", "TTTTTCCCCCTTTTTCC", True) == (0.0, 0.0, 0.0)


def test_clusters_and_copies():
    half = LYSOZYME[:60]
    near = "".join("A" if i % 4 == 0 else letter for i, letter in enumerate(LYSOZYME))
    chains = [chain("A"), chain("B", near), chain("C", half), chain("D", UBIQUITIN), chain("E")]
    clusters, copies = build.cluster(chains)
    assert [clusters[c.key] for c in chains] == ["1abc_A", "1abc_A", "1abc_A", "1abc_D", "1abc_A"]
    assert [copies[c.key] for c in chains] == ["1abc_A", "1abc_B", "1abc_A", "1abc_D", "1abc_A"]


def test_choose_takes_the_larger_side_once():
    a, b, c = chain("A"), chain("B", UBIQUITIN), chain("C")
    copies = {a.key: "a", c.key: "a", b.key: "b"}
    rows = [row(a, b, 30, 40), row(b, a, 40, 30), row(c, b, 25, 21), row(b, c, 21, 25)]
    assert [r.id for r in build.choose(rows, copies)] == ["1abc_B_A"]
    least, most = build.POCKET_BLOCKS
    for size, other in ((least - 1, 40), (most + 1, 40), (40, build.PARTNER_BLOCKS - 1), (80, 130)):
        assert build.choose([row(a, b, size, other)], copies) == []


def test_split_keeps_clusters_apart():
    rna = [chain(name, "ACGU", True, build.RIBOSOME) for name in ("L1", "S1")]
    proteins = [chain(name, entry=build.RIBOSOME) for name in ("L2", "L3", "S2", "S3")]
    dna = chain("D", "ACGT", True)
    alone = chain("A")
    rows = [
        row(proteins[0], rna[0]),
        row(proteins[1], rna[0]),
        row(proteins[2], rna[1]),
        row(proteins[0], proteins[3]),
        row(alone, dna),
    ]
    clusters = {c.key: c.key for c in [*rna, *proteins, dna, alone]}
    clusters[proteins[1].key] = proteins[2].key  # related across the subunits: training gives way
    found = {r.id: r.split for r in build.split(rows, clusters)}
    assert found == {"1abc_A_D": "valid", "6zu5_L2_L1": "train", "6zu5_S2_S1": "test"}


def test_a_changed_file_is_refused(tmp_path):
    source = build.Source("1abc", "some-package", "debian", "1.0", "data/1ABC.pdb", "0" * 64)
    tree = tmp_path / "packages" / "some-package-1.0" / "tree" / "data"
    tree.mkdir(parents=True)
    (tree / "1ABC.pdb").write_bytes(b"END\n")
    with pytest.raises(SystemExit, match=r"data/1ABC\.pdb: SHA-256 is"):
        build.fetch([source], tmp_path)
