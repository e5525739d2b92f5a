//! What is to be built.

use std::path::PathBuf;

use crate::dataset::{BuildOptions, Compression, Part, Vocabulary};
use crate::discover::{FOUND, LEFT_OUT};
use crate::interface::{self, Rule};
use crate::read;
use crate::vocab;

/// What to do with a folder that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone.
    Refuse,
    /// Continue an interrupted build.
    Resume,
    /// Replace the data set in it.
    Overwrite,
}

/// What a build starts from.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Index files, whose rows say what to build.
    Indexes(Vec<PathBuf>),
    /// One receptor, and files of molecules, each of which makes a complex with it.
    Poses {
        /// A structure file.
        receptor: PathBuf,
        /// Ligand files.
        ligands: Vec<PathBuf>,
    },
    /// Structure files and folders of them, in which interfaces are looked for.
    Structures {
        /// Files and folders.
        paths: Vec<PathBuf>,
        /// Take additives of crystallisation for ligands as well.
        keep_additives: bool,
    },
}

/// A build to do.
#[derive(Debug, Clone)]
pub struct Build {
    /// What to build from.
    pub inputs: Inputs,
    /// Output folder.
    pub out: PathBuf,
    /// How structures are read.
    pub reading: read::Options,
    /// How interfaces are cut.
    pub interface: interface::Options,
    /// Packing of the shards.
    pub compression: Compression,
    /// Complexes of a full shard.
    pub shard_rows: usize,
    /// What to do with a folder that holds something.
    pub existing: Existing,
    /// Which part of the inputs.
    pub part: Part,
}

impl Build {
    pub(super) fn options(&self) -> BuildOptions {
        BuildOptions {
            cutoff: self.interface.cutoff,
            interface_rule: match self.interface.rule {
                Rule::AllPairs => "all-pairs".to_owned(),
                Rule::Reference => "reference".to_owned(),
            },
            neighbors: self.interface.neighbors as u64,
            compression: self.compression,
            shard_rows: self.shard_rows as u64,
            fragments: self.vocabulary().fragments,
            strictness: self.reading.strictness,
            ids: self.reading.ids,
        }
    }

    /// Does this build keep the ledger of that name?
    pub(super) fn writes(&self, ledger: &str) -> bool {
        ![FOUND, LEFT_OUT].contains(&ledger) || matches!(self.inputs, Inputs::Structures { .. })
    }

    pub(super) fn vocabulary(&self) -> Vocabulary {
        match &self.interface.fragments {
            None => Vocabulary {
                blocks: vocab::BLOCKS as u64,
                atoms: vocab::ATOMS as u64,
                fragments: "none".to_owned(),
                fragments_sha256: None,
                fragment_entries: 0,
            },
            Some(table) => Vocabulary {
                blocks: table.vocabulary.block_types,
                atoms: vocab::ATOMS as u64,
                fragments: table.vocabulary.name.clone(),
                fragments_sha256: Some(table.vocabulary.sha256.clone()),
                fragment_entries: table.vocabulary.entries,
            },
        }
    }
}
