//! Many molecules against one receptor: rows that nobody has to write.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::files::{sha256_hex, sha256_of};
use crate::index::{LigandRef, Row};
use crate::interface::{polymer_side, Rule, Subject};
use crate::read::ligand::LigandFile;
use crate::read::{self, pieces, stem_of};

/// A receptor, read, and the molecules of ligand files, which are read when they are worked on: a million of them take
/// no more memory than some hundred, but for twelve bytes each.
pub(super) struct Poses {
    subject: Arc<Subject>,
    path: String,
    chain1: Vec<String>,
    files: Vec<PoseFile>,
    /// Of each molecule, the how many-th of its title it is, from 1; 0 if its title is its own.
    numbers: Vec<u32>,
    /// Hashes of all titles, in order.
    titles: Vec<u64>,
    reading: read::Options,
    /// Checksum over the receptor and the ligand files.
    pub(super) sha256: String,
}

struct PoseFile {
    /// Its whole path.
    shown: String,
    molecules: usize,
    /// Why it cannot be read.
    broken: Option<Box<Error>>,
}

/// Molecules that are worked on together: their rows, the receptor and their file, or why it cannot be read.
pub(super) type Group = (Vec<Row>, Arc<Subject>, Result<Arc<LigandFile>>);

/// So that one file with many molecules does not keep a single thread busy.
const TOGETHER: usize = 64;

impl Poses {
    /// Reads the receptor, and the titles of all molecules. A ligand file that is damaged is a failure of one molecule.
    ///
    /// # Errors
    /// The receptor cannot be read or has no polymer, or a file is not there.
    pub(super) fn open(receptor: &Path, ligands: &[PathBuf], reading: read::Options) -> Result<Self> {
        let path = absolute(receptor)?;
        let source = read::read_file(receptor, &path, reading)?;
        let mut sums = vec![source.sha256.clone()];
        let subject = Subject::new(source);
        let chains = &subject.structure().chains;
        let chain1: Vec<String> = chains
            .iter()
            .enumerate()
            .filter(|(chain, _)| !polymer_side(&subject, &[*chain], Rule::AllPairs, &[]).blocks.is_empty())
            .map(|(_, id)| id.clone())
            .collect();
        if chain1.is_empty() {
            return Err(Error::EmptyPartner { path, chains: chains.join("_") });
        }
        let mut files = Vec::with_capacity(ligands.len());
        let mut hashes: Vec<(u64, usize)> = Vec::new();
        for file in ligands {
            let shown = absolute(file)?;
            sums.push(sha256_of(file).map_err(|e| Error::Io { path: shown.clone(), reason: e.to_string() })?);
            let before = hashes.len();
            let read = pieces::each(file, &shown, reading, |piece| {
                let own = piece.first()..piece.first() + piece.len();
                hashes.extend(own.map(|index| hash(&title(&piece, index, &shown))).zip(hashes.len()..));
                Ok(true)
            });
            let broken = read.err().map(Box::new);
            if broken.is_some() {
                hashes.truncate(before);
                hashes.push((hash(stem_of(&shown)), before));
            }
            sums.push(shown.clone());
            files.push(PoseFile { shown, molecules: hashes.len() - before, broken });
        }
        hashes.sort_unstable();
        let mut numbers = vec![0; hashes.len()];
        for same in hashes.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
            for (number, (_, at)) in (1..).zip(same) {
                if let Some(slot) = numbers.get_mut(*at) {
                    *slot = number;
                }
            }
        }
        let mut titles: Vec<u64> = hashes.into_iter().map(|(hash, _)| hash).collect();
        titles.dedup();
        titles.shrink_to_fit();
        let sha256 = sha256_hex(sums.join("\n").as_bytes());
        Ok(Self { subject: Arc::new(subject), path, chain1, files, numbers, titles, reading, sha256 })
    }

    /// How many molecules there are.
    pub(super) fn len(&self) -> u64 {
        self.numbers.len() as u64
    }

    /// Hands on the molecules with the numbers `wanted`, from 0. Gives whether it came to the end.
    pub(super) fn each_group(&self, wanted: Range<u64>, mut give: impl FnMut(Group) -> Result<bool>) -> Result<bool> {
        let mut before = 0;
        for file in &self.files {
            let last = before + file.molecules;
            let mine = |at: usize| wanted.contains(&(at as u64));
            let mut numbers = (before..last).filter(|at| mine(*at)).peekable();
            if numbers.peek().is_none() {
                before = last;
                continue;
            }
            let mut hand = |piece: Result<Arc<LigandFile>>, own: &[usize]| {
                for group in own.chunks(TOGETHER) {
                    let rows = group.iter().map(|at| self.row(file, piece.as_ref().ok(), *at, *at - before)).collect();
                    if !give((rows, self.subject.clone(), piece.clone()))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            let mut failed = None;
            let mut read = |piece: LigandFile| {
                let end = before + piece.first() + piece.len();
                let own: Vec<usize> = std::iter::from_fn(|| numbers.next_if(|at| *at < end)).collect();
                // What this says is no damage of the file.
                hand(Ok(Arc::new(piece)), &own).or_else(|error| {
                    failed = Some(error);
                    Ok(false)
                })
            };
            let complete = match &file.broken {
                Some(error) => Err((**error).clone()),
                None => pieces::each(Path::new(&file.shown), &file.shown, self.reading, &mut read),
            };
            match (complete, failed) {
                (_, Some(error)) => return Err(error),
                (Ok(false), None) => return Ok(false),
                // Fewer molecules than when they were counted: each of the others says so.
                (complete, None) => {
                    let others: Vec<usize> = numbers.collect();
                    let count = file.molecules.saturating_sub(others.len()) as u64;
                    let missing = Error::MissingMolecule { path: file.shown.clone(), index: count, count };
                    if !hand(Err(complete.err().unwrap_or(missing)), &others)? {
                        return Ok(false);
                    }
                }
            }
            before = last;
        }
        Ok(true)
    }

    /// The row of a molecule: `at` among all, `index` in its file.
    fn row(&self, file: &PoseFile, piece: Option<&Arc<LigandFile>>, at: usize, index: usize) -> Row {
        let title = piece.map_or_else(|| stem_of(&file.shown).to_owned(), |piece| title(piece, index, &file.shown));
        let id = match self.numbers.get(at).and_then(|number| number.checked_sub(1)) {
            None => title,
            Some(number) => {
                let mut id = format!("{title}_{number}");
                // Another molecule may have that for its title.
                while self.titles.binary_search(&hash(&id)).is_ok() {
                    id.push('_');
                }
                id
            }
        };
        Row {
            line: at as u64 + 2, // as in an index, where they would stand below a header
            id,
            path: self.path.clone(),
            file: PathBuf::from(&self.path),
            chain1: self.chain1.clone(),
            ligand_file: Some(LigandRef {
                path: file.shown.clone(),
                file: file.shown.clone().into(),
                index,
                chosen: true,
            }),
            metadata: vec![
                ("ligand_path".to_owned(), file.shown.clone()),
                ("ligand_index".to_owned(), index.to_string()),
            ],
            ..Row::default()
        }
    }
}

/// What a molecule is called: by its title, or by the name of its file.
fn title(file: &LigandFile, index: usize, shown: &str) -> String {
    let title: String = file.title(index).chars().filter(|c| !c.is_control()).collect();
    Some(title.trim()).filter(|t| !t.is_empty()).unwrap_or_else(|| stem_of(shown)).to_owned()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The whole path, which a record keeps.
fn absolute(path: &Path) -> Result<String> {
    let wrong = |reason: &str| Error::Usage { message: format!("{}: {reason}", path.display()) };
    let whole = std::path::absolute(path).map_err(|e| wrong(&e.to_string()))?;
    whole.to_str().map(str::to_owned).ok_or_else(|| wrong("its name is not UTF-8 text; rename it"))
}
