"""Makes the weights that come with the package, `base`, of the last run of a pretraining: atomica/weights/base.

    python -m runs.base RUN INDEX [BEFORE …]    from the top of the source tree

RUN: the folder of the run, finished; those it went on from are found, but for BEFORE, folders of runs or of weights
whose specs are put before theirs, such as of what was averaged. INDEX: a CSV of the rows that all were trained on, with
the columns id, split, modality_hint, pdb_id and source; a README.md beside it tells of the sources.
What is there is replaced, once the new weights have said the same twice.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica import publish, spec
from atomica.data.dataset import Dataset, open_dataset
from atomica.data.noise import NoiseConfig, perturb
from atomica.data.record import Record
from atomica.files import SPEC, write_json
from atomica.keys import SPECIAL_BLOCKS
from atomica.model.named import PACKAGE

NAME, LICENCE, LIST, LARGEST = "base", "CC0-1.0", "data.json", 8_000_000
KINDS = {
    "PP": "protein and protein",
    "PL": "protein and small molecule",
    "Pion": "protein and ion",
    "Ppeptide": "protein and peptide",
    "PRNA": "protein and RNA",
    "PDNA": "protein and DNA",
    "RNAL": "RNA and small molecule or ion",
    "NAL": "DNA and small molecule or ion",
    "CSD": "two small molecules",
}


def listed(sets: Sequence[Dataset], index: Path) -> dict[str, Any]:
    """What the rows of an index are made of, those of some data sets among them: counts, PDB entries of each source."""
    with index.open(encoding="utf-8", newline="") as stream:
        chosen = list(csv.DictReader(stream))
    if strange := {one for data in sets for one in data.ids} - {row["id"] for row in chosen}:
        raise SystemExit(f"{index} lacks {len(strange)} rows that were trained on, such as {min(strange)}")
    sources = Counter(row["source"] for row in chosen)
    return {
        "interfaces": len(chosen),
        "entries": len({row["pdb_id"] for row in chosen}),
        "splits": dict(Counter(row["split"] for row in chosen)),
        "kinds": dict(Counter(row["modality_hint"] for row in chosen).most_common()),
        "sources": {
            name: {
                "interfaces": count,
                "from": _origins(index.parent / "README.md").get(name, ""),
                "pdb_ids": " ".join(sorted({row["pdb_id"] for row in chosen if row["source"] == name})),
            }
            for name, count in sources.most_common()
        },
    }


def _origins(page: Path) -> dict[str, str]:
    """Where each source is from: the rows NAME | COUNT | WHERE | LICENCE of the tables of a page."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    return dict(re.findall(r"^\| (\w+) \| \d+ \| (.*?) \| [^|]+ \|$", text, flags=re.M))


def guesses(sets: Sequence[Dataset]) -> dict[str, float]:
    """What one says who knows how frequent each answer is in the training rows, on the others."""
    found: dict[str, float] = {"contact/auroc": 0.5}
    for head, counts_of in (("masked_block", _blocks), ("partner", _partners), ("contact", _touching)):
        counts = {
            split: sum(
                counts_of(data[int(row)], data.block_types)
                for data in sets
                for row in data.rows_of(split, own=True)
            )
            for split in ("train", "valid")
        }
        frequencies = (counts["train"] + 1) / (counts["train"] + 1).sum()
        seen = counts["valid"] / counts["valid"].sum()
        loss = float(-(seen * np.log(frequencies)).sum())
        found[f"{head}/loss"] = loss
        if head == "contact":
            found["contact/auprc"] = float(seen[1])
        else:
            found[f"{head}/accuracy"] = float(seen[frequencies.argmax()])
    return found | {"masked_block/perplexity": float(np.exp(found["masked_block/loss"]))}


def _blocks(record: Record, types: int) -> npt.NDArray[np.float64]:
    """How often each type is among the molecules' blocks of a complex."""
    return np.bincount(record.block_types, minlength=types)[SPECIAL_BLOCKS:].astype(np.float64)


def _partners(record: Record, types: int) -> npt.NDArray[np.float64]:
    """The shares of types in a partner, a mean over those that may be left out, see `NoiseConfig.lone_proportion`."""
    each = [_blocks(record.segment(segment), types) for segment in (0, 1)]
    gone = [one / one.sum() for one, other in (each, each[::-1]) if one.any() and other.sum() > 1]
    return np.mean(gone, axis=0) if gone else np.zeros(types - SPECIAL_BLOCKS)


def _touching(record: Record, types: int) -> npt.NDArray[np.float64]:
    """How many blocks of a partner that is left alone did not touch the other one, and how many did."""
    touching = perturb([record], NoiseConfig(lone_proportion=1.0), [0], neighbors=1).touching
    return np.bincount(touching[touching >= 0], minlength=2).astype(np.float64)


def told(made: Mapping[str, Any]) -> str:
    """The card's part on the data, as Markdown."""
    kinds = (f"| {KINDS.get(kind, kind)} | {count} |" for kind, count in made["kinds"].items())
    sources = ", ".join(f"{name} {one['interfaces']}" for name, one in made["sources"].items())
    splits = " and ".join(f"{count} {split}" for split, count in made["splits"].items())
    return "\n".join(
        (
            "\n## What it was trained on\n",
            f"{made['interfaces']:,} interfaces ({splits}) of {made['entries']:,} entries of the Protein Data Bank, "
            "whose coordinates are CC0 1.0: whole complexes without labels, one partner moved and twisted, and blocks "
            f"hidden; later in part one partner alone. `{LIST}` lists the entries. Rows of split valid share no "
            "cluster of protein sequences with those of split train.\n",
            "| kind of interface | interfaces |\n| --- | --- |",
            *kinds,
            f"\nBy the collection that a structure was taken from, of which `{LIST}` says more: {sources}.\n",
            "It is small, was trained for hours on two CPU cores, and knows ligands by 300 fragments. Small interfaces "
            "between neighbours in a crystal are among its data. Compare what you find with random weights "
            "(`runs/probe.toml`) before you call it learnt.",
        )
    )


def make(run: str, index: str, *before: str, package: Path = PACKAGE) -> list[str]:
    """Put the weights of a run into the package; gives what a person is told."""
    trained = spec.load(Path(run) / SPEC).tree["data"]["train"]
    sets = [open_dataset(one) for one in ([trained] if isinstance(trained, str) else trained)]
    made = listed(sets, Path(index))
    with tempfile.TemporaryDirectory() as place:
        fresh = Path(place, NAME)
        publish.export(
            run,
            str(fresh),
            LICENCE,
            name=NAME,
            alone=True,
            bases=guesses(sets),
            more=told(made),
            before=before,
        )
        write_json(fresh / LIST, made)
        well, lines = publish.verify(str(fresh))
        size = sum(file.stat().st_size for file in fresh.rglob("*") if file.is_file())
        if not well or size > LARGEST:
            raise SystemExit("\n".join([*lines, f"{size:,} bytes, at most {LARGEST:,}"]))
        shutil.rmtree(package / NAME, ignore_errors=True)
        shutil.copytree(fresh, package / NAME)
    metrics = json.loads((package / NAME / publish.VALIDATION).read_text())["metrics"]
    figures = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if value is not None)
    return [*lines[1:], f"written {package / NAME}: {size:,} bytes; {figures}"]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    print(*make(*sys.argv[1:]), sep="\n")
