//! Writers of the formats that the crate reads: the other half of a round trip, and seeds for fuzzing.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

use std::fmt::Write as _;

use atomica_prep::vocab::ELEMENTS;

/// An atom. Coordinates are in units of 0.001 Å, so that every format holds them exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Atom {
    pub name: String,
    pub element: u8,
    pub milli: [i32; 3],
}

impl Atom {
    pub fn position(&self) -> [f64; 3] {
        self.milli.map(|m| f64::from(m) / 1000.0)
    }

    pub fn symbol(&self) -> String {
        ELEMENTS[usize::from(self.element) - 1].to_ascii_uppercase()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Residue {
    pub name: String,
    pub number: i32,
    pub icode: String,
    pub hetero: bool,
    pub atoms: Vec<Atom>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    pub id: String,
    pub residues: Vec<Residue>,
}

/// What the readers make a structure of.
#[derive(Debug, Clone, PartialEq)]
pub struct Model(pub Vec<Chain>);

impl Model {
    /// Every atom with its chain and residue.
    pub fn atoms(&self) -> impl Iterator<Item = (&Chain, &Residue, &Atom)> {
        self.0.iter().flat_map(|c| c.residues.iter().flat_map(move |r| r.atoms.iter().map(move |a| (c, r, a))))
    }

    /// Two strands and a zinc ion.
    pub fn small() -> Self {
        let atom = |name: &str, element: u8, milli: [i32; 3]| Atom { name: name.to_owned(), element, milli };
        let strand = |id: &str, y: i32| Chain {
            id: id.to_owned(),
            residues: (0..3)
                .map(|i| Residue {
                    name: ["ALA", "GLY", "SER"][i as usize].to_owned(),
                    number: i + 1,
                    icode: String::new(),
                    hetero: false,
                    atoms: vec![
                        atom("N", 7, [3500 * i, y, 0]),
                        atom("CA", 6, [3500 * i + 1400, y, 700]),
                        atom("C", 6, [3500 * i + 2400, y, 1200]),
                        atom("O", 8, [3500 * i + 2900, y, 1450]),
                    ],
                })
                .collect(),
        };
        let mut first = strand("A", 0);
        first.residues.push(Residue {
            name: "ZN".to_owned(),
            number: 101,
            icode: "B".to_owned(),
            hetero: true,
            atoms: vec![atom("ZN", 30, [3000, 2500, -1250])],
        });
        Self(vec![first, strand("B", 5000)])
    }
}

/// A residue number in four columns: decimal, then hybrid-36.
pub fn hybrid36(number: i32) -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    if number < 10_000 {
        return format!("{number:>4}");
    }
    // Upper case holds 26 · 36³ numbers, each case beginning with a letter.
    let (mut rest, lower) = match number - 10_000 {
        n if n < 26 * 46_656 => (n + 10 * 46_656, false),
        n => (n - 26 * 46_656 + 10 * 46_656, true),
    };
    let mut text = [0u8; 4];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[rest as usize % 36];
        rest /= 36;
    }
    let text = String::from_utf8(text.to_vec()).unwrap();
    if lower {
        text.to_lowercase()
    } else {
        text
    }
}

pub fn pdb(model: &Model) -> String {
    let mut text = String::new();
    for (serial, (chain, residue, atom)) in model.atoms().enumerate() {
        let symbol = atom.symbol();
        // The symbol ends in the second column of the name, if there is room.
        let name = match (symbol.len(), atom.name.len()) {
            (1, ..=3) => format!(" {:<3}", atom.name),
            _ => format!("{:<4}", atom.name),
        };
        let [x, y, z] = atom.position();
        let record = if residue.hetero { "HETATM" } else { "ATOM" };
        let (component, id, number) = (&residue.name, &chain.id, hybrid36(residue.number));
        writeln!(
            text,
            "{record:<6}{:>5} {name} {component:>3} {id:1}{number}{:1}   {x:>8.3}{y:>8.3}{z:>8.3}{:>6.2}{:>6.2}          {symbol:>2}",
            serial % 100_000,
            residue.icode,
            1.0,
            0.0,
        )
        .unwrap();
    }
    text + "END\n"
}

/// A value with as little quoting as it needs.
fn quoted(text: &str) -> String {
    let reserved = ["loop_", "data_", "save_", "global_", "stop_"];
    let lower = text.to_ascii_lowercase();
    let plain = !text.is_empty()
        && !text.contains(char::is_whitespace)
        && !text.starts_with(['_', '#', '$', '\'', '"', '[', ']', ';'])
        && !reserved.iter().any(|r| lower.starts_with(r))
        && !matches!(text, "." | "?");
    let closes = |mark: char| {
        let mut rest = text;
        let mut found = false;
        while let Some(at) = rest.find(mark) {
            rest = &rest[at + 1..];
            found |= rest.starts_with(char::is_whitespace);
        }
        found
    };
    if plain {
        text.to_owned()
    } else if !closes('\'') {
        format!("'{text}'")
    } else if !closes('"') {
        format!("\"{text}\"")
    } else {
        format!("\n;{text}\n;\n")
    }
}

fn or_unknown(text: &str) -> String {
    if text.is_empty() {
        "?".to_owned()
    } else {
        quoted(text)
    }
}

pub fn mmcif(model: &Model) -> String {
    let mut text = "data_x\n_entry.id 'a b'\n#\nloop_\n".to_owned();
    for item in [
        "group_PDB",
        "id",
        "type_symbol",
        "label_atom_id",
        "label_comp_id",
        "auth_asym_id",
        "auth_seq_id",
        "pdbx_PDB_ins_code",
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
        "occupancy",
    ] {
        writeln!(text, "_atom_site.{item}").unwrap();
    }
    for (serial, (chain, residue, atom)) in model.atoms().enumerate() {
        let [x, y, z] = atom.position();
        writeln!(
            text,
            "{} {serial} {} {} {} {} {} {} {x} {y} {z} 1.0",
            if residue.hetero { "HETATM" } else { "ATOM" },
            atom.symbol(),
            quoted(&atom.name),
            quoted(&residue.name),
            quoted(&chain.id),
            residue.number,
            or_unknown(&residue.icode),
        )
        .unwrap();
    }
    text + "#\n"
}

/// A MessagePack value.
#[derive(Debug, Clone)]
pub enum Pack {
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Pack>),
    Map(Vec<(&'static str, Pack)>),
}

impl Pack {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(value) => {
                out.push(0xd3);
                out.extend(value.to_be_bytes());
            }
            Self::Float(value) => {
                out.push(0xcb);
                out.extend(value.to_be_bytes());
            }
            Self::Bool(value) => out.push(0xc2 + u8::from(*value)),
            Self::Nil => out.push(0xc0),
            Self::Text(text) => {
                out.push(0xdb);
                out.extend((text.len() as u32).to_be_bytes());
                out.extend(text.as_bytes());
            }
            Self::Bytes(bytes) => {
                out.push(0xc6);
                out.extend((bytes.len() as u32).to_be_bytes());
                out.extend(bytes);
            }
            Self::List(members) => {
                out.push(0xdd);
                out.extend((members.len() as u32).to_be_bytes());
                members.iter().for_each(|m| m.write(out));
            }
            Self::Map(members) => {
                out.push(0xdf);
                out.extend((members.len() as u32).to_be_bytes());
                for (key, value) in members {
                    Self::Text((*key).to_owned()).write(out);
                    value.write(out);
                }
            }
        }
    }
}

fn encoding(kind: &str, mut more: Vec<(&'static str, Pack)>) -> Pack {
    more.insert(0, ("kind", Pack::Text(kind.to_owned())));
    Pack::Map(more)
}

/// How whole numbers are encoded, outermost first. Bytes follow of themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    Delta,
    RunLength,
    /// Into bytes of this width.
    Packing(usize),
}

/// Encodings and data of whole numbers.
pub fn ints(values: &[i32], steps: &[Step]) -> (Vec<Pack>, Vec<u8>) {
    let mut values = values.to_vec();
    let mut encodings = Vec::new();
    let mut width = 4;
    for step in steps {
        let size = ("srcSize", Pack::Int(values.len() as i64));
        match step {
            Step::Delta => {
                let origin = values.first().copied().unwrap_or(0);
                let mut last = origin;
                for value in &mut values {
                    let this = *value;
                    *value = this.wrapping_sub(last);
                    last = this;
                }
                encodings
                    .push(encoding("Delta", vec![("origin", Pack::Int(origin.into())), ("srcType", Pack::Int(3))]));
            }
            Step::RunLength => {
                values = values.chunk_by(|a, b| a == b).flat_map(|run| [run[0], run.len() as i32]).collect();
                encodings.push(encoding("RunLength", vec![("srcType", Pack::Int(3)), size]));
            }
            Step::Packing(bytes) => {
                width = *bytes;
                let high = if width == 1 { 0x7f } else { 0x7fff };
                let mut packed = Vec::new();
                for value in values {
                    let mut rest = value;
                    while rest >= high {
                        packed.push(high);
                        rest -= high;
                    }
                    while rest < -high {
                        packed.push(-high - 1);
                        rest += high + 1;
                    }
                    packed.push(rest);
                }
                values = packed;
                let width = ("byteCount", Pack::Int(width as i64));
                encodings.push(encoding("IntegerPacking", vec![width, ("isUnsigned", Pack::Bool(false)), size]));
                break;
            }
        }
    }
    let kind = [0, 1, 2, 0, 3][width];
    encodings.push(encoding("ByteArray", vec![("type", Pack::Int(kind))]));
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()[..width].to_vec()).collect();
    (encodings, bytes)
}

fn column(name: &str, encodings: Vec<Pack>, bytes: Vec<u8>, mask: Pack) -> Pack {
    let data = Pack::Map(vec![("encoding", Pack::List(encodings)), ("data", Pack::Bytes(bytes))]);
    Pack::Map(vec![("name", Pack::Text(name.to_owned())), ("data", data), ("mask", mask)])
}

fn texts(name: &str, rows: &[String], steps: &[Step]) -> Pack {
    let mut table: Vec<&String> = Vec::new();
    let mut indices = Vec::new();
    for row in rows {
        let at = table.iter().position(|t| *t == row).unwrap_or_else(|| {
            table.push(row);
            table.len() - 1
        });
        indices.push(at as i32);
    }
    let mut offsets = vec![0];
    let mut all = String::new();
    for text in table {
        all += text;
        offsets.push(all.len() as i32);
    }
    let (data_encoding, data) = ints(&indices, steps);
    let (offset_encoding, offsets) = ints(&offsets, steps);
    let array = encoding(
        "StringArray",
        vec![
            ("dataEncoding", Pack::List(data_encoding)),
            ("stringData", Pack::Text(all)),
            ("offsetEncoding", Pack::List(offset_encoding)),
            ("offsets", Pack::Bytes(offsets)),
        ],
    );
    // A text that is not there is masked; without a mask, a dot or a question mark would be none.
    let absent: Vec<i32> = rows.iter().map(|r| i32::from(r.is_empty())).collect();
    let mask = if rows.iter().any(|r| matches!(r.as_str(), "" | "." | "?")) {
        let (encodings, bytes) = ints(&absent, &[Step::RunLength]);
        Pack::Map(vec![("encoding", Pack::List(encodings)), ("data", Pack::Bytes(bytes))])
    } else {
        Pack::Nil
    };
    column(name, vec![array], data, mask)
}

/// The model with every column of numbers encoded by `steps`.
pub fn bcif(model: &Model, steps: &[Step]) -> Vec<u8> {
    let rows: Vec<_> = model.atoms().collect();
    let text = |name: &str, of: &dyn Fn(&Chain, &Residue, &Atom) -> String| {
        texts(name, &rows.iter().map(|(c, r, a)| of(c, r, a)).collect::<Vec<_>>(), steps)
    };
    let number = |name: &str, of: &dyn Fn(&Residue, &Atom) -> i32, outer: Vec<Pack>| {
        let (mut encodings, bytes) = ints(&rows.iter().map(|(_, r, a)| of(r, a)).collect::<Vec<_>>(), steps);
        encodings.splice(0..0, outer);
        column(name, encodings, bytes, Pack::Nil)
    };
    let fixed = || vec![encoding("FixedPoint", vec![("factor", Pack::Float(1000.0)), ("srcType", Pack::Int(33))])];
    let columns = vec![
        text("group_PDB", &|_, r, _| if r.hetero { "HETATM".to_owned() } else { "ATOM".to_owned() }),
        text("type_symbol", &|_, _, a| a.symbol()),
        text("label_atom_id", &|_, _, a| a.name.clone()),
        text("label_comp_id", &|_, r, _| r.name.clone()),
        text("auth_asym_id", &|c, _, _| c.id.clone()),
        number("auth_seq_id", &|r, _| r.number, Vec::new()),
        text("pdbx_PDB_ins_code", &|_, r, _| r.icode.clone()),
        number("Cartn_x", &|_, a| a.milli[0], fixed()),
        number("Cartn_y", &|_, a| a.milli[1], fixed()),
        number("Cartn_z", &|_, a| a.milli[2], fixed()),
    ];
    table(columns, rows.len() as i64, Pack::Nil)
}

/// A file with these columns, and something else behind them.
pub fn table(columns: Vec<Pack>, rows: i64, more: Pack) -> Vec<u8> {
    let table = Pack::Map(vec![
        ("name", Pack::Text("_atom_site".to_owned())),
        ("rowCount", Pack::Int(rows)),
        ("columns", Pack::List(columns)),
    ]);
    let block = Pack::Map(vec![("header", Pack::Text("X".to_owned())), ("categories", Pack::List(vec![table]))]);
    Pack::Map(vec![("encoder", Pack::Text("test".to_owned())), ("dataBlocks", Pack::List(vec![block])), ("more", more)])
        .bytes()
}

/// The numbers 1, 2, 3, … in a few bytes.
pub fn column_of_runs(name: &str, rows: i32) -> Pack {
    let numbers: Vec<i32> = (1..=rows).collect();
    let (encodings, bytes) = ints(&numbers, &[Step::Delta, Step::RunLength]);
    column(name, encodings, bytes, Pack::Nil)
}

/// Rows of CSV, every field quoted.
pub fn csv(rows: &[Vec<String>]) -> String {
    let field = |text: &String| format!("\"{}\"", text.replace('"', "\"\""));
    rows.iter().map(|row| row.iter().map(field).collect::<Vec<_>>().join(",") + "\n").collect()
}
