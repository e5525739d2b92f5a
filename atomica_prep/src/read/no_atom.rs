//! What stands in files as if it were an atom and is none: lone pairs, virtual sites, and the marks of programs.

use crate::structure::Name;
use crate::vocab;

/// Is it what programs write in the place of an element: lone pairs, dummies, pseudo-atoms (PS), alpha spheres (Ve)?
pub(super) fn is_symbol(symbol: &[u8]) -> bool {
    [&b"LP"[..], b"EP", b"DU", b"XX", b"PS", b"VE"].iter().any(|known| known.eq_ignore_ascii_case(symbol))
}

/// Is it a name of lone pairs and other sites of force fields: LP1, LPA, EP?
pub(super) fn is_lone_pair(atom: &[u8]) -> bool {
    matches!(atom, [b'L' | b'E', b'P', rest @ ..] if rest.len() < 3)
}

/// Is it a name of virtual sites within amino acids and nucleotides: QB and QQG of CYANA, MCB1 of GROMACS, NV of Rosetta?
/// No element and no atom of theirs begins like the first two.
fn is_virtual_site(atom: &[u8]) -> bool {
    matches!(atom, [b'Q' | b'M', ..] | b"NV")
}

/// Is the whole residue a plane, axes or a sphere that a program has written, and no molecule? Components of the dictionary
/// have some of these names, too, so that all atoms have to agree.
pub(super) fn is_dummy(component: Name, atoms: &[Name]) -> bool {
    let known: &[&[u8]] = match component.as_bytes() {
        // Membranes of OPM, Rosetta and LightDock.
        b"DUM" => &[b"N", b"O", b"C", b"DUM"],
        b"MEM" => &[b"THKN", b"CNTR", b"NORM"],
        b"MMB" => &[b"BJ"],
        // The root of a pose in Rosetta.
        b"XXX" | b"VRT" => &[b"ORIG", b"X", b"Y"],
        // Alpha spheres of fpocket, spheres of DOCK.
        b"STP" => &[b"POL", b"APOL"],
        b"SPH" => &[b"C"],
        // Axes of a tensor in X-PLOR.
        b"ANI" => &[b"X", b"Y", b"Z", b"OO"],
        // Points of PyMOL.
        b"PSD" => &[b"PS1", b"PS2", b"PS3", b"PS4"],
        _ => return false,
    };
    atoms.iter().all(|atom| known.contains(&atom.as_bytes()))
}

/// Is an atom of a residue, whose element is not known, none?
pub(super) fn is_site(component: Name, atom: Name) -> bool {
    let known = |name| {
        matches!(name, vocab::Name::AminoAcid(_) | vocab::Name::Dna(_) | vocab::Name::Rna(_) | vocab::Name::Base { .. })
    };
    let component = component.as_bytes();
    let standard = || known(vocab::name(component)) || known(vocab::force_field_name(component));
    is_lone_pair(atom.as_bytes()) || is_virtual_site(atom.as_bytes()) && standard()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_alone_do_not_make_a_dummy() {
        let dummy = |component: &str, atoms: &[&str]| {
            is_dummy(name(component), &atoms.iter().map(|atom| name(atom)).collect::<Vec<_>>())
        };
        assert!(dummy("ANI", &["X", "Y", "Z", "OO"]));
        assert!(dummy("DUM", &["N", "O"]));
        assert!(!dummy("ANI", &["C1", "C2", "N1"]));
        assert!(!dummy("SPH", &["C1", "C", "O"]));
    }

    #[test]
    fn sites_of_known_residues_only() {
        assert!(is_site(name("ALA"), name("QB")));
        assert!(is_site(name("PRO"), name("NV")));
        assert!(is_site(name("LIG"), name("LP1")));
        assert!(!is_site(name("LIG"), name("QB")));
        assert!(!is_site(name("GLN"), name("AE1")));
    }
}
