//! Index files: CSV rows → what to build.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};

use crate::error::{Error, Result};
use crate::files::sha256_hex;
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

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}{}", self.chain, self.resnum, self.icode)
    }
}

/// One usable row of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        let mut reader = ReaderBuilder::new().from_reader(body(&text));
        let header: Vec<String> = match reader.headers() {
            Ok(header) => header.iter().map(|h| h.trim().to_owned()).collect(),
            Err(error) => return Err(unreadable(Some(1), error.to_string())),
        };
        if header.iter().all(String::is_empty) {
            return Err(unreadable(None, "the file is empty".to_owned()));
        }
        for (i, name) in header.iter().enumerate() {
            if header.get(..i).unwrap_or_default().contains(name) {
                return Err(unreadable(Some(1), format!("the column {name:?} is there twice")));
            }
        }
        let columns = columns(&header).map_err(|missing| Error::IndexColumns {
            path: shown.clone(),
            missing,
            present: header.join(", "),
        })?;
        let mut rows = 0;
        let mut reader = Self::reader(&text);
        let mut record = ByteRecord::new();
        while reader
            .read_byte_record(&mut record)
            .map_err(|e| unreadable(e.position().map(csv::Position::line), e.to_string()))?
        {
            rows += 1;
        }
        Ok(Self { shown, folder, text, header, columns, rows, sha256 })
    }

    fn reader(text: &[u8]) -> csv::Reader<&[u8]> {
        // Rows of another length are reported one by one instead of ending the file.
        ReaderBuilder::new().flexible(true).from_reader(body(text))
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
        let mut reader = Self::reader(&self.text);
        std::iter::from_fn(move || {
            let mut record = ByteRecord::new();
            match reader.read_byte_record(&mut record) {
                Ok(true) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    Some(self.row(&record, line, ids))
                }
                // `open` has read the text to its end without an error.
                Ok(false) | Err(_) => None,
            }
        })
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
        if fields.len() != self.header.len() {
            let reason = format!("has {} fields, the header {}", fields.len(), self.header.len());
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
    /// A field, unless it is empty or its column is not there.
    fn get(&self, column: Option<usize>) -> Option<&'a str> {
        self.fields.get(column?).copied().filter(|f| !f.is_empty())
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
            labels: pairs(&columns.labels),
            split: self.get(columns.split).map(str::to_owned),
            modality,
            metadata: pairs(&columns.metadata),
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
        let number = self.get(resnum).and_then(|text| {
            let number = text.parse::<i32>();
            number
                .map_err(|_| note(self.wrong(resnum, format!("lig_resnum{suffix} {text:?} is not a whole number"))))
                .ok()
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
        for word in text.split_whitespace() {
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
        let index = self.get(columns.ligand_index);
        let Some(path) = self.get(columns.ligand_path) else {
            return match index {
                Some(_) => Err(self.wrong(columns.ligand_index, "ligand_index needs a ligand_path")),
                None => Ok(None),
            };
        };
        let index = index.unwrap_or("0");
        let index = index.parse::<usize>().map_err(|_| {
            self.wrong(columns.ligand_index, format!("ligand_index {index:?} is not a number from 0 on"))
        })?;
        Ok(Some(LigandRef { path: path.to_owned(), file: self.index.folder.join(path), index }))
    }

    /// Chains joined with `_`; an empty one is the chain without a name.
    fn chains(&self, column: Option<usize>) -> Result<Vec<String>> {
        let text = self.get(column).unwrap_or_default();
        let mut chains: Vec<String> = Vec::new();
        for chain in text.split('_').map(str::trim) {
            if chains.iter().any(|c| c == chain) {
                let reason = format!("{text:?} names chain {chain:?} twice; chains are joined with one _");
                return Err(self.wrong(column, reason));
            }
            chains.push(chain.to_owned());
        }
        Ok(chains)
    }
}

/// One residue of a pocket in some chains, or why it is none.
fn place(word: &str, chains: &[String]) -> std::result::Result<Place, String> {
    let (chain, number) = match (word.rsplit_once(':'), chains) {
        (Some((chain, _)), _) if !chains.iter().any(|c| c == chain) => {
            return Err(format!("residue {word:?} is of a chain that chain1 does not name"));
        }
        (Some((chain, number)), _) => (chain, number),
        (None, [only]) => (only.as_str(), word),
        (None, _) => return Err(format!("residue {word:?} needs its chain, as in A:45: chain1 names several")),
    };
    let digits = number.char_indices().skip(usize::from(number.starts_with('-')));
    let end = digits.clone().find(|(_, c)| !c.is_ascii_digit()).map_or(number.len(), |(at, _)| at);
    let (resnum, icode) = number.split_at_checked(end).unwrap_or((number, ""));
    let resnum = resnum.parse().map_err(|_| {
        format!("residue {word:?} is no residue number with an insertion code or none, such as 45 or 46A")
    })?;
    Ok(Place { chain: chain.to_owned(), resnum, icode: icode.to_owned() })
}

/// The text without a byte-order mark.
fn body(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
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
