//! PDB files: fixed columns, read leniently where the text leaves no doubt.

use memchr::memchr_iter;

use super::builder::{infer_element, Builder, ResidueKey, LARGEST};
use super::number::{all_digits, blanks_before, decimal, short, short_decimal, BLANKS};
use super::options::Options;
use super::sites::{Places, Sites};
use crate::error::{quote, Problem, Result};
use crate::structure::{Name, Repair, Structure};
use crate::vocab;

/// What holds atoms.
const EXPECTED: &str = "lines ATOM or HETATM";

pub(super) fn parse(text: &[u8], shown: &str, options: Options) -> Result<Structure> {
    let mut reader = Reader::new(text.len(), options);
    let mut begin = 0;
    let mut number = 0;
    for end in memchr_iter(b'\n', text).chain(std::iter::once(text.len())) {
        number += 1;
        let line = text.get(begin..end).unwrap_or_default();
        begin = end + 1;
        if !reader.line(line.strip_suffix(b"\r").unwrap_or(line), number) {
            break;
        }
    }
    reader.builder.finish(shown, EXPECTED)
}

/// The atom lines of all models; each model is read as if it were the first.
pub(super) fn sites(text: &[u8], shown: &str, options: Options) -> Result<Sites> {
    let mut reader = Reader::new(text.len(), options);
    let (mut first, mut begin) = (true, 0);
    let (mut first_model, mut b_factors, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (number, whole) in (1..).zip(text.split_inclusive(|c| *c == b'\n')) {
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let before = reader.builder.atoms();
        if !reader.line(line, number) {
            reader = Reader { builder: reader.builder, ..Reader::new(0, options) };
            reader.line(line, number);
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

struct Reader {
    builder: Builder,
    /// Columns 18 to 27 of the last atom line, and whether it was a hetero group: same columns, same residue.
    last: [u8; 10],
    has_last: bool,
    hetero: bool,
    component: Name,
    /// The last usual line's occupancy, as text and as number: mostly the same all along a file.
    occupancy: ([u8; 6], f64),
    /// Chains that a TER record has ended.
    ended: Vec<u8>,
    in_model: bool,
    /// An END record was met, and no atom since.
    ended_file: bool,
    chain_column: Option<u8>,
    /// Residue numbers of the chain go on in hexadecimal.
    hexadecimal: bool,
    number: i32,
}

impl Reader {
    fn new(bytes: usize, options: Options) -> Self {
        Self {
            builder: Builder::new(bytes / 81, options),
            last: [0; 10],
            has_last: false,
            hetero: false,
            component: Name::default(),
            occupancy: (*b"  1.00", 1.0),
            ended: Vec::new(),
            in_model: false,
            ended_file: false,
            chain_column: None,
            hexadecimal: false,
            number: 0,
        }
    }

    /// Takes one line; false when nothing after it matters.
    fn line(&mut self, line: &[u8], number: u64) -> bool {
        if self.usual(line, number) {
            return true;
        }
        match line.get(..6) {
            Some(b"ATOM  ") => self.atom(line, number, false),
            Some(b"HETATM") => self.atom(line, number, true),
            _ => return self.other_record(line, number),
        }
        true
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
    fn other_record(&mut self, line: &[u8], number: u64) -> bool {
        if !matches!(line.first().map(u8::to_ascii_uppercase), Some(b'A' | b'H' | b'T' | b'M' | b'E')) {
            return true;
        }
        let record = line.get(..6).unwrap_or(line).to_ascii_uppercase();
        let record = record.trim_ascii_end();
        if !matches!(record, b"ATOM" | b"HETATM" | b"TER" | b"MODEL" | b"ENDMDL" | b"END") {
            return true;
        }
        if !line.starts_with(record) {
            let what = format!("record name {} is not in capitals; read as if it were", quote(field(line, 1, 6)));
            self.repair(Repair::RecordCase, number, 1, 6, || what);
        }
        match record {
            b"ATOM" => self.atom(line, number, false),
            b"HETATM" => self.atom(line, number, true),
            b"TER" => self.ter(),
            // A second model ends the first. Numbers may be missing, repeated, or begin anywhere.
            b"MODEL" if self.has_last => {
                let what = if self.in_model { "ENDMDL" } else { "a MODEL record" };
                let what =
                    || format!("a MODEL begins, and the atoms before it are without {what}; they are the first model");
                self.repair(Repair::ModelNotEnded, number, 1, 6, what);
                return false;
            }
            b"MODEL" => self.in_model = true,
            b"ENDMDL" if self.has_last => {
                if !self.in_model {
                    let what = || "ENDMDL without MODEL; all atoms before it are the first model".to_owned();
                    self.repair(Repair::ModelNotBegun, number, 1, 6, what);
                }
                self.in_model = false;
                return false;
            }
            b"END" if self.has_last => {
                self.ended_file = true;
                // The next line begins a new residue, whatever its columns say.
                self.last = [0; 10];
            }
            _ => {}
        }
        true
    }

    fn repair(&mut self, kind: Repair, line: u64, column: u64, column_end: u64, what: impl FnOnce() -> String) {
        self.builder.notes.repair(kind, || Problem { line, column, column_end, what: what() });
    }

    fn ter(&mut self) {
        if self.has_last {
            if let Some(chain) = self.last.get(4) {
                if !self.ended.contains(chain) {
                    self.ended.push(*chain);
                }
            }
            // The next line begins a new residue, whatever its columns say.
            self.last = [0; 10];
        }
    }

    #[inline]
    fn atom(&mut self, line: &[u8], number: u64, hetero: bool) {
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
            let letter = symbol.first().map(u8::to_ascii_uppercase);
            let begins = name4.iter().find(|c| c.is_ascii_alphabetic()).map(u8::to_ascii_uppercase);
            let tidy = line.get(72..76).is_none_or(|f| f.iter().all(|c| *c == b' '));
            if tidy || letter == begins {
                return Some(stated);
            }
        }
        None
    }

    #[cold]
    fn guess_element(&mut self, line: &[u8], number: u64, name4: &[u8]) -> u8 {
        let element = infer_element(name4, true, self.component);
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
        // Four-letter component ids use column 21 as well.
        let name = Name::new(line.get(17..21).unwrap_or_default().trim_ascii());
        let chain = line.get(21..22).unwrap_or_default().trim_ascii();
        let (Some(name), Ok(chain)) = (name, std::str::from_utf8(chain)) else {
            self.builder.notes.problems.push(Problem {
                line: number,
                column: 18,
                column_end: 22,
                what: format!("residue name or chain {} is not text", quote(place.get(..5).unwrap_or_default())),
            });
            return None;
        };
        let field = line.get(22..26).unwrap_or_default();
        if self.ended_file {
            self.ended_file = false;
            self.repair(Repair::AtomsAfterEnd, number, 1, 6, || "an atom after END; read like the others".to_owned());
        }
        if place.get(4) != self.chain_column.as_ref() {
            self.hexadecimal = false;
            self.chain_column = place.get(4).copied();
        }
        let Some(resnum) = self.residue_number(field, number) else {
            self.builder.notes.problems.push(Problem {
                line: number,
                column: 23,
                column_end: 26,
                what: format!("residue number {} is not a number", quote(field)),
            });
            return None;
        };
        let icode = line.get(26..27).unwrap_or_default().trim_ascii();
        let after_ter = chain.bytes().next().is_some_and(|c| self.ended.contains(&c))
            || (chain.is_empty() && self.ended.contains(&b' '));
        self.builder.residue(ResidueKey {
            name,
            chain,
            resnum,
            icode: Name::new(icode).unwrap_or_default(),
            hetero,
            polymer: None,
            after_ter,
            line: number,
        });
        self.last = place.try_into().unwrap_or_default();
        self.has_last = true;
        self.hetero = hetero;
        Some(name)
    }

    /// The residue number in columns 23 to 26.
    fn residue_number(&mut self, found: &[u8], line: u64) -> Option<i32> {
        // 2710 after 9999 is the hexadecimal for 10000, and what follows is hexadecimal, too.
        self.hexadecimal |= self.number == 9999 && found == b"2710";
        let (resnum, kind) = match numeral(found, self.hexadecimal)? {
            Numeral::Decimal(resnum) => {
                self.number = resnum;
                self.hexadecimal = false;
                return Some(resnum);
            }
            Numeral::Missing => (0, Repair::NumberMissing),
            Numeral::Hybrid36(resnum) => (resnum, Repair::NumberHybrid36),
            Numeral::Hexadecimal(resnum) => (resnum, Repair::NumberHexadecimal),
        };
        self.number = resnum;
        self.hexadecimal = kind == Repair::NumberHexadecimal;
        self.repair(kind, line, 23, 26, || match kind {
            Repair::NumberMissing => "no residue number; taken to be 0".to_owned(),
            Repair::NumberHybrid36 => format!("residue number {} is hybrid-36; read as {resnum}", quote(found)),
            _ => format!("residue number {} is hexadecimal; read as {resnum}", quote(found)),
        });
        Some(resnum)
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
#[inline]
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
#[inline]
fn usual_element(line: &[u8; SYMBOL_END], name4: [u8; 4]) -> Option<u8> {
    let symbol = part::<76, 2>(line);
    let (element, letter) = match symbol {
        [b' ', one] => (vocab::element(&[one]), one),
        [first, _] => (vocab::element(&symbol), first),
    };
    let agrees = part::<72, 4>(line) == [b' '; 4] || name4[1] == letter && !name4[0].is_ascii_alphabetic();
    (element != 0 && agrees).then_some(element)
}

/// Columns of a line, counted from 1, as far as it goes.
fn field(line: &[u8], first: usize, last: usize) -> &[u8] {
    line.get(first - 1..last.min(line.len())).unwrap_or_default()
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

/// `hexadecimal`: four digits of the field are known to be that.
fn numeral(field: &[u8], hexadecimal: bool) -> Option<Numeral> {
    let text = std::str::from_utf8(field.trim_ascii()).ok()?;
    let from_hexadecimal = || i32::from_str_radix(text, 16).ok().map(Numeral::Hexadecimal);
    if text.is_empty() {
        return Some(Numeral::Missing);
    }
    if hexadecimal && text.len() == 4 && text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return from_hexadecimal();
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
        use Numeral::{Decimal, Hexadecimal, Hybrid36, Missing};
        for (field, known, expected) in [
            ("  12", false, Some(Decimal(12))),
            (" -12", false, Some(Decimal(-12))),
            ("  12", true, Some(Decimal(12))),
            ("    ", false, Some(Missing)),
            ("A000", false, Some(Hybrid36(10_000))),
            ("A00Z", false, Some(Hybrid36(10_035))),
            ("ZZZZ", false, Some(Hybrid36(1_223_055))),
            ("a000", false, Some(Hybrid36(1_223_056))),
            ("a000", true, Some(Hexadecimal(0xa000))),
            ("2710", true, Some(Hexadecimal(10_000))),
            ("271a", false, Some(Hexadecimal(10_010))),
            ("1?", false, None),
        ] {
            assert_eq!(numeral(field.as_bytes(), known), expected, "{field}");
        }
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
        match parse(text.as_bytes(), "x.pdb", strict) {
            Ok(_) => assert!(found.is_empty(), "{text}"),
            Err(error) => {
                assert_eq!(error.code(), "NeedsRepair", "{error}");
                let first = found.iter().map(|r| (r.2, r.3)).min().unwrap();
                assert_eq!(error.line(), Some(first.0), "{error}");
            }
        }
        found
    }

    #[test]
    fn a_file_as_it_should_be_is_not_mended() {
        let charged = LINE.replace("C  ", "C1+").replace("   1    ", "   2    ");
        let end = "ENDMDL\nMODEL        2\n";
        assert_eq!(repairs(&format!("MODEL        1\n{LINE}\n{charged}\nTER\n{end}{LINE}\nENDMDL\nEND\n")), []);
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
            (format!("{LINE}\nMODEL 2\n{second}\nENDMDL\n"), vec![("model-not-ended", 1, 2, 1)], 1),
            (format!("{LINE}\nENDMDL\n{second}\n"), vec![("model-not-begun", 1, 2, 1)], 1),
            (format!("{LINE}\nEND\n{second}\nEND\n"), vec![("atoms-after-end", 1, 3, 1)], 2),
            (format!("MODEL 1\n{LINE}\nENDMDL\nMODEL 1\n{second}\nENDMDL\n"), vec![], 1),
        ] {
            assert_eq!(repairs(&text), expected, "{text}");
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
