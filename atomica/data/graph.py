"""Records → batched DGL heterographs, and back to the tensors a model reads. The one file that imports DGL.

A graph has node types `atom` and `block`, relations (`atom`, kind, `atom`) and (`block`, kind, `block`) for the
kinds in `keys.EDGE_TYPES`, and (`atom`, `of`, `block`). Its frames are listed in `keys.GRAPH_FIELDS`. Edges
run from sender (DGL's source) to receiver (destination).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica import keys
from atomica._prep import nearest
from atomica.data.noise import NoiseConfig, Perturbed, perturb
from atomica.data.record import Record
from atomica.errors import DataError
from atomica.keys import ATOM, BLOCK, EDGE_TYPES, OF

__all__ = ["batch", "graph_from_arrays", "load_graphs", "perturbed", "save_graphs"]


def _import_dgl() -> types.ModuleType:
    """Import DGL; replace `dgl.graphbolt` by an inert module where its binary does not fit this PyTorch.

    The newest DGL wheels ship a graphbolt library built for older PyTorch releases, and DGL's package
    imports it unasked. Nothing here uses it, so its absence is harmless; everything else of DGL works.
    Raises ImportError with the remedy if DGL itself cannot be used.
    """
    if "dgl" not in sys.modules and importlib.util.find_spec("dgl") is not None and not _graphbolt_fits():
        inert = types.ModuleType("dgl.graphbolt")
        inert.__doc__ = "Placeholder: this DGL release has no graphbolt library for the installed PyTorch."
        sys.modules["dgl.graphbolt"] = inert
    # without it DGL writes a configuration file into the home directory
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        import dgl

        probe = dgl.graph((torch.tensor([0, 1]), torch.tensor([1, 1])), num_nodes=2)
        probe.ndata["x"] = torch.ones(2, 1)
        probe.update_all(dgl.function.copy_u("x", "m"), dgl.function.sum("m", "y"))
        if probe.ndata["y"].flatten().tolist() != [0.0, 2.0]:
            raise RuntimeError("message passing gives wrong sums")
    except Exception as error:
        raise ImportError(
            f"DGL cannot be used here ({type(error).__name__}: {error}). Atomica needs dgl 2.1.0 with numpy, "
            f"pandas, pydantic and pyyaml beside it: pip install 'dgl==2.1.0' pandas pydantic pyyaml. "
            f"PyTorch is {torch.__version__}, Python {sys.version.split()[0]}."
        ) from error
    return dgl


def _graphbolt_fits() -> bool:
    """Whether DGL ships a graphbolt library whose name carries the installed PyTorch's version."""
    spec = importlib.util.find_spec("dgl")
    if spec is None or not spec.submodule_search_locations:
        return False
    version = torch.__version__.split("+")[0]
    folder = Path(next(iter(spec.submodule_search_locations))) / "graphbolt"
    return any(folder.glob(f"*pytorch_{version}.*"))


if TYPE_CHECKING:
    import dgl
else:
    dgl = _import_dgl()

IntArray = npt.NDArray[np.int64]


def batch(
    records: Sequence[Record],
    *,
    k_neighbors: int = 8,
    atom_global: bool = False,
    block_global: bool = True,
    reference_quirks: bool = False,
) -> dgl.DGLGraph:
    """One heterograph that holds all `records`, as `dgl.batch` of the single ones would.

    k_neighbors: nearest neighbours per node within and across segments. atom_global, block_global: edges of
    global nodes at that level. reference_quirks: treat unknown blocks as global, as the original does.
    The neighbour lists stored in the records are used where they reach; otherwise they are computed.
    Raises DataError for an empty batch.
    """
    if not records:
        raise DataError("cannot batch zero complexes")
    block_counts = np.array([len(record.block_types) for record in records])
    stored = all(record.atom_intra.shape[1] >= k_neighbors for record in records)
    if stored and reference_quirks:
        stored = not any(np.any(record.block_types == keys.UNKNOWN_BLOCK) for record in records)
    lists: dict[str, tuple[npt.NDArray[Any], ...]] | None = None
    if stored:
        atom_counts = np.array([len(record.atom_types) for record in records])
        lists = {
            ATOM: tuple(
                _rebase([getattr(record, f"atom_{kind}")[:, :k_neighbors] for record in records], atom_counts)
                for kind in ("intra", "inter")
            ),
            BLOCK: tuple(
                _rebase(
                    [getattr(record, f"block_{kind}")[:, :k_neighbors] for record in records], block_counts
                )
                for kind in ("intra", "inter")
            ),
        }
    return _build(
        positions=np.concatenate([record.positions for record in records]),
        block_types=np.concatenate([record.block_types for record in records]).astype(np.int64),
        atom_types=np.concatenate([record.atom_types for record in records]).astype(np.int64),
        block_lengths=np.concatenate([record.block_lengths for record in records]).astype(np.int64),
        segments=np.concatenate([record.segment_ids for record in records]).astype(np.int64),
        block_counts=block_counts.astype(np.int64),
        modality=np.array([record.modality for record in records], dtype=np.int64),
        lists=lists,
        k_neighbors=k_neighbors,
        atom_global=atom_global,
        block_global=block_global,
        reference_quirks=reference_quirks,
    )


def perturbed(
    records: Sequence[Record],
    config: NoiseConfig,
    seeds: npt.ArrayLike,
    *,
    max_blocks: int | None = None,
    k_neighbors: int = 8,
    atom_global: bool = False,
    block_global: bool = True,
    reference_quirks: bool = False,
) -> tuple[dgl.DGLGraph, Perturbed]:
    """The heterograph of a batch after noise, masks and crops, and what was done; see `noise.perturb`.

    Options as in `batch`. Blocks have the frame `masked`. The graph shares its memory with the arrays.
    """
    found = perturb(
        records,
        config,
        seeds,
        neighbors=k_neighbors,
        max_blocks=max_blocks,
        reference_quirks=reference_quirks,
    )
    graph = _build(
        positions=found.positions,
        block_types=found.block_types,
        atom_types=found.atom_types,
        block_lengths=found.block_lengths,
        segments=found.segments,
        block_counts=found.block_counts,
        modality=np.array([record.modality for record in records], dtype=np.int64),
        lists=found.neighbors,
        k_neighbors=k_neighbors,
        atom_global=atom_global,
        block_global=block_global,
        reference_quirks=reference_quirks,
    )
    graph.nodes[BLOCK].data["masked"] = torch.from_numpy(found.masked)
    return graph, found


def graph_from_arrays(
    X: npt.ArrayLike | Tensor,
    B: npt.ArrayLike | Tensor,
    A: npt.ArrayLike | Tensor,
    block_lengths: npt.ArrayLike | Tensor,
    segment_ids: npt.ArrayLike | Tensor,
    lengths: npt.ArrayLike | Tensor,
    *,
    k_neighbors: int = 8,
    atom_global: bool = False,
    block_global: bool = True,
    reference_quirks: bool = False,
    modality: npt.ArrayLike | Tensor | None = None,
) -> dgl.DGLGraph:
    """A batched heterograph from flat arrays.

    X [A, 3] float, Å; B [B] block types; A [A] atom types; block_lengths [B] atoms per block;
    segment_ids [B] 0 or 1; lengths [G] blocks per complex; modality [G], optional. Options as in `batch`.
    Raises DataError naming the array whose shape or content does not fit the others.

    >>> graph = graph_from_arrays([[0, 0, 0], [0, 0, 0], [1.5, 0, 0]], [3, 4], [2, 9, 8], [1, 2], [0, 0], [2])
    >>> graph.num_nodes("atom"), graph.num_nodes("block"), graph.num_edges(("atom", "intra", "atom"))
    (3, 2, 2)
    """
    positions = np.ascontiguousarray(np.asarray(X, dtype=np.float32))
    flat = {
        "B": B,
        "A": A,
        "block_lengths": block_lengths,
        "segment_ids": segment_ids,
        "lengths": lengths,
    }
    arrays: dict[str, IntArray] = {}
    for name, value in flat.items():
        array = np.asarray(value)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise DataError(f"{name}: expected one dimension of integers, got {array.dtype} {array.shape}")
        arrays[name] = array.astype(np.int64)
    blocks, atoms = len(arrays["B"]), len(arrays["A"])
    if positions.shape != (atoms, 3):
        raise DataError(f"X: expected shape ({atoms}, 3) for {atoms} atom types in A, got {positions.shape}")
    if not np.isfinite(positions).all():
        row = int(np.argwhere(~np.isfinite(positions))[0, 0])
        raise DataError(f"X: coordinates of atom {row} are not finite")
    for name in ("block_lengths", "segment_ids"):
        if len(arrays[name]) != blocks:
            raise DataError(f"{name}: expected {blocks} values, one per block in B, got {len(arrays[name])}")
    if arrays["block_lengths"].sum() != atoms or (arrays["block_lengths"] < 1).any():
        raise DataError(f"block_lengths: must be positive and add up to the {atoms} atoms of A")
    if arrays["lengths"].sum() != blocks or (arrays["lengths"] < 1).any():
        raise DataError(f"lengths: must be positive and add up to the {blocks} blocks of B")
    if not np.isin(arrays["segment_ids"], (0, 1)).all():
        raise DataError("segment_ids: only 0 and 1 are segments")
    complexes = len(arrays["lengths"])
    kinds = (
        np.full(complexes, -1, dtype=np.int64) if modality is None else np.asarray(modality, dtype=np.int64)
    )
    if kinds.shape != (complexes,):
        raise DataError(f"modality: expected {complexes} values, one per complex, got shape {kinds.shape}")
    return _build(
        positions=positions,
        block_types=arrays["B"],
        atom_types=arrays["A"],
        block_lengths=arrays["block_lengths"],
        segments=arrays["segment_ids"],
        block_counts=arrays["lengths"],
        modality=kinds,
        lists=None,
        k_neighbors=k_neighbors,
        atom_global=atom_global,
        block_global=block_global,
        reference_quirks=reference_quirks,
    )


def _rebase(lists: list[npt.NDArray[np.int32]], counts: IntArray) -> IntArray:
    """Neighbour lists [n_i, k] with indices local to each complex → one [N, k] with indices into the batch."""
    joined = np.concatenate(lists).astype(np.int64)
    offsets = np.repeat(np.cumsum(counts) - counts, counts)
    return np.where(joined < 0, joined, joined + offsets[:, None])


def _build(
    *,
    positions: npt.NDArray[np.float32],
    block_types: IntArray,
    atom_types: IntArray,
    block_lengths: IntArray,
    segments: IntArray,
    block_counts: IntArray,
    modality: IntArray,
    lists: Mapping[str, tuple[npt.NDArray[Any], ...]] | None,
    k_neighbors: int,
    atom_global: bool,
    block_global: bool,
    reference_quirks: bool,
) -> dgl.DGLGraph:
    complexes = len(block_counts)
    block_complex = np.repeat(np.arange(complexes), block_counts)
    atom_block = np.repeat(np.arange(len(block_types)), block_lengths)
    first_atom = np.cumsum(block_lengths) - block_lengths
    sums = np.add.reduceat(positions.astype(np.float64), first_atom, axis=0)
    centers = (sums / block_lengths[:, None]).astype(np.float32)
    is_global = block_types == keys.GLOBAL_BLOCK
    routed_global = is_global | (block_types == keys.UNKNOWN_BLOCK) if reference_quirks else is_global

    per_level = {
        ATOM: (
            positions,
            block_complex[atom_block],
            segments[atom_block],
            routed_global[atom_block],
            atom_global,
        ),
        BLOCK: (centers, block_complex, segments, routed_global, block_global),
    }
    edges: dict[tuple[str, str, str], tuple[Tensor, Tensor]] = {}
    edge_counts: dict[tuple[str, str, str], Tensor] = {}
    for level, (where, complex_of, segment_of, global_of, with_global) in per_level.items():
        near = (
            lists[level]
            if lists is not None
            else _nearest(where, complex_of, segment_of, global_of, k_neighbors)
        )
        found = [_from_lists(near[0]), _from_lists(near[1])]
        if with_global:
            found += _global_edges(complex_of, segment_of, global_of)
        for kind, (sender, receiver) in zip(EDGE_TYPES, found, strict=False):
            relation = (level, kind, level)
            edges[relation] = (torch.from_numpy(sender), torch.from_numpy(receiver))
            edge_counts[relation] = torch.from_numpy(np.bincount(complex_of[receiver], minlength=complexes))
    edges[(ATOM, OF, BLOCK)] = (torch.arange(len(atom_block)), torch.from_numpy(atom_block))
    atom_counts = np.bincount(block_complex[atom_block], minlength=complexes)
    edge_counts[(ATOM, OF, BLOCK)] = torch.from_numpy(atom_counts)

    graph = dgl.heterograph(edges, num_nodes_dict={ATOM: len(atom_types), BLOCK: len(block_types)})
    graph.set_batch_num_nodes({ATOM: torch.from_numpy(atom_counts), BLOCK: torch.from_numpy(block_counts)})
    graph.set_batch_num_edges(edge_counts)
    graph.nodes[ATOM].data["x"] = torch.from_numpy(positions)
    graph.nodes[ATOM].data["type"] = torch.from_numpy(atom_types)
    graph.nodes[ATOM].data["is_global"] = torch.from_numpy(is_global[atom_block])
    graph.nodes[BLOCK].data["x"] = torch.from_numpy(centers)
    graph.nodes[BLOCK].data["type"] = torch.from_numpy(block_types)
    graph.nodes[BLOCK].data["segment"] = torch.from_numpy(segments)
    graph.nodes[BLOCK].data["is_global"] = torch.from_numpy(is_global)
    graph.nodes[BLOCK].data["modality"] = torch.from_numpy(modality[block_complex])
    return graph


def _nearest(
    where: npt.NDArray[np.float32],
    complex_of: IntArray,
    segment_of: IntArray,
    global_of: npt.NDArray[np.bool_],
    k: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    return nearest(np.ascontiguousarray(where), complex_of, segment_of.astype(np.uint8), ~global_of, k)


def _from_lists(near: npt.NDArray[Any]) -> tuple[IntArray, IntArray]:
    """Neighbour lists [N, k] → sender and receiver [E], receivers ascending, nearest sender first."""
    receiver, column = np.nonzero(near >= 0)
    return near[receiver, column].astype(np.int64), receiver.astype(np.int64)


def _global_edges(
    complex_of: IntArray, segment_of: IntArray, global_of: npt.NDArray[np.bool_]
) -> list[tuple[IntArray, IntArray]]:
    """Edges `global_normal` (within a segment, both directions) and `global_global` (within a complex).

    Two global nodes of one segment, which only the original's reading of unknown blocks makes, have both.
    """
    globals_, normals = np.flatnonzero(global_of), np.flatnonzero(~global_of)
    group_of = complex_of * 2 + segment_of
    hub, spoke = _pairs(globals_, group_of[globals_], normals, group_of[normals])
    one, other = _pairs(globals_, complex_of[globals_], globals_, complex_of[globals_])
    distinct = one != other
    one, other = one[distinct], other[distinct]
    same = segment_of[one] == segment_of[other]
    found = [
        (np.concatenate([hub, spoke, one[same]]), np.concatenate([spoke, hub, other[same]])),
        (one, other),
    ]
    # DGL's unbatch expects the edges of one complex to lie together
    ordered = []
    for sender, receiver in found:
        order = np.argsort(complex_of[receiver], kind="stable")
        ordered.append((sender[order], receiver[order]))
    return ordered


def _pairs(
    left: IntArray, left_group: IntArray, right: IntArray, right_group: IntArray
) -> tuple[IntArray, IntArray]:
    """All pairs (l, r) of the same group."""
    order = np.argsort(left_group, kind="stable")
    left, left_group = left[order], left_group[order]
    first = np.searchsorted(left_group, right_group, side="left")
    count = np.searchsorted(left_group, right_group, side="right") - first
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return left[np.repeat(first, count) + within], np.repeat(right, count)


def save_graphs(path: str | Path, graphs: dgl.DGLGraph | Sequence[dgl.DGLGraph]) -> None:
    """Write one graph or several with DGL's own format; batch sizes are kept beside them.

    `dgl.save_graphs` forgets which nodes belong to which complex, so these counts are stored as tensors.
    """
    several = [graphs] if isinstance(graphs, dgl.DGLGraph) else list(graphs)
    extra: dict[str, Tensor] = {}
    for index, graph in enumerate(several):
        for ntype in graph.ntypes:
            extra[json.dumps([index, ntype])] = graph.batch_num_nodes(ntype)
        for etype in graph.canonical_etypes:
            extra[json.dumps([index, *etype])] = graph.batch_num_edges(etype)
    dgl.save_graphs(str(path), several, extra)


def load_graphs(path: str | Path) -> list[dgl.DGLGraph]:
    """Read what `save_graphs` wrote (or any file of `dgl.save_graphs`). Raises DataError if it is not one."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        graphs, extra = dgl.load_graphs(str(path))
    except Exception as error:
        raise DataError(f"{path}: not a file written by save_graphs ({error})") from error
    nodes: dict[int, dict[str, Tensor]] = {}
    edges: dict[int, dict[tuple[str, str, str], Tensor]] = {}
    for name, counts in extra.items():
        try:
            index, *kind = json.loads(name)
        except ValueError:
            continue  # a tensor of somebody else's file
        if len(kind) == 1:
            nodes.setdefault(index, {})[kind[0]] = counts
        else:
            edges.setdefault(index, {})[(kind[0], kind[1], kind[2])] = counts
    for index, graph in enumerate(graphs):
        if index in nodes and index in edges:
            graph.set_batch_num_nodes(nodes[index])
            graph.set_batch_num_edges(edges[index])
    return list(graphs)
