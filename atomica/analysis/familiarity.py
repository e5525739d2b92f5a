"""How near a complex is to those that a model has learnt from: predictions far from all of them are guesses.

Distances are between the principal components of a representation, of which every number is standardised over the
training complexes; a percentile says how many of these are nearer to their own nearest neighbour.

Shape letters: N training complexes, D numbers of a representation, K components, Q complexes that are asked about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atomica.data.record import Indices
from atomica.data.sampling import Rows, plan_batches, within_memory
from atomica.errors import DataError
from atomica.files import TRAINING_SET, write_bytes
from atomica.model.model import Model
from atomica.model.named import locate
from atomica.nn.representations import Representation

__all__ = ["TrainingSet", "learn", "learnt_from", "representation_of"]

Floats = npt.NDArray[np.float32]

MOST = 5000
"""Training complexes whose coordinates are kept; of more, as many are drawn."""
COMPONENTS = 32


@dataclass(frozen=True)
class TrainingSet:
    """What is kept of the training complexes of a model.

    ids [N]; known: hashes of the ids of all that were learnt from, sorted, uint64. mean, scale [D] and components
    [K, D] lead from a representation to coordinates [N, K]; own [N], sorted: the distance of each to the nearest other
    one. representation: the name of what it is read from.
    """

    representation: str
    ids: tuple[str, ...]
    mean: Floats
    scale: Floats
    components: Floats
    coordinates: Floats
    own: Floats
    known: npt.NDArray[np.uint64]

    @classmethod
    def of(
        cls, vectors: Floats, ids: tuple[str, ...], representation: str, known: Sequence[str] = ()
    ) -> TrainingSet:
        """From the representations [N, D] of at least two complexes. known: ids of others that were learnt from.

        >>> vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        >>> found = TrainingSet.of(vectors, tuple(map(str, range(50))), "h_graph")
        >>> nearest, distance, percentile = found.nearest(vectors[:1] + 100)
        >>> percentile.tolist()
        [100.0]
        """
        from sklearn.decomposition import PCA

        if len(vectors) < 2:
            raise DataError(f"{len(vectors)} training complexes: at least 2 are needed to say what is near")
        mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
        scale[scale <= 1e-6 * max(float(np.abs(vectors).max()), 1e-12)] = np.inf  # constant: tells nothing
        rows = (vectors - mean) / scale
        count = min(COMPONENTS, len(rows) - 1, rows.shape[1])
        pca = PCA(count, svd_solver="full" if min(rows.shape) <= 500 else "randomized", random_state=0)
        coordinates = pca.fit_transform(rows.astype(np.float64)).astype(np.float32)
        own = np.sort(_nearest(coordinates, coordinates, 2)[1][:, 1])
        components = pca.components_.astype(np.float32)
        return cls(
            representation, ids, mean, scale, components, coordinates, own, np.unique(_hashed([*ids, *known]))
        )

    def nearest(self, vectors: Floats) -> tuple[list[str], Floats, Floats]:
        """Of representations [Q, D]: the nearest training complex, its distance, and the percentile of that [Q]."""
        rows = ((vectors - self.mean) / self.scale) @ self.components.T
        found, distance = _nearest(self.coordinates, rows.astype(np.float32), 1)
        percentile = 100 * np.searchsorted(self.own, distance[:, 0], side="right") / len(self.own)
        return [self.ids[index] for index in found[:, 0]], distance[:, 0], percentile.astype(np.float32)

    def has(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of some complexes were learnt from, by their names."""
        return np.isin(_hashed(ids), self.known)

    def save(self, folder: Path) -> None:
        """Write it beside the weights of a model."""
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        told = {"representation": self.representation, "ids": json.dumps(self.ids)}
        write_bytes(folder / TRAINING_SET, save(tensors, metadata=told))

    @classmethod
    def load(cls, folder: Path) -> TrainingSet | None:
        """What lies beside the weights of a model; None if nothing does. Raises DataError for a damaged file."""
        from safetensors import SafetensorError, safe_open

        path = folder / TRAINING_SET
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in _TENSORS if name in file.keys()}  # noqa: SIM118
            ids = tuple(json.loads(told["ids"]))
            tensors.setdefault("known", np.unique(_hashed(ids)))  # of earlier versions
            return cls(told["representation"], ids, **tensors)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: is damaged, remove it or copy it again ({error})") from None


_TENSORS = ("mean", "scale", "components", "coordinates", "own", "known")


def _hashed(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Names as numbers, of which two are alike by chance once in 2^64 pairs."""
    each = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(each, np.dtype("<u8")).astype(np.uint64)


def _nearest(among: Floats, rows: Floats, count: int) -> tuple[npt.NDArray[np.int64], Floats]:
    from sklearn.neighbors import NearestNeighbors

    distance, index = NearestNeighbors(n_neighbors=count).fit(among).kneighbors(rows)
    return index, distance.astype(np.float32)


def representation_of(model: Model) -> Representation:
    """What is compared: invariants pooled over blocks, or the embeddings of an encoder that has none."""
    wanted = Representation("z_graph", "mean_std")
    return Representation("h_graph") if wanted.unserved(model.config) else wanted


def learn(model: Model, rows: Rows, input: str, *, batch_blocks: int = 2048) -> TrainingSet:
    """What is to be kept of some training complexes, as a model sees them. input: one of `data.record.INPUTS`."""
    import torch

    chosen = np.arange(len(rows))
    if len(chosen) > MOST:
        chosen = np.sort(np.random.default_rng(0).choice(len(chosen), MOST, replace=False))
    wanted = representation_of(model)
    found: dict[int, Floats] = {}
    order = chosen[np.argsort(rows.blocks[chosen], kind="stable")]
    model.eval()

    def vectors(positions: Indices) -> Floats:
        records = [rows.dataset[int(rows.rows[position])].view(input) for position in positions]
        with torch.no_grad():
            return np.asarray(model.represent(records, wanted)[0].float().cpu())

    for batch in plan_batches(order, rows.blocks, 1 if model.config.reference_quirks else batch_blocks):
        for positions, each in within_memory(batch, vectors):
            found |= dict(zip(positions.tolist(), each, strict=True))
    ids = rows.ids
    return TrainingSet.of(
        np.stack([found[position] for position in chosen.tolist()]),
        tuple(ids[position] for position in chosen.tolist()),
        str(wanted),
        ids,
    )


def learnt_from(models: Sequence[str | Path], ids: Sequence[str]) -> str:
    """In words, how many of some complexes models have learnt from, by their names; empty for none that is known.

    models: folders or names of saved models, beside which the complexes are remembered that they were trained on.
    """
    known = np.zeros(len(ids), dtype=bool)
    for model in models:
        with suppress(DataError):  # weights of the original remember nothing
            found = TrainingSet.load(locate(model))
            known |= False if found is None else found.has(ids)
    count = int(known.sum())
    return f"{count} of {len(ids)} complexes are among those that were learnt from" if count else ""
