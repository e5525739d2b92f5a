//! The blocks that are kept → the record.

use super::contacts::{mean, Options, Side};
use super::roles::Subject;
use crate::error::{Error, Result};
use crate::index::Row;
use crate::neighbors::nearest_in_complex;
use crate::record::{Record, MAX_ATOMS};
use crate::structure::{Name, Structure};
use crate::torsion::{is_backbone, Torsions, MAX_WHOLE};
use crate::vocab;

/// One partner of a complex, before it is written.
pub(super) struct Partner<'a> {
    pub(super) structure: &'a Structure,
    pub(super) side: &'a Side,
    pub(super) keep: Vec<bool>,
    /// Instead of the structure's chain ids.
    pub(super) chain: Option<&'a str>,
}

#[allow(clippy::too_many_arguments, reason = "the one place where all parts of a record meet")]
pub(super) fn assemble(
    subject: &Subject,
    row: &Row,
    id: String,
    sides: &[Partner<'_>],
    modality: i8,
    chemistry: &'static str,
    metadata: Vec<(String, String)>,
    options: &Options,
) -> Result<Record> {
    if !sides.iter().all(|partner| partner.keep.contains(&true)) {
        return Err(Error::NoInterface { path: row.path.clone(), cutoff: format!("{}", options.cutoff) });
    }
    let kept = |p: &Partner<'_>| -> usize {
        p.side.blocks.iter().zip(&p.keep).filter(|(_, k)| **k).map(|(b, _)| b.end - b.start).sum()
    };
    let atoms: usize = sides.iter().map(|partner| kept(partner) + 1).sum();
    if atoms > MAX_ATOMS {
        return Err(Error::TooLarge { path: row.path.clone(), atoms: atoms as u64, limit: MAX_ATOMS as u64 });
    }
    let blocks: usize = sides.iter().map(|p| p.keep.iter().filter(|k| **k).count() + 1).sum();
    let mut record = Record {
        id,
        modality,
        split: row.split.clone(),
        labels: row.labels.clone(),
        metadata,
        block_types: Vec::with_capacity(blocks),
        block_lengths: Vec::with_capacity(blocks),
        segment_ids: Vec::with_capacity(blocks),
        atom_types: Vec::with_capacity(atoms),
        positions: Vec::with_capacity(atoms),
        block_chains: Vec::with_capacity(blocks),
        block_resnums: Vec::with_capacity(blocks),
        block_icodes: Vec::with_capacity(blocks),
        block_components: Vec::with_capacity(blocks),
        atom_names: Vec::with_capacity(atoms),
        source_path: row.path.clone(),
        source_sha256: subject.source.sha256.clone(),
        ligand_chemistry: chemistry,
        ..Record::default()
    };
    for (segment, Partner { structure, side, keep, chain }) in (0u8..).zip(sides) {
        let global = record.positions.len();
        record.block_types.push(vocab::GLOBAL_BLOCK);
        record.block_lengths.push(1);
        record.segment_ids.push(segment);
        record.block_chains.push(String::new());
        record.block_resnums.push(0);
        record.block_icodes.push(Name::default());
        record.block_components.push(Name::default());
        record.atom_types.push(vocab::GLOBAL_ATOM);
        record.atom_names.push(Name::default());
        record.positions.push([0.0; 3]);
        let mut members: Vec<[f64; 3]> = Vec::new();
        for (block, _) in side.blocks.iter().zip(keep).filter(|(_, k)| **k) {
            let Some(residue) = structure.residues.get(block.residue) else { continue };
            let range = block.start..block.end;
            record.block_types.push(block.kind);
            record.block_lengths.push(u32::try_from(range.len()).unwrap_or(u32::MAX));
            record.segment_ids.push(segment);
            let own = structure.chains.get(residue.chain).map_or("", String::as_str);
            record.block_chains.push(chain.unwrap_or(own).to_owned());
            record.block_resnums.push(residue.resnum);
            record.block_icodes.push(residue.icode);
            record.block_components.push(residue.name);
            for &atom in side.atoms.get(range.clone()).unwrap_or_default() {
                record
                    .atom_types
                    .push(structure.elements.get(atom).map_or(vocab::UNKNOWN_ATOM, |e| vocab::atom_type(*e)));
                record.atom_names.push(structure.atom_names.get(atom).copied().unwrap_or_default());
            }
            let positions = side.positions.get(range).unwrap_or_default();
            members.extend_from_slice(positions);
            record.positions.extend(positions.iter().map(|p| p.map(|c| c as f32)));
        }
        if let Some(slot) = record.positions.get_mut(global) {
            *slot = mean(&members).map(|c| c as f32);
        }
    }
    neighbor_lists(&mut record, options.neighbors);
    record.torsions = torsions(&record);
    Ok(record)
}

/// Rotatable bonds of both partners: of side chains, block by block, where a partner has an amino acid or a
/// nucleotide; else of the partner as one molecule.
fn torsions(record: &Record) -> Torsions {
    const NUCLEOTIDES: std::ops::RangeInclusive<u16> = 24..=31;
    /// Atoms; no residue has as many, and the lists of moving atoms grow with their square.
    const MAX_RESIDUE: usize = 128;
    let elements: Vec<u8> = record.atom_types.iter().map(|t| t.saturating_sub(vocab::GLOBAL_ATOM)).collect();
    let mut out = Torsions::default();
    let mut add = |atoms: std::ops::Range<usize>, backbone: &[bool]| {
        let first = atoms.start;
        if let (Some(positions), Some(elements)) = (record.positions.get(atoms.clone()), elements.get(atoms)) {
            out.add(positions, elements, backbone, first);
        }
    };
    let blocks = record.block_types.iter().zip(&record.block_lengths).zip(&record.segment_ids);
    let mut end = 0;
    let blocks: Vec<(u16, u8, std::ops::Range<usize>)> = blocks
        .map(|((kind, length), segment)| {
            let begin = end;
            end += *length as usize;
            (*kind, *segment, begin..end)
        })
        .collect();
    for segment in blocks.chunk_by(|a, b| a.1 == b.1) {
        if segment.iter().any(|(kind, ..)| vocab::RESIDUE_BLOCKS.contains(kind)) {
            let residues = segment.iter().filter(|(kind, ..)| vocab::RESIDUE_BLOCKS.contains(kind));
            for (kind, _, atoms) in residues.filter(|(.., atoms)| atoms.len() <= MAX_RESIDUE) {
                let nucleotide = NUCLEOTIDES.contains(kind);
                let names = record.atom_names.get(atoms.clone()).unwrap_or_default();
                let backbone: Vec<bool> = names.iter().map(|n| is_backbone(n.as_bytes(), nucleotide)).collect();
                add(atoms.clone(), &backbone);
            }
            continue;
        }
        // The first block is the global one.
        let members = segment.get(1..).unwrap_or_default();
        if let (Some((_, _, first)), Some((_, _, last))) = (members.first(), members.last()) {
            if last.end - first.start <= MAX_WHOLE {
                add(first.start..last.end, &vec![false; last.end - first.start]);
            }
        }
    }
    out
}

/// Fills the neighbour lists of a record from its coordinates.
fn neighbor_lists(record: &mut Record, k: usize) {
    let mut segment_of_atom = Vec::with_capacity(record.positions.len());
    let mut atom_eligible = Vec::with_capacity(record.positions.len());
    let mut centers: Vec<[f32; 3]> = Vec::with_capacity(record.block_types.len());
    let mut start = 0;
    for ((&kind, &length), &segment) in record.block_types.iter().zip(&record.block_lengths).zip(&record.segment_ids) {
        let length = length as usize;
        segment_of_atom.resize(start + length, segment);
        atom_eligible.resize(start + length, kind != vocab::GLOBAL_BLOCK);
        let members = record.positions.get(start..start + length).unwrap_or_default();
        let sum = members
            .iter()
            .fold([0.0f64; 3], |[x, y, z], [a, b, c]| [x + f64::from(*a), y + f64::from(*b), z + f64::from(*c)]);
        centers.push(sum.map(|s| (s / length.max(1) as f64) as f32));
        start += length;
    }
    let block_eligible: Vec<bool> = record.block_types.iter().map(|kind| *kind != vocab::GLOBAL_BLOCK).collect();
    let (atoms, blocks) = (record.positions.len() * k, centers.len() * k);
    record.atom_intra = vec![0; atoms];
    record.atom_inter = vec![0; atoms];
    record.block_intra = vec![0; blocks];
    record.block_inter = vec![0; blocks];
    nearest_in_complex(
        &record.positions,
        &segment_of_atom,
        &atom_eligible,
        k,
        0,
        &mut record.atom_intra,
        &mut record.atom_inter,
    );
    nearest_in_complex(
        &centers,
        &record.segment_ids,
        &block_eligible,
        k,
        0,
        &mut record.block_intra,
        &mut record.block_inter,
    );
}
