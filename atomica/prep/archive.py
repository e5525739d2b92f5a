"""Structures by id: `path` of an index may be `pdb:1abc` or `af:P12345`, found in a local copy or downloaded.

A local copy (`--mirror`) may be laid out as the archive is (`ab/1abc.cif.gz` below any of its folders) or flat. Nothing
is downloaded unless it is asked for (`--fetch`); then Biotite fetches it into a cache, whose files are checked by
SHA-256 when they are used again. Of predicted models the B-factors are pLDDT: its mean becomes a column of the index,
and a floor leaves residues out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomica.errors import DataError
from atomica.files import CHECKSUMS, sha256_of, write_json, write_text

__all__ = ["Archive", "indexes", "named", "with_paths"]

ID = re.compile(r"(pdb|af):([A-Za-z0-9_-]+)$", re.IGNORECASE)
FOLDERS = (
    "",
    *(
        f"{above}{name}"
        for above in ("", "structures/divided/", "data/structures/divided/")
        for name in ("mmCIF", "pdb")
    ),
    *(f"{above}all/{name}" for above in ("structures/", "data/structures/") for name in ("mmCIF", "pdb")),
)
"""Where below a copy of the archive its files may lie, divided by the middle of their ids or not."""
TRIES, PAUSE_SECONDS = 4, 1.0
"""Downloads are tried so often, with twice the pause after each."""


def named(path: str) -> tuple[str, str] | None:
    """Database and id that a path of an index names; None for one of a file.

    >>> named("pdb:1ABC"), named("af:P12345"), named("pdb:pdb_00001abc"), named("1abc.cif")
    (('pdb', '1abc'), ('af', 'P12345'), ('pdb', '1abc'), None)
    """
    found = ID.match(path.strip())
    if found is None:
        return None
    database, name = found[1].lower(), found[2]
    if database == "af":
        return database, re.sub(r"^AF-([A-Z0-9]+)-F1$", r"\1", name.upper())
    return database, re.sub(r"^pdb_0000(?=\w{4}$)", "", name.lower())


@dataclass(frozen=True)
class Archive:
    """Where structures are looked for by id.

    mirror: a local copy. fetch: whether what it lacks is downloaded, into `cache`. plddt: residues of predicted models
    below it are left out.
    """

    mirror: Path | None = None
    fetch: bool = False
    cache: Path | None = None
    plddt: float = 0.0

    @property
    def store(self) -> Path:
        """The folder of what was downloaded: `cache`, else `atomica/structures` among the user's caches."""
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return self.cache or caches / "atomica" / "structures"

    def find(self, database: str, name: str) -> Path:
        """The file of an entry. Raises DataError saying where it was looked for."""
        if self.mirror is not None:
            for path in _places(self.mirror, database, name):
                if path.is_file():
                    return path
        if not self.fetch:
            where = "there is no mirror" if self.mirror is None else f"it is not in {self.mirror}"
            raise DataError(f"{database}:{name}: {where}; --fetch (in a spec data.fetch) would download it")
        return self._download(database, name)

    def _download(self, database: str, name: str) -> Path:
        """The file in the cache, downloaded if it is not there or is damaged."""
        self.store.mkdir(parents=True, exist_ok=True)
        target = self.store / f"{database}-{name}.bcif"
        sums = self.store / f"{database}-{name}.{CHECKSUMS}"
        if (
            target.is_file()
            and sums.is_file()
            and json.loads(sums.read_text()) == {target.name: sha256_of(target)}
        ):
            return target
        pause = PAUSE_SECONDS
        for left in reversed(range(TRIES)):
            try:
                with tempfile.TemporaryDirectory(dir=self.store) as folder:
                    made = Path(_fetcher(database)(name, "bcif", folder))
                    if not made.stat().st_size:
                        raise OSError("it is empty")
                    os.replace(made, target)
                write_json(sums, {target.name: sha256_of(target)})
                return target
            except Exception as error:  # of requests, Biotite, the file system: all may pass
                if not left or type(error).__name__ == "RequestError":
                    raise DataError(f"{database}:{name}: cannot be downloaded: {error}") from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    def of_model(self, path: Path, name: str) -> tuple[Path, float]:
        """A predicted model without residues below the floor, in the cache, and the mean pLDDT of what is left."""
        from biotite.structure import apply_residue_wise, spread_residue_wise
        from biotite.structure.io import save_structure

        atoms = _read(path)
        mean = apply_residue_wise(atoms, atoms.b_factor, np.mean)
        high = mean >= self.plddt
        if not high.any():
            raise DataError(f"af:{name}: no residue has a pLDDT of {self.plddt:g} or more")
        if high.all():
            return path, float(mean.mean())
        self.store.mkdir(parents=True, exist_ok=True)
        target = self.store / f"af-{name}.plddt{self.plddt:g}.bcif"
        save_structure(target, atoms[spread_residue_wise(atoms, high)])
        return target, float(mean[high].mean())


def _read(path: Path) -> Any:
    """The atoms of a predicted model with their B-factors, as a Biotite `AtomArray`."""
    from biotite.structure.io import pdb, pdbx

    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb" if kind == "bcif" else "rt") as stream:
        if kind == "pdb":
            return pdb.PDBFile.read(stream).get_structure(model=1, extra_fields=["b_factor"])
        file = (pdbx.BinaryCIFFile if kind == "bcif" else pdbx.CIFFile).read(stream)
    return pdbx.get_structure(file, model=1, extra_fields=["b_factor"])


def _fetcher(database: str) -> Callable[[str, str, str], str]:
    """Biotite's download of one entry: id, format, folder → path."""
    if database == "af":
        from biotite.database import afdb

        return afdb.fetch
    from biotite.database import rcsb

    return rcsb.fetch


def _places(mirror: Path, database: str, name: str) -> Iterator[Path]:
    """Where a copy of the archive may have an entry, the best format first."""
    if database == "af":
        found = [
            path for kind in ("bcif", "cif", "pdb") for path in mirror.glob(f"AF-{name}-F1-model_v*.{kind}*")
        ]
        yield from sorted(found, key=lambda path: -int(re.findall(r"model_v(\d+)", path.name)[0]))
        return
    files = [f"{name}{kind}" for kind in (".bcif.gz", ".bcif", ".cif.gz", ".cif", ".cif.zst")]
    files += [f"pdb{name}.ent.gz", f"pdb{name}.ent", f"{name}.pdb.gz", f"{name}.pdb"]
    for file in files:
        for folder in FOLDERS:
            yield mirror / folder / name[1:3] / file
            yield mirror / folder / file


def with_paths(index: Path, target: Path, archive: Archive) -> Path:
    """The index itself if it names files alone, else a copy at `target` with the paths of what it names by id.

    What is not found keeps its name, so that the build lists it among what failed, and is told of here. Raises
    DataError if there is nowhere to look.
    """
    try:
        text = index.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return index  # the build says what is wrong with it
    if not re.search(r"(?:^|[,;\t\"])\s*(?:pdb|af):", text, re.IGNORECASE | re.MULTILINE):
        return index
    lines = text.splitlines(keepends=True)
    above = 1 if lines[0].lower().startswith("sep=") else 0
    separator = max(",;\t", key=lines[min(above, len(lines) - 1)].count)
    rows = list(csv.reader(lines[above:], delimiter=separator))
    heads = [name.strip().lower() for name in rows[0]]
    columns = [heads.index(name) for name in ("path", "ligand_path") if name in heads]
    cells = ((number, row[c]) for number, row in enumerate(rows, 1 + above) for c in columns if c < len(row))
    first, found = next(((number, cell) for number, cell in cells if named(cell)), (0, ""))
    if not first:
        return index
    if archive.mirror is None and not archive.fetch:
        raise DataError(
            f"{index}:{first}: {found} names an entry by its id: say where a local copy of the archive is with "
            "--mirror DIR (in a spec data.mirror), or --fetch (data.fetch) to download it"
        )
    rows[0].append("plddt")
    known: dict[tuple[str, str], tuple[str, str]] = {}
    lost: list[str] = []
    for row in rows[1:]:
        confidence = ""
        for column in (c for c in columns if c < len(row)):
            entry = named(row[column])
            if entry is None:
                if row[column] and not os.path.isabs(row[column]):
                    row[column] = str((index.parent / row[column]).absolute())
                continue
            if entry not in known:
                try:
                    known[entry] = _found(archive, *entry)
                except DataError as error:
                    known[entry] = row[column], ""
                    lost.append(str(error))
            row[column], confidence = known[entry][0], known[entry][1] or confidence
        row.append(confidence)
    for line in lost[:10]:
        print(f"  not found: {line}", file=sys.stderr)
    if len(lost) > 10:
        print(f"  and {len(lost) - 10} more", file=sys.stderr)
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator="\n").writerows(rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, stream.getvalue())
    return target


def _found(archive: Archive, database: str, name: str) -> tuple[str, str]:
    """Path of an entry, and of a predicted model the mean pLDDT."""
    path = archive.find(database, name).absolute()
    if database != "af":
        return str(path), ""
    path, confidence = archive.of_model(path, name)
    return str(path.absolute()), f"{confidence:.1f}"


def indexes(words: Sequence[str], folder: Path, archive: Archive) -> list[str]:
    """The words of a command, with indexes that name entries by id replaced by copies in a folder."""
    return [
        str(with_paths(Path(word), folder / Path(word).name, archive))
        if word.lower().endswith((".csv", ".tsv")) and Path(word).is_file()
        else word
        for word in words
    ]
