"""Every field of a record and of a graph: its name, shape, dtype, unit and meaning. Defined once, here.

Shape letters: G complexes in a batch, B blocks, A atoms, K stored neighbours, E edges of one relation,
T rotatable bonds, M atoms that they move in all, L bonds known from a ligand's file.
Global blocks and global atoms are counted in B and A.

Edges run from sender to receiver: DGL's source is the sender, its destination the receiver, and the
edge vector is `x_sender - x_receiver`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ATOM",
    "ATOM_TYPES",
    "BLOCK",
    "EDGE_TYPES",
    "GLOBAL_ATOM",
    "GLOBAL_BLOCK",
    "GRAPH_FIELDS",
    "MASK_BLOCK",
    "MODALITIES",
    "NO_NEIGHBOR",
    "OF",
    "OPTIONAL_GRAPH_FIELDS",
    "RECORD_FIELDS",
    "SCHEMA_VERSION",
    "SPECIAL_BLOCKS",
    "UNKNOWN_BLOCK",
    "Field",
]


SCHEMA_VERSION = 2
"""Version of the shard schema that this package reads and `atomica-prep` of the same release writes."""


@dataclass(frozen=True)
class Field:
    """One named array: where it lives, its shape, dtype, unit and meaning."""

    name: str
    shape: str
    dtype: str
    unit: str
    meaning: str


NO_NEIGHBOR = -1
"""Filler of a neighbour list that has fewer than K entries."""

MASK_BLOCK = 1
UNKNOWN_BLOCK = 2
GLOBAL_BLOCK = 3
SPECIAL_BLOCKS = 4
"""Block types below this index are no molecules: padding, mask, unknown, global."""
GLOBAL_ATOM = 2
ATOM_TYPES = 121
"""Size of the atom vocabulary: padding, mask, global, and the elements."""

MODALITIES = ("PP", "PL", "Pion", "Ppeptide", "PRNA", "PDNA", "RNAL", "CSD")
"""Kinds of interface, in the order of the modality embedding; -1 in a record means none of them."""

RECORD_FIELDS: tuple[Field, ...] = (
    Field("id", "", "utf8", "", "name of the complex, unique in its data set"),
    Field("modality", "", "int8", "", "index into MODALITIES, -1 if none of them"),
    Field("split", "", "utf8?", "", "train, valid, test, or null"),
    Field(
        "labels", "", "map<utf8,utf8>", "", "label columns of the index (label, label_*), as written there"
    ),
    Field("metadata", "", "map<utf8,utf8>", "", "all other columns of the index, as written there"),
    Field("block_types", "B", "uint16", "", "index into the block vocabulary"),
    Field("block_lengths", "B", "uint32", "", "atoms of each block"),
    Field("segment_ids", "B", "uint8", "", "0 or 1: the partner the block belongs to"),
    Field("atom_types", "A", "uint8", "", "index into the atom vocabulary"),
    Field("positions", "A,3", "float32", "Å", "coordinates; a global atom sits at the mean of its segment"),
    Field("atom_intra", "A*K", "int32", "", "nearest atoms of the same segment, by distance, -1 filled"),
    Field("atom_inter", "A*K", "int32", "", "nearest atoms of the other segment, by distance, -1 filled"),
    Field("block_intra", "B*K", "int32", "", "nearest blocks (by centre) of the same segment, -1 filled"),
    Field("block_inter", "B*K", "int32", "", "nearest blocks (by centre) of the other segment, -1 filled"),
    Field("torsion_fixed", "T", "int32", "", "rotatable bonds: the atom on the side that stays"),
    Field("torsion_moving", "T", "int32", "", "rotatable bonds: the atom on the side that moves"),
    Field("torsion_sizes", "T", "uint32", "", "rotatable bonds: number of atoms that move"),
    Field("torsion_atoms", "M", "int32", "", "the moving atoms, bond after bond"),
    Field("bond_first", "L", "int32", "", "bonds of a ligand from a file of its own: first atom"),
    Field("bond_second", "L", "int32", "", "bonds of a ligand from a file of its own: second atom"),
    Field("bond_orders", "L", "uint8", "", "their orders: 1, 2, 3, 4 aromatic, 0 unknown"),
    Field("block_chains", "B", "utf8", "", "author chain id; empty for a global block"),
    Field("block_resnums", "B", "int32", "", "author residue number; 0 for a global block"),
    Field("block_icodes", "B", "utf8", "", "insertion code, mostly empty"),
    Field("block_components", "B", "utf8", "", "component id of the residue the block is cut from"),
    Field("atom_names", "A", "utf8", "", "atom name; empty for a global atom"),
    Field("source_path", "", "utf8", "", "structure file, as the index names it"),
    Field("source_sha256", "", "utf8", "", "SHA-256 of that file, hex"),
    Field(
        "ligand_chemistry",
        "",
        "utf8",
        "",
        "how the ligand was cut into blocks: none (there is none), atoms (one each), or into fragments by the bonds "
        "of its own file (bonds), of the component dictionary (components) or of the SMILES in the index (smiles); "
        "mixed where two ligands differ in that",
    ),
)

ATOM = "atom"
BLOCK = "block"
EDGE_TYPES = ("intra", "inter", "global_normal", "global_global")
"""Relations within each node type; the position is the index into the edge-type embedding."""
OF = "of"
"""Relation from every atom to its block."""

GRAPH_FIELDS: tuple[Field, ...] = (
    Field("atom.x", "A,3", "float32", "Å", "coordinates"),
    Field("atom.type", "A", "int64", "", "index into the atom vocabulary"),
    Field("atom.is_global", "A", "bool", "", "belongs to a global block"),
    Field("block.x", "B,3", "float32", "Å", "mean of the coordinates of the block's atoms"),
    Field("block.type", "B", "int64", "", "index into the block vocabulary"),
    Field("block.segment", "B", "int64", "", "0 or 1"),
    Field("block.is_global", "B", "bool", "", "is a global block"),
    Field("block.modality", "B", "int64", "", "modality of the complex, -1 if none"),
    Field(
        "block.place",
        "B,3",
        "int64",
        "",
        "its place in its complex, blocks of the complex, atoms of the block",
    ),
    Field("block.made", "B,9", "int64", "", "options of the graph and of its data set, see `data.origin`"),
)

OPTIONAL_GRAPH_FIELDS: tuple[Field, ...] = (
    Field("block.masked", "B", "bool", "", "its type is to be predicted; absent: the blocks of type MASK"),
    Field("block.embedding", "B,E", "float32", "", "external features, e.g. of a protein language model"),
    Field(
        "block.vector", "B,E", "float32", "", "external features of the complex, the same for all its blocks"
    ),
    Field("block.embedding_0", "B,E0", "float32", "", "the same, read for blocks of segment 0 only"),
    Field("block.embedding_1", "B,E1", "float32", "", "the same, read for blocks of segment 1 only"),
)
"""Frames that a graph need not have; whoever has them sets them, `graph.nodes["block"].data["embedding"] = …`."""
