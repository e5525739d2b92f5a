"""Records → batched DGL heterographs, and back to the tensors a model reads. The one file that imports DGL.

A graph has node types `atom` and `block`, relations (`atom`, kind, `atom`) and (`block`, kind, `block`) for the
kinds in `keys.EDGE_TYPES`, and (`atom`, `of`, `block`). Its frames are listed in `keys.GRAPH_FIELDS`. Edges
run from sender (DGL's source) to receiver (destination).
"""

from __future__ import annotations

import json
import os
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica import keys
from atomica._prep import nearest
from atomica.data import origin as origins
from atomica.data.noise import NoiseConfig, Perturbed, perturb
from atomica.data.origin import EDGES
from atomica.data.record import INPUTS, Record
from atomica.errors import DataError
from atomica.keys import ATOM, BLOCK, EDGE_TYPES, OF

__all__ = ["batch", "graph_from_arrays", "load_graphs", "perturbed", "remade", "save_graphs"]


def _import_dgl() -> types.ModuleType:
    """Import DGL through the package's door. Raises ImportError with the remedy if it cannot be used."""
    try:
        with warnings.catch_warnings():
            # Of its docstrings, by Python 3.12: each time where no compiled files can be kept.
            warnings.simplefilter("ignore", SyntaxWarning)
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


def _one_thread() -> None:
    """In a forked process the threads of its parent are missing, and PyTorch and DGL would wait for them."""
    torch.set_num_threads(1)


if TYPE_CHECKING:
    import dgl
else:
    dgl = _import_dgl()
os.register_at_fork(after_in_child=_one_thread)

VIEW = origins.COLUMNS.index("view")
"""The column of `block.made` that says what of the complexes is there."""

IntArray = npt.NDArray[np.int64]


def batch(
    records: Sequence[Record],
    *,
    k_neighbors: int | None = None,
    atom_global: bool | None = None,
    block_global: bool | None = None,
    reference_quirks: bool | None = None,
    view: str | None = None,
) -> dgl.DGLGraph:
    """One heterograph that holds all `records`, as `dgl.batch` of the single ones would.

    k_neighbors: nearest neighbours per node within and across segments (8). atom_global, block_global: edges of
    global nodes at that level (false, true). reference_quirks: treat unknown blocks as global, as the original does
    (false). What is left out is as in brackets, until a model that wants it otherwise reads the graph. view: what of
    the records was asked for, one of `data.record.INPUTS`; None: nothing in particular.
    The neighbour lists stored in the records are used where they reach; otherwise they are computed.
    Raises DataError for an empty batch, and for records of data sets that were not built alike.
    """
    if not records:
        raise DataError("cannot batch zero complexes")
    edges, asked = _edges(k_neighbors, atom_global, block_global, reference_quirks)
    k_neighbors, reference_quirks = edges["k_neighbors"], edges["reference_quirks"]
    made = _made(records, edges, [*asked, *(["view"] if view else [])])
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
        edges=edges,
        made=made,
    )


def _edges(
    k_neighbors: int | None,
    atom_global: bool | None,
    block_global: bool | None,
    reference_quirks: bool | None,
) -> tuple[dict[str, Any], list[str]]:
    """The options that decide the edges, and the names of those that were asked for."""
    given = dict(zip(EDGES, (k_neighbors, atom_global, block_global, reference_quirks), strict=True))
    asked = {name: value for name, value in given.items() if value is not None}
    return {**EDGES, **asked}, list(asked)


def _made(records: Sequence[Record], edges: Mapping[str, Any], asked: Sequence[str]) -> list[int]:
    """The row of `block.made` for a batch of records. Raises DataError if they are not of one making."""
    makings = list(dict.fromkeys((record.seen, record.origin) for record in records))
    row, *others = [origins.row_of(edges, view, origin, asked) for view, origin in makings]
    for number, other in enumerate(others, start=1):
        if any(a != b and origins.UNKNOWN not in (a, b) for a, b in zip(row, other, strict=True)):
            raise DataError(
                f"cannot batch complexes that were not made alike: {makings[0]} and {makings[number]}"
            )
        row = [b if a == origins.UNKNOWN else a for a, b in zip(row, other, strict=True)]
    return row


def perturbed(
    records: Sequence[Record],
    config: NoiseConfig,
    seeds: npt.ArrayLike,
    *,
    max_blocks: int | None = None,
    k_neighbors: int | None = None,
    atom_global: bool | None = None,
    block_global: bool | None = None,
    reference_quirks: bool | None = None,
) -> tuple[dgl.DGLGraph, Perturbed]:
    """The heterograph of a batch after noise, masks and crops, and what was done; see `noise.perturb`.

    Options as in `batch`. Blocks have the frame `masked`. The graph shares its memory with the arrays.
    """
    edges, asked = _edges(k_neighbors, atom_global, block_global, reference_quirks)
    found = perturb(
        records,
        config,
        seeds,
        neighbors=edges["k_neighbors"],
        max_blocks=max_blocks,
        reference_quirks=edges["reference_quirks"],
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
        edges=edges,
        made=_made(records, edges, asked),
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
    k_neighbors: int | None = None,
    atom_global: bool | None = None,
    block_global: bool | None = None,
    reference_quirks: bool | None = None,
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
    edges, asked = _edges(k_neighbors, atom_global, block_global, reference_quirks)
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
        edges=edges,
        made=origins.row_of(edges, None, None, asked),
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
    edges: Mapping[str, Any],
    made: Sequence[int],
) -> dgl.DGLGraph:
    complexes = len(block_counts)
    block_complex = np.repeat(np.arange(complexes), block_counts)
    atom_block = np.repeat(np.arange(len(block_types)), block_lengths)
    first_atom = np.cumsum(block_lengths) - block_lengths
    sums = np.add.reduceat(positions.astype(np.float64), first_atom, axis=0)
    centers = (sums / block_lengths[:, None]).astype(np.float32)
    is_global = block_types == keys.GLOBAL_BLOCK
    routed_global = is_global
    if edges["reference_quirks"]:
        routed_global = is_global | (block_types == keys.UNKNOWN_BLOCK)

    per_level = {
        ATOM: (
            positions,
            block_complex[atom_block],
            segments[atom_block],
            routed_global[atom_block],
            edges["atom_global"],
        ),
        BLOCK: (centers, block_complex, segments, routed_global, edges["block_global"]),
    }
    relations: dict[tuple[str, str, str], tuple[Tensor, Tensor]] = {}
    edge_counts: dict[tuple[str, str, str], Tensor] = {}
    for level, (where, complex_of, segment_of, global_of, with_global) in per_level.items():
        near = (
            lists[level]
            if lists is not None
            else _nearest(where, complex_of, segment_of, global_of, edges["k_neighbors"])
        )
        found = [_from_lists(near[0]), _from_lists(near[1])]
        if with_global:
            found += _global_edges(complex_of, segment_of, global_of)
        for kind, (sender, receiver) in zip(EDGE_TYPES, found, strict=False):
            relation = (level, kind, level)
            relations[relation] = (torch.from_numpy(sender), torch.from_numpy(receiver))
            edge_counts[relation] = torch.from_numpy(np.bincount(complex_of[receiver], minlength=complexes))
    relations[(ATOM, OF, BLOCK)] = (torch.arange(len(atom_block)), torch.from_numpy(atom_block))
    atom_counts = np.bincount(block_complex[atom_block], minlength=complexes)
    edge_counts[(ATOM, OF, BLOCK)] = torch.from_numpy(atom_counts)

    graph = dgl.heterograph(relations, num_nodes_dict={ATOM: len(atom_types), BLOCK: len(block_types)})
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
    first_block = np.cumsum(block_counts) - block_counts
    place = (
        np.arange(len(block_types)) - first_block[block_complex],
        block_counts[block_complex],
        block_lengths,
    )
    graph.nodes[BLOCK].data["place"] = torch.from_numpy(np.stack(place, axis=1))
    graph.nodes[BLOCK].data["made"] = torch.tensor(made).repeat(len(block_types), 1)
    return graph


def remade(graph: dgl.DGLGraph, view: str | None = None, **options: Any) -> dgl.DGLGraph:
    """The graph with other edges, and of one partner alone if `view` says so, from what its nodes say.

    options: as in `batch`, those left out as there. view: one of `data.record.INPUTS`; None: as it is.
    Raises DataError if a complex has no such partner.

    >>> graph = graph_from_arrays([[0, 0, 0], [0, 0, 0], [1.5, 0, 0]], [3, 4], [2, 9, 8], [1, 2], [0, 0], [2])
    >>> remade(graph, block_global=False).canonical_etypes == graph.canonical_etypes
    False
    """
    options = {**EDGES, **options}
    segment = None if view in (None, "complex") else INPUTS.index(view) - 1
    if segment is not None and bool((graph.nodes[BLOCK].data["made"][:, VIEW] == segment + 1).all()):
        segment = None  # it is gone already
    atoms, blocks = (
        {name: value.cpu() for name, value in graph.nodes[level].data.items()} for level in (ATOM, BLOCK)
    )
    place = blocks["place"]
    kept = torch.ones(len(place), dtype=torch.bool) if segment is None else blocks["segment"] == segment
    number = torch.cumsum(place[:, 0] == 0, 0) - 1
    counts = torch.bincount(number[kept], minlength=int(number[-1]) + 1)
    if bool((counts == 0).any()):
        raise DataError(f"complex {int(counts.argmin())} of the batch has no segment {segment}")
    kept_atoms = torch.repeat_interleave(kept, place[:, 2])
    blocks = {name: value[kept] for name, value in blocks.items()}
    first = torch.cumsum(counts, 0) - counts
    row = blocks["made"][0].tolist()
    for name in EDGES:
        row[origins.COLUMNS.index(name)] = int(options[name])
    if segment is not None:
        row[VIEW] = segment + 1
        blocks["segment"] = torch.zeros_like(blocks["segment"])
        blocks["modality"] = torch.full_like(blocks["modality"], -1)
    made = _build(
        positions=np.ascontiguousarray(atoms["x"][kept_atoms].float().numpy()),
        block_types=blocks["type"].numpy(),
        atom_types=atoms["type"][kept_atoms].numpy(),
        block_lengths=blocks["place"][:, 2].numpy(),
        segments=blocks["segment"].numpy(),
        block_counts=counts.numpy(),
        modality=blocks["modality"][first].numpy(),
        lists=None,
        edges=options,
        made=row,
    )
    for name, value in blocks.items():
        if name not in made.nodes[BLOCK].data:
            made.nodes[BLOCK].data[name] = value
    return made


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


_BOOLEAN = [
    tuple(field.name.split("."))
    for field in (*keys.GRAPH_FIELDS, *keys.OPTIONAL_GRAPH_FIELDS)
    if field.dtype == "bool"
]
"""Frames that are true or false; DGL's files know no such numbers."""


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
        for level, name in _BOOLEAN:
            if level in graph.ntypes and name in (frame := graph.nodes[level].data):
                frame[name] = frame[name].bool()
    return list(graphs)
