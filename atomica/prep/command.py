"""The `atomica-prep` command: the Rust program, with ligand chemistry from RDKit where it is asked for."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from atomica.files import INTERRUPTED, SOME_FAILED, USAGE

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `atomica-prep` with `arguments` (default: the command line's) and give its exit code.

    `build-graphs --fragments NAME` cuts ligands with that vocabulary while the build runs, `fragments learn` makes
    one, `convert` reads data of the original, `split` shares rows out, and after `check` near twins of test rows are
    told of; everything else is the Rust program's.
    """
    from atomica._prep import run

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["fragments"]:
        from atomica.prep import learn as mining

        return mining.main(given[1:])
    if given[:1] == ["convert"]:
        from atomica.prep import convert

        return convert.main(given[1:])
    if given[:1] == ["split"]:
        from atomica.prep import split

        return split.main(given[1:])
    asked_for_help = bool({"-h", "--help"} & set(given))
    if given[:1] in (["build-graphs"], ["check"]) and not asked_for_help:
        from atomica.errors import AtomicaError

        try:
            given = _located(given)
        except AtomicaError as error:
            print(f"atomica-prep: {error}", file=sys.stderr)
            return USAGE
    if given[:1] == ["build-graphs"] and not asked_for_help:
        rest, engine = _take(given, "--engine")
        if engine == "ray":
            return _on_ray(rest)
    if given[:1] == ["check"] and not asked_for_help:
        from atomica.prep.split import warn_of_twins

        code = run(given)
        for path in (Path(word) for word in given[1:] if word.endswith(".csv")):
            if path.is_file() and (told := warn_of_twins(path)):
                print(told, file=sys.stderr)
        return code
    vocabulary = _take(given, "--fragments")[1]
    if given[:1] != ["build-graphs"] or vocabulary in (None, "none") or asked_for_help:
        return run(given)

    from atomica.prep.fragments import Cutter, read_vocabulary

    try:
        cutter = Cutter(read_vocabulary(vocabulary))
    except AtomicaError as error:
        print(f"atomica-prep: --fragments {error}", file=sys.stderr)
        return USAGE
    return run(given, cutter)


def _located(given: Sequence[str]) -> list[str]:
    """The words with indexes that name structures by id replaced by copies that name files. Raises AtomicaError."""
    from atomica.errors import SpecError
    from atomica.prep import archive

    rest, mirror = _take(given, "--mirror")
    rest, cache = _take(rest, "--cache")
    rest, floor = _take(rest, "--min-plddt")
    fetch = "--fetch" in rest
    rest = [word for word in rest if word != "--fetch"]
    if mirror is not None and not Path(mirror).is_dir():
        raise SpecError(f"--mirror {mirror}: no such folder")
    try:
        least = float(floor or 0)
    except ValueError:
        raise SpecError(f"--min-plddt {floor}: must be a number from 0 to 100") from None
    where = archive.Archive(
        None if mirror is None else Path(mirror), fetch, None if cache is None else Path(cache), least
    )
    out = _take(rest, "--out")[1]
    folder = Path(f"{out.rstrip('/')}.indexes") if out else where.store / "indexes"
    return archive.indexes(rest, folder, where)


def _take(arguments: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """Split an option, `NAME VALUE` or `NAME=VALUE`, off the arguments; of several the last one counts.

    >>> _take(["build-graphs", "--out", "a", "--out=b"], "--out")
    (['build-graphs'], 'b')
    """
    rest: list[str] = []
    value: str | None = None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == name:
            value = next(waiting, "")
        elif argument.startswith(f"{name}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return rest, value


def _usage(message: str) -> int:
    print(f"atomica-prep: {message}", file=sys.stderr)
    return USAGE


def _on_ray(arguments: Sequence[str]) -> int:
    """`build-graphs` with its parts built by the workers of a Ray cluster and joined here.

    Parts go to a folder beside `--out` and are removed at the end. A part whose worker dies is started again, up to
    five times, and continues where it stopped.
    """
    rest, out = _take(arguments, "--out")
    rest, wanted = _take(rest, "--parts")
    rest, threads = _take(rest, "--threads")
    overwrite, resume = "--overwrite" in rest, "--resume" in rest
    rest = [argument for argument in rest if argument not in ("--overwrite", "--resume")]
    if not out:
        return _usage("--engine ray needs --out DIR")
    if _take(rest, "--shard")[1] is not None:
        return _usage("--engine ray cuts the inputs into parts itself; leave --shard out")
    if not (wanted or "0").isdigit() or not (threads or "1").isdigit():
        return _usage("--parts and --threads are whole numbers")
    if Path(out).is_dir() and any(Path(out).iterdir()) and not overwrite:
        if resume and (Path(out) / "manifest.json").is_file():
            return main([*rest, "--out", out, "--resume"])  # says so, if it is the same build
        return _usage(f"{out}: is not empty; give --overwrite to replace it, or another --out")
    try:
        import ray
    except ImportError:
        return _usage("--engine ray needs Ray: pip install 'atomica-dgl[ray]'")
    folder = Path(f"{out.rstrip('/')}.parts").absolute()
    if folder.exists() and overwrite:
        shutil.rmtree(folder)
    started_here = not ray.is_initialized()
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    try:
        cores = max(1, int(threads or 1))
        number = int(wanted or 0) or 4 * max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
        number = _parts_before(folder) or number
        build = ray.remote(max_retries=5, num_cpus=cores)(_part)
        commands = [
            [
                *rest,
                *("--threads", str(cores), "--resume", "--shard", f"{part}/{number}"),
                *("--out", str(folder / f"{part}-of-{number}")),
            ]
            for part in range(1, number + 1)
        ]
        running = {build.remote(command, os.getcwd()): command for command in commands}
        while running:
            done, _ = ray.wait(list(running))
            for task in done:
                command, code = running.pop(task), ray.get(task)
                if code not in (0, SOME_FAILED):
                    print(f"this ended with {code}: atomica-prep {' '.join(command)}", file=sys.stderr)
                    return int(code)
                print(f"{len(commands) - len(running)} of {number} parts done", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume continues", file=sys.stderr)
        return INTERRUPTED
    except ray.exceptions.RayError as error:
        print(f"atomica-prep: a part could not be built: {error}", file=sys.stderr)
        return 1
    finally:
        if started_here:
            ray.shutdown()

    from atomica._prep import run

    parts = [command[-1] for command in commands]
    code = run(["merge", *parts, "--out", out, *(["--overwrite"] if overwrite else [])])
    if code in (0, SOME_FAILED):
        shutil.rmtree(folder)
    return code


def _parts_before(folder: Path) -> int:
    """Into how many parts an earlier run has cut its inputs; 0 if there was none."""
    names = [path.name.partition("-of-")[2] for path in folder.glob("*-of-*")]
    return int(names[0]) if names else 0


def _part(command: list[str], folder: str) -> int:
    """Build one part in a worker, with paths relative to `folder`, as where the command was given."""
    os.chdir(folder)
    return main(command)
