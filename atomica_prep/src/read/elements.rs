//! Elements of the atoms of ligand files, from several signs that must agree: the type column, the atom's name, bonds.

use super::no_atom;
use crate::vocab::{element, symbol};

/// What an atom's symbol or type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// The element, without doubt.
    Element(u8),
    /// The element, by a type of a force field and what agrees with it.
    ForceField(u8),
    /// An atom of a query or an attachment point, of no one element.
    Query,
    /// A lone pair or a dummy: no atom.
    NoAtom,
    /// Nothing that can be believed.
    Doubt,
}

/// The symbol in an atom line of SDF.
pub(super) fn of_sdf(symbol: &[u8]) -> Said {
    match symbol {
        _ if no_atom::is_symbol(symbol) => Said::NoAtom,
        b"R#" | b"R" | b"*" | b"A" | b"Q" | b"L" | b"X" | b"M" | b"AH" | b"QH" | b"XH" | b"MH" | b"Pol" | b"Mod" => {
            Said::Query
        }
        [b'R', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => Said::Query,
        [b'[', ..] => Said::Query,
        _ => match element(symbol) {
            0 => Said::Doubt,
            known => Said::Element(known),
        },
    }
}

/// The name and the type of an atom of MOL2, and how many bonds it has.
pub(super) fn of_mol2(name: &[u8], kind: &[u8], bonds: usize) -> Said {
    let by_name = by_letters(name);
    match of_sybyl(kind) {
        // C1 of type Ca with several bonds is a carbon of GAFF in another case, or not.
        Some(Said::Element(said)) if bonds > 1 && kind.len() == 2 => {
            let letters = name.iter().filter(|c| c.is_ascii_alphabetic()).count();
            let first = kind.get(..1).map_or(0, element);
            return match letters == 1 && by_name[0] == first && matches!(first, 1 | 6..=9 | 15 | 16) {
                true => Said::Doubt,
                false => Said::Element(said),
            };
        }
        Some(said) => return said,
        None => {}
    }
    if matches!(kind, b"EP" | b"LPH" | b"lp" | b"ep" | b"IP" | b"IM") && by_name == [0, 0] {
        return Said::NoAtom;
    }
    let by_kind = match of_force_field(kind) {
        // The type is a number of OPLS, or the name has no letters that say something: one sign less.
        None => by_name,
        Some(by_kind) if by_name == [0, 0] => by_kind,
        Some(by_kind) => by_kind.map(|e| if by_name.contains(&e) { e } else { 0 }),
    };
    // No type of a force field begins with these letters but those of the elements.
    let own = [&b"SE"[..], b"SI", b"FE", b"AL", b"LI"]
        .iter()
        .any(|two| kind.get(..2).is_some_and(|k| k.eq_ignore_ascii_case(two)));
    if own && by_kind[1] != 0 {
        return Said::ForceField(by_kind[1]);
    }
    let mut agreed = by_kind.into_iter().filter(|e| *e != 0);
    let (Some(one), other) = (agreed.next(), agreed.next()) else { return Said::Doubt };
    let Some(two) = other else { return Said::ForceField(one) };
    // Two elements begin with these letters. A halogen has one bond, an element of organic chemistry some, an ion none.
    let lower = kind.first().is_some_and(u8::is_ascii_lowercase);
    let element = match (bonds, two) {
        (1, 17 | 35) => two,
        (1.., _) => one,
        (0, _) if name.eq_ignore_ascii_case(kind) && !lower => two,
        // Types in lower case are those of GAFF, which has no metals.
        (0, _) if lower => one,
        _ => return Said::Doubt,
    };
    if matches!(element, 1 | 6..=9 | 15 | 16) || bonds < 2 {
        Said::ForceField(element)
    } else {
        Said::Doubt
    }
}

/// Types of SYBYL, which begin with the symbol in its own case: `C.ar`, `Cl`.
fn of_sybyl(kind: &[u8]) -> Option<Said> {
    let mut parts = kind.split(|c| *c == b'.');
    let first = parts.next().unwrap_or_default();
    let more = parts.next();
    match first {
        b"LP" | b"Du" => return Some(Said::NoAtom),
        b"Any" | b"Hal" | b"Het" | b"Hev" => return Some(Said::Query),
        _ => {}
    }
    let known = element(first);
    let own_case = symbol(known).as_bytes() == first || matches!(first, b"D" | b"T");
    // One letter is said by SYBYL and force fields alike.
    (known != 0 && own_case && (first.len() == 1 || more.is_some() || !organic_twin(first)) && !first.is_empty())
        .then_some(Said::Element(known))
}

/// Could the two letters be a type of a force field as well? In the case of the symbol, no force field has one.
fn organic_twin(first: &[u8]) -> bool {
    first.iter().all(u8::is_ascii_uppercase)
}

/// The element by the first letter, and by the first two, of a name; 0 for none.
fn by_letters(name: &[u8]) -> [u8; 2] {
    let letters = name.iter().position(u8::is_ascii_alphabetic).and_then(|at| name.get(at..)).unwrap_or_default();
    let one = letters.get(..1).map_or(0, element);
    let two = letters.get(..2).filter(|two| two.iter().all(u8::is_ascii_alphabetic)).map_or(0, element);
    [one, two]
}

/// Elements that a type of GAFF, AMBER or CGenFF can mean: by its first letter, and by its first two; 0 for none. Types
/// that are numbers, as those of OPLS, say nothing.
fn of_force_field(kind: &[u8]) -> Option<[u8; 2]> {
    let upper = kind.to_ascii_uppercase();
    let starts = |what: &[u8]| upper.starts_with(what);
    if starts(b"OPLS") || !upper.first().is_some_and(u8::is_ascii_alphabetic) {
        return None;
    }
    // CGenFF: CLGR1, BRGA1, ALG1; GAFF: cl, br.
    for (what, known) in [(&b"CL"[..], 17), (b"BR", 35), (b"ALG", 13)] {
        if starts(what) {
            return Some([known, 0]);
        }
    }
    Some(by_letters(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_force_fields() {
        for (name, kind, bonded, expected) in [
            ("C1", "C.ar", true, Said::Element(6)),
            ("N1", "N.pl3", true, Said::Element(7)),
            ("CL1", "Cl", true, Said::Element(17)),
            ("ZN", "Zn", false, Said::Element(30)),
            ("H", "H", true, Said::Element(1)),
            ("C1", "ca", true, Said::ForceField(6)),
            ("C9", "cf", false, Said::ForceField(6)),
            ("O1", "os", true, Said::ForceField(8)),
            ("N2", "nb", false, Said::ForceField(7)),
            ("NA1", "na", true, Said::ForceField(7)),
            ("CL1", "cl", true, Said::ForceField(17)),
            ("BR1", "br", false, Said::ForceField(35)),
            ("S3", "sy", true, Said::ForceField(16)),
            ("H6", "ho", true, Said::ForceField(1)),
            ("C12", "CG2R61", true, Said::ForceField(6)),
            ("CL1", "CLGR1", true, Said::ForceField(17)),
            ("CA", "CT", true, Said::ForceField(6)),
            ("CA1", "CA", true, Said::ForceField(6)),
            ("OS1", "OS", true, Said::ForceField(8)),
            ("C1", "O.3x", true, Said::Element(8)),
            ("N1", "ca", true, Said::Doubt),
            ("X1", "opls_135", true, Said::Doubt),
            ("C1", "opls_135", true, Said::ForceField(6)),
            ("CL1", "opls_151", true, Said::ForceField(17)),
            ("ZN", "ZN", false, Said::ForceField(30)),
            ("LP1", "LP", true, Said::NoAtom),
            ("D1", "Du", true, Said::NoAtom),
            ("Q", "Any", true, Said::Query),
        ] {
            assert_eq!(of_mol2(name.as_bytes(), kind.as_bytes(), usize::from(bonded)), expected, "{name} {kind}");
        }
    }

    #[test]
    fn symbols_of_sdf() {
        for (text, expected) in [
            ("C", Said::Element(6)),
            ("D", Said::Element(1)),
            ("CL", Said::Element(17)),
            ("R#", Said::Query),
            ("*", Said::Query),
            ("LP", Said::NoAtom),
            ("Zz", Said::Doubt),
            ("", Said::Doubt),
        ] {
            assert_eq!(of_sdf(text.as_bytes()), expected, "{text}");
        }
    }
}
