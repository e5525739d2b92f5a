//! Chains of PDB files whose column 22 does not tell them: ids of two letters, segment ids, TER and numbering.

use std::collections::{HashMap, HashSet};

use super::number::decimal;
use crate::error::quote;
use crate::neighbors::Cells;
use crate::structure::{Repair, Residue, Structure};
use crate::vocab::{self, Name};

/// How the chains of a file are to be read.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Chain ids stand in columns 21 and 22.
    pub(super) two_letters: bool,
    /// From each of these lines on the chain's id, or what the file says; in the order of the lines.
    pub(super) renamed: Vec<(u64, Option<String>)>,
    /// What that mends: how many chains, the first line and why.
    pub(super) repairs: Vec<(Repair, u64, u64, String)>,
    /// From this line on the atoms before it are there again, as another frame.
    pub(super) frame: Option<u64>,
    /// How residue numbers are written.
    pub(super) numbers: Numbers,
}

/// How a file writes residue numbers, where it is not as the format says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// They end in the column of the insertion code.
    pub(super) wide: bool,
    /// After 9999 they go on as A000, A001 and so on in hexadecimal.
    pub(super) shifted: bool,
}

impl Plan {
    /// The line at which the plan goes on after so many names.
    pub(super) fn next(&self, renamed: usize) -> u64 {
        let name = self.renamed.get(renamed).map_or(u64::MAX, |(line, _)| *line);
        name.min(self.frame.unwrap_or(u64::MAX))
    }
}

/// Atom lines that follow one another with the same chain and segment id, without TER or a step back in numbers.
#[derive(Debug, Default)]
struct Run<'a> {
    line: u64,
    chain: &'a [u8],
    segment: &'a [u8],
    /// Number, insertion code and name of each atom of amino acids and nucleotides without alternate locations.
    atoms: Vec<&'a [u8]>,
    /// Columns 31 to 54 of them.
    places: Vec<&'a [u8]>,
    /// Columns 18 to 27 of a residue that ends a chain, if it was the last one.
    end: Option<&'a [u8]>,
    /// Residue number of the last such atom.
    number: Option<i32>,
    /// TER or a step back in numbers stands before it.
    broken: bool,
}

impl Run<'_> {
    /// Is it (part of) a polymer?
    fn polymer(&self) -> bool {
        !self.atoms.is_empty()
    }
}

/// Names of four letters that force fields give to amino acids, nucleotides, lipids and water: their last letter is no
/// chain.
fn four_letters(name: &[u8]) -> bool {
    let (Some(three), Some(last)) = (name.first_chunk::<3>(), name.get(3)) else { return false };
    let last = last.to_ascii_uppercase();
    if matches!(last, b'+' | b'-') {
        return true; // charged: LYS+
    }
    match three {
        b"HIS" => matches!(last, b'D' | b'E' | b'H' | b'A' | b'B' | b'P' | b'1' | b'2'),
        b"ASP" | b"GLU" => matches!(last, b'P' | b'H'),
        b"LYS" | b"ARG" => matches!(last, b'H' | b'N'),
        b"CYS" => matches!(last, b'H' | b'M' | b'X' | b'1' | b'2' | b'P' | b'D'),
        b"ASN" | b"GLN" | b"TYR" | b"SER" | b"THR" => matches!(last, b'1' | b'2' | b'H' | b'P' | b'M' | b'D'),
        _ => last.is_ascii_digit() && vocab::name(three) == Name::Water,
    }
}

fn is_polymer(component: &[u8]) -> bool {
    !matches!(vocab::name(component.trim_ascii()), Name::Other | Name::Water)
}

/// Is a line of a PDB file an atom's?
pub(super) fn is_atom(line: &[u8]) -> bool {
    matches!(line.get(..6), Some(b"ATOM  " | b"HETATM"))
        || matches!(line.first(), Some(b'A' | b'a' | b'H' | b'h'))
            && matches!(
                line.get(..6).unwrap_or(line).to_ascii_uppercase().trim_ascii_end(),
                b"ATOM" | b"HETATM" | [b'A', b'T', b'O', b'M', b' ' | b'\t', _]
            )
}

/// An atom that the last residue of a protein has.
pub(super) fn is_end(name: &[u8]) -> bool {
    matches!(name, b"OXT" | b"OT2" | b"OC2")
}

/// Are columns 21 and 22 the chain's id? They are where a residue bears the name of three letters and column 21 cannot
/// be a fourth one: not of one name only, in a chain whose other residues have nothing there, nor of residues that are
/// bonded to those.
fn two_letters<'a>(lines: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
    let mut names: HashMap<&[u8], HashSet<&[u8]>> = HashMap::new();
    let mut plain: HashSet<u8> = HashSet::new();
    for name in lines.clone().filter_map(|line| line.get(17..22)) {
        let ([three @ .., last, chain], Some(four)) = (name, name.get(..4)) else { continue };
        if *last == b' ' && is_polymer(three) {
            plain.insert(*chain);
        } else if *last != b' ' && is_polymer(three) && !is_polymer(four) && !four_letters(four) {
            names.entry(name.get(3..).unwrap_or_default()).or_default().insert(three);
        }
    }
    names.iter().any(|(id, names)| {
        let alone = |chain| !plain.contains(chain);
        id.last().is_none_or(alone) || (names.len() > 1 && !bonded_to_plain(lines.clone(), id))
    })
}

/// Is a residue with these letters in columns 21 and 22 bonded, as a member of a polymer is, to one that has the second
/// letter only? Then the first is no part of the chain's id.
fn bonded_to_plain<'a>(lines: impl Iterator<Item = &'a [u8]>, id: &[u8]) -> bool {
    /// Å; peptide and phosphodiester bonds are 1.3 to 1.6.
    const BOND: f64 = 2.0;
    const ENDS: [&[u8]; 4] = [b"N", b"C", b"P", b"O3'"];
    let mut ends: [Vec<[f64; 3]>; 4] = Default::default();
    let mut odd: Vec<(usize, [f64; 3])> = Vec::new();
    for line in lines {
        let (Some(name), Some([first, second])) = (line.get(12..16), line.get(20..22)) else { continue };
        let Some(end) = ENDS.iter().position(|end| *end == name.trim_ascii()) else { continue };
        let (is_odd, is_plain) = (id == [*first, *second], *first == b' ' && id.last() == Some(second));
        let Some(place) = line.get(30..54).filter(|_| is_odd || is_plain).and_then(point) else { continue };
        if is_odd {
            odd.push((end, place));
        } else if let Some(ends) = ends.get_mut(end) {
            ends.push(place);
        }
    }
    let places = ends.each_ref().map(|points| Places::new(points, BOND));
    // N is bonded to C, P to O3'.
    odd.iter().any(|(end, place)| places.get(end ^ 1).is_some_and(|others| others.near(&[*place]) > 0))
}

/// A plan for the atom lines of a text, if it needs one. Each line comes with its number and whether TER stands before
/// it. `named` are the chain ids of the file as it is written.
pub(super) fn plan(lines: &[(u64, bool, &[u8])]) -> Option<Plan> {
    let runs = runs(lines, two_letters(lines.iter().map(|l| l.2)));
    if let Some(frame) = frame(&runs) {
        let first = lines.partition_point(|(number, ..)| *number < frame);
        let before = plan_of_one(lines.get(..first).unwrap_or_default());
        return Some(Plan { frame: Some(frame), ..before.unwrap_or_default() });
    }
    plan_of_runs(lines, runs)
}

/// The line at which the atoms before it begin once more, in the same place: no two chains stand in one another.
fn frame(runs: &[Run<'_>]) -> Option<u64> {
    let mut before: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (i, run) in runs.iter().enumerate().filter(|(_, run)| run.polymer()) {
        let earlier = before.entry(run.chain).or_default();
        let same: Vec<&Run<'_>> =
            earlier.iter().filter_map(|at| runs.get(*at)).filter(|other| other.segment == run.segment).collect();
        let atoms: HashSet<&[u8]> = if same.is_empty() { HashSet::new() } else { run.atoms.iter().copied().collect() };
        if let Some(other) = same.into_iter().find(|other| other.atoms.iter().any(|a| atoms.contains(a))) {
            let points = |run: &Run<'_>| run.places.iter().filter_map(|text| point(text)).collect::<Vec<_>>();
            if Places::new(&points(other), CLASH).holds(&points(run)) {
                return Some(run.line);
            }
        }
        earlier.push(i);
    }
    None
}

/// Å; bonds to hydrogens are about as long.
const CLASH: f64 = 0.9;

/// One atom in so many that clashes makes a frame.
const SHARE: usize = 30;

/// Places that others may be near to.
struct Places<'a> {
    points: &'a [[f64; 3]],
    cells: Cells,
    reach: f64,
}

impl<'a> Places<'a> {
    fn new(points: &'a [[f64; 3]], reach: f64) -> Self {
        Self { points, cells: Cells::new(points, reach), reach }
    }

    /// How many of `own` are nearer than the reach.
    fn near(&self, own: &[[f64; 3]]) -> usize {
        let square = self.reach * self.reach;
        let near = |place: &&[f64; 3]| {
            let mut found = false;
            self.cells.near(**place, self.reach, |at| {
                found |= self.points.get(at).is_some_and(|p| squared(p, place) < square);
            });
            found
        };
        own.iter().filter(near).count()
    }

    /// Do so many of `own` stand there that they are another frame?
    fn holds(&self, own: &[[f64; 3]]) -> bool {
        let count = self.near(own);
        count > 0 && SHARE * count >= own.len()
    }
}

fn squared(p: &[f64; 3], q: &[f64; 3]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (p - q) * (p - q)).sum()
}

/// Do the polymers that END closes, from byte `at` on, stand beside those before them? Servers for docking write the two
/// monomers of a dimer so; frames of a trajectory lie in one another, or anywhere.
pub(super) fn partners(text: &[u8], at: usize) -> bool {
    /// Å; heavy atoms of an interface are as near.
    const TOUCH: f64 = 4.5;
    /// Å; atoms that are not bonded are farther apart, but for a few of a model that is not refined.
    const OVERLAP: f64 = 1.5;
    /// One atom in so many touches at least.
    const TOUCHING: usize = 50;
    /// More parts are frames.
    const MOST: usize = 24;
    let place = |line: &[u8]| point(line.get(30..54)?).filter(|_| is_polymer(line.get(17..20).unwrap_or_default()));
    let (before, rest) = text.split_at_checked(at).unwrap_or_default();
    let atoms = |line: &&[u8]| is_atom(line);
    let mut points: Vec<[f64; 3]> = before.split(|c| *c == b'\n').filter(atoms).filter_map(place).collect();
    let mut parts = 0;
    let mut lines = rest.split(|c| *c == b'\n').peekable();
    while lines.peek().is_some() {
        let part: Vec<&[u8]> = lines.by_ref().take_while(|line| !ends(line)).filter(atoms).collect();
        if part.is_empty() {
            continue;
        }
        let own: Vec<[f64; 3]> = part.into_iter().filter_map(place).collect();
        let touching = Places::new(&points, TOUCH).near(&own);
        parts += 1;
        if parts > MOST || touching == 0 || TOUCHING * touching < own.len() {
            return false;
        }
        if SHARE * Places::new(&points, OVERLAP).near(&own) >= own.len() {
            return false;
        }
        points.extend(own);
    }
    parts > 0
}

/// A record END, of a file or of one of its parts.
pub(super) fn ends(line: &[u8]) -> bool {
    line.get(..6).unwrap_or(line).trim_ascii_end().eq_ignore_ascii_case(b"END")
}

/// Of each residue the copy of its chain that it is in, from 0 on: where residues of a polymer that the chain has begin
/// once more, in another place, another copy begins. `altlocs` are those of the atoms, or empty.
pub(super) fn copies(structure: &Structure, altlocs: &[u8]) -> Vec<usize> {
    let mut copies = vec![0; structure.residues.len()];
    let mut chains: Vec<Vec<usize>> = vec![Vec::new(); structure.chains.len()];
    for (at, residue) in structure.residues.iter().enumerate() {
        if let Some(chain) = chains.get_mut(residue.chain) {
            chain.push(at);
        }
    }
    for chain in &chains {
        let begins = repeats(structure, altlocs, chain);
        for at in chain.iter().filter(|_| !begins.is_empty()) {
            if let Some(copy) = copies.get_mut(*at) {
                *copy = begins.partition_point(|begin| begin <= at);
            }
        }
    }
    copies
}

/// The residues of a chain, which are at `chain`, at which it begins once more, unless as another frame.
fn repeats(structure: &Structure, altlocs: &[u8], chain: &[usize]) -> Vec<usize> {
    let member = |at: &usize| {
        let residue = structure.residues.get(*at).filter(|r| !r.hetero && is_polymer(r.name.as_bytes()));
        residue.map(|residue| (*at, residue))
    };
    let members: Vec<(usize, &Residue)> = chain.iter().filter_map(member).collect();
    let key = |r: &Residue| (r.resnum, r.icode, r.name);
    let mut first: HashMap<_, &Residue, ahash::RandomState> = HashMap::default();
    let mut begins: Vec<usize> = Vec::new();
    for (i, (_, residue)) in members.iter().enumerate() {
        let again = |i: usize| {
            members.get(i).is_some_and(|(_, r)| {
                let letters = altlocs.get(r.start..r.end).unwrap_or_default();
                let known = first.get(&key(r)).filter(|_| letters.iter().all(|letter| *letter == 0));
                known.is_some_and(|known| elsewhere(structure, known, r))
            })
        };
        // One residue alone makes no copy of a chain.
        if again(i) && again(i + 1) {
            begins.push(i);
            first.clear();
        }
        first.entry(key(residue)).or_insert(residue);
    }
    let points = |from: usize, to: usize| -> Vec<[f64; 3]> {
        let part = members.get(from..to).unwrap_or_default();
        part.iter().flat_map(|(_, r)| structure.positions_of(r)).copied().collect()
    };
    let Some(end) = begins.first() else { return begins };
    let of_first = points(0, *end);
    let places = Places::new(&of_first, CLASH);
    let ends = begins.iter().skip(1).copied().chain([members.len()]);
    if begins.iter().zip(ends).any(|(begin, end)| places.holds(&points(*begin, end))) {
        return Vec::new();
    }
    begins.into_iter().filter_map(|i| members.get(i)).map(|(at, _)| *at).collect()
}

/// Are atoms of a residue there again, all of them in another place?
fn elsewhere(structure: &Structure, first: &Residue, again: &Residue) -> bool {
    let atoms = |r: &Residue| structure.names_of(r).iter().zip(structure.positions_of(r)).collect::<Vec<_>>();
    let (first, again) = (atoms(first), atoms(again));
    let mut same =
        again.iter().flat_map(|(name, p)| first.iter().filter(move |(n, _)| n == name).map(move |(_, q)| (p, q)));
    let mut found = false;
    same.all(|(p, q)| {
        found = true;
        squared(p, q) >= CLASH * CLASH
    }) && found
}

/// The name of a copy of the chain `base`, A-2 for the one after the first; a later one where that is taken.
pub(super) fn copy_name(base: &str, copy: u64, taken: impl Fn(&str) -> bool) -> Option<String> {
    (copy..).map(|n| format!("{base}-{n}")).find(|name| !taken(name))
}

/// The numbers of columns 31 to 54.
fn point(text: &[u8]) -> Option<[f64; 3]> {
    let number = |at: usize| decimal(text.get(at..at + 8)?);
    Some([number(0)?, number(8)?, number(16)?])
}

/// A plan for the lines of one frame.
fn plan_of_one(lines: &[(u64, bool, &[u8])]) -> Option<Plan> {
    plan_of_runs(lines, runs(lines, two_letters(lines.iter().map(|l| l.2))))
}

fn plan_of_runs<'a>(lines: &[(u64, bool, &'a [u8])], runs: Vec<Run<'a>>) -> Option<Plan> {
    let mut plan = Plan { two_letters: two_letters(lines.iter().map(|l| l.2)), ..Plan::default() };
    if plan.two_letters {
        let odd = lines.iter().find(|(_, _, line)| line.get(20).is_some_and(|c| *c != b' '));
        let pairs: HashSet<&[u8]> = runs.iter().map(|r| r.chain).filter(|c| c.len() > 1).collect();
        let (line, found) = odd.map_or((0, String::new()), |(line, _, text)| {
            (*line, quote(text.get(20..22).unwrap_or_default().trim_ascii()))
        });
        let what = format!("chain id {found} stands in columns 21 and 22; read as the chain's id");
        plan.repairs.push((Repair::ChainTwoLetters, pairs.len().max(1) as u64, line, what));
    }
    let mut by_chain: Vec<(&[u8], Vec<usize>)> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    for (i, run) in runs.iter().enumerate() {
        let place = *places.entry(run.chain).or_insert_with(|| {
            by_chain.push((run.chain, Vec::new()));
            by_chain.len() - 1
        });
        if let Some((_, members)) = by_chain.get_mut(place) {
            members.push(i);
        }
    }
    let mut names: Vec<Option<String>> = vec![None; runs.len()];
    let mut taken: HashSet<String> = places.keys().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    for (chain, members) in &by_chain {
        let polymers: Vec<(usize, &Run<'a>)> =
            members.iter().filter_map(|i| Some((*i, runs.get(*i)?))).filter(|(_, r)| r.polymer()).collect();
        if polymers.len() < 2 {
            continue;
        }
        let repeating = repeating(&polymers);
        let several = repeating.is_empty() && several_segments(&polymers);
        if !chain.is_empty() && repeating.is_empty() && !several {
            continue;
        }
        let line = polymers.get(1).map_or(0, |(_, r)| r.line);
        let shown = match chain.is_empty() {
            true => "no chain id".to_owned(),
            false if several => format!("chain {} for several segments", quote(chain)),
            false => format!("chain {} again", quote(chain)),
        };
        if let Some(count) = by_segment(&runs, members, &polymers, &repeating, &mut names, &mut taken) {
            let what = format!("{shown}; the segment id names the chain");
            plan.repairs.push((Repair::ChainBySegment, count, line, what));
            continue;
        }
        if several && !chain.is_empty() {
            continue;
        }
        let count = by_break(chain, &polymers, &repeating, &mut names, &mut taken);
        if count == 0 {
            continue;
        }
        let how = "TER, or a residue number below the one before, ends the chain";
        plan.repairs.push((Repair::ChainByBreak, count, line, format!("{shown}; {how}")));
    }
    let mut now: Option<String> = None;
    for (run, name) in runs.iter().zip(names) {
        if name != now {
            plan.renamed.push((run.line, name.clone()));
            now = name;
        }
    }
    (plan.two_letters || !plan.renamed.is_empty()).then_some(plan)
}

fn runs<'a>(lines: &[(u64, bool, &'a [u8])], two_letters: bool) -> Vec<Run<'a>> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    for &(number, after_ter, line) in lines {
        let first = if two_letters { 20 } else { 21 };
        let chain = line.get(first..22).unwrap_or_default().trim_ascii();
        let segment = line.get(72..76).unwrap_or_default().trim_ascii();
        let component = line.get(17..if two_letters { 20 } else { 21 }).unwrap_or_default();
        let polymer = line.first().is_some_and(|c| c.eq_ignore_ascii_case(&b'A')) && is_polymer(component);
        let resnum: Option<i32> = line
            .get(22..if line.get(26).is_some_and(u8::is_ascii_digit) { 27 } else { 26 })
            .filter(|_| polymer)
            .and_then(|f| std::str::from_utf8(f.trim_ascii()).ok())
            .and_then(|t| t.parse().ok());
        let broken = runs.last().is_none_or(|run| {
            let back = matches!((run.number, resnum), (Some(before), Some(now)) if now < before && before < 9999);
            // Without an id a chain ends with its last residue at the latest.
            let over = chain.is_empty() && polymer && run.end.is_some_and(|end| Some(end) != line.get(17..27));
            after_ter || back || over || run.chain != chain
        });
        if broken || runs.last().is_some_and(|run| run.segment != segment) {
            let number_before = runs.last().filter(|_| !broken).and_then(|run| run.number);
            runs.push(Run { line: number, chain, segment, broken, number: number_before, ..Run::default() });
        }
        if let Some(run) = runs.last_mut().filter(|_| polymer) {
            run.number = resnum.or(run.number);
            if line.get(12..16).is_some_and(|name| is_end(name.trim_ascii())) {
                run.end = line.get(17..27);
            }
            if line.get(16) == Some(&b' ') {
                run.atoms.push(line.get(12..27).unwrap_or_default());
                run.places.push(line.get(30..54).unwrap_or_default());
            }
        }
    }
    runs
}

/// The runs with an atom that an earlier one has as well, by their places among the polymers.
fn repeating(polymers: &[(usize, &Run<'_>)]) -> HashSet<usize> {
    let mut known: HashSet<&[u8]> = HashSet::new();
    let mut repeating = HashSet::new();
    for (place, run) in polymers {
        if run.atoms.iter().any(|atom| known.contains(atom)) {
            repeating.insert(*place);
        }
        known.extend(&run.atoms);
    }
    repeating
}

/// Atoms of a segment in the mean; less is no segment.
const MEMBERS: usize = 20;

/// Does a chain whose atoms are not there twice hold several segments, each in one piece, as CHARMM names them?
fn several_segments(polymers: &[(usize, &Run<'_>)]) -> bool {
    let mut pieces: Vec<&[u8]> = polymers.iter().map(|(_, r)| r.segment).collect();
    pieces.dedup();
    let ids: HashSet<&[u8]> = pieces.iter().copied().collect();
    let atoms: usize = polymers.iter().map(|(_, r)| r.atoms.len()).sum();
    ids.len() > 1
        && pieces.len() == ids.len()
        && atoms >= MEMBERS * pieces.len()
        && ids.iter().all(|id| id.iter().any(u8::is_ascii_alphabetic))
}

/// Names chains by their segment ids, where these part them. Gives how many there are.
fn by_segment(
    runs: &[Run<'_>],
    members: &[usize],
    polymers: &[(usize, &Run<'_>)],
    repeating: &HashSet<usize>,
    names: &mut [Option<String>],
    taken: &mut HashSet<String>,
) -> Option<u64> {
    let ids: HashSet<&[u8]> = polymers.iter().map(|(_, r)| r.segment).collect();
    // Text of old files in these columns counts lines.
    let counted = polymers.iter().map(|(_, r)| r.atoms.len()).sum::<usize>() < MEMBERS * polymers.len();
    let text = |id: &&[u8]| {
        !id.is_empty() && (!counted || id.iter().any(u8::is_ascii_alphabetic)) && id.iter().all(u8::is_ascii_graphic)
    };
    if ids.len() < 2 || !ids.iter().all(text) || polymers.len() > 4 * ids.len() {
        return None;
    }
    // What repeats must be told apart by them.
    for place in repeating {
        let own = polymers.iter().find(|(p, _)| p == place).map(|(_, r)| r)?;
        let atoms: HashSet<&[u8]> = own.atoms.iter().copied().collect();
        let earlier = polymers.iter().take_while(|(p, _)| p < place).filter(|(_, r)| r.segment == own.segment);
        if earlier.flat_map(|(_, r)| &r.atoms).any(|a| atoms.contains(a)) {
            return None;
        }
    }
    for &at in members {
        if let (Some(run), Some(slot)) = (runs.get(at), names.get_mut(at)) {
            if !run.segment.is_empty() {
                *slot = Some(String::from_utf8_lossy(run.segment).into_owned());
                taken.extend(slot.clone());
            }
        }
    }
    Some(ids.len() as u64)
}

/// Names the polymers of a chain one by one: the letters that are free, or, where a chain has an id, A-2 and A-3 for what
/// repeats it. Gives how many names there are.
fn by_break(
    chain: &[u8],
    polymers: &[(usize, &Run<'_>)],
    repeating: &HashSet<usize>,
    names: &mut [Option<String>],
    taken: &mut HashSet<String>,
) -> u64 {
    if chain.is_empty() && polymers.iter().skip(1).all(|(_, run)| !run.broken) {
        return 0;
    }
    let mut count = 0;
    let mut letters = letters();
    let mut before: Option<String> = None;
    for (i, (place, run)) in polymers.iter().enumerate() {
        if i > 0 && !run.broken {
            if let Some(slot) = names.get_mut(*place) {
                slot.clone_from(&before);
            }
            continue;
        }
        let name = if chain.is_empty() {
            letters.by_ref().find(|name| !taken.contains(name))
        } else if repeating.contains(place) {
            copy_name(&String::from_utf8_lossy(chain), count + 2, |name| taken.contains(name))
        } else {
            None
        };
        before.clone_from(&name);
        if let (Some(name), Some(slot)) = (name, names.get_mut(*place)) {
            taken.insert(name.clone());
            *slot = Some(name);
            count += 1;
        }
    }
    count
}

/// A to Z, a to z, 0 to 9, AA, AB and so on.
pub(super) fn letters() -> impl Iterator<Item = String> {
    let all: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').collect();
    let one = all.clone().into_iter().map(String::from);
    let more = (0usize..).map(move |n| {
        let digit = |n: usize| all.get(n % all.len()).copied().unwrap_or('A');
        let mut name = String::from(digit(n));
        let mut rest = n / all.len();
        loop {
            name.insert(0, digit(rest));
            rest = match rest.checked_div(all.len()) {
                Some(next) if next > 0 => next - 1,
                _ => return name,
            };
        }
    });
    one.chain(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_order() {
        let names: Vec<String> = letters().take(62 + 62 * 62 + 2).collect();
        assert_eq!((names[0].as_str(), names[61].as_str(), names[62].as_str()), ("A", "9", "AA"));
        assert_eq!((names[63].as_str(), names[62 + 62].as_str()), ("AB", "BA"));
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn names_of_force_fields_are_no_chains() {
        for name in ["HISD", "ASPP", "LYSH", "CYS2", "CYSD", "SERD", "TIP3"] {
            assert!(four_letters(name.as_bytes()), "{name}");
        }
        for name in ["GLYA", "ALAD", "HISC", "TRPH"] {
            assert!(!four_letters(name.as_bytes()), "{name}");
        }
    }
}
