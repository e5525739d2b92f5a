//! One complex as it is stored.

use crate::structure::Name;
use crate::torsion::Torsions;

/// One complex, ready to be written. Fields as in the schema.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "named and explained by the schema")]
pub struct Record {
    pub id: String,
    pub modality: i8,
    pub split: Option<String>,
    pub labels: Vec<(String, String)>,
    pub metadata: Vec<(String, String)>,
    pub block_types: Vec<u16>,
    pub block_lengths: Vec<u32>,
    pub segment_ids: Vec<u8>,
    pub atom_types: Vec<u8>,
    pub positions: Vec<[f32; 3]>,
    pub atom_intra: Vec<i32>,
    pub atom_inter: Vec<i32>,
    pub block_intra: Vec<i32>,
    pub block_inter: Vec<i32>,
    pub block_chains: Vec<String>,
    pub block_resnums: Vec<i32>,
    pub block_icodes: Vec<Name>,
    pub block_components: Vec<Name>,
    pub atom_names: Vec<Name>,
    pub source_path: String,
    pub source_sha256: String,
    pub ligand_chemistry: &'static str,
    pub torsions: Torsions,
    pub bond_first: Vec<i32>,
    pub bond_second: Vec<i32>,
    pub bond_orders: Vec<u8>,
}

/// Most atoms of one complex, so that neither a neighbour list nor a shard outgrows its indices.
pub const MAX_ATOMS: usize = 1 << 22;
