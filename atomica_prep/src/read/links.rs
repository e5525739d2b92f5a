//! Covalent bonds between residues that a file states: LINK, SSBOND, CONECT, `_struct_conn`, the bonds of MOL2.

use super::notes::Notes;
use super::options::Ids;
use crate::error::Problem;
use crate::structure::{Name, Repair, Structure};
use crate::torsion::{covalent, radius};

/// Who an atom is, as a record of a bond says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// `None` where the file's chain ids are not those of the structure.
    pub(super) chain: Option<String>,
    pub(super) resnum: i32,
    pub(super) icode: Name,
    pub(super) component: Name,
    pub(super) atom: Name,
    /// Alternate location, 0 for any.
    pub(super) altloc: u8,
}

/// What the records of a file say, each with its line; 0 in a file without lines.
#[derive(Debug, Default)]
pub(super) struct Stated {
    /// Bonds of atoms by name.
    pub(super) named: Vec<(u64, [End; 2])>,
    /// The same by serial number, which has told the names.
    pub(super) numbered: Vec<(u64, [End; 2])>,
    /// Bonds of atoms by their places, in the order in which they were given.
    pub(super) placed: Vec<(u64, [usize; 2])>,
}

/// A bond, and the atoms that may be its ends: more than one pair where a name is there more than once.
struct Wanted {
    line: u64,
    pairs: Vec<[usize; 2]>,
    numbered: bool,
}

/// Stated bonds on their way through the choice of alternate locations.
#[derive(Default)]
pub(super) struct Bonds(Vec<Wanted>);

impl Stated {
    /// Finds the atoms; `altlocs` are empty where no atom has one.
    pub(super) fn resolve(self, structure: &Structure, altlocs: &[u8], notes: &mut Notes) -> Bonds {
        let ends = || self.named.iter().chain(&self.numbered).flat_map(|(_, ends)| ends);
        let mut wanted: Vec<(i32, Name)> = ends().map(|end| (end.resnum, end.icode)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // A bit for each number that is wanted, and others that end alike: few residues need a second look.
        let slot = |resnum: i32| (resnum as usize / 64 % 64, 1u64 << (resnum as u32 % 64));
        let mut bits = [0u64; 64];
        for (at, bit) in wanted.iter().map(|(resnum, _)| slot(*resnum)) {
            bits.get_mut(at).into_iter().for_each(|word| *word |= bit);
        }
        let mut residues: Vec<(usize, usize)> = Vec::new();
        for (at, residue) in structure.residues.iter().enumerate() {
            let (word, bit) = slot(residue.resnum);
            if bits.get(word).is_some_and(|word| word & bit != 0) {
                let place = wanted.binary_search(&(residue.resnum, residue.icode));
                residues.extend(place.ok().map(|place| (place, at)));
            }
        }
        residues.sort_unstable();
        let atoms = |end: &End| -> Vec<usize> {
            let place = wanted.binary_search(&(end.resnum, end.icode)).unwrap_or(usize::MAX);
            let from = residues.partition_point(|known| known.0 < place);
            let places = residues.get(from..).unwrap_or_default().iter().take_while(|known| known.0 == place);
            let places = places.map(|known| known.1);
            let own = places.filter_map(|at| structure.residues.get(at)).filter(|r| {
                let chain = || structure.chains.get(r.chain);
                r.name == end.component && end.chain.as_ref().is_none_or(|id| chain() == Some(id))
            });
            let fits = |atom: &usize| {
                let altloc = altlocs.get(*atom).copied().unwrap_or(0);
                structure.atom_names.get(*atom) == Some(&end.atom)
                    && (end.altloc == 0 || altloc == 0 || altloc == end.altloc)
            };
            own.flat_map(|r| r.start..r.end).filter(fits).take(Self::MOST).collect()
        };
        let mut bonds = Vec::with_capacity(self.named.len() + self.numbered.len());
        let numbered = self.named.len();
        for (i, (line, ends)) in self.named.iter().chain(&self.numbered).enumerate() {
            let numbered = i >= numbered;
            let [one, other] = [&ends[0], &ends[1]].map(atoms);
            for (end, found) in ends.iter().zip([&one, &other]) {
                if found.is_empty() && !numbered {
                    let place = || Problem { line: *line, column: 0, column_end: 0, what: end.missing() };
                    notes.repair(Repair::BondUnmatched, place);
                }
            }
            let pairs = one.iter().flat_map(|a| other.iter().map(move |b| [*a, *b])).collect();
            bonds.push(Wanted { line: *line, pairs, numbered });
        }
        bonds.extend(self.placed.into_iter().map(|(line, pair)| Wanted { line, pairs: vec![pair], numbered: false }));
        Bonds(bonds)
    }

    /// Atoms that one name may mean: alternate locations, copies.
    const MOST: usize = 32;

    /// None at all?
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.numbered.is_empty() && self.placed.is_empty()
    }
}

impl End {
    fn missing(&self) -> String {
        let chain = self.chain.as_deref().unwrap_or_default();
        let (number, icode) = (self.resnum, self.icode.as_str());
        let (component, atom) = (self.component.as_str(), self.atom.as_str());
        format!("a bond is stated of atom {atom} of {component} {number}{icode} of chain {chain:?}, which is not there")
    }
}

impl Bonds {
    /// Å; stretched bonds are longer than the sum of the radii by less than this.
    const SLACK: f64 = 1.0;
    /// Å; nearer atoms stand for one another.
    const OVERLAP: f64 = 0.6;

    /// Puts the bonds into the structure that was made of the atoms at `origins`, or of all of them in their order, where
    /// there are none. What bonds no residues, or is coordination of a metal, or of an alternate location that was not
    /// chosen, is passed over.
    pub(super) fn place(self, structure: &mut Structure, origins: &[usize], notes: &mut Notes) {
        let mut places = vec![usize::MAX; origins.iter().max().map_or(0, |most| most + 1)];
        for (at, origin) in origins.iter().enumerate() {
            if let Some(slot) = places.get_mut(*origin) {
                *slot = at;
            }
        }
        let place = |atom: usize| match origins {
            [] => Some(atom),
            _ => places.get(atom).copied().filter(|at| *at != usize::MAX),
        };
        let mut bonds: Vec<[usize; 2]> = Vec::new();
        let mut odd: Vec<(u64, [usize; 2], f64)> = Vec::new();
        let (mut numbered, mut sound) = (Vec::new(), 0u64);
        let mut first_odd = (0u64, 0u64);
        for wanted in self.0 {
            let pairs = wanted.pairs.iter().filter_map(|[a, b]| Some([place(*a)?, place(*b)?]));
            let known = pairs.filter_map(|pair| Some((pair, length(structure, pair)?)));
            let Some((pair, distance)) = known.min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
            let limit: f64 = pair.iter().map(|at| radius(structure.elements.get(*at).copied().unwrap_or(0))).sum();
            let short = distance < limit + Self::SLACK;
            let fits = short && distance > Self::OVERLAP;
            if wanted.numbered {
                if short {
                    sound += 1;
                } else {
                    first_odd = (if first_odd.1 == 0 { wanted.line } else { first_odd.0 }, first_odd.1 + 1);
                }
            }
            if structure.residue_of(pair[0]) == structure.residue_of(pair[1]) {
                continue;
            }
            match (fits, wanted.numbered) {
                (true, true) => numbered.push(pair),
                (true, false) => bonds.push(pair),
                (false, _) => odd.push((wanted.line, pair, distance)),
            }
        }
        // Serial numbers that were given anew, and CONECT was not.
        let (line, count) = first_odd;
        if count * 4 > count + sound && count > 1 {
            let what = format!(
                "{count} of {} bonds by CONECT are too long for their atoms; none of CONECT is used",
                count + sound
            );
            notes.repairs(Repair::ConectIgnored, count + sound, || Problem { line, column: 0, column_end: 0, what });
        } else {
            bonds.extend(numbered);
        }
        for (line, pair, distance) in odd {
            let [a, b] = pair.map(|atom| structure.who(atom));
            let what = format!("a bond is stated of {a} and {b}, which are {distance:.1} Å apart; not used");
            notes.repair(Repair::BondImplausible, || Problem { line, column: 0, column_end: 0, what });
        }
        structure.bonds = bonds.into_iter().flat_map(|[a, b]| [(a, b), (b, a)]).collect();
        structure.bonds.sort_unstable();
        structure.bonds.dedup();
    }
}

/// Distance of two atoms that form covalent bonds.
fn length(structure: &Structure, [a, b]: [usize; 2]) -> Option<f64> {
    let atom = |at: usize| structure.elements.get(at).filter(|e| covalent(**e)).and(structure.positions.get(at));
    let (a, b) = (atom(a)?, atom(b)?);
    Some(a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt())
}

/// Items of `_struct_conn` that are read.
pub(super) const ITEMS: [&str; 21] = [
    "conn_type_id",
    "ptnr1_auth_asym_id",
    "ptnr1_label_asym_id",
    "ptnr1_auth_seq_id",
    "ptnr1_label_seq_id",
    "pdbx_ptnr1_pdb_ins_code",
    "ptnr1_auth_comp_id",
    "ptnr1_label_comp_id",
    "ptnr1_label_atom_id",
    "pdbx_ptnr1_label_alt_id",
    "ptnr1_symmetry",
    "ptnr2_auth_asym_id",
    "ptnr2_label_asym_id",
    "ptnr2_auth_seq_id",
    "ptnr2_label_seq_id",
    "pdbx_ptnr2_pdb_ins_code",
    "ptnr2_auth_comp_id",
    "ptnr2_label_comp_id",
    "ptnr2_label_atom_id",
    "pdbx_ptnr2_label_alt_id",
    "ptnr2_symmetry",
];

/// The bond of a row of `_struct_conn`, given its values in the order of [`ITEMS`]. `None` for what is no covalent bond
/// (metalc, hydrog), or is one with a copy by symmetry.
pub(super) fn connection<'a>(value: impl Fn(usize) -> Option<&'a [u8]>, ids: Ids) -> Option<[End; 2]> {
    /// Items of each partner.
    const WIDTH: usize = 10;
    let kind = value(0)?;
    let begins = |word: &[u8]| kind.get(..word.len()).is_some_and(|k| k.eq_ignore_ascii_case(word));
    if !begins(b"covale") && !begins(b"disulf") || value(WIDTH) != value(2 * WIDTH) {
        return None;
    }
    let end = |from: usize| {
        let [chain, seq, comp] = [1, 3, 6].map(|at| ids.order([value(from + at), value(from + at + 1)]));
        let text = |bytes: Option<&'a [u8]>| std::str::from_utf8(bytes.unwrap_or_default()).ok();
        // Insertion codes belong to the author's numbers.
        let by_label = ids == Ids::Label && seq[0].is_some();
        let icode = value(from + 5).filter(|_| !by_label).unwrap_or_default();
        Some(End {
            chain: Some(text(chain[0].or(chain[1]))?.to_owned()),
            resnum: text(seq[0].or(seq[1]))?.parse().ok()?,
            icode: Name::new(icode)?,
            component: Name::new(comp[0].or(comp[1])?)?,
            atom: Name::new(value(from + 8)?)?,
            altloc: value(from + 9).and_then(|a| a.first().copied()).unwrap_or(0),
        })
    };
    Some([end(0)?, end(WIDTH)?])
}
