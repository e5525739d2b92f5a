//! Cutting small molecules into fragments. The chemistry comes from outside the crate; here are the question, the
//! answer, and the memory of those given.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use strum::{EnumString, IntoStaticStr};

use crate::read::ligand::Bond;
use crate::structure::Structure;
use crate::torsion::{Bonds, MAX_WHOLE};
use crate::vocab;

/// Name and extent of a fragment vocabulary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FragmentVocabulary {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file, hex.
    pub sha256: String,
    /// Its entries.
    pub entries: u64,
    /// Block types with it.
    pub block_types: u64,
}

/// What is known of a small molecule. Atoms are its heavy ones, counted from 0 in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Sketch {
    /// Component id.
    pub component: String,
    /// Names of its atoms.
    pub names: Vec<String>,
    /// Their atomic numbers.
    pub elements: Vec<u8>,
    /// Hydrogens that the file gives each of them.
    pub hydrogens: Vec<u8>,
    /// Bonds that the file gives: two atoms, and the order as in [`Bond`]; none where an order is missing.
    pub bonds: Vec<(u32, u32, u8)>,
    /// Where the file gives none, atoms near enough for a bond. With a SMILES also their distance in 0.001 Å, which
    /// tells apart the ways to lay it over the atoms; else 0, so that copies of a molecule are equal.
    pub near: Vec<(u32, u32, u32)>,
    /// SMILES that the index gives.
    pub smiles: Option<String>,
    /// The file says no orders: they may be perceived from the atoms near one another and the hydrogens.
    pub perceive: bool,
}

impl Sketch {
    /// The sketch of some atoms of a structure.
    pub fn new(
        structure: &Structure,
        component: &str,
        atoms: &[usize],
        file_bonds: &[Bond],
        smiles: Option<&str>,
    ) -> Self {
        let elements: Vec<u8> = atoms.iter().map(|a| structure.elements.get(*a).copied().unwrap_or_default()).collect();
        let place: HashMap<usize, u32> = atoms.iter().zip(0u32..).map(|(atom, at)| (*atom, at)).collect();
        let mut sketch = Self {
            component: component.to_owned(),
            names: atoms.iter().filter_map(|a| Some(structure.atom_names.get(*a)?.as_str().to_owned())).collect(),
            hydrogens: vec![0; elements.len()],
            elements,
            smiles: smiles.map(str::to_owned),
            ..Self::default()
        };
        for bond in file_bonds {
            match (place.get(&(bond.a as usize)), place.get(&(bond.b as usize))) {
                (Some(a), Some(b)) => sketch.bonds.push((*a, *b, bond.order)),
                (Some(heavy), None) | (None, Some(heavy)) => {
                    if let Some(count) = sketch.hydrogens.get_mut(*heavy as usize) {
                        *count = count.saturating_add(1);
                    }
                }
                (None, None) => {}
            }
        }
        if sketch.bonds.iter().any(|(.., order)| *order == 0) {
            sketch.perceive = true;
            sketch.bonds.clear();
            sketch.hydrogens = hydrogens(structure, atoms);
        }
        if sketch.bonds.is_empty() {
            sketch.near = near(structure, atoms, &sketch.elements, smiles.is_some());
        }
        sketch
    }
}

/// Hydrogens at the distance of a bond from each of the atoms of a molecule. Where a file has those of other elements
/// only, as docking programs leave them, those of carbon are inferred.
fn hydrogens(structure: &Structure, atoms: &[usize]) -> Vec<u8> {
    let bonds = bonds_of(structure);
    let given = |atom: &usize| hydrogens_given(structure, &bonds, *atom);
    let lacking = lacks_hydrogens(structure, &bonds);
    let count = |atom: &usize| match structure.elements.get(*atom) {
        Some(6) if lacking => hydrogens_of_carbon(structure, *atom, bonds.of(*atom)),
        _ => Some(given(atom)),
    };
    // Where one of them is in doubt, none is known.
    let all: Option<Vec<u8>> = atoms.iter().map(count).collect();
    all.unwrap_or_else(|| atoms.iter().map(given).collect())
}

fn bonds_of(structure: &Structure) -> Bonds {
    let positions: Vec<[f32; 3]> = structure.positions.iter().map(|p| p.map(|c| c as f32)).collect();
    Bonds::new(&positions, &structure.elements)
}

/// Hydrogens of an atom that are in the file.
fn hydrogens_given(structure: &Structure, bonds: &Bonds, atom: usize) -> u8 {
    let hydrogen = |at: &&u32| structure.elements.get(**at as usize) == Some(&1);
    bonds.of(atom).iter().filter(hydrogen).count().min(255) as u8
}

/// Has a molecule hydrogens, but none at carbon?
fn lacks_hydrogens(structure: &Structure, bonds: &Bonds) -> bool {
    let has = |wanted: fn(u8) -> bool| {
        let atoms = structure.elements.iter().enumerate().filter(|(_, element)| wanted(**element));
        atoms.map(|(atom, _)| atom).any(|atom| hydrogens_given(structure, bonds, atom) > 0)
    };
    has(|element| element > 1 && element != 6) && !has(|element| element == 6)
}

/// Are the hydrogens of carbon those that [`Sketch::new`] infers?
pub(crate) fn infers_hydrogens(structure: &Structure) -> bool {
    lacks_hydrogens(structure, &bonds_of(structure))
}

/// Hydrogens of a carbon, by the lengths of its bonds and the angles between them. `None` where they are in doubt: a bond
/// longer than any, or one to an end that is neither single nor double.
fn hydrogens_of_carbon(structure: &Structure, atom: usize, others: &[u32]) -> Option<u8> {
    /// Degrees: three angles of a flat atom are 360, of a tetrahedral one 328; two bonds of a linear one 180.
    const FLAT: f64 = 349.0;
    const LINEAR: f64 = 155.0;
    let place = |at: usize| structure.positions.get(at).copied().unwrap_or_default();
    let arms: Vec<(f64, [f64; 3], u8)> = others
        .iter()
        .map(|other| {
            let (p, q) = (place(atom), place(*other as usize));
            let arm = [q[0] - p[0], q[1] - p[1], q[2] - p[2]];
            let length = arm.iter().map(|c| c * c).sum::<f64>().sqrt();
            (length, arm.map(|c| c / length), structure.elements.get(*other as usize).copied().unwrap_or(0))
        })
        .collect();
    let angle = |a: &[f64; 3], b: &[f64; 3]| {
        let cosine: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        cosine.clamp(-1.0, 1.0).acos().to_degrees()
    };
    // Shorter than single bonds, of aromatic rings the longest ones, and of double and triple bonds.
    let shorter = |limits: [f64; 4]| {
        arms.iter().any(|(length, _, element)| {
            let [carbon, nitrogen, oxygen, other] = limits;
            *length
                < match element {
                    6 => carbon,
                    7 => nitrogen,
                    8 => oxygen,
                    15 | 16 => other,
                    _ => 0.0,
                }
        })
    };
    let single = |(length, _, element): &(f64, [f64; 3], u8)| match element {
        6 => *length < 1.62,
        7 => *length < 1.56,
        8 => *length < 1.51,
        _ => true,
    };
    if !arms.iter().all(single) {
        return None;
    }
    Some(match arms.as_slice() {
        [_] if shorter([1.26, 1.2, 0.0, 1.58]) => 1,
        [_] if shorter([1.39, 1.36, 1.3, 1.68]) => 2,
        [_] if shorter([1.45, 1.4, 1.36, 1.74]) => return None,
        [_] => 3,
        [(_, a, _), (_, b, _)] if angle(a, b) > LINEAR => 0,
        [_, _] if shorter([1.455, 1.41, 1.35, 1.77]) => 1,
        [_, _] => 2,
        [(_, a, _), (_, b, _), (_, c, _)] => u8::from(angle(a, b) + angle(b, c) + angle(a, c) < FLAT),
        _ => 0,
    })
}

/// Pairs of atoms at the distance of a bond.
fn near(structure: &Structure, atoms: &[usize], elements: &[u8], lengths: bool) -> Vec<(u32, u32, u32)> {
    let positions: Vec<[f32; 3]> =
        atoms.iter().filter_map(|a| Some(structure.positions.get(*a)?.map(|c| c as f32))).collect();
    if positions.len() != elements.len() {
        return Vec::new();
    }
    let mut out = Vec::new();
    let bonds = Bonds::new(&positions, elements);
    for ((a, index), p) in (0u32..).zip(0..).zip(&positions) {
        for b in bonds.of(index).iter().copied().filter(|b| a < *b) {
            let squared =
                positions.get(b as usize).map_or(0.0, |q| p.iter().zip(q).map(|(p, q)| (p - q).powi(2)).sum());
            // Bonded atoms are a few Å apart.
            let length = if lengths { (1000.0 * f32::sqrt(squared)).round() as u32 } else { 0 };
            out.push((a, b, length));
        }
    }
    out
}

/// Where the bonds of a cut ligand come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Chemistry {
    /// Nothing is known; every atom is a block.
    Atoms,
    /// The component dictionary.
    Components,
    /// The ligand's own file.
    Bonds,
    /// The SMILES in the index.
    Smiles,
    /// Orders perceived from which atoms are bonded, hydrogens included.
    Perceived,
}

impl Chemistry {
    /// Its name in a record.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The one of that name.
    pub fn of(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

/// A molecule in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// How it was done.
    pub chemistry: Chemistry,
    /// Block type and atoms of each piece, in the order in which they are written; empty for [`Chemistry::Atoms`].
    pub pieces: Vec<(u16, Vec<u32>)>,
}

/// Who knows the chemistry.
pub trait Cutter: Send + Sync {
    /// Cuts a molecule.
    ///
    /// # Errors
    /// What the index says of the molecule cannot be used; the text says why.
    fn cut(&self, sketch: &Sketch) -> Result<Cut, String>;
}

/// A vocabulary, who cuts by it, and what has been cut.
#[derive(Clone)]
pub struct Fragments {
    /// The vocabulary that the block types refer to.
    pub vocabulary: FragmentVocabulary,
    cutter: Arc<dyn Cutter>,
    known: Arc<Mutex<HashMap<Sketch, Arc<Cut>>>>,
}

impl fmt::Debug for Fragments {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Fragments").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}

/// Cuts kept in memory, a few kB each. A data set of more distinct ligands than that rarely meets one again.
const REMEMBERED: usize = 16_384;

impl Fragments {
    /// Fragments of a vocabulary, cut by `cutter`.
    pub fn new(vocabulary: FragmentVocabulary, cutter: Arc<dyn Cutter>) -> Self {
        Self { vocabulary, cutter, known: Arc::default() }
    }

    /// Cuts a molecule, or remembers how it was cut.
    ///
    /// # Errors
    /// The cutter says so, or its answer does not fit the molecule.
    pub fn cut(&self, sketch: Sketch) -> Result<Arc<Cut>, String> {
        // Single atoms are blocks anyway; so many are no small molecule.
        if sketch.elements.len() < 2 || sketch.elements.len() > MAX_WHOLE {
            return Ok(Arc::new(Cut { chemistry: Chemistry::Atoms, pieces: Vec::new() }));
        }
        if let Some(cut) = self.known().get(&sketch) {
            return Ok(Arc::clone(cut));
        }
        // Without the lock, so that others go on; two may ask the same, and hear the same.
        let cut = Arc::new(self.cutter.cut(&sketch)?);
        self.check(&sketch, &cut)?;
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(sketch, Arc::clone(&cut));
        Ok(cut)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Sketch, Arc<Cut>>> {
        // What is in the map is whole, whoever panicked while holding it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every atom in exactly one piece, every block type in the vocabulary.
    fn check(&self, sketch: &Sketch, cut: &Cut) -> Result<(), String> {
        if cut.chemistry == Chemistry::Atoms {
            return Ok(());
        }
        let mut atoms: Vec<u32> = cut.pieces.iter().flat_map(|(_, atoms)| atoms.iter().copied()).collect();
        atoms.sort_unstable();
        let whole = atoms.len() == sketch.elements.len() && atoms.iter().zip(0u32..).all(|(a, b)| *a == b);
        if !whole || cut.pieces.iter().any(|(_, atoms)| atoms.is_empty()) {
            return Err("its fragments do not hold each atom once; this is a fault of the program".to_owned());
        }
        let types = self.vocabulary.block_types;
        match cut.pieces.iter().find(|(kind, _)| u64::from(*kind) >= types || *kind <= vocab::GLOBAL_BLOCK) {
            Some((kind, _)) => Err(format!("block type {kind} is not between {} and {types}", vocab::GLOBAL_BLOCK)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Gives what it holds and counts.
    struct Fixed(Result<Cut, String>, AtomicUsize);

    impl Cutter for Fixed {
        fn cut(&self, _: &Sketch) -> Result<Cut, String> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.clone()
        }
    }

    fn fragments(pieces: &[(u16, &[u32])]) -> (Fragments, Arc<Fixed>) {
        let pieces = pieces.iter().map(|(kind, atoms)| (*kind, atoms.to_vec())).collect();
        let cutter = Arc::new(Fixed(Ok(Cut { chemistry: Chemistry::Bonds, pieces }), AtomicUsize::new(0)));
        let vocabulary = FragmentVocabulary { block_types: 160, ..FragmentVocabulary::default() };
        (Fragments::new(vocabulary, cutter.clone()), cutter)
    }

    fn three() -> Sketch {
        Sketch { elements: vec![6, 6, 8], ..Sketch::default() }
    }

    #[test]
    fn a_molecule_is_cut_once() {
        let (fragments, cutter) = fragments(&[(159, &[2, 0]), (37, &[1])]);
        for _ in 0..3 {
            assert_eq!(fragments.cut(three()).unwrap().pieces, [(159, vec![2, 0]), (37, vec![1])]);
        }
        assert_eq!(cutter.1.load(Ordering::Relaxed), 1);
        let other = Sketch { component: "X".to_owned(), ..three() };
        assert!(fragments.cut(other).is_ok());
        assert_eq!(cutter.1.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn wrong_answers_are_refused() {
        for pieces in [
            &[(159, &[0, 1][..])][..],
            &[(159, &[0, 1, 1])],
            &[(159, &[0, 1, 3])],
            &[(159, &[0, 1, 2]), (37, &[])],
            &[(160, &[0, 1, 2])],
            &[(3, &[0, 1, 2])],
        ] {
            assert!(fragments(pieces).0.cut(three()).is_err(), "{pieces:?}");
        }
    }

    #[test]
    fn single_atoms_need_no_chemistry() {
        let (fragments, cutter) = fragments(&[]);
        let one = Sketch { elements: vec![30], ..Sketch::default() };
        assert_eq!(fragments.cut(one).unwrap().chemistry, Chemistry::Atoms);
        assert_eq!(cutter.1.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn names_are_those_of_the_records() {
        for name in ["atoms", "components", "bonds", "smiles", "perceived"] {
            assert_eq!(Chemistry::of(name).unwrap().name(), name);
        }
        assert_eq!(Chemistry::of("none"), None);
    }
}
