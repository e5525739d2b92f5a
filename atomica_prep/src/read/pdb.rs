//! PDB files: fixed columns, read leniently where the text leaves no doubt.

use std::collections::{HashMap, HashSet};

use memchr::{memchr, memchr_iter};

use super::builder::{infer_element, Builder, ResidueKey, LARGEST};
use super::chains::{self, is_atom, Numbers, Plan};
use super::links;
use super::models::{mix, Atoms};
use super::no_atom;
use super::number::{all_digits, blanks_before, decimal, short, short_decimal, BLANKS};
use super::options::Options;
use super::sites::{Places, Sites};
use crate::accounts::Unread;
use crate::error::{quote, Problem, Result};
use crate::structure::{Name, Repair, Structure};
use crate::vocab;

/// What holds atoms.
const EXPECTED: &str = "lines ATOM or HETATM";

pub(super) fn parse(text: &[u8], shown: &str, options: Options) -> Result<Structure> {
    let (reader, end) = read(text, Plan::default(), options);
    let (mut reader, end) = match plan(&reader, text.get(..end).unwrap_or(text)) {
        Some(plan) => read(text, plan, options),
        None => (reader, end),
    };
    if !reader.conect.is_empty() {
        reader.connect(text.get(..end).unwrap_or(text));
    }
    reader.builder.finish(shown, EXPECTED)
}

/// The atom lines of all models; each model, or frame, is read as if it were the first.
pub(super) fn sites(text: &[u8], shown: &str, options: Options) -> Result<Sites> {
    let (reader, end) = read(text, Plan::default(), options);
    let plan = plan(&reader, text.get(..end).unwrap_or(text)).unwrap_or_default();
    let (two_letters, numbers) = (plan.two_letters, plan.numbers);
    let mut reader = Reader::new(text, plan, options);
    let (mut first, mut begin) = (true, 0);
    let (mut first_model, mut b_factors, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (number, whole) in (1..).zip(text.split_inclusive(|c| *c == b'\n')) {
        // Some files have more than one carriage return at the end of a line.
        let ends = whole.iter().rev().take_while(|c| matches!(c, b'\n' | b'\r')).count();
        let line = whole.get(..whole.len() - ends).unwrap_or(whole);
        let before = reader.builder.atoms();
        if reader.line(line, number, begin).is_some() {
            let plan = Plan { two_letters, numbers, ..Plan::default() };
            let (in_model, builder) = (reader.in_model, reader.builder);
            let next = Reader::new(text, plan, options);
            reader = Reader { builder, in_model, looked_through: begin, ..next };
            let _ = reader.line(line, number, begin);
            first = false;
        }
        if reader.builder.atoms() > before {
            let [from, to] = [60, 66].map(|column| column.min(line.len()));
            first_model.push(first);
            b_factors.push(line.get(from..to).and_then(decimal).unwrap_or(f64::NAN));
            places.push((begin + from..begin + to, 60 - from));
        }
        begin += whole.len();
    }
    Ok(Sites::new(reader.builder.records(shown, EXPECTED)?, first_model, b_factors, text, Places::Columns(places)))
}

/// Reads a text; gives where what is read of it ends as well.
fn read(text: &[u8], plan: Plan, options: Options) -> (Reader<'_>, usize) {
    let mut reader = Reader::new(text, plan, options);
    let mut begin = 0;
    let mut number = 0;
    let mut ends = memchr_iter(b'\n', text).chain(std::iter::once(text.len()));
    let mut line = |begin: &mut usize| {
        let end = ends.next()?;
        let line = text.get(*begin..end).unwrap_or_default();
        *begin = end + 1;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    };
    let mut at = begin;
    while let Some(first) = line(&mut begin) {
        number += 1;
        if let Some(why) = reader.line(first, number, at) {
            let mut skipped = Skipped::new(why, text.get(reader.model_at..at).unwrap_or_default());
            let mut next = Some(first);
            while let Some(line_now) = next {
                skipped.line(line_now, number);
                number += 1;
                next = line(&mut begin);
            }
            reader.conect.append(&mut skipped.conect);
            skipped.finish(&mut reader.builder);
            return (reader, at);
        }
        at = begin;
    }
    reader.cut_off(text, number);
    (reader, text.len())
}

/// How chains and residue numbers are to be read, if not as their columns say.
fn plan(reader: &Reader<'_>, text: &[u8]) -> Option<Plan> {
    let (numbers, chains) = (reader.numbers(), odd_chains(reader, text));
    (chains.is_some() || numbers != Numbers::default()).then(|| Plan { numbers, ..chains.unwrap_or_default() })
}

/// How the chains are to be read, if not as column 22 says. Few files need to be looked through for that.
fn odd_chains(reader: &Reader<'_>, text: &[u8]) -> Option<Plan> {
    if !(reader.odd_chains || reader.builder.steps_back && repeats(reader.builder.structure())) {
        return None;
    }
    let mut lines: Vec<(u64, bool, &[u8])> = Vec::new();
    let mut after_ter = false;
    for (number, line) in (1..).zip(text.split(|c| *c == b'\n')) {
        if is_atom(line) && line.len() > 26 {
            lines.push((number, std::mem::take(&mut after_ter), line));
        } else {
            after_ter |= line.get(..3).is_some_and(|r| r.eq_ignore_ascii_case(b"TER")) || chains::ends(line);
        }
    }
    chains::plan(&lines)
}

/// Is a number of a chain there twice, in residues of polymers that others separate?
fn repeats(structure: &Structure) -> bool {
    let mut known: HashMap<(usize, i32, Name), usize, ahash::RandomState> = HashMap::default();
    structure.residues.iter().enumerate().any(|(i, r)| {
        let polymer = !r.hetero && !matches!(vocab::name(r.name.as_bytes()), vocab::Name::Other | vocab::Name::Water);
        polymer && known.insert((r.chain, r.resnum, r.icode), i).is_some_and(|before| before + 1 < i || r.after_ter)
    })
}

/// Columns 13 to 27: which atom a line is, whatever its number and place.
type AtomKey = [u8; 15];

/// The key of a line ATOM or HETATM.
fn atom_key(line: &[u8]) -> Option<AtomKey> {
    is_atom(line).then(|| line.get(12..).and_then(|l| l.first_chunk()).copied().unwrap_or([b' '; 15]))
}

#[inline]
fn is_conect(line: &[u8]) -> bool {
    line.get(..6).is_some_and(|record| record == b"CONECT" || record.eq_ignore_ascii_case(b"CONECT"))
}

/// Adds an atom by its key.
fn add(atoms: &mut Atoms, key: AtomKey) {
    let words = [key.first_chunk::<8>(), key.last_chunk::<8>()];
    atoms.add(words.map(|chunk| chunk.map_or(0, |c| u64::from_le_bytes(*c))).into_iter().fold(0, mix));
}

/// The atoms of a part of a file.
fn atoms_of(text: &[u8]) -> Atoms {
    let mut atoms = Atoms::default();
    text.split(|c| *c == b'\n').filter_map(atom_key).for_each(|key| add(&mut atoms, key));
    atoms
}

/// What comes after the first model or frame: counted, not read.
struct Skipped<'a> {
    why: Unread,
    /// The model or frame that was read.
    read: &'a [u8],
    /// Line of the first atom, and atoms.
    line: u64,
    atoms: u64,
    /// Models or frames with atoms.
    parts: u64,
    /// Those whose atoms are not those of the first, and where one of them begins.
    differing: u64,
    differs_at: u64,
    /// The first one's atoms, once they were asked for.
    first: Option<Atoms>,
    /// Of the model that is being gone over, and where it began.
    now: Atoms,
    now_at: u64,
    /// Bonds of lines CONECT.
    conect: Vec<Conect>,
}

impl<'a> Skipped<'a> {
    fn new(why: Unread, read: &'a [u8]) -> Self {
        let now = Atoms::default();
        let first = None;
        Self {
            why,
            read,
            line: 0,
            atoms: 0,
            parts: 0,
            differing: 0,
            differs_at: 0,
            first,
            now,
            now_at: 0,
            conect: Vec::new(),
        }
    }

    fn line(&mut self, line: &[u8], number: u64) {
        if let Some(key) = atom_key(line) {
            if self.atoms == 0 {
                self.line = number;
            }
            if self.now.count == 0 {
                self.now_at = number;
            }
            self.atoms += 1;
            add(&mut self.now, key);
        } else if matches!(line.first(), Some(b'M' | b'm' | b'E' | b'e')) {
            let record = line.get(..6).unwrap_or(line).to_ascii_uppercase();
            if matches!(record.trim_ascii_end(), b"MODEL" | b"ENDMDL" | b"END") {
                self.part();
            }
        } else if is_conect(line) {
            conect(line, number, &mut self.conect);
        }
    }

    fn part(&mut self) {
        let now = std::mem::take(&mut self.now);
        if now.count == 0 {
            return;
        }
        self.parts += 1;
        let read = self.read;
        if *self.first.get_or_insert_with(|| atoms_of(read)) != now {
            self.differing += 1;
            if self.differing == 1 {
                self.differs_at = self.now_at;
            }
        }
    }

    fn finish(mut self, builder: &mut Builder) {
        self.part();
        if self.atoms == 0 {
            return;
        }
        builder.accounts.unread(self.why, self.atoms);
        let (atoms, parts) = (self.atoms, self.parts);
        let place = |line, what| Problem { line, column: 0, column_end: 0, what };
        let (kind, name) = match self.why {
            Unread::OtherFrame => (Repair::FramesUnread, "frames"),
            _ => (Repair::ModelsUnread, "models"),
        };
        let what = format!("{atoms} atoms of {parts} more {name} from here on are not read");
        builder.notes.repairs(kind, atoms, || place(self.line, what));
        if self.differing > 0 && kind == Repair::ModelsUnread {
            let what =
                "this model has other atoms than the first, and is not read; if the models are copies that make \
                        up an assembly, --assembly models reads all of them";
            builder.notes.repairs(Repair::ModelsDiffer, self.differing, || place(self.differs_at, what.to_owned()));
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    builder: Builder,
    /// Atoms of the text as far as it was looked through for them; only odd files ask for that.
    known: HashSet<AtomKey>,
    looked_through: usize,
    plan: Plan,
    /// Where the plan goes on, and the line of that.
    renamed: usize,
    next_chain: u64,
    /// Instead of what the file says.
    named: Option<String>,
    /// Something about the chains is odd.
    odd_chains: bool,
    /// Of the last residue that is no hetero group.
    segment: [u8; 4],
    /// Of the last atom.
    chain: String,
    /// Component ids of five letters, by those that stand for them.
    components: HashMap<Name, Name>,
    /// Columns of a line were found to be moved.
    moved: bool,
    /// Columns 18 to 27 of the last atom line, and whether it was a hetero group: same columns, same residue.
    last: [u8; 10],
    has_last: bool,
    hetero: bool,
    component: Name,
    /// The last usual line's occupancy, as text and as number: mostly the same all along a file.
    occupancy: ([u8; 6], f64),
    /// Chains that a TER record has ended, and whether that of the last residue is one of them.
    ended: HashSet<String, ahash::RandomState>,
    after_ter: bool,
    in_model: bool,
    /// An END record was met, and no atom since.
    ended_file: bool,
    /// Line of a MODEL record after atoms; no atom came since.
    late_model: Option<u64>,
    /// Do the parts that END closes stand beside one another? Asked once.
    partners: Option<bool>,
    /// One of these two, so that the next atom is to be looked at.
    odd_part: bool,
    /// Byte at which the first model begins.
    model_at: usize,
    /// Bonds of lines CONECT.
    conect: Vec<Conect>,
    /// Serial number of each residue's first atom, the byte at which its line begins, and whether one was not above that
    /// before it, or of more than five digits, or came after CONECT.
    starts: Vec<(u64, usize)>,
    serials_fall: bool,
    chain_column: Option<u8>,
    /// Residue numbers of the chain go on in hexadecimal.
    hexadecimal: bool,
    number: i32,
    /// A residue number was met that ends in the column of the insertion code, and one that does not.
    wide: bool,
    narrow: bool,
    /// A010 was met right after A00F, as in hexadecimal, and a letter that hexadecimal has not.
    after_f: bool,
    beyond_f: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &'a [u8], plan: Plan, options: Options) -> Self {
        let mut builder = Builder::new(text.len() / 81, options);
        builder.columns = true;
        for (kind, count, line, what) in &plan.repairs {
            let place = || Problem { line: *line, column: 0, column_end: 0, what: what.clone() };
            builder.notes.repairs(*kind, *count, place);
        }
        Self {
            text,
            builder,
            known: HashSet::new(),
            looked_through: 0,
            renamed: 0,
            next_chain: plan.next(0),
            plan,
            named: None,
            odd_chains: false,
            segment: [b' '; 4],
            chain: String::new(),
            components: HashMap::new(),
            moved: false,
            last: [0; 10],
            has_last: false,
            hetero: false,
            component: Name::default(),
            occupancy: (*b"  1.00", 1.0),
            ended: HashSet::default(),
            after_ter: false,
            in_model: false,
            ended_file: false,
            late_model: None,
            partners: None,
            odd_part: false,
            model_at: 0,
            conect: Vec::new(),
            starts: Vec::new(),
            serials_fall: false,
            chain_column: None,
            hexadecimal: false,
            number: 0,
            wide: false,
            narrow: false,
            after_f: false,
            beyond_f: false,
        }
    }

    /// Takes the line that begins at byte `at`, or says why neither it nor what follows is read.
    #[inline]
    fn line(&mut self, line: &[u8], number: u64, at: usize) -> Option<Unread> {
        if number >= self.next_chain || self.odd_part {
            if let Some(why) = self.second_thought(line, number, at) {
                return Some(why);
            }
        }
        if self.usual(line, number) {
            self.builder.accounts.records += 1;
            return None;
        }
        match line.get(..6) {
            Some(b"ATOM  ") => self.atom(line, number, false),
            Some(b"HETATM") => self.atom(line, number, true),
            _ => return self.other_record(line, number),
        }
        None
    }

    /// What is to be done before a line, where something odd was met.
    #[cold]
    fn second_thought(&mut self, line: &[u8], number: u64, at: usize) -> Option<Unread> {
        if self.plan.frame.is_some_and(|frame| number >= frame) {
            return Some(Unread::OtherFrame);
        }
        if number >= self.next_chain {
            self.rename();
        }
        if self.odd_part {
            return self.begin_part(line, number, at);
        }
        None
    }

    /// At the first atom after END, or of a model that others come before: are its atoms those before it once more?
    #[cold]
    fn begin_part(&mut self, line: &[u8], number: u64, at: usize) -> Option<Unread> {
        let key = atom_key(line)?;
        self.odd_part = false;
        let before = self.text.get(self.looked_through..at).unwrap_or_default();
        self.known.extend(before.split(|c| *c == b'\n').filter_map(atom_key));
        self.looked_through = at;
        let again = self.known.contains(&key);
        let (ended, model) = (std::mem::take(&mut self.ended_file), std::mem::take(&mut self.late_model));
        match (model, ended) {
            (Some(line), _) if again || self.in_model => {
                let what = if self.in_model { "ENDMDL" } else { "a MODEL record" };
                let what =
                    || format!("a MODEL begins, and the atoms before it are without {what}; they are the first model");
                self.repair(Repair::ModelNotEnded, line, 1, 6, what);
                self.in_model = true;
                return Some(Unread::OtherModel);
            }
            (Some(line), _) => {
                self.in_model = true;
                self.model_at = at;
                let what = || "a MODEL begins after other atoms, which go with it, as a receptor with poses".to_owned();
                self.repair(Repair::ModelContinues, line, 1, 6, what);
            }
            (None, true) if again && !*self.partners.get_or_insert_with(|| chains::partners(self.text, at)) => {
                return Some(Unread::OtherFrame)
            }
            _ => {
                let what = || "an atom after END; read like the others".to_owned();
                self.repair(Repair::AtomsAfterEnd, number, 1, 6, what);
            }
        }
        None
    }

    /// Takes an atom line that needs no second thought, as nearly all do; false for any other, which [`Self::line`] then
    /// looks at field by field. Both give the same atoms.
    #[inline]
    fn usual(&mut self, line: &[u8], number: u64) -> bool {
        let Some((line, charge)) = line.split_first_chunk::<SYMBOL_END>() else { return false };
        let hetero = match &part::<0, 6>(line) {
            b"ATOM  " => false,
            b"HETATM" => true,
            _ => return false,
        };
        let serial = u64::from_le_bytes(part::<6, 8>(line)) & 0xff_ffff_ffff;
        if !all_digits(serial, 5) || charge.len() > 2 || !charge.iter().all(|c| *c == b' ') {
            return false;
        }
        let x = coordinate(part::<30, 8>(line));
        let y = coordinate(part::<38, 8>(line));
        let z = coordinate(part::<46, 8>(line));
        let (Some(x), Some(y), Some(z)) = (x, y, z) else { return false };
        let name4 = part::<12, 4>(line);
        let (Some(name), Some(element)) = (usual_name(name4), usual_element(line, name4)) else { return false };
        let occupancy = part::<54, 6>(line);
        if occupancy != self.occupancy.0 {
            let Some(value) = decimal(&occupancy) else { return false };
            self.occupancy = (occupancy, value);
        }
        let place = part::<17, 10>(line);
        if place != self.last || hetero != self.hetero {
            let Some(residue) = self.begin_residue(line, &place, number, hetero) else { return true };
            self.component = residue;
        }
        let altloc = match part::<16, 1>(line) {
            [b' '] => 0,
            [letter] => letter,
        };
        self.builder.atom(name, element, [x, y, z], self.occupancy.1, altloc);
        true
    }

    /// Everything but plain atom lines: the ends of chains and models, and record names in lower case.
    fn other_record(&mut self, line: &[u8], number: u64) -> Option<Unread> {
        match line.first().map(u8::to_ascii_uppercase) {
            Some(b'A' | b'H' | b'T' | b'M' | b'E') => {}
            Some(b'C') if is_conect(line) => {
                conect(line, number, &mut self.conect);
                return None;
            }
            // LINK and SSBOND, of whose first letters many other records are.
            Some(b'L' | b'S') => {
                if matches!(line.get(1), Some(b'I' | b'i' | b'S' | b's')) {
                    self.link(line, number);
                }
                return None;
            }
            Some(c) if !c.is_ascii_alphanumeric() => {
                self.late_record(line, number);
                return None;
            }
            _ => return None,
        }
        let mut record = [b' '; 6];
        record.iter_mut().zip(line).for_each(|(upper, c)| *upper = c.to_ascii_uppercase());
        let record = record.trim_ascii_end();
        // A serial number of six digits, or a tab, behind ATOM.
        if record.starts_with(b"ATOM ") || record.starts_with(b"ATOM\t") {
            self.atom(line, number, false);
            return None;
        }
        if record == b"MODRES" {
            self.builder.parent(field(line, 13, 15), field(line, 25, 27));
            return None;
        }
        if record == b"HETNAM" {
            self.short_component(line);
        }
        if !matches!(record, b"ATOM" | b"HETATM" | b"TER" | b"MODEL" | b"ENDMDL" | b"END") {
            return None;
        }
        if !line.starts_with(record) {
            let what = format!("record name {} is not in capitals; read as if it were", quote(field(line, 1, 6)));
            self.repair(Repair::RecordCase, number, 1, 6, || what);
        }
        match record {
            b"ATOM" => self.atom(line, number, false),
            b"HETATM" => self.atom(line, number, true),
            b"TER" => self.ter(),
            // Numbers may be missing, repeated, or begin anywhere. After atoms, it is a second model or goes with them.
            b"MODEL" if self.has_last => {
                self.late_model = Some(number);
                self.odd_part = true;
                self.last = [0; 10];
            }
            b"MODEL" => self.in_model = true,
            b"ENDMDL" if self.has_last => {
                if !self.in_model {
                    let what = || "ENDMDL without MODEL; all atoms before it are the first model".to_owned();
                    self.repair(Repair::ModelNotBegun, number, 1, 6, what);
                }
                self.in_model = false;
                return Some(Unread::OtherModel);
            }
            b"END" if self.has_last => {
                self.ended_file = true;
                self.odd_part = true;
                // The next line begins a new residue, whatever its columns say.
                self.last = [0; 10];
            }
            _ => {}
        }
        None
    }

    /// An atom line that begins late, as after blanks, zeros or what a terminal is told, would be lost: it is refused.
    #[cold]
    fn late_record(&mut self, line: &[u8], number: u64) {
        let begins = |rest: &[u8]| {
            let place = |at: usize| rest.get(at..at + 8).and_then(decimal).is_some();
            is_atom(rest) && [30, 38, 46].into_iter().all(place)
        };
        let Some(at) = (1..line.len().min(32)).find(|at| line.get(*at..).is_some_and(begins)) else { return };
        self.builder.accounts.records += 1;
        let what =
            format!("an atom line begins in column {}, after {}", at + 1, quote(line.get(..at).unwrap_or_default()));
        self.builder.notes.problems.push(Problem { line: number, column: 1, column_end: at as u64, what });
    }

    /// A text that ends within the name of an atom's record was cut off there.
    fn cut_off(&mut self, text: &[u8], number: u64) {
        let last = text.rsplit(|c| *c == b'\n').next().unwrap_or_default();
        if [&b"ATOM"[..], b"HETATM"]
            .iter()
            .any(|record| !last.is_empty() && last.len() < record.len() && record.starts_with(last))
        {
            self.builder.accounts.records += 1;
            let (column_end, what) = (last.len() as u64, format!("the file ends with {}: it is cut off", quote(last)));
            self.builder.notes.problems.push(Problem { line: number, column: 1, column_end, what });
        }
    }

    /// LINK and SSBOND, unless they are of a copy by symmetry, or LINKR of a gap.
    #[cold]
    fn link(&mut self, line: &[u8], number: u64) {
        let is = |record: &[u8]| line.get(..6).is_some_and(|r| r.trim_ascii_end().eq_ignore_ascii_case(record));
        let bridge = is(b"SSBOND");
        if !(bridge || is(b"LINK") || is(b"LINKR") && field(line, 74, 80).trim_ascii() != b"gap") {
            return;
        }
        let [one, other] = [(60, 65), (67, 72)].map(|(first, last)| match field(line, first, last).trim_ascii() {
            b"" => b"1555",
            operator => operator,
        });
        // First columns of atom name, component and number.
        let columns = match bridge {
            true => [(0, 12, 18), (0, 26, 32)],
            false => [(13, 18, 23), (43, 48, 53)],
        };
        let [a, b] = columns.map(|(atom, component, seq)| self.end(line, atom, component, seq));
        if let (true, Some(a), Some(b)) = (one == other, a, b) {
            self.builder.stated.named.push((number, [a, b]));
        }
    }

    /// The atom that stands in these columns of LINK; a sulphur where there is no column for its name.
    fn end(&self, line: &[u8], atom: usize, component: usize, seq: usize) -> Option<links::End> {
        let (name, altloc) = match atom {
            0 => (&b"SG"[..], b' '),
            _ => (field(line, atom, atom + 3).trim_ascii(), line.get(atom + 3).copied()?),
        };
        let split = component + if self.plan.two_letters { 3 } else { 4 };
        let chain = std::str::from_utf8(field(line, split, seq - 1).trim_ascii()).ok()?;
        let (number, icode) = self.number_columns(line, seq);
        let beyond = if self.plan.numbers.shifted { Beyond::Shifted } else { Beyond::Hybrid36 };
        let resnum = match numeral(number, beyond)? {
            Numeral::Hexadecimal(number) if self.plan.numbers.shifted => number,
            Numeral::Decimal(number) | Numeral::Hybrid36(number) => number,
            Numeral::Missing | Numeral::Hexadecimal(_) => return None,
        };
        let component = Name::new(field(line, component, split - 1).trim_ascii())?;
        Some(links::End {
            chain: self.plan.renamed.is_empty().then(|| chain.to_owned()),
            resnum,
            icode: Name::new(icode.trim_ascii())?,
            component: self.components.get(&component).copied().unwrap_or(component),
            atom: Name::new(name)?,
            altloc: if altloc == b' ' { 0 } else { altloc },
        })
    }

    /// Finds the bonds between residues of the lines CONECT; `atoms` is the text that was read.
    #[cold]
    fn connect(&mut self, atoms: &[u8]) {
        let pairs = std::mem::take(&mut self.conect);
        // Nearly always serial numbers rise, and those that are looked for are found without going over all lines.
        let rising = || {
            let [mut own, mut other] = [0; 2].map(|_| Near { atoms, starts: &self.starts, known: Vec::new() });
            let mut bonds: Vec<([&[u8]; 2], u64)> = Vec::new();
            for (ends, line) in &pairs {
                let one = own.find(ends[0])?;
                if own.line(ends[1]).is_none() {
                    bonds.push(([one, other.find(ends[1])?], *line));
                }
            }
            Some(bonds)
        };
        let bonds = match (!self.serials_fall).then(rising).flatten() {
            Some(bonds) => bonds,
            None => {
                let mut wanted: Vec<u64> = pairs.iter().flat_map(|(ends, _)| *ends).collect();
                wanted.sort_unstable();
                wanted.dedup();
                let lines = match by_serial(atoms, &wanted) {
                    Ok(lines) => lines,
                    Err((line, how)) => {
                        let pair = |([a, b], _): &Conect| [*a.min(b), *a.max(b)];
                        let count = pairs.iter().map(pair).collect::<HashSet<_>>().len() as u64;
                        let what = format!("serial numbers {how} from here on; CONECT is not used");
                        let place = || Problem { line, column: 7, column_end: 12, what };
                        return self.builder.notes.repairs(Repair::ConectIgnored, count, place);
                    }
                };
                let found = |([a, b], line): Conect| Some(([*lines.get(&a)?, *lines.get(&b)?], line));
                pairs.into_iter().filter_map(found).collect()
            }
        };
        // Each bond stands twice, once for either end, and a double bond twice as often.
        let mut known: HashSet<[usize; 2], ahash::RandomState> = HashSet::default();
        for ([a, b], line) in bonds {
            let ends = [a, b].map(|line| line.as_ptr().addr());
            // Most are within a residue.
            if a.get(17..27) != b.get(17..27) && known.insert([ends[0].min(ends[1]), ends[0].max(ends[1])]) {
                if let (Some(a), Some(b)) = (self.end(a, 13, 18, 23), self.end(b, 13, 18, 23)) {
                    self.builder.stated.numbered.push((line, [a, b]));
                }
            }
        }
    }

    /// Goes on with the plan for the chains.
    #[cold]
    fn rename(&mut self) {
        self.named = self.plan.renamed.get(self.renamed).and_then(|(_, name)| name.clone());
        self.renamed += 1;
        self.next_chain = self.plan.next(self.renamed);
        // The next line begins a new residue, whatever its columns say.
        self.last = [0; 10];
    }

    /// HETNAM with a component id that stands for one of five letters, as the archive and gemmi write them: `~J4`.
    #[cold]
    fn short_component(&mut self, line: &[u8]) {
        let [short, long] = [line.get(11..14), line.get(71..79)].map(|f| f.unwrap_or_default().trim_ascii());
        if let (true, Some(short), Some(long)) = (short.starts_with(b"~"), Name::new(short), Name::new(long)) {
            if !long.is_empty() {
                self.components.insert(short, long);
            }
        }
    }

    /// The component id that stands in the file, or the one that it stands for.
    fn component_id(&mut self, name: Name, line: u64) -> Name {
        let Some(long) = self.components.get(&name).copied() else { return name };
        let what = || format!("{} stands for {}, as HETNAM says", name.as_str(), long.as_str());
        self.repair(Repair::ComponentRestored, line, 18, 20, what);
        long
    }

    /// Are the coordinates behind their columns, because something before them is too long? Says so, once.
    #[cold]
    fn is_moved(&mut self, line: &[u8], number: u64) -> bool {
        let there = |by: usize| {
            [30, 38, 46].into_iter().all(|at| {
                let field = line.get(at + by..at + by + 8).unwrap_or_default();
                field.contains(&b'.') && decimal(field).is_some()
            })
        };
        let Some(by) = (1..=6).find(|by| there(*by)) else { return false };
        if std::mem::replace(&mut self.moved, true) {
            self.builder.notes.problems.again();
            return true;
        }
        let serial = line.get(6..11 + by).unwrap_or_default();
        let text = |first: usize, end: usize| line.get(first..end + by).unwrap_or_default().trim_ascii();
        let cause = if serial.iter().all(u8::is_ascii_digit) {
            format!("serial number {} has more than five digits", quote(serial))
        } else if !text(17, 20).contains(&b' ') && text(17, 20).len() > 4 {
            format!("residue name {} has more than three letters", quote(text(17, 20)))
        } else {
            let id = text(21, 22).split(|c| *c == b' ').next().unwrap_or_default();
            match id {
                [] | [_] => format!("something in {} is too long", quote(line.get(..30 + by).unwrap_or_default())),
                _ => format!("chain id {} has more than one letter", quote(id)),
            }
        };
        let s = if by == 1 { "" } else { "s" };
        let what = format!(
            "the coordinates stand {by} column{s} too far right: {cause}; write the structure as mmCIF, or with a \
             shorter id"
        );
        self.builder.notes.problems.push(Problem { line: number, column: 22, column_end: 54 + by as u64, what });
        true
    }

    fn repair(&mut self, kind: Repair, line: u64, column: u64, column_end: u64, what: impl FnOnce() -> String) {
        self.builder.notes.repair(kind, || Problem { line, column, column_end, what: what() });
    }

    fn ter(&mut self) {
        if self.has_last {
            if !std::mem::replace(&mut self.after_ter, true) {
                self.ended.insert(self.chain.clone());
            }
            // The next line begins a new residue, whatever its columns say.
            self.last = [0; 10];
        }
    }

    #[inline]
    fn atom(&mut self, line: &[u8], number: u64, hetero: bool) {
        self.builder.accounts.records += 1;
        if line.len() > 80 && memchr(b'\r', line.get(80..line.len() - 1).unwrap_or_default()).is_some() {
            let what =
                "carriage returns end some lines of the file and line feeds others; write one of them".to_owned();
            let length = line.len() as u64;
            return self.builder.notes.problems.push(Problem { line: number, column: 81, column_end: length, what });
        }
        if let Some(at) = memchr(b'\t', line.get(..54).unwrap_or(line)) {
            let (column, what) = (at as u64 + 1, "a tab; it does not tell how many columns it stands for".to_owned());
            return self.builder.notes.problems.push(Problem { line: number, column, column_end: column, what });
        }
        let Some(place) = line.get(17..27) else {
            return self.short(line, number);
        };
        let (Some(xyz), Some(name4)) = (line.get(30..), line.get(12..16)) else {
            return self.short(line, number);
        };
        if place != self.last || hetero != self.hetero {
            let Some(residue) = self.begin_residue(line, place, number, hetero) else { return };
            self.component = residue;
        }
        let mut position = [0.0; 3];
        for (axis, out) in position.iter_mut().enumerate() {
            let field = match xyz.get(axis * 8..axis * 8 + 8) {
                Some(field) => field,
                // The last coordinate may end with the line.
                None => {
                    let end = xyz.get(axis * 8..).unwrap_or_default();
                    if axis == 2 && !end.is_empty() {
                        let what = || format!("the line ends within z; {} is taken to be all of it", quote(end));
                        self.repair(Repair::ShortLine, number, 47, 54, what);
                    }
                    end
                }
            };
            match decimal(field).filter(|v| v.abs() < LARGEST) {
                Some(value) => *out = value,
                None if self.is_moved(line, number) => return,
                None => {
                    let first = 31 + axis as u64 * 8;
                    let axis = ["x", "y", "z"].get(axis).copied().unwrap_or("");
                    let what = if field.trim_ascii().is_empty() {
                        format!("{axis} coordinate is missing")
                    } else {
                        format!("{axis} coordinate {} is not a number", quote(field))
                    };
                    return self.builder.notes.problems.push(Problem {
                        line: number,
                        column: first,
                        column_end: first + 7,
                        what,
                    });
                }
            }
        }
        let Some(name) = Name::new(name4.trim_ascii()) else {
            return self.builder.notes.problems.push(Problem {
                line: number,
                column: 13,
                column_end: 16,
                what: format!("atom name {} is not text", quote(name4)),
            });
        };
        let altloc = match line.get(16) {
            Some(b' ') | None => 0,
            Some(a) => *a,
        };
        let occupancy = match line.get(54..60).and_then(decimal) {
            Some(occupancy) => occupancy,
            None => self.assume_occupancy(line, number),
        };
        let element = match self.element(line, name4) {
            Some(element) => {
                if !matches!(line.get(78..80), None | Some(b"  ")) {
                    self.odd_charge(line, number);
                }
                element
            }
            None => self.guess_element(line, number, name4),
        };
        if !line.get(6..11).unwrap_or_default().iter().all(|c| matches!(c, b'0'..=b'9' | b' ')) {
            self.odd_serial(line, number);
        }
        self.builder.atom(name, element, position, occupancy, altloc);
    }

    /// What the file says, if it can be believed.
    #[inline]
    fn element(&self, line: &[u8], name4: &[u8]) -> Option<u8> {
        let symbol = match line.get(76..78).or_else(|| line.get(76..77)) {
            Some(field) => field.trim_ascii(),
            None => b"",
        };
        // Legacy text in columns 73 to 80 can look like a symbol; it is believed only if the name agrees.
        let stated = vocab::element(symbol);
        if symbol == b"X" {
            return Some(0);
        }
        // A third letter, and it was no symbol: PDBQT has OA and HD from column 78 on.
        if stated != 0 && !line.get(78).is_some_and(u8::is_ascii_alphabetic) {
            return fits(symbol, line, name4).then_some(stated);
        }
        None
    }

    #[cold]
    fn guess_element(&mut self, line: &[u8], number: u64, name4: &[u8]) -> u8 {
        let symbol = field(line, 77, 78).trim_ascii();
        if no_atom::is_symbol(symbol) && !line.get(78).is_some_and(u8::is_ascii_alphabetic) && fits(symbol, line, name4)
        {
            self.builder.no_atoms.push(self.builder.atoms());
            return 0;
        }
        let element = infer_element(name4, true, self.component);
        self.builder.guessed.push(self.builder.atoms());
        self.repair(Repair::ElementGuessed, number, 77, 78, || {
            let found = field(line, 77, 78);
            let found = if found.trim_ascii().is_empty() {
                "no element".to_owned()
            } else {
                format!("{} is not believed as the element", quote(found))
            };
            format!("{found}; {} by the atom name {}", vocab::symbol(element), quote(name4))
        });
        element
    }

    /// Whatever stands in the columns of the charge and is none. Charges are not used.
    #[cold]
    fn odd_charge(&mut self, line: &[u8], number: u64) {
        let found = field(line, 79, 80);
        if !matches!(found, [b'0'..=b'9', b'+' | b'-'] | [b'+' | b'-', b'0'..=b'9']) {
            let what = || format!("{} is no charge like 2+; not used", quote(found));
            self.repair(Repair::ChargeIgnored, number, 79, 80, what);
        }
    }

    /// Serial numbers that are not decimal. They are not used.
    #[cold]
    fn odd_serial(&mut self, line: &[u8], number: u64) {
        let found = field(line, 7, 11);
        let text = found.trim_ascii();
        if !text.strip_prefix(b"-").unwrap_or(text).iter().all(u8::is_ascii_digit) {
            let what = || format!("serial number {} is not decimal; not used", quote(found));
            self.repair(Repair::SerialIgnored, number, 7, 11, what);
        }
    }

    #[cold]
    fn assume_occupancy(&mut self, line: &[u8], number: u64) -> f64 {
        self.repair(Repair::OccupancyAssumed, number, 55, 60, || {
            let found = field(line, 55, 60);
            if found.trim_ascii().is_empty() {
                "no occupancy; taken to be 1".to_owned()
            } else {
                format!("occupancy {} is not a number; taken to be 1", quote(found))
            }
        });
        1.0
    }

    /// Reads columns 18 to 27 and begins a residue; gives its component id.
    fn begin_residue(&mut self, line: &[u8], place: &[u8], number: u64, hetero: bool) -> Option<Name> {
        let serial = serial(line.get(6..11).unwrap_or_default()).unwrap_or(0);
        let before = self.starts.last().map_or(0, |start| start.0);
        self.serials_fall |= serial <= before || line.get(11) != Some(&b' ') || !self.conect.is_empty();
        self.starts.push((serial, line.as_ptr().addr() - self.text.as_ptr().addr()));
        // Four-letter component ids use column 21 as well, or chain ids of two letters do.
        let split = if self.plan.two_letters { 20 } else { 21 };
        let name = Name::new(line.get(17..split).unwrap_or_default().trim_ascii());
        let named = self.named.clone();
        let chain = match &named {
            None => line.get(split..22).unwrap_or_default().trim_ascii(),
            Some(name) => name.as_bytes(),
        };
        self.odd_chains |= line.get(20) != Some(&b' ') || chain.is_empty() && !hetero;
        let segment = line.get(72..76).and_then(|s| s.first_chunk()).copied().unwrap_or([b' '; 4]);
        if segment != self.segment && !hetero {
            self.odd_chains |= self.has_last && self.chain.as_bytes() == chain;
            self.segment = segment;
        }
        let (Some(name), Ok(chain)) = (name, std::str::from_utf8(chain)) else {
            self.builder.notes.problems.push(Problem {
                line: number,
                column: 18,
                column_end: 22,
                what: format!("residue name or chain {} is not text", quote(place.get(..5).unwrap_or_default())),
            });
            return None;
        };
        let (columns, icode) = self.number_columns(line, 23);
        match line.get(22..27) {
            Some(wide) if right_aligned(wide) => self.wide |= wide.starts_with(b" "),
            _ => self.narrow = true,
        }
        if place.get(4) != self.chain_column.as_ref() {
            self.hexadecimal = false;
            self.chain_column = place.get(4).copied();
        }
        let wide = Some(columns).filter(|columns| columns.len() > 4).and_then(decimal);
        let told = wide.map(|wide| self.wide_number(wide as i32, number));
        let Some(resnum) = told.or_else(|| self.residue_number(columns, number)) else {
            if self.is_moved(line, number) {
                return None;
            }
            self.builder.notes.problems.push(Problem {
                line: number,
                column: 23,
                column_end: 26,
                what: format!("residue number {} is not a number", quote(columns)),
            });
            return None;
        };
        if self.chain != chain {
            chain.clone_into(&mut self.chain);
            self.after_ter = !self.ended.is_empty() && self.ended.contains(chain);
        }
        let name = self.component_id(name, number);
        self.builder.residue(ResidueKey {
            name,
            chain,
            resnum,
            icode: Name::new(icode.trim_ascii()).unwrap_or_default(),
            hetero,
            polymer: None,
            after_ter: self.after_ter,
            line: number,
        });
        self.last = place.try_into().unwrap_or_default();
        self.has_last = true;
        self.hetero = hetero;
        Some(name)
    }

    /// The columns of a residue number that begins in column `first`, and that of the insertion code. In the archive
    /// these are letters: digits belong to the number where it has five of them, or where the whole file has one there.
    #[inline]
    fn number_columns<'b>(&self, line: &'b [u8], first: usize) -> (&'b [u8], &'b [u8]) {
        let wide = field(line, first, first + 4);
        match wide {
            [_, _, _, _, _] if self.plan.numbers.wide || wide.iter().all(u8::is_ascii_digit) => (wide, b""),
            _ => wide.split_at(wide.len().min(4)),
        }
    }

    /// How residue numbers are to be read, by what was met of them.
    fn numbers(&self) -> Numbers {
        Numbers { wide: self.wide && !self.narrow, shifted: self.after_f && !self.beyond_f }
    }

    /// The residue number that goes on in the column of the insertion code.
    #[cold]
    fn wide_number(&mut self, resnum: i32, line: u64) -> i32 {
        let what = || format!("residue number {resnum} ends in column 27; its last digit is no insertion code");
        self.repair(Repair::NumberFiveDigits, line, 23, 27, what);
        resnum
    }

    /// The residue number in columns 23 to 26.
    fn residue_number(&mut self, found: &[u8], line: u64) -> Option<i32> {
        // 2710 after 9999 is the hexadecimal for 10000, and what follows is hexadecimal, too.
        self.hexadecimal |= self.number == 9999 && found == b"2710";
        if let (false, Some(resnum)) = (self.hexadecimal, plain_number(found)) {
            self.number = resnum;
            return Some(resnum);
        }
        let beyond = match self.hexadecimal {
            _ if self.plan.numbers.shifted => Beyond::Shifted,
            true => Beyond::Hexadecimal,
            false => Beyond::Hybrid36,
        };
        let (resnum, kind) = match numeral(found, beyond)? {
            Numeral::Decimal(resnum) => {
                self.number = resnum;
                self.hexadecimal = false;
                return Some(resnum);
            }
            Numeral::Missing => (0, Repair::NumberMissing),
            Numeral::Hybrid36(resnum) => {
                self.letters(found);
                (resnum, Repair::NumberHybrid36)
            }
            Numeral::Hexadecimal(resnum) => (resnum, Repair::NumberHexadecimal),
        };
        self.number = resnum;
        self.hexadecimal = kind == Repair::NumberHexadecimal && beyond != Beyond::Shifted;
        self.repair(kind, line, 23, 26, || match kind {
            Repair::NumberMissing => "no residue number; taken to be 0".to_owned(),
            Repair::NumberHybrid36 => format!("residue number {} is hybrid-36; read as {resnum}", quote(found)),
            _ => format!("residue number {} is hexadecimal; read as {resnum}", quote(found)),
        });
        Some(resnum)
    }

    /// A number with letters: is it hybrid-36, or does it go on in hexadecimal after an F?
    #[cold]
    fn letters(&mut self, found: &[u8]) {
        let value = |field: &[u8]| std::str::from_utf8(field).ok().and_then(|text| u32::from_str_radix(text, 16).ok());
        let before = self.last.get(5..9).filter(|before| before.last() == Some(&b'F'));
        self.after_f |= before.and_then(value).is_some_and(|before| value(found) == Some(before + 1));
        self.beyond_f |= found.iter().any(|c| matches!(c, b'G'..=b'Z' | b'a'..=b'z'));
    }

    #[cold]
    fn short(&mut self, line: &[u8], number: u64) {
        self.builder.notes.problems.push(Problem {
            line: number,
            column: 31,
            column_end: 54,
            what: format!("the line ends at column {}, before its coordinates", line.len()),
        });
    }
}

/// Columns of an atom line up to the element.
const SYMBOL_END: usize = 78;

/// `N` columns after the first `AT`.
#[inline]
fn part<const AT: usize, const N: usize>(line: &[u8; SYMBOL_END]) -> [u8; N] {
    const { assert!(AT + N <= SYMBOL_END) };
    line.get(AT..).and_then(|l| l.first_chunk()).copied().unwrap_or([0; N])
}

/// A coordinate that stands at the right end of its field. No eight columns hold one beyond [`LARGEST`].
#[inline]
fn coordinate(field: [u8; 8]) -> Option<f64> {
    let word = u64::from_le_bytes(field);
    let before = blanks_before(word);
    // A field of blanks alone leaves no word, which is no number either.
    short_decimal(word.checked_shr(8 * before)?, 8 - before as usize)
}

/// An atom name of visible characters, with blanks around it.
#[inline(always)]
fn usual_name(field: [u8; 4]) -> Option<Name> {
    let visible = field.iter().all(|c| matches!(c, b' '..=b'~'));
    let word = u32::from_le_bytes(field);
    let others = word ^ BLANKS as u32;
    if !visible || others == 0 {
        return None;
    }
    let (before, after) = (others.trailing_zeros() / 8, others.leading_zeros() / 8);
    let length = 4 - before - after;
    let bytes = (word >> (8 * before)).to_le_bytes();
    Some(Name::of_short(short([bytes[0], bytes[1], bytes[2], bytes[3], 0, 0, 0, 0], length as usize), length as u8))
}

/// The element as it is written, if it is one and what stands before it is blank or the atom's name agrees.
#[inline(always)]
fn usual_element(line: &[u8; SYMBOL_END], name4: [u8; 4]) -> Option<u8> {
    let symbol = part::<76, 2>(line);
    let (element, letter) = match symbol {
        [b' ', one] => (vocab::element(&[one]), one),
        [first, _] => (vocab::element(&symbol), first),
    };
    let agrees = part::<72, 4>(line) == [b' '; 4] || name4[1] == letter && !name4[0].is_ascii_alphabetic();
    (element != 0 && agrees).then_some(element)
}

/// A serial number of five columns at most, of whatever kind, as a number that rises with it; asterisks are none.
#[inline]
fn serial(field: &[u8]) -> Option<u64> {
    let columns = match field.first_chunk() {
        Some(columns) => *columns,
        None => {
            let mut columns = [b' '; 5];
            columns.iter_mut().zip(field).for_each(|(column, c)| *column = *c);
            columns
        }
    };
    let [a, b, c, d, e] = columns;
    // Blanks are zeros: before a number they change nothing, and those after it go.
    let word = u64::from_be_bytes([b' ', b' ', b' ', a, b, c, d, e]) ^ BLANKS;
    let number = word.checked_shr(word.trailing_zeros() & !7)?;
    (number & 0xff != u64::from(b'*' ^ b' ')).then_some(number)
}

/// The serial numbers of two bonded atoms, and the line that says so.
type Conect = ([u64; 2], u64);

/// Adds the bonds of a line CONECT.
fn conect(line: &[u8], number: u64, bonds: &mut Vec<Conect>) {
    let line = line.trim_ascii_end();
    let Some(a) = serial(field(line, 7, 11)) else { return };
    let others = [12, 17, 22, 27].into_iter().take_while(|column| *column <= line.len());
    bonds.extend(others.filter_map(|column| Some(([a, serial(field(line, column, column + 4))?], number))));
}

/// Looks for atom lines by serial numbers that rise, a residue at a time.
struct Near<'a> {
    atoms: &'a [u8],
    /// Serial number of each residue's first atom, and the byte at which its line begins.
    starts: &'a [(u64, usize)],
    /// Those of the last residue that was looked at.
    known: Vec<(u64, &'a [u8])>,
}

impl<'a> Near<'a> {
    /// The line of an atom of the last residue that was looked at.
    #[inline]
    fn line(&self, serial: u64) -> Option<&'a [u8]> {
        let known = |known: &(u64, &'a [u8])| known.0;
        let at = self.known.binary_search_by_key(&serial, known).ok()?;
        self.known.get(at).map(|known| known.1)
    }

    /// The line of an atom; `None` if it is not where it should be.
    #[inline]
    fn find(&mut self, serial: u64) -> Option<&'a [u8]> {
        self.line(serial).or_else(|| self.look(serial))
    }

    /// Looks at the residue that an atom should be in.
    fn look(&mut self, wanted: u64) -> Option<&'a [u8]> {
        let next = self.starts.partition_point(|(first, _)| *first <= wanted);
        let (_, mut at) = *self.starts.get(next.checked_sub(1)?)?;
        let end = self.starts.get(next).map_or(self.atoms.len(), |start| start.1);
        self.known.clear();
        while let Some(rest) = self.atoms.get(at..end).filter(|rest| !rest.is_empty()) {
            let line = rest.get(..memchr(b'\n', rest).unwrap_or(rest.len())).unwrap_or_default();
            at += line.len() + 1;
            // Nothing but atoms begins a residue, and after the last one come these.
            if is_conect(line) {
                break;
            }
            if let (true, Some(own)) = (is_atom(line), serial(field(line, 7, 11))) {
                if self.known.last().is_some_and(|before| before.0 >= own) {
                    return None;
                }
                self.known.push((own, line));
            }
        }
        self.line(wanted)
    }
}

/// Atom lines by serial numbers.
type Lines<'a> = HashMap<u64, &'a [u8], ahash::RandomState>;

/// The atom lines with the serial numbers `wanted`, in whatever order they are; where one is there again, or is longer
/// than its columns.
fn by_serial<'a>(text: &'a [u8], wanted: &[u64]) -> std::result::Result<Lines<'a>, (u64, &'static str)> {
    let mut lines = Lines::default();
    for (number, line) in (1u64..).zip(text.split(|c| *c == b'\n')).filter(|(_, line)| is_atom(line)) {
        if line.get(11).is_some_and(u8::is_ascii_digit) {
            return Err((number, "have more than five digits"));
        }
        let own = serial(field(line, 7, 11)).filter(|own| wanted.binary_search(own).is_ok());
        if own.is_some_and(|own| lines.insert(own, line).is_some()) {
            return Err((number, "repeat"));
        }
    }
    Ok(lines)
}

/// Columns of a line, counted from 1, as far as it goes.
fn field(line: &[u8], first: usize, last: usize) -> &[u8] {
    line.get(first - 1..last.min(line.len())).unwrap_or_default()
}

/// Is a symbol no legacy text: nothing stands before it, or the atom's name begins alike?
fn fits(symbol: &[u8], line: &[u8], name4: &[u8]) -> bool {
    let letter = symbol.first().map(u8::to_ascii_uppercase);
    let begins = name4.iter().find(|c| c.is_ascii_alphabetic()).map(u8::to_ascii_uppercase);
    let tidy = line.get(72..76).is_none_or(|f| f.iter().all(|c| *c == b' '));
    tidy || letter == begins
}

/// A residue number and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numeral {
    Missing,
    Decimal(i32),
    /// A000 is 10000.
    Hybrid36(i32),
    Hexadecimal(i32),
}

/// Blanks and then digits, as nearly all numbers are written.
#[inline]
fn plain_number(field: &[u8]) -> Option<i32> {
    let digits = field.trim_ascii_start();
    let all = !digits.is_empty() && digits.len() <= 4 && digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |sum, digit| 10 * sum + i32::from(digit - b'0')))
}

/// How four columns hold numbers beyond 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// A000 is 10000, and A00Z goes before A010.
    Hybrid36,
    /// 2710 is 10000.
    Hexadecimal,
    /// A000 is 10000, and A00F goes before A010.
    Shifted,
}

/// Blanks, perhaps a minus, and digits up to the end.
fn right_aligned(field: &[u8]) -> bool {
    let number = field.trim_ascii_start();
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn numeral(field: &[u8], beyond: Beyond) -> Option<Numeral> {
    let text = std::str::from_utf8(field.trim_ascii()).ok()?;
    let from_hexadecimal = || i32::from_str_radix(text, 16).ok().map(Numeral::Hexadecimal);
    if text.is_empty() {
        return Some(Numeral::Missing);
    }
    let four = text.len() == 4 && text.bytes().all(|c| c.is_ascii_hexdigit());
    if beyond == Beyond::Hexadecimal && four {
        return from_hexadecimal();
    }
    if beyond == Beyond::Shifted && four && text.starts_with(|c: char| c.is_ascii_uppercase()) {
        let value = i32::from_str_radix(text, 16).ok()?;
        return Some(Numeral::Hexadecimal(value - 0xa000 + 10_000));
    }
    if let Ok(number) = text.parse::<i32>() {
        return Some(Numeral::Decimal(number));
    }
    let first = text.bytes().next()?;
    if text.len() == 4 && first.is_ascii_alphabetic() && text.bytes().all(|c| c.is_ascii_alphanumeric()) {
        let one_case = if first.is_ascii_uppercase() {
            !text.bytes().any(|c| c.is_ascii_lowercase())
        } else {
            !text.bytes().any(|c| c.is_ascii_uppercase())
        };
        if one_case {
            let value = i32::from_str_radix(text, 36).ok()?;
            // Upper case begins at A000 = 10000, lower case where upper case ends.
            let offset = if first.is_ascii_uppercase() { 10_000 - 10 * 46_656 } else { 10_000 + 16 * 46_656 };
            return Some(Numeral::Hybrid36(value + offset));
        }
    }
    if text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return from_hexadecimal();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::options::Strictness;
    use super::*;

    fn read(text: &str) -> Result<Structure> {
        parse(text.as_bytes(), "x.pdb", Options::default())
    }

    const LINE: &str = "ATOM      1  CA  ALA A   1      11.104   6.134  -6.504  1.00  0.00           C  ";

    #[test]
    fn residue_numbers() {
        use Beyond::{Hexadecimal as Plain, Hybrid36 as Usual, Shifted};
        use Numeral::{Decimal, Hexadecimal, Missing};
        for (field, known, expected) in [
            ("  12", Usual, Some(Decimal(12))),
            (" -12", Usual, Some(Decimal(-12))),
            ("  12", Plain, Some(Decimal(12))),
            ("    ", Usual, Some(Missing)),
            ("A000", Usual, Some(Numeral::Hybrid36(10_000))),
            ("A00Z", Usual, Some(Numeral::Hybrid36(10_035))),
            ("ZZZZ", Usual, Some(Numeral::Hybrid36(1_223_055))),
            ("a000", Usual, Some(Numeral::Hybrid36(1_223_056))),
            ("a000", Plain, Some(Hexadecimal(0xa000))),
            ("A00F", Shifted, Some(Hexadecimal(10_015))),
            ("A010", Shifted, Some(Hexadecimal(10_016))),
            ("9999", Shifted, Some(Decimal(9999))),
            ("2710", Plain, Some(Hexadecimal(10_000))),
            ("271a", Usual, Some(Hexadecimal(10_010))),
            ("1?", Usual, None),
        ] {
            assert_eq!(numeral(field.as_bytes(), known), expected, "{field}");
        }
    }

    #[test]
    fn serial_numbers_rise() {
        let rising = ["    1", "    9", "   10", "  100", "99999", "A0000"].map(|f| serial(f.as_bytes()).unwrap());
        assert!(rising.is_sorted());
        for field in ["12   ", "  12 ", "12", "   12"] {
            assert_eq!(serial(field.as_bytes()), serial(b"   12"), "{field}");
        }
        assert_eq!(["     ", "", "*****"].map(|f| serial(f.as_bytes())), [None; 3]);
    }

    #[test]
    fn columns_of_a_plain_line() {
        let s = read(LINE).unwrap();
        assert_eq!(s.positions, [[11.104, 6.134, -6.504]]);
        assert_eq!(s.elements, [6]);
        assert_eq!(s.atom_names[0].as_str(), "CA");
        let r = s.residues[0];
        assert_eq!((r.name.as_str(), r.resnum, r.icode.as_str(), r.hetero), ("ALA", 1, "", false));
        assert_eq!(s.chains, ["A"]);
    }

    #[test]
    fn short_lines_need_their_coordinates_only() {
        assert_eq!(read(&LINE[..54]).unwrap().elements, [6]);
        let error = read(&LINE[..40]).unwrap_err();
        assert_eq!((error.line(), error.column()), (Some(1), Some(39)), "{error}");
        let error = read(&LINE[..20]).unwrap_err();
        assert_eq!(error.code(), "BadRecords");
    }

    #[test]
    fn every_bad_line_is_reported_at_once() {
        let bad = LINE.replace("  11.104", "  11.1x4");
        let error = read(&format!("{LINE}\n{bad}\nREMARK\n{bad}\n")).unwrap_err();
        assert_eq!((error.line(), error.column()), (Some(2), Some(31)));
        let text = error.to_string();
        assert!(text.contains("line 2, columns 31-38") && text.contains("line 4"), "{text}");
    }

    #[test]
    fn line_ends_lower_case_and_an_end_in_the_middle() {
        let second = LINE.replace("   1    ", "   2    ");
        let text = format!("HEADER x\r\n{LINE}\r\nEND\r\n{}\r\nTER\r\nEND\r\n", second.replace("ATOM", "atom"));
        let s = read(&text).unwrap();
        assert_eq!(s.residues.len(), 2);
    }

    #[test]
    fn first_model_only() {
        for text in [
            format!("MODEL 1\n{LINE}\nENDMDL\nMODEL 2\n{LINE}\nENDMDL\n"),
            format!("MODEL 7\n{LINE}\nMODEL 8\n{LINE}\n"),
            format!("{LINE}\nENDMDL\n{LINE}\n"),
            format!("MODEL\nENDMDL\nMODEL\n{LINE}\nENDMDL\n"),
        ] {
            assert_eq!(read(&text).unwrap().positions.len(), 1, "{text}");
        }
    }

    #[test]
    fn legacy_text_is_no_element() {
        for tail in ["      1AHW   1", "      1AHW1234", "      SEGAC  9", "  X  garbage!!"] {
            let line = format!("{}{tail}", &LINE[..66]);
            assert_eq!(read(&line).unwrap().elements, [6], "{line}");
        }
    }

    #[test]
    fn insertion_codes_and_blank_chains() {
        let with = LINE.replace("A   1 ", "    1B");
        let s = read(&format!("{LINE}\n{with}")).unwrap();
        assert_eq!(s.chains, ["A", ""]);
        assert_eq!(s.residues[1].icode.as_str(), "B");
    }

    #[test]
    fn residues_after_ter_say_so() {
        let het = LINE.replace("ATOM  ", "HETATM").replace("ALA A   1", "GLU A   2");
        let s = read(&format!("{LINE}\nTER\n{het}\n")).unwrap();
        assert_eq!(s.residues.iter().map(|r| r.after_ter).collect::<Vec<_>>(), [false, true]);
    }

    /// Kind, count and first place of what was mended in a text; strict reading refuses just these texts.
    fn repairs(text: &str) -> Vec<(&'static str, u64, u64, u64)> {
        let strict = Options { strictness: Strictness::Strict, ..Options::default() };
        let found: Vec<_> = read(text)
            .unwrap()
            .repairs
            .iter()
            .map(|r| (r.kind.code(), r.count, r.first.line, r.first.column))
            .collect();
        let notes = ["models-unread", "models-differ"];
        match parse(text.as_bytes(), "x.pdb", strict) {
            Ok(_) => assert!(found.iter().all(|r| notes.contains(&r.0)), "{text}"),
            Err(error) => {
                assert_eq!(error.code(), "NeedsRepair", "{error}");
                let mended = found.iter().filter(|r| !notes.contains(&r.0));
                let first = mended.map(|r| (r.2, r.3)).min().unwrap();
                assert_eq!(error.line(), Some(first.0), "{error}");
            }
        }
        found
    }

    #[test]
    fn a_file_as_it_should_be_is_not_mended() {
        let charged = LINE.replace("C  ", "C1+").replace("   1    ", "   2    ");
        let end = "ENDMDL\nMODEL        2\n";
        let text = format!("MODEL        1\n{LINE}\n{charged}\nTER\n{end}{LINE}\n{charged}\nENDMDL\nEND\n");
        assert_eq!(repairs(&text), [("models-unread", 2, 7, 0)]);
        // Other atoms than those of the first are told apart from the same ones in another order.
        let text = format!("MODEL 1\n{LINE}\n{charged}\nENDMDL\nMODEL 2\n{charged}\n{LINE}\nENDMDL\nMODEL 3\n{LINE}\n");
        assert_eq!(repairs(&text), [("models-unread", 3, 6, 0), ("models-differ", 1, 10, 0)]);
    }

    #[test]
    fn repairs_of_atom_lines() {
        let at = |from: usize, text: &str| format!("{}{text}{}", &LINE[..from], &LINE[from + text.len()..]);
        for (text, kind, column) in [
            (at(76, "  "), "element-guessed", 77),
            (at(76, "Qq"), "element-guessed", 77),
            (at(76, " OA"), "element-guessed", 77),
            (at(78, "1 "), "charge-ignored", 79),
            (at(78, "?+"), "charge-ignored", 79),
            (at(54, "   nan"), "occupancy-assumed", 55),
            (at(54, "      "), "occupancy-assumed", 55),
            (at(6, "A0000"), "serial-ignored", 7),
            (at(6, "186a0"), "serial-ignored", 7),
            (at(6, "*****"), "serial-ignored", 7),
            (at(22, "    "), "number-missing", 23),
            (at(22, "A000"), "number-hybrid36", 23),
            (at(22, "27ff"), "number-hexadecimal", 23),
            (at(0, "atom  "), "record-case", 1),
        ] {
            assert_eq!(repairs(&text), [(kind, 1, 1, column)], "{text}");
            assert_eq!(read(&text).unwrap().elements, [6], "{text}");
        }
        assert_eq!(repairs(&LINE[..53])[2], ("short-line", 1, 1, 47));
        // A line may end with its coordinates; what is missing then is said.
        assert_eq!(repairs(&LINE[..54]), [("element-guessed", 1, 1, 77), ("occupancy-assumed", 1, 1, 55)]);
        // Unknown by the file's own word is no guess.
        let unknown = at(76, " X");
        assert_eq!((repairs(&unknown), read(&unknown).unwrap().elements), (vec![], vec![0]));
    }

    #[test]
    fn repairs_of_models_and_ends() {
        let second = LINE.replace("   1    ", "   2    ");
        for (text, expected, atoms) in [
            (format!("MODEL 1\n{LINE}\nMODEL 1\n{LINE}\n"), vec![("model-not-ended", 1, 3, 1)], 1),
            (format!("{LINE}\nMODEL 2\n{second}\nENDMDL\n"), vec![("model-continues", 1, 2, 1)], 2),
            (format!("{LINE}\nENDMDL\n{second}\n"), vec![("model-not-begun", 1, 2, 1)], 1),
            (format!("{LINE}\nEND\n{second}\nEND\n"), vec![("atoms-after-end", 1, 3, 1)], 2),
            (format!("{LINE}\nEND\n{LINE}\nEND\n{LINE}\n"), vec![("frames-unread", 2, 3, 0)], 1),
            (format!("MODEL 1\n{LINE}\nENDMDL\nMODEL 1\n{second}\nENDMDL\n"), vec![], 1),
        ] {
            let mut found = repairs(&text);
            found.retain(|(code, ..)| !code.starts_with("models-"));
            assert_eq!(found, expected, "{text}");
            assert_eq!(read(&text).unwrap().positions.len(), atoms, "{text}");
        }
    }

    #[test]
    fn a_residue_that_goes_on_later_is_joined() {
        let glycine = LINE.replace("ALA A   1", "GLY A   2");
        let more = LINE.replace(" CA ", " CB ");
        let text = format!("{LINE}\n{glycine}\n{more}\n");
        assert_eq!(repairs(&text), [("residue-split", 1, 3, 0)]);
        let s = read(&text).unwrap();
        assert_eq!(s.residues.len(), 2);
        assert_eq!(s.names_of(&s.residues[0]).iter().map(Name::as_str).collect::<Vec<_>>(), ["CA", "CB"]);
    }

    #[test]
    fn hexadecimal_numbers_after_9999() {
        let with = |number: &str| LINE.replace("A   1", &format!("A{number}"));
        let lines = ["9999", "2710", "2711", "271a", "   1"].map(with);
        let s = read(&lines.join("\n")).unwrap();
        assert_eq!(s.residues.iter().map(|r| r.resnum).collect::<Vec<_>>(), [9999, 10_000, 10_001, 10_010, 1]);
        // Another chain begins anew, and 2710 without 9999 before it is 2710.
        let other = ["9999", "2710"].map(with).join("\n") + "\n" + &LINE.replace("A   1", "B2711");
        assert_eq!(read(&other).unwrap().residues[2].resnum, 2711);
        assert_eq!(read(&with("2710")).unwrap().residues[0].resnum, 2710);
    }

    #[test]
    fn columns_without_blanks_between_them() {
        let line = "HETATM99999 HO5'AADE A1234B   -111.104-106.134-116.504100.00999.99      SEGA H1+ and more";
        let s = read(line).unwrap();
        assert_eq!(s.positions, [[-111.104, -106.134, -116.504]]);
        let r = s.residues[0];
        assert_eq!((r.name.as_str(), r.resnum, r.icode.as_str(), r.hetero), ("ADE", 1234, "B", true));
        assert_eq!((s.elements[0], s.atom_names[0].as_str()), (1, "HO5'"));
        assert!(s.repairs.is_empty(), "{:?}", s.repairs);
    }

    #[test]
    fn ways_to_write_ter() {
        let het = LINE.replace("ATOM  ", "HETATM").replace("ALA A   1", "GLU A   2");
        for ter in ["TER", "TER   ", "TER       2      ALA A   1", "TER\r", "TER   end of the chain"] {
            let s = read(&format!("{LINE}\n{ter}\n{het}\n")).unwrap();
            assert_eq!(s.residues.iter().map(|r| r.after_ter).collect::<Vec<_>>(), [false, true], "{ter}");
        }
    }

    #[test]
    fn nothing_to_read() {
        assert_eq!(read("HEADER\nEND\n").unwrap_err().code(), "NoAtoms");
    }
}
