//! PDB files: fixed columns, read leniently where the text leaves no doubt.

use memchr::memchr_iter;

use super::{infer_element, Builder, Name, Options, Repair, ResidueKey, Structure, LARGEST};
use crate::error::{quote, Problem, Result};
use crate::vocab;

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
    reader.builder.finish(shown, "lines ATOM or HETATM")
}

struct Reader {
    builder: Builder,
    /// Columns 18 to 27 of the last atom line, and whether it was a hetero group: same columns, same residue.
    last: [u8; 10],
    has_last: bool,
    hetero: bool,
    component: Name,
    /// Chains that a TER record has ended.
    ended: Vec<u8>,
    in_model: bool,
}

impl Reader {
    fn new(bytes: usize, options: Options) -> Self {
        Self {
            builder: Builder::new(bytes / 81, options),
            last: [0; 10],
            has_last: false,
            hetero: false,
            component: Name::default(),
            ended: Vec::new(),
            in_model: false,
        }
    }

    /// Takes one line; false when nothing after it matters.
    fn line(&mut self, line: &[u8], number: u64) -> bool {
        match line.get(..6) {
            Some(b"ATOM  ") => self.atom(line, number, false),
            Some(b"HETATM") => self.atom(line, number, true),
            _ => return self.other_record(line, number),
        }
        true
    }

    /// Everything but plain atom lines: the ends of chains and models, and record names in lower case.
    fn other_record(&mut self, line: &[u8], number: u64) -> bool {
        if !matches!(line.first().map(u8::to_ascii_uppercase), Some(b'A' | b'H' | b'T' | b'M' | b'E')) {
            return true;
        }
        let record = line.get(..6).unwrap_or(line).to_ascii_uppercase();
        match record.trim_ascii_end() {
            b"ATOM" => self.atom(line, number, false),
            b"HETATM" => self.atom(line, number, true),
            b"TER" => self.ter(),
            // A second model ends the first. Numbers may be missing, repeated, or begin anywhere.
            b"MODEL" if self.has_last && self.in_model => return false,
            b"MODEL" => self.in_model = true,
            b"ENDMDL" if self.has_last => return false,
            _ => {}
        }
        true
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
                None => xyz.get(axis * 8..).unwrap_or_default(),
            };
            match fixed(field).filter(|v| v.abs() < LARGEST) {
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
        let occupancy = match line.get(54..60).and_then(fixed) {
            Some(occupancy) => occupancy,
            None => self.assume_occupancy(line, number),
        };
        let element = match self.element(line, name4) {
            Some(element) => element,
            None => self.guess_element(line, number, name4),
        };
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
        if stated != 0 {
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
        self.builder.notes.repair(Repair::ElementGuessed, || {
            let found = field(line, 77, 78);
            let found = if found.trim_ascii().is_empty() {
                "no element".to_owned()
            } else {
                format!("{} is not believed as the element", quote(found))
            };
            let what = format!("{found}; {} by the atom name {}", vocab::symbol(element), quote(name4));
            Problem { line: number, column: 77, column_end: 78, what }
        });
        element
    }

    #[cold]
    fn assume_occupancy(&mut self, line: &[u8], number: u64) -> f64 {
        self.builder.notes.repair(Repair::OccupancyAssumed, || {
            let found = field(line, 55, 60);
            let found = if found.trim_ascii().is_empty() {
                "no occupancy".to_owned()
            } else {
                format!("occupancy {} is not a number", quote(found))
            };
            Problem { line: number, column: 55, column_end: 60, what: format!("{found}; taken to be 1") }
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
        let Some(resnum) = residue_number(field) else {
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
        });
        self.last = place.try_into().unwrap_or_default();
        self.has_last = true;
        self.hetero = hetero;
        Some(name)
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

/// Columns of a line, counted from 1, as far as it goes.
fn field(line: &[u8], first: usize, last: usize) -> &[u8] {
    line.get(first - 1..last.min(line.len())).unwrap_or_default()
}

/// A decimal number in a field with blanks around it.
#[inline]
fn fixed(field: &[u8]) -> Option<f64> {
    let field = field.trim_ascii();
    let (negative, digits) = match field.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, field),
    };
    // At most 15 digits, so mantissa and power are exact and one division rounds correctly.
    let mut mantissa: u64 = 0;
    let mut after_point: Option<usize> = None;
    let mut seen = 0;
    for &c in digits {
        match c {
            b'0'..=b'9' => {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(c - b'0'));
                seen += 1;
                if let Some(n) = after_point.as_mut() {
                    *n += 1;
                }
            }
            b'.' if after_point.is_none() => after_point = Some(0),
            _ => return general(field),
        }
    }
    if seen == 0 || seen > 15 {
        return general(field);
    }
    let scale = POWERS.get(after_point.unwrap_or(0))?;
    let value = mantissa as f64 / scale;
    Some(if negative { -value } else { value })
}

const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

#[cold]
fn general(field: &[u8]) -> Option<f64> {
    fast_float2::parse::<f64, _>(field).ok().filter(|v| v.is_finite())
}

/// Residue numbers: decimal, hybrid-36 (A000 is 10000) or hexadecimal with letters; blank is 0.
fn residue_number(field: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(field.trim_ascii()).ok()?;
    if text.is_empty() {
        return Some(0);
    }
    if let Ok(number) = text.parse::<i32>() {
        return Some(number);
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
            return Some(value + offset);
        }
    }
    if text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return i32::from_str_radix(text, 16).ok();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Structure> {
        super::super::parse(text.as_bytes(), super::super::Format::Pdb, "x.pdb", Options::default())
    }

    const LINE: &str = "ATOM      1  CA  ALA A   1      11.104   6.134  -6.504  1.00  0.00           C  ";

    #[test]
    fn numbers() {
        assert_eq!(fixed(b"  11.104"), Some(11.104));
        assert_eq!(fixed(b"-999.999"), Some(-999.999));
        assert_eq!(fixed(b"1e2"), Some(100.0));
        assert_eq!(fixed(b"12"), Some(12.0));
        for wrong in [&b""[..], b"   ", b"1.2.3", b"--1", b"nan", b"inf", b"1 2", b".", b"-"] {
            assert_eq!(fixed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn residue_numbers() {
        assert_eq!(residue_number(b"  12"), Some(12));
        assert_eq!(residue_number(b" -12"), Some(-12));
        assert_eq!(residue_number(b"    "), Some(0));
        assert_eq!(residue_number(b"A000"), Some(10_000));
        assert_eq!(residue_number(b"A00Z"), Some(10_035));
        assert_eq!(residue_number(b"ZZZZ"), Some(1_223_055));
        assert_eq!(residue_number(b"a000"), Some(1_223_056));
        assert_eq!(residue_number(b"1?"), None);
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

    #[test]
    fn nothing_to_read() {
        assert_eq!(read("").unwrap_err().code(), "EmptyFile");
        assert_eq!(read(" \n ").unwrap_err().code(), "EmptyFile");
        assert_eq!(read("HEADER\nEND\n").unwrap_err().code(), "NoAtoms");
    }
}
