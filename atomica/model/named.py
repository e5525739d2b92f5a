"""Weights by name: those that come with the package, and those of the Hugging Face Hub.

Wherever weights are named, `hf://ORG/NAME[@REVISION][/FILE]` is a repository of the Hub, and a word such as `base` the
folder of that name in `atomica/weights`. All else is a path; `./base` is a folder here. Nothing is fetched that is not
named. `locate` finds the place on this disk, `pin` says which commit a name stands for.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atomica.errors import DataError
from atomica.files import CHECKSUMS, MEMBERS, TRAINING_SET, write_text
from atomica.model.format import DESCRIPTION, REFERENCE, REFERENCE_VALUES, WEIGHTS

__all__ = ["is_name", "locate", "members_of", "packaged", "pin", "read_members", "settings_beside"]

HUB = "hf://"
PACKAGE = Path(__file__).parents[1] / "weights"
"""The folder of the folders of weights that come with the package."""

_HUB_NAME = re.compile(
    r"hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<file>.+?))?/?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FORM = f"{HUB}ORG/NAME, and where needed @REVISION and /FILE behind it"


def is_name(weights: str) -> bool:
    """Whether this is a name of weights, and no path.

    >>> is_name("hf://org/name"), is_name("outputs/ligand/checkpoints/best")
    (True, False)
    """
    return weights.startswith("hf:/") or weights in packaged()


def packaged() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(folder.name for folder in PACKAGE.glob("[!_.]*") if folder.is_dir())


def locate(weights: str | Path) -> Path:
    """The file or folder that weights name; those of the Hub are fetched unless its cache has them.

    Raises DataError saying why they cannot be had. A path is given back, whether there is something or not; a `Path`
    is one, also if it is but a word.
    """
    name = str(weights)
    if name.startswith("hf:/"):
        folder, within = _Address.of(name).pinned().fetched()
        return folder / within
    if isinstance(weights, str) and name in packaged():
        return PACKAGE / name
    path = Path(weights).expanduser()
    if path.parent == Path() and not path.suffix and not path.exists():
        names = ", ".join(packaged()) or "none in this version"
        raise DataError(
            f"{name}: no such file or folder, and no weights of that name come with Atomica; there are: {names}"
        )
    return path


def pin(weights: str) -> str:
    """The name with the commit that its revision, or the main branch, is now; anything else as it is.

    Raises DataError if it cannot be told.
    """
    return str(_Address.of(weights).pinned()) if weights.startswith("hf:/") else weights


def members_of(weights: str) -> tuple[str, ...]:
    """The models that weights name: the members of a run of several trainings, or themselves.

    Raises DataError if some of the members are not done, and if the weights cannot be had.
    """
    name = pin(weights)
    file = locate(name) / MEMBERS
    if not file.is_file():
        return (name,)
    states = read_members(file)
    left = [member for member, one in states.items() if one["state"] != "done"]
    if left:
        raise DataError(
            f"{weights}: {len(left)} of its members are not trained: {', '.join(left)}; --resume that run"
        )
    base = name if name.startswith("hf:/") else str(file.parent)
    return tuple(f"{base}/{one['weights']}" for one in states.values())


def read_members(file: Path) -> dict[str, Any]:
    """What is known of each member. Raises DataError if the file is damaged, or names weights outside its folder."""
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8"))["members"])
        wrong = [
            name
            for name, one in found.items()
            if one["state"] == "done" and {"..", "/"} & set(Path(one["weights"]).parts)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is damaged ({error!r})") from None
    if wrong:
        raise DataError(f"{file}: the weights of {', '.join(wrong)} must lie in its folder")
    return found


def settings_beside(name: str) -> list[str]:
    """What the original's settings beside its weights NAME.pt may be called.

    >>> settings_beside("pretrain_weights.pt")
    ['pretrain_weights_config.json', 'pretrain_config.json']
    """
    stem = Path(name).stem
    names = [f"{stem}_config.json", f"{stem.removesuffix('_weights')}_config.json"]
    return list(dict.fromkeys([*names, *(["config.json"] if stem in ("model", "weights") else [])]))


# --------------------------------------------------------------------------------------------------- the Hub


class _Address(NamedTuple):
    """What a name says: repository, revision, and the file or folder in it; empty where it does not say."""

    repo: str
    revision: str
    file: str

    @classmethod
    def of(cls, name: str) -> _Address:
        found = _HUB_NAME.fullmatch(name)
        if found is None or ".." in name.split("/"):
            raise DataError(f"{name}: is no weights of the Hugging Face Hub; write {_FORM}")
        return cls(found["repo"], found["revision"] or "", found["file"] or "")

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{self.repo}{revision}{'/' if self.file else ''}{self.file}"

    @property
    def cached(self) -> Path | None:
        """The folder of the revision in the cache, whatever of it is there."""
        found = _library("scan_cache_dir")
        try:
            repos = found().repos
        except _library("CacheNotFound"):
            return None
        revision = self.revision or "main"
        for one in (
            one
            for repo in repos
            if (repo.repo_id, repo.repo_type) == (self.repo, "model")
            for one in repo.revisions
        ):
            if one.commit_hash == revision or revision in one.refs:
                return Path(one.snapshot_path)
        return None

    def pinned(self) -> _Address:
        """The same under the commit that the revision is now, which is fetched; offline, that it was when it was."""
        if _COMMIT.fullmatch(self.revision):
            return self
        if _library("constants").HF_HUB_OFFLINE:
            folder = self.cached
            if folder is None:
                raise DataError(
                    f"{self}: is not in the cache, and HF_HUB_OFFLINE is set, so that nothing is fetched; unset it, or "
                    "name a folder"
                )
            return self._replace(revision=folder.name)
        found = self._replace(revision=str(self._ask(lambda: self._info().sha)))
        folder, _ = found.fetched()
        # As huggingface_hub notes in its cache what a branch was, so that it can be told without a network.
        branch = folder.parents[1] / "refs" / (self.revision or "main")
        branch.parent.mkdir(parents=True, exist_ok=True)
        write_text(branch, found.revision)
        return found

    def fetched(self) -> tuple[Path, str]:
        """The folder of a commit in the cache, with all files that are needed of it, and the weights within it."""
        folder = self.cached
        if folder is not None:
            there = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
            try:
                return folder, self._within(self._needed(there, folder.joinpath))
            except DataError:
                pass  # not all of it has been fetched
        if _library("constants").HF_HUB_OFFLINE:
            raise DataError(
                f"{self}: not all of it is in the cache, and HF_HUB_OFFLINE is set, so that nothing is fetched; unset "
                "it, or name a folder"
            )
        listed = self._ask(lambda: [one.rfilename for one in self._info().siblings or ()])
        names = self._needed(listed, self._fetch)
        paths = [self._fetch(name) for name in names]
        root = paths[-1].parents[names[-1].count("/")]  # of links into the cache, not of what they point to
        return root, self._within(names)

    def _within(self, needed: Sequence[str]) -> str:
        """What is named: the folder, of the original's weights the file."""
        return needed[-1] if needed[-1].endswith(".pt") else self.file

    def _needed(self, listed: Collection[str], read: Callable[[str], Path]) -> list[str]:
        """Of the files of the repository those that are read of these weights, the weights themselves last.

        read: gives one of them. Raises DataError where there are no weights that are read.
        """
        if self.file in listed and not self.file.endswith(".pt"):
            what = (
                "name the folder that holds it, or nothing behind the repository's name"
                if self.file.endswith((WEIGHTS, DESCRIPTION))
                else f"is not read: it is neither a folder with {WEIGHTS} nor weights of the original, NAME.pt"
            )
            raise DataError(f"{self}: {what}")
        if self.file in listed:
            beside = [
                self.file.removesuffix(Path(self.file).name) + one for one in settings_beside(self.file)
            ]
            return [*(name for name in beside if name in listed), self.file]
        within = f"{self.file}/" if self.file else ""
        own = [name for name in listed if name.startswith(within)]
        if self.file and not own:
            raise DataError(f"{self}: has no such file or folder; there are: {_some(listed)}")
        if f"{within}{MEMBERS}" in own:
            file = read(f"{within}{MEMBERS}")
            folders = [
                f"{within}{one['weights']}/" for one in read_members(file).values() if one["state"] == "done"
            ]
        else:
            folders = [within]
        wanted = [f"{folder}{name}" for folder in folders for name in (DESCRIPTION, WEIGHTS)]
        if all(name in own for name in wanted):
            small = [f"{within}{name}" for name in (MEMBERS, REFERENCE, REFERENCE_VALUES)]
            small += [f"{folder}{name}" for folder in folders for name in (CHECKSUMS, TRAINING_SET)]
            return [*(name for name in small if name in own), *wanted]
        flat = [name for name in own if "/" not in name.removeprefix(within)]
        torch_files = [name for name in flat if name.endswith(".pt")]
        pairs = [
            (name, f"{within}{one}")
            for name in torch_files
            for one in settings_beside(name)
            if f"{within}{one}" in flat
        ]
        if len({name for name, _ in pairs}) == 1:
            return [pairs[0][1], pairs[0][0]]
        pickles = [name for name in own if name.endswith((".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"))]
        if pairs:
            why = f"holds several weights ({_some(name for name, _ in pairs)}); name one of them"
        elif pickles:
            why = (
                f"holds no {WEIGHTS} with {DESCRIPTION}, but {_some(pickles)}: pickled files are not read, since that "
                "would run whatever code is in them. Of the original's weights, NAME.pt with NAME_config.json beside "
                "it, name the file"
            )
        else:
            why = (
                f"holds no {WEIGHTS} with {DESCRIPTION}, which a saved model has; there are: {_some(listed)}"
            )
        raise DataError(f"{self}: {why}")

    def _info(self) -> Any:
        return _library("HfApi")(library_name="atomica").model_info(self.repo, revision=self.revision or None)

    def _fetch(self, file: str) -> Path:
        download = _library("hf_hub_download")
        return Path(
            self._ask(lambda: download(self.repo, file, revision=self.revision, library_name="atomica"))
        )

    def _ask(self, question: Callable[[], Any]) -> Any:
        """What the Hub answers. Raises DataError saying why it does not."""
        errors = _library("errors")
        try:
            return question()
        except errors.GatedRepoError:
            why = (
                "asks for permission: accept its terms on its page, then log in (hf auth login, or HF_TOKEN)"
            )
        except errors.RepositoryNotFoundError:
            why = (
                "no such repository, or it is private and you are not logged in (hf auth login, or HF_TOKEN)"
            )
        except errors.RevisionNotFoundError:
            why = f"the repository has no revision {self.revision!r}; leave it out for the main branch"
        except Exception as error:  # of whichever library it uses for HTTP
            why = f"cannot be fetched ({type(error).__name__}: {error})"
            if (folder := self.cached) is not None:
                why += f"; HF_HUB_OFFLINE=1 takes what was fetched before, commit {folder.name}"
        raise DataError(f"{self}: {why}")


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") or "nothing"


@functools.cache
def _library(name: str) -> Any:
    """A name of huggingface_hub. Raises DataError if it is not installed."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise DataError(
            "weights of the Hugging Face Hub need a package that is not installed: pip install 'atomica-dgl[hub]' "
            f"({error})"
        ) from None
    return {"constants": constants, "errors": errors}.get(name) or getattr(huggingface_hub, name)
