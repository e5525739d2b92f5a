//! Index files: CSV rows → what to build.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};

use crate::error::{Error, Result};
use crate::files::sha256_hex;
use crate::structure::{Assembly, Residue, Structure};
use crate::vocab;

/// A ligand inside the structure file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ligand {
    /// Component id.
    pub code: String,
    /// Only the copy with this residue number.
    pub resnum: Option<i32>,
    /// Only the copy with this insertion code.
    pub icode: Option<String>,
}

/// A ligand in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LigandRef {
    /// The file as the index names it.
    pub path: String,
    /// The file to open.
    pub file: PathBuf,
    /// Which of its molecules, from 0.
    pub index: usize,
    /// The index says which; else it is the first.
    pub chosen: bool,
}

/// A residue of a pocket, by the name that the structure gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Chain.
    pub chain: String,
    /// Residue number.
    pub resnum: i32,
    /// Insertion code, mostly empty.
    pub icode: String,
}

impl Place {
    pub(crate) fn of(structure: &Structure, residue: &Residue) -> Self {
        let chain = structure.chains.get(residue.chain).cloned().unwrap_or_default();
        Self { chain, resnum: residue.resnum, icode: residue.icode.as_str().to_owned() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}{}", quoted(&self.chain, char::is_whitespace), self.resnum, self.icode)
    }
}

/// One usable row of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Line in the CSV, from 1.
    pub line: u64,
    /// Name of the complex, before the suffix of a repeated ligand.
    pub id: String,
    /// Structure file as the index names it.
    pub path: String,
    /// Structure file to open.
    pub file: PathBuf,
    /// Chains of the first partner.
    pub chain1: Vec<String>,
    /// Chains of the second partner, or the ligand's chain. Without a name for a ligand in a file of its own, unless
    /// the index gives it one.
    pub chain2: Vec<String>,
    /// The ligand, if the second partner is one of the structure.
    pub ligand: Option<Ligand>,
    /// The ligand, if the first partner is one as well.
    pub ligand1: Option<Ligand>,
    /// The ligand, if the second partner has a file of its own.
    pub ligand_file: Option<LigandRef>,
    /// The residues of a pocket, which has no second partner; empty for every other row.
    pub residues: Vec<Place>,
    /// `label` and `label_*` columns that are not empty.
    pub labels: Vec<(String, String)>,
    /// Split, if given.
    pub split: Option<String>,
    /// Index into the modalities, if given.
    pub modality: Option<i8>,
    /// Every other column that is not empty.
    pub metadata: Vec<(String, String)>,
    /// Which copies of its chains the structure gets, if the row says it.
    pub assembly: Option<Assembly>,
}

/// A row that cannot be used: its line, its id as far as it is known, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Line in the CSV, from 1.
    pub line: u64,
    /// Id, empty if there is none.
    pub id: String,
    /// Everything that is wrong with it; never empty.
    pub errors: Vec<Error>,
    /// What it seems to be meant as.
    pub kind: Kind,
}

impl BadRow {
    /// All of it as one error, which names the first column to blame.
    pub fn error(&self) -> Error {
        let mut reasons: Vec<&str> = Vec::new();
        for error in &self.errors {
            match error {
                Error::IndexRow { reason, .. } => reasons.push(reason),
                other => return other.clone(),
            }
        }
        match self.errors.first() {
            Some(Error::IndexRow { path, line, column, .. }) => {
                Error::IndexRow { path: path.clone(), line: *line, column: *column, reason: reasons.join("; ") }
            }
            _ => Error::IndexRow { path: String::new(), line: self.line, column: None, reason: String::new() },
        }
    }
}

/// What the two partners of a row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Chains and chains.
    Chains,
    /// Chains and a ligand of the structure.
    Ligand,
    /// Chains and a ligand in a file of its own.
    LigandFile,
    /// Two ligands of the structure.
    Ligands,
    /// Residues of chains, alone.
    Pocket,
}

impl Kind {
    /// Columns and values of a row that is right.
    pub fn example(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Chains => &[("id", "1abc_A_B"), ("path", "structures/1abc.cif.gz"), ("chain1", "A"), ("chain2", "B")],
            Self::Ligand => &[
                ("id", "1abc_ATP"),
                ("path", "structures/1abc.cif.gz"),
                ("chain1", "A_B"),
                ("chain2", "A"),
                ("lig_code", "ATP"),
                ("lig_resnum", "301"),
            ],
            Self::LigandFile => &[
                ("id", "1abc_7"),
                ("path", "structures/1abc.pdb"),
                ("chain1", "A"),
                ("ligand_path", "ligands/1abc.sdf"),
                ("ligand_index", "7"),
            ],
            Self::Ligands => &[
                ("id", "1abc_HEM_CYN"),
                ("path", "structures/1abc.cif.gz"),
                ("chain1", "A"),
                ("lig_code1", "HEM"),
                ("lig_resnum1", "201"),
                ("chain2", "A"),
                ("lig_code", "CYN"),
                ("lig_resnum", "202"),
            ],
            Self::Pocket => &[
                ("id", "1abc_site"),
                ("path", "structures/1abc.cif.gz"),
                ("chain1", "A_B"),
                ("residues", "A:45 A:46A B:102"),
            ],
        }
    }
}

impl Row {
    /// What its partners are.
    pub fn kind(&self) -> Kind {
        if !self.residues.is_empty() {
            return Kind::Pocket;
        }
        Kind::of(self.ligand1.is_some(), self.ligand.is_some(), self.ligand_file.is_some())
    }
}

impl Kind {
    fn of(first: bool, second: bool, file: bool) -> Self {
        match (first, second, file) {
            (true, ..) => Self::Ligands,
            (_, _, true) => Self::LigandFile,
            (_, true, _) => Self::Ligand,
            _ => Self::Chains,
        }
    }
}

/// Where the columns are.
#[derive(Debug, Clone, Default)]
struct Columns {
    id: usize,
    path: usize,
    chain1: Option<usize>,
    chain2: Option<usize>,
    lig_code: Option<usize>,
    lig_resnum: Option<usize>,
    lig_icode: Option<usize>,
    lig_code1: Option<usize>,
    lig_resnum1: Option<usize>,
    lig_icode1: Option<usize>,
    ligand_path: Option<usize>,
    ligand_index: Option<usize>,
    residues: Option<usize>,
    split: Option<usize>,
    modality: Option<usize>,
    assembly: Option<usize>,
    labels: Vec<usize>,
    metadata: Vec<usize>,
}

/// An index in memory, read row by row.
#[derive(Debug)]
pub struct Index {
    shown: String,
    folder: PathBuf,
    text: Vec<u8>,
    header: Vec<String>,
    columns: Columns,
    delimiter: u8,
    rows: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

impl Index {
    /// Reads the file and its header.
    ///
    /// # Errors
    /// The file is missing or empty, or its header lacks columns.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let text = std::fs::read(path).map_err(|e| Error::IndexUnreadable {
            path: shown.clone(),
            line: None,
            reason: e.to_string(),
        })?;
        Self::parse(text, shown, path.parent().map(Path::to_path_buf).unwrap_or_default())
    }

    /// Reads the header of an index in memory; `shown` is its name in messages, `folder` where its paths begin.
    ///
    /// # Errors
    /// It is empty, or its header lacks columns.
    pub fn parse(text: Vec<u8>, shown: String, folder: PathBuf) -> Result<Self> {
        let unreadable = |line, reason: String| Error::IndexUnreadable { path: shown.clone(), line, reason };
        let sha256 = sha256_hex(&text);
        if matches!(text.get(..2), Some([0xff, 0xfe] | [0xfe, 0xff])) {
            let reason = "it is UTF-16 text; save it as CSV in UTF-8, as with iconv -f UTF-16 -t UTF-8";
            return Err(unreadable(None, reason.to_owned()));
        }
        if matches!(text.get(..2), Some([0x1f, 0x8b] | b"PK")) {
            let reason = "it is packed, or a spreadsheet's own file; unpack it, or save it as CSV";
            return Err(unreadable(None, reason.to_owned()));
        }
        let text = with_line_feeds(text);
        let delimiter = delimiter(body(&text));
        if let Some(line) = open_quote(&text, delimiter) {
            return Err(unreadable(Some(line), format!("the quote that opens in line {line} is not closed")));
        }
        let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(body(&text));
        let header: Vec<String> = match reader.headers() {
            Ok(header) => header.iter().map(|h| column_name(h.trim())).collect(),
            Err(error) => return Err(unreadable(Some(1), error.to_string())),
        };
        if header.iter().all(String::is_empty) {
            return Err(unreadable(None, "the file is empty".to_owned()));
        }
        for (i, name) in header.iter().enumerate() {
            if !name.is_empty() && header.get(..i).unwrap_or_default().contains(name) {
                return Err(unreadable(Some(1), format!("the column {name:?} is there twice")));
            }
        }
        let columns = columns(&header).map_err(|missing| Error::IndexColumns {
            path: shown.clone(),
            missing,
            present: header.join(", "),
        })?;
        let mut rows = 0;
        let mut reader = Self::reader(&text, delimiter);
        let mut record = ByteRecord::new();
        while reader
            .read_byte_record(&mut record)
            .map_err(|e| unreadable(e.position().map(csv::Position::line), e.to_string()))?
        {
            rows += 1;
        }
        Ok(Self { shown, folder, text, header, columns, delimiter, rows, sha256 })
    }

    fn reader(text: &[u8], delimiter: u8) -> csv::Reader<&[u8]> {
        // Rows of another length are reported one by one instead of ending the file.
        ReaderBuilder::new().flexible(true).delimiter(delimiter).from_reader(body(text))
    }

    /// Rows below the header.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// No rows?
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Name of a column by its number in errors, from 1.
    pub fn column_name(&self, column: u64) -> Option<&str> {
        self.header.get(usize::try_from(column).ok()?.checked_sub(1)?).map(String::as_str)
    }

    /// Number of the column of that name in errors, from 1.
    pub fn column_number(&self, name: &str) -> Option<u64> {
        let at = match name {
            "id" => self.columns.id,
            "path" => self.columns.path,
            _ => self.header.iter().position(|h| h == name)?,
        };
        Some(at as u64 + 1)
    }

    /// Names of the columns `label` and `label_*`.
    pub fn label_columns(&self) -> impl Iterator<Item = &str> {
        self.columns.labels.iter().filter_map(|c| self.header.get(*c)).map(String::as_str)
    }

    /// The file as it was named.
    pub fn path(&self) -> &str {
        &self.shown
    }

    /// The rows in order.
    pub fn rows<'a>(&'a self, ids: &'a mut Ids) -> impl Iterator<Item = std::result::Result<Row, Box<BadRow>>> + 'a {
        let mut reader = Self::reader(&self.text, self.delimiter);
        // A line `sep=;` before the header is not counted by the reader.
        let before = u64::from(separator_line(without_mark(&self.text)).is_some());
        std::iter::from_fn(move || {
            let mut record = ByteRecord::new();
            match reader.read_byte_record(&mut record) {
                Ok(true) => {
                    let line = record.position().map_or(0, csv::Position::line) + before;
                    Some(self.row(&record, line, ids))
                }
                // `open` has read the text to its end without an error.
                Ok(false) | Err(_) => None,
            }
        })
    }

    /// Names of the columns.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The texts of all rows, of which `rows` may find some that cannot be used: one for each column, empty where a row
    /// is too short.
    pub fn texts(&self) -> Vec<Vec<String>> {
        let mut reader = Self::reader(&self.text, self.delimiter);
        let mut texts = Vec::new();
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record).unwrap_or(false) {
            let fields = Fields { index: self, line: 0, fields: Vec::new() };
            let field = |(column, _): (usize, &String)| {
                let text = String::from_utf8_lossy(record.get(column).unwrap_or_default());
                match self.columns.labels.contains(&column) {
                    true => fields.label(text.trim()),
                    false => text.trim().to_owned(),
                }
            };
            texts.push(self.header.iter().enumerate().map(field).collect());
        }
        texts
    }

    fn row(&self, record: &ByteRecord, line: u64, ids: &mut Ids) -> std::result::Result<Row, Box<BadRow>> {
        let mut fields: Vec<&str> = Vec::with_capacity(record.len());
        let mut problems = Vec::new();
        for (i, field) in record.iter().enumerate() {
            fields.push(std::str::from_utf8(field).map(str::trim).unwrap_or_else(|_| {
                problems.push(self.wrong(line, Some(i), "is not UTF-8 text".to_owned()));
                ""
            }));
        }
        // Spreadsheets write empty fields behind those that were filled.
        while fields.len() > self.header.len() && fields.last().is_some_and(|field| field.is_empty()) {
            fields.pop();
        }
        if fields.len() != self.header.len() {
            let mut reason = format!("has {} fields, the header {}", fields.len(), self.header.len());
            if let Some(before) = fields.iter().position(|field| field.contains('\n')) {
                let breaks = |fields: &[&str]| fields.iter().map(|f| f.matches('\n').count() as u64).sum::<u64>();
                let at = line + breaks(fields.get(..before).unwrap_or_default());
                reason += &format!("; a quote that opens in line {at} is closed in another line only");
            }
            problems.push(self.wrong(line, None, reason));
        }
        let fields = Fields { index: self, line, fields };
        // Where fields are missing or unreadable, what else seems wrong follows from that.
        let row = if problems.is_empty() { fields.usable(&mut problems) } else { None };
        let id = fields.get(Some(self.columns.id)).unwrap_or_default();
        match row {
            Some(row) if problems.is_empty() => {
                let repeats = row.ligand.as_ref().is_some_and(|l| l.resnum.is_none());
                match ids.take(id, line, repeats) {
                    None => return Ok(row),
                    Some(other) => {
                        let (path, id) = (self.shown.clone(), id.to_owned());
                        let column = self.columns.id as u64 + 1;
                        problems.push(Error::DuplicateId { path, line, column, other, id });
                    }
                }
            }
            _ => {}
        }
        let given = |column| fields.get(column).is_some();
        let c = &self.columns;
        let kind = match given(c.residues) {
            true => Kind::Pocket,
            false => Kind::of(given(c.lig_code1), given(c.lig_code), given(c.ligand_path)),
        };
        Err(Box::new(BadRow { line, id: id.to_owned(), errors: problems, kind }))
    }

    fn wrong(&self, line: u64, column: Option<usize>, reason: String) -> Error {
        Error::IndexRow { path: self.shown.clone(), line, column: column.map(|c| c as u64 + 1), reason }
    }
}

/// The texts of one row.
struct Fields<'a> {
    index: &'a Index,
    line: u64,
    fields: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    /// A field, unless it is empty or its column is not there. `nan` is how programs write that there is nothing; NA is
    /// sodium, and a chain may have that name.
    fn get(&self, column: Option<usize>) -> Option<&'a str> {
        self.fields.get(column?).copied().filter(|f| !matches!(*f, "" | "nan" | "NaN" | "<NA>"))
    }

    /// A whole number, as programs write it that know floating-point numbers only: 1001.0. `None` where there is none.
    fn whole<T: std::str::FromStr>(&self, column: Option<usize>) -> std::result::Result<Option<T>, &'a str> {
        let Some(text) = self.get(column) else { return Ok(None) };
        if ["na", "n/a", "none", "null"].iter().any(|nothing| text.eq_ignore_ascii_case(nothing)) {
            return Ok(None);
        }
        let digits = match text.split_once('.') {
            Some((whole, rest)) if rest.bytes().all(|c| c == b'0') => whole,
            _ => text,
        };
        digits.parse().map(Some).map_err(|_| text)
    }

    /// A label. Where semicolons part the fields, a comma is the decimal point.
    fn label(&self, text: &str) -> String {
        let number = || {
            let (whole, rest) = text.split_once(',')?;
            let digits = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit());
            (digits(whole.trim_start_matches(['-', '+'])) && digits(rest)).then(|| format!("{whole}.{rest}"))
        };
        match self.index.delimiter {
            b';' => number().unwrap_or_else(|| text.to_owned()),
            _ => text.to_owned(),
        }
    }

    fn wrong(&self, column: Option<usize>, reason: impl Into<String>) -> Error {
        self.index.wrong(self.line, column, reason.into())
    }

    /// The row, and everything that is wrong with it.
    fn usable(&self, problems: &mut Vec<Error>) -> Option<Row> {
        let columns = &self.index.columns;
        let mut note = |error: Error| problems.push(error);
        for (column, name) in [(columns.id, "id"), (columns.path, "path")] {
            if self.get(Some(column)).is_none() {
                note(self.wrong(Some(column), format!("{name} is empty")));
            }
        }
        let pocket = self.get(columns.residues);
        if pocket.is_some() {
            self.second_partner(&mut note);
        }
        let code = self.get(columns.lig_code);
        let code1 = self.get(columns.lig_code1);
        let ligand_file = self.ligand_file().map_err(&mut note).ok().flatten();
        let in_file = self.get(columns.ligand_path).is_some();
        if code.is_some() && in_file {
            let reason = "gives lig_code and ligand_path; the ligand is in the structure or in a file, not both";
            note(self.wrong(columns.ligand_path, reason));
        }
        // Old files have chains without a name, and their ligands, too. Only a whole partner cannot be left out.
        if pocket.is_none() && code.is_none() && !in_file && self.get(columns.chain2).is_none() {
            note(self.wrong(columns.chain2, "chain2 is empty"));
        }
        let mut chains = |column| self.chains(column).map_err(&mut note).unwrap_or_default();
        let (chain1, chain2) = (chains(columns.chain1), chains(columns.chain2));
        let ligand = self.ligand("", code, [columns.lig_resnum, columns.lig_icode], &mut note);
        let ligand1 = self.ligand("1", code1, [columns.lig_resnum1, columns.lig_icode1], &mut note);
        if code.is_some() && chain2.len() > 1 {
            note(self.wrong(columns.chain2, "with lig_code, chain2 is the one chain of the ligand"));
        } else if in_file && chain2.len() > 1 {
            let reason = "with ligand_path, chain2 is empty or the one chain to put the ligand into";
            note(self.wrong(columns.chain2, reason));
        } else if pocket.is_none() && code.is_none() && !in_file {
            if let Some(both) = chain1.iter().find(|c| chain2.contains(c)) {
                note(self.wrong(columns.chain2, format!("chain {both:?} is in chain1 and in chain2")));
            }
        }
        if let Some(ligand1) = &ligand1 {
            if chain1.len() > 1 {
                note(self.wrong(columns.chain1, "with lig_code1, chain1 is the one chain of that ligand"));
            }
            if code.is_none() {
                let reason = "lig_code1 is for two ligands; name the second in lig_code, or the only one there";
                note(self.wrong(columns.lig_code1, reason));
            }
            if ligand1.resnum.is_none() {
                note(self.wrong(columns.lig_code1, "lig_code1 needs lig_resnum1, so that the copy is known"));
            }
        }
        let residues = pocket.map(|text| self.residues(text, &chain1, &mut note)).unwrap_or_default();
        let modality = self.get(columns.modality).and_then(|text| {
            let known = modality(text);
            if known.is_none() {
                let reason = format!("modality {text:?} is none of {}", vocab::MODALITIES.join(", "));
                note(self.wrong(columns.modality, reason));
            }
            known
        });
        let assembly = self.get(columns.assembly).and_then(|text| {
            let number = text.strip_suffix(".0").unwrap_or(text).to_ascii_lowercase();
            number
                .parse::<Assembly>()
                .map_err(|reason| note(self.wrong(columns.assembly, format!("assembly {reason}"))))
                .ok()
        });
        let pairs = |columns: &[usize]| -> Vec<(String, String)> {
            let header = &self.index.header;
            columns.iter().filter_map(|c| Some((header.get(*c)?.clone(), self.get(Some(*c))?.to_owned()))).collect()
        };
        let path = self.get(Some(columns.path))?.to_owned();
        Some(Row {
            line: self.line,
            id: self.get(Some(columns.id))?.to_owned(),
            file: self.index.folder.join(&path),
            path,
            chain1,
            chain2,
            ligand,
            ligand1,
            ligand_file,
            residues,
            labels: pairs(&columns.labels).into_iter().map(|(name, text)| (name, self.label(&text))).collect(),
            split: self.get(columns.split).map(str::to_owned),
            modality,
            metadata: pairs(&columns.metadata),
            assembly,
        })
    }

    /// The ligand named by `code`, with the columns of its number and insertion code.
    fn ligand(
        &self,
        suffix: &str,
        code: Option<&str>,
        [resnum, icode]: [Option<usize>; 2],
        note: &mut impl FnMut(Error),
    ) -> Option<Ligand> {
        let code = code?;
        let number = self.whole::<i32>(resnum).unwrap_or_else(|text| {
            let letter = text.strip_suffix(|c: char| c.is_ascii_alphabetic()).filter(|n| n.parse::<i32>().is_ok());
            let hint = letter.map_or("", |_| "; the letter belongs into lig_icode");
            note(self.wrong(resnum, format!("lig_resnum{suffix} {text:?} is not a whole number{hint}")));
            None
        });
        // A residue number without an insertion code means the residue that has none.
        let icode = match (self.get(icode), number, icode) {
            (Some(icode), _, _) => Some(icode.to_owned()),
            (None, Some(_), Some(_)) => Some(String::new()),
            _ => None,
        };
        Some(Ligand { code: code.to_owned(), resnum: number, icode })
    }

    /// Everything that names a second partner, which a pocket does not have.
    fn second_partner(&self, note: &mut impl FnMut(Error)) {
        let columns = &self.index.columns;
        for (name, column) in [
            ("chain2", columns.chain2),
            ("lig_code", columns.lig_code),
            ("lig_code1", columns.lig_code1),
            ("ligand_path", columns.ligand_path),
        ] {
            if self.get(column).is_some() {
                let reason = format!("gives residues, which are a pocket alone, and {name}; leave one of them empty");
                note(self.wrong(column, reason));
            }
        }
    }

    /// The residues of a pocket: `45`, `-2`, `46A` of the only chain, `B:102` of several.
    fn residues(&self, text: &str, chains: &[String], note: &mut impl FnMut(Error)) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        let mut known = HashSet::new();
        for word in words(text) {
            match place(word, chains) {
                Ok(place) if known.insert(place.clone()) => places.push(place),
                Ok(place) => note(self.wrong(self.index.columns.residues, format!("names residue {place} twice"))),
                Err(reason) => note(self.wrong(self.index.columns.residues, reason)),
            }
        }
        places
    }

    fn ligand_file(&self) -> Result<Option<LigandRef>> {
        let columns = &self.index.columns;
        let index = self.whole::<usize>(columns.ligand_index).map_err(|text| {
            self.wrong(columns.ligand_index, format!("ligand_index {text:?} is not a number from 0 on"))
        });
        let Some(path) = self.get(columns.ligand_path) else {
            return match index? {
                Some(_) => Err(self.wrong(columns.ligand_index, "ligand_index needs a ligand_path")),
                None => Ok(None),
            };
        };
        let index = index?;
        let file = self.index.folder.join(path);
        Ok(Some(LigandRef { path: path.to_owned(), file, index: index.unwrap_or(0), chosen: index.is_some() }))
    }

    /// Chains joined with `_`; an empty one is the chain without a name.
    fn chains(&self, column: Option<usize>) -> Result<Vec<String>> {
        let text = self.get(column).unwrap_or_default();
        let mut chains: Vec<String> = Vec::new();
        for chain in chain_ids(text).map_err(|reason| self.wrong(column, reason))? {
            if chains.contains(&chain) {
                let reason = format!("{text:?} names chain {chain:?} twice; chains are joined with one _");
                return Err(self.wrong(column, reason));
            }
            chains.push(chain);
        }
        Ok(chains)
    }
}

/// One residue of a pocket in some chains, or why it is none.
fn place(word: &str, chains: &[String]) -> std::result::Result<Place, String> {
    let named = word.rsplit_once(':').map(|(chain, number)| (unquoted(chain), number));
    let (chain, number) = match (named, chains) {
        (Some((chain, _)), _) if !chains.contains(&chain) => {
            return Err(format!("residue {word:?} is of a chain that chain1 does not name"));
        }
        (Some((chain, number)), _) => (chain, number),
        (None, [only]) => (only.clone(), word),
        (None, _) => return Err(format!("residue {word:?} needs its chain, as in A:45: chain1 names several")),
    };
    let digits = number.char_indices().skip(usize::from(number.starts_with('-')));
    let end = digits.clone().find(|(_, c)| !c.is_ascii_digit()).map_or(number.len(), |(at, _)| at);
    let (resnum, icode) = number.split_at_checked(end).unwrap_or((number, ""));
    let resnum = resnum.parse().map_err(|_| {
        format!("residue {word:?} is no residue number with an insertion code or none, such as 45 or 46A")
    })?;
    Ok(Place { chain, resnum, icode: icode.to_owned() })
}

/// The chain ids that `_` joins. One that holds a `_` itself, begins with a quote, or begins or ends with a blank, stands
/// in single quotes, in which two of them are one: `'A_1'_B`.
fn chain_ids(text: &str) -> std::result::Result<Vec<String>, String> {
    let mut ids = Vec::new();
    let mut rest = text.trim();
    loop {
        let quoted = rest.strip_prefix('\'').and_then(|inner| {
            let closing = |(at, _): &(usize, char)| {
                let before = inner.get(..*at).unwrap_or_default();
                let doubled = before.len() - before.trim_end_matches('\'').len();
                let after = inner.get(at + 1..).unwrap_or_default();
                doubled % 2 == 0 && !after.starts_with('\'')
            };
            let (end, _) = inner.char_indices().filter(|(_, c)| *c == '\'').find(closing)?;
            Some((inner.get(..end)?.replace("''", "'"), inner.get(end + 1..)?))
        });
        let next = match quoted {
            Some((id, after)) => {
                ids.push(id);
                let after = after.trim_start();
                if !after.is_empty() && !after.starts_with('_') {
                    return Err(format!("{text:?}: after a chain in quotes comes _ and the next chain, or nothing"));
                }
                after.strip_prefix('_')
            }
            None => {
                let (id, next) = rest.split_once('_').map_or((rest, None), |(id, next)| (id, Some(next)));
                ids.push(id.trim().to_owned());
                next
            }
        };
        match next {
            Some(next) => rest = next.trim_start(),
            None => return Ok(ids),
        }
    }
}

/// A chain id as an index writes it.
///
/// ```
/// use atomica_prep::index::chain_text;
/// assert_eq!((&*chain_text("A"), &*chain_text("A_1"), &*chain_text("'A")), ("A", "'A_1'", "'''A'"));
/// ```
pub fn chain_text(id: &str) -> std::borrow::Cow<'_, str> {
    quoted(id, |c| c == '_')
}

/// A chain id, in quotes where it could be taken for something else in a list: `parts` are what parts its entries.
fn quoted(id: &str, parts: impl Fn(char) -> bool) -> std::borrow::Cow<'_, str> {
    if id.contains(parts) || id.starts_with('\'') || id.trim() != id {
        return format!("'{}'", id.replace('\'', "''")).into();
    }
    id.into()
}

/// The chain id that was quoted.
fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    inner.map_or_else(|| text.to_owned(), |inner| inner.replace("''", "'"))
}

/// The entries of a list of residues (`A:1 'B 1':2`): blanks part them, but for those of chain ids in quotes.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    let (mut begins, mut of_quotes, mut open) = (true, false, false);
    let parted = text.split(move |c: char| {
        if begins {
            (of_quotes, open) = (c == '\'', false);
        }
        open ^= of_quotes && c == '\'';
        begins = !open && c.is_whitespace();
        begins
    });
    parted.filter(|word| !word.is_empty())
}

/// Lines ended by line feeds: the reader counts no others.
fn with_line_feeds(text: Vec<u8>) -> Vec<u8> {
    if !text.contains(&b'\r') {
        return text;
    }
    let next = text.iter().skip(1).map(Some).chain([None]);
    let pairs = text.iter().zip(next).filter(|(c, next)| **c != b'\r' || *next != Some(&b'\n'));
    pairs.map(|(c, _)| if *c == b'\r' { b'\n' } else { *c }).collect()
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// The delimiter in a first line `sep=;`, which spreadsheets write, and the text after it.
fn separator_line(text: &[u8]) -> Option<(u8, &[u8])> {
    let rest = text.strip_prefix(b"sep=")?;
    let (delimiter, rest) = rest.split_first()?;
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    Some((*delimiter, rest.strip_prefix(b"\n")?))
}

/// The text without a byte-order mark and what else stands before the header.
fn body(text: &[u8]) -> &[u8] {
    let text = without_mark(text);
    separator_line(text).map_or(text, |(_, rest)| rest)
}

/// What parts the fields: of comma, semicolon and tab the one that the header has most of.
fn delimiter(text: &[u8]) -> u8 {
    let header = text.split(|c| matches!(c, b'\n' | b'\r')).find(|line| !line.is_empty()).unwrap_or_default();
    let count = |delimiter: u8| header.iter().filter(|c| **c == delimiter).count();
    // Of equal ones the last counts, which is the comma.
    [b'\t', b';', b','].into_iter().max_by_key(|d| count(*d)).unwrap_or(b',')
}

/// The line in which a quote opens that nothing closes.
fn open_quote(text: &[u8], delimiter: u8) -> Option<u64> {
    let mut line = 1;
    let mut opened: Option<u64> = None;
    let mut at_start = true;
    for &c in without_mark(text) {
        match (c, opened) {
            (b'"', None) if at_start => opened = Some(line),
            // A doubled quote closes and opens again.
            (b'"', Some(_)) => {
                opened = None;
                at_start = true;
                continue;
            }
            _ => {}
        }
        line += u64::from(c == b'\n');
        at_start = opened.is_none() && (c == delimiter || c == b'\n' || c == b'\r');
    }
    opened
}

/// The columns that are known by name.
const KNOWN: [&str; 20] = [
    "id",
    "pdb_id",
    "path",
    "pdb_path",
    "chain1",
    "chain2",
    "lig_code",
    "lig_resnum",
    "lig_icode",
    "lig_code1",
    "lig_resnum1",
    "lig_icode1",
    "ligand_path",
    "ligand_index",
    "residues",
    "split",
    "modality",
    "label",
    "lig_smiles",
    "assembly",
];

/// The name of a column; those that are known may be written in capitals.
fn column_name(written: &str) -> String {
    if let Some(known) = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(written)) {
        return (*known).to_owned();
    }
    match written.split_at_checked(6) {
        Some((head, rest)) if head.eq_ignore_ascii_case("label_") => format!("label_{rest}"),
        _ => written.to_owned(),
    }
}

fn modality(text: &str) -> Option<i8> {
    let at = vocab::MODALITIES.iter().position(|m| m.eq_ignore_ascii_case(text))?;
    i8::try_from(at).ok()
}

fn columns(header: &[String]) -> std::result::Result<Columns, String> {
    let find = |name: &str| header.iter().position(|h| h == name);
    let mut missing = Vec::new();
    let id = find("id").or_else(|| find("pdb_id"));
    let path = find("path").or_else(|| find("pdb_path"));
    if id.is_none() {
        missing.push("id (or pdb_id)");
    }
    if path.is_none() {
        missing.push("path (or pdb_path)");
    }
    if find("chain1").is_none() {
        missing.push("chain1");
    }
    // A ligand file needs no second chain, and a pocket has none.
    if ["chain2", "ligand_path", "residues"].into_iter().all(|name| find(name).is_none()) {
        missing.push("chain2");
    }
    let (Some(id), Some(path), []) = (id, path, missing.as_slice()) else { return Err(missing.join(", ")) };
    let split = find("split");
    let labels: Vec<usize> =
        header.iter().enumerate().filter(|(_, h)| *h == "label" || h.starts_with("label_")).map(|(i, _)| i).collect();
    let metadata =
        (0..header.len()).filter(|i| *i != id && *i != path && Some(*i) != split && !labels.contains(i)).collect();
    Ok(Columns {
        id,
        path,
        chain1: find("chain1"),
        chain2: find("chain2"),
        lig_code: find("lig_code"),
        lig_resnum: find("lig_resnum"),
        lig_icode: find("lig_icode"),
        lig_code1: find("lig_code1"),
        lig_resnum1: find("lig_resnum1"),
        lig_icode1: find("lig_icode1"),
        ligand_path: find("ligand_path"),
        ligand_index: find("ligand_index"),
        residues: find("residues"),
        split,
        modality: find("modality"),
        assembly: find("assembly"),
        labels,
        metadata,
    })
}

/// The ids of a build and the lines that took them.
///
/// Copies of a repeated ligand are numbered `_0`, `_1`, …; how many there are is known only once the structure is
/// read. So that ids never depend on it, a name `X_1` beside a row `X` whose ligand may repeat counts as taken.
#[derive(Debug, Default)]
pub struct Ids {
    taken: HashMap<String, (u64, bool)>,
    /// Names before a numeric suffix.
    stems: HashMap<String, u64>,
}

impl Ids {
    /// Takes an id, or gives the line that has taken it.
    fn take(&mut self, id: &str, line: u64, repeats: bool) -> Option<u64> {
        if let Some((other, _)) = self.taken.get(id) {
            return Some(*other);
        }
        let stem = id
            .rsplit_once('_')
            .filter(|(_, number)| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
            .map(|(stem, _)| stem);
        if let Some((other, true)) = stem.and_then(|s| self.taken.get(s)) {
            return Some(*other);
        }
        if repeats {
            if let Some(other) = self.stems.get(id) {
                return Some(*other);
            }
        }
        if let Some(stem) = stem {
            self.stems.entry(stem.to_owned()).or_insert(line);
        }
        self.taken.insert(id.to_owned(), (line, repeats));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<std::result::Result<Row, Box<BadRow>>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.csv");
        std::fs::write(&path, text).unwrap();
        let index = Index::open(&path).unwrap();
        let rows: Vec<_> = index.rows(&mut Ids::default()).collect();
        assert_eq!(rows.len() as u64, index.len());
        rows
    }

    fn open_error(text: &str) -> Error {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.csv");
        std::fs::write(&path, text).unwrap();
        Index::open(&path).unwrap_err()
    }

    #[test]
    fn a_full_row() {
        let rows = read(
            "\u{feff}split,id,path,chain1,chain2,lig_code,lig_resnum,lig_icode,label,label_site,note,modality\n\
             train,x,a/b.pdb,A_B,C,ZN,301,,-1.5,hot,\"a, b\",pion\n",
        );
        let row = rows[0].as_ref().unwrap();
        assert_eq!((row.line, row.id.as_str(), row.path.as_str()), (2, "x", "a/b.pdb"));
        assert_eq!(
            (row.chain1.as_slice(), row.chain2.as_slice()),
            (&["A".to_owned(), "B".into()][..], &["C".into()][..])
        );
        let ligand = row.ligand.as_ref().unwrap();
        assert_eq!((ligand.code.as_str(), ligand.resnum, ligand.icode.as_deref()), ("ZN", Some(301), Some("")));
        assert_eq!(row.labels, [("label".into(), "-1.5".into()), ("label_site".into(), "hot".into())]);
        assert!(row.metadata.contains(&("note".into(), "a, b".into())));
        assert!(row.metadata.contains(&("lig_code".into(), "ZN".into())));
        assert_eq!((row.split.as_deref(), row.modality), (Some("train"), Some(2)));
        assert!(row.file.ends_with("a/b.pdb"));
    }

    #[test]
    fn texts_stay_texts() {
        // Chain 1, ligand NA and an empty label are what they look like.
        let rows = read("pdb_id,pdb_path,chain1,chain2,lig_code,label\nx,a.pdb,1,2,NA,\n");
        let row = rows[0].as_ref().unwrap();
        assert_eq!(row.chain1, ["1"]);
        assert_eq!(row.ligand.as_ref().unwrap().code, "NA");
        assert!(row.labels.is_empty());
    }

    #[test]
    fn chains_without_a_name() {
        let rows = read("id,path,chain1,chain2,lig_code\nx,a,A_B,,ZN\ny,a,,B,\nz,a,A,B_,\n");
        let chains: Vec<_> =
            rows.iter().map(|r| r.as_ref().unwrap()).map(|r| (r.chain1.join("+"), r.chain2.join("+"))).collect();
        assert_eq!(chains, [("A+B".into(), String::new()), (String::new(), "B".into()), ("A".into(), "B+".into())]);
    }

    #[test]
    fn bad_rows_name_line_and_column() {
        let header = "id,path,chain1,chain2,lig_code,lig_resnum,modality,ligand_path,ligand_index\n";
        for (row, column, text) in [
            (",a.pdb,A,B,,,,,", Some(1), "id is empty"),
            ("x,,A,B,,,,,", Some(2), "path is empty"),
            ("x,a.pdb,A,,,,,,", Some(4), "chain2 is empty"),
            ("x,a.pdb,A__,B,,,,,", Some(3), "joined with one _"),
            ("x,a.pdb,A_A,B,,,,,", Some(3), "twice"),
            ("x,a.pdb,A,A_B,,,,,", Some(4), "in chain1 and in chain2"),
            ("x,a.pdb,A,A_B,ZN,,,,", Some(4), "one chain of the ligand"),
            ("x,a.pdb,A,A,ZN,1x,,,", Some(6), "not a whole number"),
            ("x,a.pdb,A,B,,,PQ,,", Some(7), "none of PP"),
            ("x,a.pdb,A,B", None, "has 4 fields"),
            ("x,a.pdb,A,B,ZN,,,l.sdf,", Some(8), "not both"),
            ("x,a.pdb,A,B_C,,,,l.sdf,0", Some(4), "one chain to put the ligand into"),
            ("x,a.pdb,A,,,,,l.sdf,-1", Some(9), "ligand_index \"-1\" is not a number"),
            ("x,a.pdb,A,B,,,,,1", Some(9), "needs a ligand_path"),
        ] {
            let rows = read(&format!("{header}ok,a.pdb,A,B,,,,,\n{row}\n"));
            assert!(rows[0].is_ok());
            let bad = rows[1].as_ref().unwrap_err();
            let error = bad.error();
            assert_eq!((bad.line, bad.errors.len(), error.line(), error.column()), (3, 1, Some(3), column), "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn everything_wrong_with_a_row_is_told() {
        let rows = read("id,path,chain1,chain2,lig_code,lig_resnum,modality\n,,A_A,B_C,ZN,x,PQ\n");
        let bad = rows[0].as_ref().unwrap_err();
        let columns: Vec<_> = bad.errors.iter().map(Error::column).collect();
        assert_eq!(columns, [Some(1), Some(2), Some(3), Some(6), Some(4), Some(7)]);
        assert_eq!((bad.kind, bad.error().column()), (Kind::Ligand, Some(1)));
        assert!(bad.error().to_string().contains("id is empty; path is empty; "), "{}", bad.error());
    }

    #[test]
    fn two_ligands() {
        let header = "id,path,chain1,lig_code1,lig_resnum1,chain2,lig_code,lig_resnum,ligand_path\n";
        let rows = read(&format!("{header}x,a.pdb,A,HEM,1,A,CYN,2,\n"));
        let row = rows[0].as_ref().unwrap();
        assert_eq!(row.kind(), Kind::Ligands);
        let first = row.ligand1.as_ref().unwrap();
        assert_eq!((first.code.as_str(), first.resnum, first.icode.as_deref()), ("HEM", Some(1), None));
        for (row, column, text) in [
            ("x,a.pdb,A,HEM,,A,CYN,2,", 4, "needs lig_resnum1"),
            ("x,a.pdb,A_B,HEM,1,A,CYN,2,", 3, "the one chain of that ligand"),
            ("x,a.pdb,A,HEM,1,B,,,", 4, "name the second in lig_code"),
            ("x,a.pdb,A,HEM,1,,,,l.sdf", 4, "name the second in lig_code"),
        ] {
            let rows = read(&format!("{header}{row}\n"));
            let bad = rows[0].as_ref().unwrap_err();
            assert_eq!(bad.errors.iter().map(Error::column).collect::<Vec<_>>(), [Some(column)], "{}", bad.error());
            assert!(bad.error().to_string().contains(text), "{}", bad.error());
        }
    }

    #[test]
    fn every_example_is_right() {
        for kind in [Kind::Chains, Kind::Ligand, Kind::LigandFile, Kind::Ligands, Kind::Pocket] {
            let (names, values): (Vec<&str>, Vec<&str>) = kind.example().iter().copied().unzip();
            let rows = read(&format!("{}\n{}\n", names.join(","), values.join(",")));
            assert_eq!(rows[0].as_ref().unwrap().kind(), kind);
        }
    }

    #[test]
    fn ligands_in_files_of_their_own() {
        let rows = read("id,path,chain1,ligand_path,ligand_index\nx,a.pdb,A_B,l.sdf.gz,7\ny,a.pdb,A,l.mol2,\n");
        let row = rows[0].as_ref().unwrap();
        let ligand = row.ligand_file.as_ref().unwrap();
        assert_eq!((ligand.path.as_str(), ligand.index, row.chain2.as_slice()), ("l.sdf.gz", 7, &[String::new()][..]));
        assert!(ligand.file.ends_with("l.sdf.gz") && ligand.file != Path::new("l.sdf.gz"));
        assert!(row.metadata.contains(&("ligand_index".into(), "7".into())));
        assert_eq!(rows[1].as_ref().unwrap().ligand_file.as_ref().unwrap().index, 0);
    }

    #[test]
    fn as_spreadsheets_and_programs_write_it() {
        for text in [
            "ID;Path;Chain1;CHAIN2;Lig_Code;LIG_RESNUM;label_Kd;note\nx;a.pdb;A;A;NA;1001.0;-1,5;1,2 or 3\n",
            "sep=;\r\nid;path;chain1;chain2;lig_code;lig_resnum;label_Kd;note\r\nx;a.pdb;A;A;NA;1001;-1,5;1,2 or 3\r\n",
            "id\tpath\tchain1\tchain2\tlig_code\tlig_resnum\tLABEL_Kd\tnote\nx\ta.pdb\tA\tA\tNA\t1001.\t-1.5\t1,2 or 3\n",
        ] {
            let rows = read(text);
            let row = rows[0].as_ref().unwrap();
            let ligand = row.ligand.as_ref().unwrap();
            assert_eq!((ligand.code.as_str(), ligand.resnum), ("NA", Some(1001)), "{text}");
            assert_eq!(row.labels, [("label_Kd".to_owned(), "-1.5".to_owned())], "{text}");
            assert!(row.metadata.contains(&("note".into(), "1,2 or 3".into())), "{text}");
            assert_eq!(row.line, if text.starts_with("sep") { 3 } else { 2 });
        }
        for nothing in ["", "nan", "NaN", "<NA>", "NA", "None", "null"] {
            let rows = read(&format!("id,path,chain1,chain2,lig_code,lig_resnum\nx,a,A,A,ZN,{nothing}\n"));
            assert_eq!(rows[0].as_ref().unwrap().ligand.as_ref().unwrap().resnum, None, "{nothing}");
        }
        let rows = read("id,path,chain1,chain2,lig_code\nx,a,A,B,nan\n");
        assert_eq!(rows[0].as_ref().unwrap().kind(), Kind::Chains);
        let rows = read("id,path,chain1,chain2,lig_code,lig_resnum\nx,a,A,A,ZN,1001.5\n");
        assert!(rows[0].as_ref().unwrap_err().error().to_string().contains("\"1001.5\" is not a whole number"));
    }

    #[test]
    fn quotes_that_stay_open() {
        let error = open_error("id,path,chain1,chain2\na,s.pdb,A,B\nb,\"s.pdb,A,B\nc,s.pdb,A,B\n");
        assert_eq!((error.code(), error.line()), ("IndexUnreadable", Some(3)), "{error}");
        let rows = read("id,path,chain1,chain2\na,\"s.pdb,A,B\nb,s.pdb,A,\"B\"\nc,s.pdb,A,B\n");
        let error = rows[0].as_ref().unwrap_err().error().to_string();
        assert!(error.contains("a quote that opens in line 2 is closed in another line only"), "{error}");
        // What is quoted as it should be may go over lines.
        let rows = read("id,path,chain1,chain2,note\na,s.pdb,A,B,\"one \"\"and\"\"\ntwo\"\n");
        assert!(rows[0].is_ok());
    }

    #[test]
    fn chain_ids_in_quotes() {
        for (text, ids) in [
            ("'A_1'_B", vec!["A_1", "B"]),
            ("B_'A_1'", vec!["B", "A_1"]),
            ("' A'", vec![" A"]),
            ("'''A'", vec!["'A"]),
            ("A'_B'", vec!["A'", "B'"]),
            ("'", vec!["'"]),
            ("A__", vec!["A", "", ""]),
            ("", vec![""]),
        ] {
            assert_eq!(chain_ids(text).unwrap(), ids, "{text}");
        }
        for id in ["A", "A_1", "'", "a'b", " x ", "''_"] {
            assert_eq!(chain_ids(&chain_text(id)).unwrap(), [id]);
        }
        assert!(chain_ids("'A_1'B").is_err());
    }

    #[test]
    fn residues_of_a_pocket() {
        let rows = read("id,path,chain1,residues\nx,a.pdb,A,45  -2 46A\ny,a.pdb,A_B,A:45 B:45\n");
        let shown = |row: usize| -> Vec<String> {
            rows[row].as_ref().unwrap().residues.iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(0), ["A:45", "A:-2", "A:46A"]);
        assert_eq!(shown(1), ["A:45", "B:45"]);
        assert_eq!(rows[0].as_ref().unwrap().residues[2].icode, "A");
        assert!(rows[0].as_ref().unwrap().metadata.contains(&("residues".into(), "45  -2 46A".into())));
        let header = "id,path,chain1,chain2,lig_code,residues\n";
        for (row, column, text) in [
            ("x,a.pdb,A,B,,45", 4, "and chain2; leave one of them empty"),
            ("x,a.pdb,A,,ZN,45", 5, "and lig_code; leave one of them empty"),
            ("x,a.pdb,A_B,,,45", 6, "needs its chain"),
            ("x,a.pdb,A,,,B:45", 6, "chain1 does not name"),
            ("x,a.pdb,A,,,45 A:45", 6, "names residue A:45 twice"),
            ("x,a.pdb,A,,,ALA", 6, "no residue number"),
            ("x,a.pdb,A,,,99999999999", 6, "no residue number"),
        ] {
            let rows = read(&format!("{header}{row}\n"));
            let bad = rows[0].as_ref().unwrap_err();
            assert_eq!(bad.errors.iter().map(Error::column).collect::<Vec<_>>(), [Some(column)], "{}", bad.error());
            assert_eq!(bad.kind, Kind::Pocket);
            assert!(bad.error().to_string().contains(text), "{}", bad.error());
        }
    }

    #[test]
    fn ids_are_unique_with_their_suffixes() {
        let header = "id,path,chain1,chain2,lig_code,lig_resnum\n";
        let fails = |rows: &str| -> Vec<bool> { read(&format!("{header}{rows}")).iter().map(|r| r.is_err()).collect() };
        assert_eq!(fails("x,a,A,B,,\nx,a,A,B,,\ny,a,A,B,,\n"), [false, true, false]);
        assert_eq!(fails("x,a,A,B,ZN,\nx_1,a,A,B,,\n"), [false, true]);
        assert_eq!(fails("x_1,a,A,B,,\nx,a,A,B,ZN,\n"), [false, true]);
        assert_eq!(fails("x_1,a,A,B,,\nx,a,A,B,ZN,7\nx_a,a,A,B,,\n"), [false, false, false]);
    }

    #[test]
    fn unusable_headers() {
        assert_eq!(open_error("").code(), "IndexUnreadable");
        assert_eq!(open_error("id,id,path\n").code(), "IndexUnreadable");
        let error = open_error("name,path,chain2\n");
        assert_eq!(error.code(), "IndexColumns");
        assert!(error.to_string().contains("lacks id (or pdb_id), chain1;"), "{error}");
    }
}
