"""Memory and rate of jobs over very many complexes: whether they stay flat from the first to the last.

    python tests/bench/memory.py embed --data SET --complexes 3000 12000 --devices 2
    python tests/bench/memory.py screen --receptor FILE --ligands FILE… --molecules 10000 100000

embed: rows of a data set (demo://pockets) over and over, as shards that are not compressed. screen: molecules of files
named again and again, docked into one receptor, by `predict`. A small model with weights drawn at random. Told are, for
each tenth of the way, complexes/s until then, and of every process the memory that is its own (RssAnon) and that of
mapped files (RssFile), which the system takes back when it wants it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from figures import machine

SHARD_ROWS = 1000


def repeated(source: str, complexes: int, out: Path) -> Path:
    """A data set of so many rows: shards of one content that hold some rows of `source` over and over."""
    from atomica.data.dataset import open_dataset

    data = open_dataset(source)
    tables = [pa.ipc.open_file(str(shard.path)).read_all() for shard in data._shards]
    table = pa.concat_tables(tables)
    times = -(-SHARD_ROWS // len(table))
    table = pa.concat_tables([table] * times).slice(0, SHARD_ROWS).combine_chunks()
    out.mkdir(parents=True)
    first = out / "shard-00000.arrow"
    with pa.ipc.new_file(str(first), table.schema) as writer:
        writer.write_table(table)
    entry = {
        "rows": len(table),
        "bytes": first.stat().st_size,
        "sha256": hashlib.sha256(first.read_bytes()).hexdigest(),
    }
    count = complexes // len(table)
    names = [f"shard-{number:05}.arrow" for number in range(count)]
    for name in names[1:]:
        os.link(first, out / name)  # one file on the disk, and yet as many mapped ones
    manifest = {**data.manifest, "shards": [{"file": name, **entry} for name in names]}
    manifest["options"] = {**manifest["options"], "compression": "none"}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def model(out: Path, *, answers: bool) -> Path:
    """A saved model, eight numbers wide, with a head that answers or without."""
    import torch

    import atomica
    from atomica.heads.regression import RegressionConfig, RegressionHead

    torch.manual_seed(0)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    heads = {"regression": RegressionHead(RegressionConfig(), config)} if answers else {}
    atomica.Model(config, heads).save(out)
    return out


def family(root: int) -> list[int]:
    """A process and all below it."""
    found, new = [root], [root]
    while new:
        children = []
        for number in new:
            for path in Path(f"/proc/{number}/task").glob("*/children"):
                children += [int(word) for word in _text(path).split()]
        new = children
        found += new
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def memory(process: int) -> tuple[int, int]:
    """MiB of a process's own, and of mapped files."""
    rows = dict(line.split(":", 1) for line in _text(Path(f"/proc/{process}/status")).splitlines())
    return tuple(int(rows.get(name, "0 kB").split()[0]) >> 10 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def watched(spec: Path, folder: Path, table: str, devices: int, total: int) -> None:
    """Run a job, and tell of its memory."""
    command = [sys.executable, "-m", "atomica.runner", str(spec), "--devices", str(devices)]
    began = time.monotonic()
    log = folder.parent / f"{folder.name}.txt"
    with log.open("w") as stream:
        job = subprocess.Popen(command, stdout=stream, stderr=stream)
    seen: list[tuple[float, int, list[tuple[int, int]]]] = []
    while job.poll() is None:
        each = [memory(number) for number in family(job.pid)]
        pieces = folder / "pieces"
        done = sum(name.startswith(f"{table}-") for name in os.listdir(pieces)) if pieces.is_dir() else 0
        seen.append((time.monotonic() - began, done, [one for one in each if one[0]]))
        time.sleep(0.5)
    if job.returncode:
        sys.exit(f"exit code {job.returncode}\n{log.read_text()[-2000:]}")
    count = max(done for _, done, _ in seen)
    first = next(place for place, (_, done, _) in enumerate(seen) if done)
    last = next(place for place, (_, done, _) in enumerate(seen) if done == count)
    before, seen, after = seen[:first], seen[first : last + 1], seen[last + 1 :]
    start = seen[0][0]
    print(f"  before the first piece: {start:.0f} s, {_told(before, 0, 0)}")
    for tenth in range(1, 11):
        low, high = count * (tenth - 1) // 10 + 1, count * tenth // 10
        if here := [seconds for seconds, done, _ in seen if low <= done <= high]:
            rate = total * tenth / 10 / max(here[-1] - start, 1e-9)
            print(f"  {tenth * 10:3} %  {rate:6.1f} complexes/s  {_told(seen, low, high)}")
    if after:
        seconds = after[-1][0] - seen[-1][0]
        print(f"  joined and reported: {seconds:.0f} s, {_told(after, 0, count)}", flush=True)


def _told(seen: list[tuple[float, int, list[tuple[int, int]]]], low: int, high: int) -> str:
    """The largest memory of each process while so many pieces were done."""
    here = [each for _, done, each in seen if low <= done <= high and each]
    several = range(max(map(len, here)))
    best = [
        tuple(max(each[place][kind] for each in here if place < len(each)) for kind in (0, 1))
        for place in several
    ]
    return ", ".join(f"{own} MiB + {mapped} mapped" for own, mapped in best)


def spec(job: str, data: str, weights: Path, folder: Path, more: str = "") -> Path:
    """The spec of a job."""
    path = folder.with_suffix(".toml")
    path.write_text(
        f'[run]\nname = "{folder.name}"\njob = "{job}"\nout = "{folder}"\n[data]\n{data}\n'
        f'[model]\nweights = "{weights}"\n[device]\nkind = "cpu"\nthreads = 1\n{more}'
    )
    return path


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("embed", "screen"))
    parser.add_argument("--data", default="demo://pockets", help="of embed: a data set")
    parser.add_argument("--complexes", type=int, nargs="+", default=[3000, 12000], help="of embed")
    parser.add_argument("--receptor", help="of screen: a structure file")
    parser.add_argument("--ligands", nargs="+", help="of screen: files of molecules, as SDF")
    parser.add_argument("--molecules", type=int, nargs="+", default=[10_000], help="of screen")
    parser.add_argument("--devices", type=int, default=1)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="atomica-memory-") as name:
        work = Path(name)
        if given.what == "embed":
            weights = model(work / "model", answers=False)
            for count in given.complexes:
                data = repeated(given.data, count, work / f"set{count}")
                total = count // SHARD_ROWS * SHARD_ROWS
                print(f"embed {total} complexes, {given.devices} processes", flush=True)
                run = work / f"embed{count}"
                own = '[embed]\ntables = ["complexes"]\n'
                watched(
                    spec("embed", f'source = "{data}"', weights, run, own),
                    *(run, "complexes", given.devices, total),
                )
            return
        weights = model(work / "model", answers=True)
        each = sum(_text(Path(path)).count("$$$$") for path in given.ligands)
        for count in given.molecules:
            files = json.dumps(given.ligands * -(-count // each))
            total = each * -(-count // each)
            print(f"predict {total} molecules in one receptor, {given.devices} processes", flush=True)
            run = work / f"screen{count}"
            data = f'receptor = "{given.receptor}"\nligands = {files}'
            watched(spec("predict", data, weights, run), run, "predictions", given.devices, total)


if __name__ == "__main__":
    main()
