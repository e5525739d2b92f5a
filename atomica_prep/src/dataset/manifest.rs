//! `manifest.json`: what a data set was made with, and the shards that it holds.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::read::{Ids, Strictness};

/// Version of the shard schema that this crate writes.
pub const SCHEMA_VERSION: u32 = 2;
/// Version of the crate, written into every manifest.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";

/// One of several parts of the inputs, for jobs that share a build: all inputs in order, cut into equal stretches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which, from 1.
    pub number: u64,
    /// Of how many.
    pub of: u64,
}

impl Part {
    /// Everything.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// The inputs of this part, of `total` ones.
    ///
    /// ```
    /// use atomica_prep::dataset::Part;
    /// let parts: Vec<_> = (1..=3).map(|number| Part { number, of: 3 }.range(10)).collect();
    /// assert_eq!(parts, [0..3, 3..6, 6..10]);
    /// ```
    pub fn range(self, total: u64) -> Range<u64> {
        let cut = |number: u64| {
            let place = u128::from(total) * u128::from(number) / u128::from(self.of.max(1));
            u64::try_from(place).unwrap_or(total).min(total)
        };
        cut(self.number.saturating_sub(1))..cut(self.number)
    }
}

/// How the buffers of a shard are packed. Only unpacked ones can be read without copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// Zstandard frames.
    Zstd,
    /// LZ4 frames.
    Lz4,
}

/// A finished shard, as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name.
    pub file: String,
    /// Complexes in it.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Its checksum, hex.
    pub sha256: String,
}

/// Sums over a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of the index.
    pub inputs: u64,
    /// Complexes written.
    pub complexes: u64,
    /// Lines of the ledger.
    pub failures: u64,
    /// Blocks, global ones included.
    pub blocks: u64,
    /// Atoms, global ones included.
    pub atoms: u64,
}

/// The vocabularies a data set was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// Block types.
    pub blocks: u64,
    /// Atom types.
    pub atoms: u64,
    /// Name of the fragment vocabulary, or `none`.
    pub fragments: String,
    /// SHA-256 of its file.
    pub fragments_sha256: Option<String>,
    /// Its entries.
    pub fragment_entries: u64,
}

/// The options a data set was made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildOptions {
    /// Å.
    pub cutoff: f64,
    /// `all-pairs` or `reference`.
    pub interface_rule: String,
    /// Stored neighbours.
    pub neighbors: u64,
    /// Packing of the shards.
    pub compression: Compression,
    /// Complexes of a full shard.
    pub shard_rows: u64,
    /// Name of the fragment vocabulary, or `none`.
    pub fragments: String,
    /// `lenient` or `strict`.
    #[serde(default)]
    pub strictness: Strictness,
    /// Whose chain ids and residue numbers; not written where they are the author's.
    #[serde(default, skip_serializing_if = "Ids::usual")]
    pub ids: Ids,
}

/// `manifest.json`. It holds no times, so equal builds are equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the shard schema.
    pub schema_version: u32,
    /// Version of this crate.
    pub atomica_prep_version: String,
    /// Options of the build.
    pub options: BuildOptions,
    /// Å.
    pub cutoff: f64,
    /// Stored neighbours.
    pub neighbors: u64,
    /// Vocabularies.
    pub vocabulary: Vocabulary,
    /// Checksum over options and inputs; all parts of one build have the same. Empty in data sets of old.
    #[serde(default)]
    pub fingerprint: String,
    /// Which part of the inputs this is, if it is not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// Sums.
    pub counts: Counts,
    /// The shards in order.
    pub shards: Vec<ShardEntry>,
}

/// Reads the manifest of a data set.
///
/// # Errors
/// There is none, or it is of another version.
pub fn read_manifest(folder: &Path) -> Result<Manifest> {
    let wrong = |reason: String| Error::NotADataset { path: folder.display().to_string(), reason };
    let mut text = Vec::new();
    File::open(folder.join(MANIFEST))
        .and_then(|mut f| f.read_to_end(&mut text))
        .map_err(|e| wrong(format!("{MANIFEST}: {e}")))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| wrong(format!("{MANIFEST}: {e}")))?;
    if manifest.schema_version != SCHEMA_VERSION {
        return Err(wrong(format!(
            "its schema has version {}, this program reads version {}",
            manifest.schema_version, SCHEMA_VERSION
        )));
    }
    // A manifest from elsewhere must not make this program read files from elsewhere.
    let plain = |file: &str| Path::new(file).file_name().is_some_and(|name| name == file);
    if let Some(entry) = manifest.shards.iter().find(|entry| !plain(&entry.file)) {
        return Err(wrong(format!("{MANIFEST}: {:?} is not the name of a file in the folder", entry.file)));
    }
    Ok(manifest)
}
