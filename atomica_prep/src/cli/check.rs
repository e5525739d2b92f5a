//! `atomica-prep check`: an index and the files that it names, read but not built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::build::{each_group, Group, Ordered, Stop};
use crate::error::{Error, Result};
use crate::index::{Index, Kind, Row};
use crate::interface::{lacking, Subject};
use crate::read::ligand::LigandFile;
use crate::read::{self, Options};

/// Problems of one kind that are spelled out, unless all are wanted.
const SHOWN: u64 = 20;

/// Something wrong with a row.
struct Problem {
    /// Which index.
    index: usize,
    line: u64,
    /// Column of the index, where one is to blame.
    column: Option<&'static str>,
    id: String,
    error: Error,
    kind: Kind,
}

/// What one group of rows came to.
struct Checked {
    rows: u64,
    problems: Vec<Problem>,
    labels: Vec<(usize, u64, String, String)>,
    splits: Vec<String>,
}

/// What a column of labels holds.
#[derive(Default)]
struct Labels {
    numbers: u64,
    texts: BTreeMap<String, u64>,
    /// Texts beyond those that are kept.
    more: u64,
    first_text: Option<u64>,
}

impl Labels {
    fn add(&mut self, line: u64, text: &str) {
        /// Different texts that are kept.
        const KEPT: usize = 20;
        if text.parse::<f64>().is_ok_and(f64::is_finite) {
            self.numbers += 1;
            return;
        }
        self.first_text.get_or_insert(line);
        if self.texts.len() < KEPT || self.texts.contains_key(text) {
            *self.texts.entry(text.to_owned()).or_default() += 1;
        } else {
            self.more += 1;
        }
    }

    fn note(&self, index: &str, column: &str, rows: u64) -> String {
        let texts = self.texts.values().sum::<u64>() + self.more;
        let empty = rows.saturating_sub(self.numbers + texts);
        let mut note = match (self.numbers, texts) {
            (0, 0) => format!("{index}: {column}: empty in every row"),
            (numbers, 0) => format!("{index}: {column}: {numbers} numbers"),
            (0, _) => {
                let mut names: Vec<String> = self.texts.iter().map(|(text, n)| format!("{text} ({n})")).collect();
                if self.more > 0 {
                    names.push(format!("others ({})", self.more));
                }
                format!("{index}: {column}: classes {}", names.join(", "))
            }
            (numbers, texts) => {
                let first = self.texts.keys().next().map_or("", String::as_str);
                let line = self.first_text.unwrap_or(0);
                format!(
                    "{index}: {column}: {numbers} numbers and {texts} other texts such as {first:?} (the first in line \
                     {line}); a head for numbers cannot use those, a head for classes takes every number for a class"
                )
            }
        };
        if empty > 0 && empty < rows {
            note += &format!("; {empty} rows without one");
        }
        note
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows looked at.
    pub rows: u64,
    /// Problems found.
    pub problems: u64,
    /// Stopped on request.
    pub interrupted: bool,
}

/// Checks indexes and hands every line of the report to `say`, problems in the order of the rows. `tick` hears of
/// rows done and rows in all.
///
/// # Errors
/// A file is not there or is no CSV at all. An index whose header lacks columns is a problem, not an error.
pub fn check(
    paths: &[PathBuf],
    all: bool,
    reading: Options,
    stop: &Stop,
    tick: &(dyn Fn(u64, u64) + Sync),
    say: &(dyn Fn(&str) + Sync),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut indexes = Vec::new();
    for path in paths {
        match Index::open(path) {
            Ok(index) => indexes.push(index),
            Err(error @ Error::IndexColumns { .. }) => {
                outcome.problems += 1;
                say(&error.to_string());
                say(&example(Kind::Chains, &BTreeSet::new()));
            }
            Err(error) => return Err(error),
        }
    }
    let total = indexes.iter().map(Index::len).sum();
    let mut told: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut examples: BTreeMap<Kind, BTreeSet<&'static str>> = BTreeMap::new();
    let mut labels: BTreeMap<(usize, String), Labels> = BTreeMap::new();
    let mut splits: BTreeMap<String, u64> = BTreeMap::new();
    for (number, index) in indexes.iter().enumerate() {
        labels.extend(index.label_columns().map(|c| ((number, c.to_owned()), Labels::default())));
    }
    let mut sink = |checked: Checked| -> Result<()> {
        outcome.rows += checked.rows;
        for problem in checked.problems {
            outcome.problems += 1;
            examples.entry(problem.kind).or_default().extend(problem.column);
            let times = told.entry(problem.error.code()).or_default();
            *times += 1;
            if all || *times <= SHOWN {
                say(&describe(&problem, &indexes));
            }
        }
        for (index, line, column, text) in checked.labels {
            labels.entry((index, column)).or_default().add(line, &text);
        }
        for split in checked.splits {
            *splits.entry(split).or_default() += 1;
        }
        tick(outcome.rows, total);
        Ok(())
    };
    let work = |(index, group): &(usize, Group)| look(*index, group, reading, stop);
    let mut ordered = Ordered::new(&work, &mut sink, stop);
    // One call for all indexes, because ids are unique over all of them.
    let ends: Vec<u64> = indexes
        .iter()
        .scan(0, |end, index| {
            *end += index.len();
            Some(*end)
        })
        .collect();
    let mut seen = 0u64;
    let complete = each_group(&indexes, 0..total, |group| {
        let rows = group.as_ref().map_or(1, Vec::len);
        let index = ends.iter().position(|end| seen < *end).unwrap_or(0);
        seen += rows as u64;
        ordered.push((index, group), rows)
    })?;
    let complete = complete && ordered.finish()?;
    outcome.interrupted = !complete;
    for (code, count) in told.iter().filter(|(_, count)| !all && **count > SHOWN) {
        say(&format!("{} more {code}; --all shows them", count - SHOWN));
    }
    for (kind, columns) in &examples {
        say(&example(*kind, columns));
    }
    if complete {
        for ((index, column), found) in &labels {
            if let Some(index) = indexes.get(*index) {
                say(&found.note(index.path(), column, index.len()));
            }
        }
        if !splits.is_empty() {
            let unknown = splits.keys().any(|s| !["train", "valid", "test"].contains(&s.as_str()));
            let counted: Vec<String> = splits.iter().map(|(name, count)| format!("{name} ({count})")).collect();
            let hint = if unknown { "; the usual names are train, valid, test" } else { "" };
            say(&format!("split: {}{hint}", counted.join(", ")));
        }
    }
    Ok(outcome)
}

/// Reads what a group of rows names.
fn look(index: usize, group: &Group, reading: Options, stop: &Stop) -> Checked {
    let mut checked = Checked { rows: 0, problems: Vec::new(), labels: Vec::new(), splits: Vec::new() };
    if stop.requested() {
        return checked;
    }
    let rows = match group {
        Err(bad) => {
            checked.rows = 1;
            checked.problems.extend(bad.errors.iter().map(|error| Problem {
                index,
                line: bad.line,
                column: None,
                id: bad.id.clone(),
                error: error.clone(),
                kind: bad.kind,
            }));
            return checked;
        }
        Ok(rows) => rows,
    };
    let Some(first) = rows.first() else { return checked };
    let subject = read::read_file(&first.file, &first.path, reading.with(first.assembly)).map(Subject::new);
    let mut ligands: Option<(PathBuf, Result<LigandFile>)> = None;
    for row in rows {
        checked.rows += 1;
        checked.labels.extend(row.labels.iter().map(|(c, text)| (index, row.line, c.clone(), text.clone())));
        checked.splits.extend(row.split.clone());
        let mut problem = |column, error| {
            let id = row.id.clone();
            let problem = Problem { index, line: row.line, column: Some(column), id, error, kind: row.kind() };
            checked.problems.push(problem);
        };
        match &subject {
            Err(error) => problem("path", error.clone()),
            Ok(subject) => lacking(subject, row).into_iter().for_each(|(column, error)| problem(column, error)),
        }
        if let Some((column, error)) = pose(row, &mut ligands, reading) {
            problem(column, error);
        }
    }
    checked
}

/// What is wrong with the ligand file of a row.
fn pose(
    row: &Row,
    ligands: &mut Option<(PathBuf, Result<LigandFile>)>,
    reading: read::Options,
) -> Option<(&'static str, Error)> {
    let wanted = row.ligand_file.as_ref()?;
    if ligands.as_ref().is_none_or(|(file, _)| *file != wanted.file) {
        *ligands = Some((wanted.file.clone(), LigandFile::open(&wanted.file, &wanted.path, reading)));
    }
    match ligands.as_ref().map(|(_, file)| file) {
        Some(Ok(file)) => file.molecule(wanted.index).err().map(|error| match error {
            Error::MissingMolecule { .. } => ("ligand_index", error),
            error => ("ligand_path", error),
        }),
        Some(Err(error)) => Some(("ligand_path", error.clone())),
        None => None,
    }
}

fn describe(problem: &Problem, indexes: &[Index]) -> String {
    let Problem { index, line, column, id, error, .. } = problem;
    let Some(index) = indexes.get(*index) else { return error.to_string() };
    let number = match column {
        Some(name) => index.column_number(name),
        None => error.column(),
    };
    let column = match number.and_then(|n| Some((n, index.column_name(n)?))) {
        Some((number, name)) => format!(", column {number} ({name})"),
        None => String::new(),
    };
    // Errors of the index begin with its name and line themselves.
    let text = error.to_string();
    let text = text.strip_prefix(&format!("{}: line {line}: ", index.path())).unwrap_or(&text);
    let id = if id.is_empty() { String::new() } else { format!("{id}: ") };
    format!("{}: line {line}{column}: {id}{text}", index.path())
}

/// An index to begin from, for interfaces of one modality (or `pocket`). `None` for a modality that is not known.
pub fn example_index(modality: &str) -> Option<String> {
    let rows: &[&str] = match modality.to_ascii_uppercase().as_str() {
        "PP" => &[
            "id,path,chain1,chain2,label,split,modality",
            "1brs_A_D,structures/1brs.cif.gz,A,D,-19.0,train,PP",
            "1ahw_AB_C,structures/1ahw.cif.gz,A_B,C,-11.5,test,PP",
        ],
        "PL" => &[
            "id,path,chain1,chain2,lig_code,lig_resnum,ligand_path,ligand_index,lig_smiles,label,split,modality",
            "3o5r_FK5,structures/3o5r.cif.gz,A,A,FK5,1001,,,,9.4,train,PL",
            "3o5r_pose_0,structures/3o5r.cif.gz,A,,,,docked/poses.sdf,0,,7.1,test,PL",
            "3o5r_pose_1,structures/3o5r.cif.gz,A,,,,docked/out.pdbqt,1,CC(=O)Oc1ccccc1C(=O)O,6.0,test,PL",
        ],
        "PION" => &[
            "id,path,chain1,chain2,lig_code,lig_resnum,label,split,modality",
            "1bs1_MG,structures/1bs1.cif.gz,A,A,MG,901,MG,train,Pion",
        ],
        "PPEPTIDE" => {
            &["id,path,chain1,chain2,label,split,modality", "1ycr_A_B,structures/1ycr.cif.gz,A,B,-9.1,train,Ppeptide"]
        }
        "PRNA" => {
            &["id,path,chain1,chain2,label,split,modality", "1urn_A_P,structures/1urn.cif.gz,A,P,-14.0,train,PRNA"]
        }
        "PDNA" => {
            &["id,path,chain1,chain2,label,split,modality", "1aay_A_BC,structures/1aay.cif.gz,A,B_C,-13.2,train,PDNA"]
        }
        "RNAL" => &[
            "id,path,chain1,chain2,lig_code,lig_resnum,label,split,modality",
            "1f1t_ROS,structures/1f1t.cif.gz,A,A,ROS,38,-8.7,train,RNAL",
        ],
        "CSD" => &[
            "id,path,chain1,lig_code1,lig_resnum1,chain2,lig_code,lig_resnum,split,modality",
            "1abc_HEM_CYN,structures/1abc.cif.gz,A,HEM,201,A,CYN,202,train,CSD",
        ],
        "POCKET" => {
            &["id,path,chain1,residues,label,split", "1abc_site,structures/1abc.cif.gz,A_B,A:45 A:46A B:102,1,train"]
        }
        _ => return None,
    };
    Some(rows.join("\n") + "\n")
}

/// A row that is right, with the columns that were wrong.
fn example(kind: Kind, wrong: &BTreeSet<&'static str>) -> String {
    let mut columns: Vec<(&str, &str)> = kind.example().to_vec();
    for (name, value) in [("lig_icode", "A"), ("lig_resnum", "301"), ("modality", "PL")] {
        if wrong.contains(name) && !columns.iter().any(|(known, _)| *known == name) {
            columns.push((name, value));
        }
    }
    let what = match kind {
        Kind::Chains => "two groups of chains",
        Kind::Ligand => "a ligand of the structure",
        Kind::LigandFile => "a ligand in a file of its own",
        Kind::Ligands => "two ligands of the structure",
        Kind::Pocket => "residues of a pocket, alone",
    };
    let (names, values): (Vec<&str>, Vec<&str>) = columns.into_iter().unzip();
    format!("a row that is right, for {what}:\n  {}\n  {}", names.join(","), values.join(","))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::index::Ids;
    use crate::vocab::MODALITIES;

    #[test]
    fn every_modality_has_an_index_that_is_right() {
        for (number, modality) in (0..).zip(MODALITIES.into_iter().chain(["pocket"])) {
            let text = example_index(&modality.to_ascii_lowercase()).unwrap();
            let index = Index::parse(text.into_bytes(), "x.csv".to_owned(), PathBuf::new()).unwrap();
            let mut ids = Ids::default();
            let rows: Vec<Row> = index.rows(&mut ids).map(|row| row.map_err(|bad| bad.error()).unwrap()).collect();
            assert!(!rows.is_empty());
            for row in rows {
                let pocket = modality == "pocket";
                assert_eq!(row.modality, (!pocket).then_some(number), "{modality}");
                assert_eq!(row.kind() == Kind::Pocket, pocket);
            }
        }
        assert!(example_index("PX").is_none());
    }
}
