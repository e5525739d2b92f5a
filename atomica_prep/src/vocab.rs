//! Block and atom vocabularies. The order is part of trained weights and never changes.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Index of a block whose type is hidden.
pub const MASK_BLOCK: u16 = 1;
/// Index of a block whose residue is not in the vocabulary.
pub const UNKNOWN_BLOCK: u16 = 2;
/// Index of the global block of a segment.
pub const GLOBAL_BLOCK: u16 = 3;
/// Block types from here on are molecules; those below are none.
pub const FIRST_MOLECULE_BLOCK: u16 = 4;
/// Amino acids and nucleotides.
pub const RESIDUE_BLOCKS: std::ops::RangeInclusive<u16> = FIRST_MOLECULE_BLOCK..=31;
/// The amino acids among them.
pub const AMINO_ACIDS: std::ops::RangeInclusive<u16> = FIRST_MOLECULE_BLOCK..=23;
/// Index of the first element block.
pub const FIRST_ELEMENT_BLOCK: u16 = 32;
/// Blocks without a fragment vocabulary.
pub const BLOCKS: usize = 150;
/// Index of an atom whose element is not known.
pub const UNKNOWN_ATOM: u8 = 1;
/// Index of the one atom of a block whose type is hidden; the same as that of an unknown one.
pub const MASK_ATOM: u8 = 1;
/// Index of the global atom of a segment.
pub const GLOBAL_ATOM: u8 = 2;
/// Atom types.
pub const ATOMS: usize = 121;

/// Kinds of interface, in the order of the modality embedding.
pub const MODALITIES: [&str; 8] = ["PP", "PL", "Pion", "Ppeptide", "PRNA", "PDNA", "RNAL", "CSD"];

const RESIDUES: [&str; 28] = [
    "GLY", "ALA", "VAL", "LEU", "ILE", "PHE", "TRP", "TYR", "ASP", "HIS", "ASN", "GLU", "LYS", "GLN", "MET", "ARG",
    "SER", "THR", "CYS", "PRO", "DA", "DG", "DC", "DT", "RA", "RG", "RC", "RU",
];

/// Element symbols by atomic number, hydrogen first.
pub const ELEMENTS: [&str; 118] = [
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K", "Ca",
    "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr", "Y",
    "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce",
    "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir",
    "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc",
    "Lv", "Ts", "Og",
];

/// The block vocabulary in index order.
pub fn block_symbols() -> Vec<&'static str> {
    ["PAD", "MASK", "UNK", "GLOBAL"].into_iter().chain(RESIDUES).chain(ELEMENTS).collect()
}

/// The atom vocabulary in index order.
pub fn atom_symbols() -> Vec<&'static str> {
    ["PAD", "MASK", "GLOBAL"].into_iter().chain(ELEMENTS).collect()
}

/// Atomic number of a symbol in any case; deuterium and tritium count as hydrogen; 0 if it is none.
///
/// ```
/// assert_eq!(atomica_prep::vocab::element(b"ZN"), 30);
/// assert_eq!(atomica_prep::vocab::element(b"D"), 1);
/// assert_eq!(atomica_prep::vocab::element(b"Xx"), 0);
/// ```
#[inline]
pub fn element(symbol: &[u8]) -> u8 {
    let slot = match *symbol {
        [a] => slot_of(a, b' '),
        [a, b] => slot_of(a, b),
        _ => None,
    };
    slot.and_then(|s| ELEMENT_OF.get(s)).copied().unwrap_or(0)
}

#[inline]
fn slot_of(first: u8, second: u8) -> Option<usize> {
    let first = first.to_ascii_uppercase();
    let second = second.to_ascii_uppercase();
    if !first.is_ascii_uppercase() {
        return None;
    }
    let row = usize::from(first - b'A') * 27;
    match second {
        b' ' => Some(row),
        b'A'..=b'Z' => Some(row + 1 + usize::from(second - b'A')),
        _ => None,
    }
}

/// Atomic numbers by first letter (rows of 27) and second letter (blank first), made at compile time.
static ELEMENT_OF: [u8; 26 * 27] = element_table();

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler on constants only")]
const fn element_table() -> [u8; 26 * 27] {
    let mut table = [0u8; 26 * 27];
    let mut i = 0;
    while i < ELEMENTS.len() {
        let bytes = ELEMENTS[i].as_bytes();
        let mut slot = (bytes[0] - b'A') as usize * 27;
        if bytes.len() == 2 {
            slot += 1 + (bytes[1] - b'a') as usize;
        }
        table[slot] = (i + 1) as u8;
        i += 1;
    }
    table[3 * 27] = 1; // D
    if table[19 * 27] == 0 {
        table[19 * 27] = 1; // T
    }
    table
}

/// Symbol of an atomic number; `X` for one that is not known.
pub fn symbol(atomic_number: u8) -> &'static str {
    usize::from(atomic_number).checked_sub(1).and_then(|at| ELEMENTS.get(at)).copied().unwrap_or("X")
}

/// Atom type of an atomic number.
pub fn atom_type(atomic_number: u8) -> u8 {
    match atomic_number {
        1..=118 => atomic_number + 2,
        _ => UNKNOWN_ATOM,
    }
}

/// Block type of a single atom.
pub fn element_block(atomic_number: u8) -> u16 {
    match atomic_number {
        1..=118 => FIRST_ELEMENT_BLOCK + u16::from(atomic_number) - 1,
        _ => UNKNOWN_BLOCK,
    }
}

/// What a component id says about a residue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// An amino acid, with its block type.
    AminoAcid(u16),
    /// A nucleotide of DNA by name, with its block type.
    Dna(u16),
    /// A nucleotide of RNA by name, with its block type.
    Rna(u16),
    /// A nucleotide whose sugar decides: block types as DNA and as RNA (`UNKNOWN_BLOCK` where there is none).
    Base {
        /// With a deoxyribose.
        dna: u16,
        /// With a ribose.
        rna: u16,
    },
    /// Water.
    Water,
    /// Anything else.
    Other,
}

/// Looks a component id up, in any case. Usual names of protonation states and of other programs are known.
pub fn name(component: &[u8]) -> Name {
    let mut upper = [0u8; 4];
    let Some(target) = upper.get_mut(..component.len()) else { return Name::Other };
    target.copy_from_slice(component);
    target.make_ascii_uppercase();
    let amino_acid = |i: u16| Name::AminoAcid(4 + i);
    match &*target {
        b"GLY" => amino_acid(0),
        b"ALA" => amino_acid(1),
        b"VAL" => amino_acid(2),
        b"LEU" => amino_acid(3),
        b"ILE" => amino_acid(4),
        b"PHE" => amino_acid(5),
        b"TRP" => amino_acid(6),
        b"TYR" => amino_acid(7),
        b"ASP" | b"ASH" => amino_acid(8),
        b"HIS" | b"HIE" | b"HID" | b"HIP" | b"HSD" | b"HSE" | b"HSP" => amino_acid(9),
        b"ASN" => amino_acid(10),
        b"GLU" | b"GLH" => amino_acid(11),
        b"LYS" | b"LYN" => amino_acid(12),
        b"GLN" => amino_acid(13),
        b"MET" | b"MSE" => amino_acid(14),
        b"ARG" => amino_acid(15),
        b"SER" => amino_acid(16),
        b"THR" => amino_acid(17),
        b"CYS" | b"CYX" | b"CYM" => amino_acid(18),
        b"PRO" => amino_acid(19),
        b"DA" | b"DA5" | b"DA3" => Name::Dna(24),
        b"DG" | b"DG5" | b"DG3" => Name::Dna(25),
        b"DC" | b"DC5" | b"DC3" => Name::Dna(26),
        b"DT" | b"DT5" | b"DT3" => Name::Dna(27),
        b"RA" | b"RA5" | b"RA3" => Name::Rna(28),
        b"RG" | b"RG5" | b"RG3" => Name::Rna(29),
        b"RC" | b"RC5" | b"RC3" => Name::Rna(30),
        b"RU" | b"RU5" | b"RU3" => Name::Rna(31),
        b"A" | b"ADE" => Name::Base { dna: 24, rna: 28 },
        b"G" | b"GUA" => Name::Base { dna: 25, rna: 29 },
        b"C" | b"CYT" => Name::Base { dna: 26, rna: 30 },
        b"T" | b"THY" => Name::Base { dna: 27, rna: UNKNOWN_BLOCK },
        b"U" | b"URA" => Name::Base { dna: UNKNOWN_BLOCK, rna: 31 },
        b"HOH" | b"WAT" | b"DOD" | b"H2O" | b"TIP" | b"TIP3" | b"TIP2" | b"TIP4" | b"TP3" | b"SOL" | b"SPC"
        | b"SWM4" | b"SWM6" => Name::Water,
        _ => Name::Other,
    }
}

/// Looks up a name that force fields have for an amino acid or nucleotide: protonation states and ends of chains in
/// Amber, CHARMM, GROMOS and OPLS. Some of them are components of the dictionary, too, so the atoms have to agree.
pub fn force_field_name(component: &[u8]) -> Name {
    let upper = component.to_ascii_uppercase();
    let standard = match upper.as_slice() {
        b"HISD" | b"HISE" | b"HISH" | b"HISP" | b"HISA" | b"HISB" | b"HIS1" | b"HIS2" | b"HSH" | b"HIN" => "HIS",
        b"HIS+" => "HIS",
        b"ASPP" | b"ASPH" | b"AS4" | b"ASP-" => "ASP",
        b"GLUP" | b"GLUH" | b"GL4" | b"GLU-" => "GLU",
        b"LYSH" | b"LYSN" | b"LSN" | b"LYP" | b"LYS+" => "LYS",
        b"ARGN" | b"ARN" | b"ARG+" => "ARG",
        b"CYSH" | b"CYS1" | b"CYS2" | b"CYN" | b"CYSX" | b"CYSM" | b"CYSP" | b"CYSD" => "CYS",
        b"TYM" | b"TYRM" | b"TYRN" | b"TYN" | b"Y1P" => "TYR",
        // With a sugar in GLYCAM, with a phosphate in Amber.
        b"NLN" => "ASN",
        b"OLS" | b"S1P" => "SER",
        b"OLT" | b"T1P" => "THR",
        b"DADE" | b"DAN" | b"DAP" => "DA",
        b"DGUA" | b"DGN" => "DG",
        b"DCYT" | b"DCN" => "DC",
        b"DTHY" | b"DTN" => "DT",
        b"RADE" | b"RAN" => "RA",
        b"RGUA" | b"RGN" => "RG",
        b"RCYT" | b"RCN" => "RC",
        b"RURA" | b"RUN" => "RU",
        b"A5" | b"A3" | b"AN" => "A",
        b"G5" | b"G3" | b"GN" => "G",
        b"C5" | b"C3" | b"CN" => "C",
        b"U5" | b"U3" | b"UN" => "U",
        b"T5" | b"T3" | b"TN" => "T",
        // The first and last residues of a chain in Amber: NALA, CHIE.
        [b'N' | b'C', rest @ ..] if rest.len() == 3 => match name(rest) {
            Name::AminoAcid(block) => return Name::AminoAcid(block),
            _ => return Name::Other,
        },
        _ => return Name::Other,
    };
    name(standard.as_bytes())
}

/// Looks a modified residue up: what the component dictionary derives it from.
pub fn parent(component: &[u8]) -> Name {
    static PARENTS: OnceLock<HashMap<&'static [u8], &'static [u8]>> = OnceLock::new();
    let table = PARENTS.get_or_init(|| {
        let lines = include_str!("../data/parents.tsv").lines().filter_map(|line| line.split_once('\t'));
        lines.map(|(name, parent)| (name.as_bytes(), parent.as_bytes())).collect()
    });
    table.get(component.to_ascii_uppercase().as_slice()).map_or(Name::Other, |parent| name(parent))
}

/// Element of an ion by the name that simulation packages give it, where it does not begin with the element's symbol
/// (or begins with another's, as `POT` with that of polonium).
pub fn ion(component: &[u8]) -> Option<u8> {
    let symbol: &[u8] = match component.to_ascii_uppercase().as_slice() {
        b"SOD" | b"NA+" | b"IP" | b"CIP" | b"SOD+" | b"NA1+" => b"NA",
        b"POT" | b"K+" | b"KIO" | b"POT+" | b"K1+" => b"K",
        b"CES" | b"CIO" | b"CES+" | b"CS+" => b"CS",
        b"RUB" | b"RUB+" | b"RB+" => b"RB",
        b"LIT" | b"LIT+" | b"LI+" => b"LI",
        b"CLA" | b"CLA-" | b"IM" | b"CIM" | b"CL-" | b"CL1-" => b"CL",
        b"BRO" | b"BR-" => b"BR",
        b"IOD" | b"I-" => b"I",
        b"F-" => b"F",
        b"CAL" | b"CA2" | b"CA2+" | b"CA+2" | b"C0" => b"CA",
        b"CAD" | b"CAD2" | b"CD2" | b"CD2+" => b"CD",
        b"MG2" | b"MG2+" | b"MG+2" => b"MG",
        b"ZN2" | b"ZN2+" | b"ZN+2" => b"ZN",
        b"BAR" | b"BA2" | b"BA2+" => b"BA",
        b"SR2" | b"SR2+" => b"SR",
        b"MN2" | b"MN2+" | b"MN3" => b"MN",
        b"FE2" | b"FE3" | b"FE2+" | b"FE3+" => b"FE",
        b"CO2" | b"CO2+" | b"CO3" => b"CO",
        b"NI2" | b"NI2+" | b"NI3" => b"NI",
        b"CU1" | b"CU2" | b"CU2+" | b"CU+" => b"CU",
        b"HG2" | b"HG2+" => b"HG",
        b"PB2" | b"PB2+" => b"PB",
        b"AL3" | b"AL3+" => b"AL",
        _ => return None,
    };
    Some(element(symbol))
}

/// Element of a lone ion by the names of its residue and its atom, where they agree: an ion bears the name of its residue,
/// with a charge or without one, or another one of the same ion. A residue `ION` says nothing. Where one
/// of them has a sign, the other may have any charge, or none (`NA+1` in `NA1`, as HADDOCK has them).
pub fn ion_of(component: &[u8], atom: &[u8]) -> Option<u8> {
    let sign = |c: &u8| matches!(c, b'+' | b'-');
    let bare = uncharged(atom);
    match ion(component) {
        Some(known) => {
            let same = component.eq_ignore_ascii_case(atom) || ion(atom) == Some(known) || element(bare) == known;
            same.then_some(known)
        }
        None if component.eq_ignore_ascii_case(b"ION") => ion(atom).or((bare.len() == 2).then(|| element(bare))),
        None => {
            let same = component.len() == 2 && component.eq_ignore_ascii_case(bare);
            let signed = || component.iter().chain(atom).any(sign) && uncharged(component).eq_ignore_ascii_case(bare);
            (same || signed()).then(|| element(bare))
        }
    }
    .filter(|element| *element != 0)
}

/// The name of an ion without its charge.
fn uncharged(ion: &[u8]) -> &[u8] {
    let charge = |c: &u8| matches!(c, b'+' | b'-') || c.is_ascii_digit();
    let end = ion.iter().rposition(|c| !charge(c)).map_or(0, |last| last + 1);
    ion.get(..end).unwrap_or_default()
}

/// Atoms beyond the backbone of each amino acid, in the order of the block types.
const SIDE_CHAINS: [&str; 20] = [
    "",
    "CB",
    "CB CG1 CG2",
    "CB CG CD1 CD2",
    "CB CG1 CG2 CD1",
    "CB CG CD1 CD2 CE1 CE2 CZ",
    "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
    "CB CG CD1 CD2 CE1 CE2 CZ OH",
    "CB CG OD1 OD2",
    "CB CG ND1 CD2 CE1 NE2",
    "CB CG OD1 ND2",
    "CB CG CD OE1 OE2",
    "CB CG CD CE NZ",
    "CB CG CD OE1 NE2",
    "CB CG SD CE",
    "CB CG CD NE CZ NH1 NH2",
    "CB OG",
    "CB OG1 CG2",
    "CB SG",
    "CB CG CD",
];

/// Is it an atom of the backbone of an amino acid, its ends included?
fn of_backbone(atom: &str) -> bool {
    matches!(
        atom,
        "N" | "CA" | "C" | "O" | "OXT" | "OT1" | "OT2" | "O1" | "O2" | "OC1" | "OC2" | "OT" | "OB" | "O'" | "O''"
    )
}

/// Are heavy atoms of these names those of an amino acid? Some may be missing if `complete` is not asked for.
pub fn has_side_chain<'a>(block: u16, atoms: impl Iterator<Item = &'a str>, complete: bool) -> bool {
    let at = usize::from(block).checked_sub(usize::from(FIRST_MOLECULE_BLOCK));
    let Some(wanted) = at.and_then(|at| SIDE_CHAINS.get(at)) else { return false };
    let mut found = 0;
    for atom in atoms.filter(|atom| !of_backbone(atom)) {
        // The last carbon of isoleucine is CD in CHARMM and GROMOS.
        let atom = if block == FIRST_MOLECULE_BLOCK + 4 && atom == "CD" { "CD1" } else { atom };
        if !wanted.split(' ').any(|name| name == atom) {
            return false;
        }
        found += 1;
    }
    !complete || found == wanted.split(' ').filter(|name| !name.is_empty()).count()
}

/// The amino acid that has exactly these heavy atoms.
pub fn by_side_chain<'a>(atoms: impl Iterator<Item = &'a str> + Clone) -> Option<u16> {
    AMINO_ACIDS.into_iter().find(|block| has_side_chain(*block, atoms.clone(), true))
}

/// Is it an atom of this amino acid, or a hydrogen or phosphorus of this nucleotide, by its name? Their elements are those
/// of the first letters.
pub fn is_atom_of(component: Name, atom: &str) -> bool {
    let first = atom.trim_start_matches(|c: char| c.is_ascii_digit()).as_bytes().first();
    match component {
        Name::AminoAcid(block) => first == Some(&b'H') || has_side_chain(block, std::iter::once(atom), false),
        Name::Dna(_) | Name::Rna(_) | Name::Base { .. } => matches!(first, Some(b'H' | b'P')),
        Name::Water | Name::Other => false,
    }
}

/// Atoms of the bases without their sugars.
const BASES: [(&[u8], &str); 5] = [
    (b"A", "N9 C8 N7 C5 C6 N6 N1 C2 N3 C4"),
    (b"G", "N9 C8 N7 C5 C6 O6 N1 C2 N2 N3 C4"),
    (b"C", "N1 C2 O2 N3 C4 N4 C5 C6"),
    (b"U", "N1 C2 O2 N3 C4 O4 C5 C6"),
    (b"T", "N1 C2 O2 N3 C4 O4 C5 C6 C7"),
];

/// The nucleotide whose base has exactly these heavy atoms; those of sugar and phosphates are passed over.
pub fn by_base<'a>(atoms: impl Iterator<Item = &'a str>) -> Name {
    let of_base = |atom: &&str| !atom.contains(['\'', '*']) && (!atom.starts_with(['O', 'P']) || atom.len() == 2);
    let of_phosphate = |atom: &&str| matches!(*atom, "O1" | "O3" | "PA" | "PB" | "PG");
    let mut found: Vec<&str> = atoms.filter(|atom| of_base(atom) && !of_phosphate(atom)).collect();
    found.sort_unstable();
    let same = |wanted: &str| {
        let mut wanted: Vec<&str> = wanted.split(' ').collect();
        wanted.sort_unstable();
        wanted == found
    };
    BASES.iter().find(|(_, wanted)| same(wanted)).map_or(Name::Other, |(component, _)| name(component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_sizes() {
        let blocks = block_symbols();
        assert_eq!(blocks.len(), BLOCKS);
        assert_eq!(blocks[4], "GLY");
        assert_eq!(blocks[23], "PRO");
        assert_eq!(blocks[31], "RU");
        assert_eq!(blocks[usize::from(element_block(1))], "H");
        assert_eq!(blocks[usize::from(element_block(20))], "Ca");
        let atoms = atom_symbols();
        assert_eq!(atoms.len(), ATOMS);
        assert_eq!(atoms[usize::from(atom_type(6))], "C");
    }

    #[test]
    fn every_element_is_found_in_any_case() {
        for (i, symbol) in ELEMENTS.iter().enumerate() {
            assert_eq!(usize::from(element(symbol.as_bytes())), i + 1);
            assert_eq!(usize::from(element(symbol.to_uppercase().as_bytes())), i + 1);
        }
        for wrong in [&b""[..], b"1", b"Zz", b"C1", b"CAA", b" C"] {
            assert_eq!(element(wrong), 0, "{wrong:?}");
        }
    }

    #[test]
    fn nucleotides_by_their_bases() {
        let atoms = "PG O1G O2G O3G O3B PB O1B PA O1A O3A O5' C5' O4' C1' N9 C8 N7 C5 C6 O6 N1 C2 N2 N3 C4";
        assert_eq!(by_base(atoms.split(' ')), name(b"G"));
        assert_eq!(by_base("N1 C2 O2 N3 C4 N4 C5 C6 CM5".split(' ')), Name::Other);
    }

    #[test]
    fn every_residue_name_maps_to_its_own_index() {
        for (i, symbol) in RESIDUES.iter().enumerate() {
            let index = match name(symbol.as_bytes()) {
                Name::AminoAcid(i) | Name::Dna(i) | Name::Rna(i) => i,
                other => panic!("{symbol}: {other:?}"),
            };
            assert_eq!(usize::from(index), 4 + i);
        }
        assert_eq!(name(b"hoh"), Name::Water);
        assert_eq!(name(b"TOOLONG"), Name::Other);
    }
}
