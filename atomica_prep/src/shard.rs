//! Arrow shards, the manifest, and the ledger of failures.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::{ArrowPrimitiveType, Float32Type, Int32Type, Int8Type, UInt16Type, UInt32Type, UInt8Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, ListArray, MapArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::{CompressionType, MetadataVersion};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::interface::Record;
use crate::pipeline::Part;
use crate::read::Strictness;

/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// Name of the ledger.
pub const FAILURES: &str = "failures.jsonl";

/// Name of the list of repairs.
pub const REPAIRS: &str = "repairs.jsonl";

/// SHA-256 as hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
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

/// Writes a file under a temporary name, flushes it to the disk and renames it.
///
/// # Errors
/// The folder cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let wrong = |e: std::io::Error| Error::Write { path: path.display().to_string(), reason: e.to_string() };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary).map_err(wrong)?;
    file.write_all(bytes).map_err(wrong)?;
    file.sync_all().map_err(wrong)?;
    drop(file);
    std::fs::rename(&temporary, path).map_err(wrong)?;
    // The new name is safe only once the folder is; not every system lets one open folders.
    if let Some(folder) = path.parent().and_then(|p| File::open(p).ok()) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// JSON with a line end.
///
/// # Errors
/// Never for the types of this module; kept so that no caller has to promise it.
pub fn to_json(value: &impl Serialize, path: &Path) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::Write { path: path.display().to_string(), reason: e.to_string() })?;
    text.push(b'\n');
    Ok(text)
}

/// Lists of numbers of many rows, one after the other.
#[derive(Debug)]
struct Lists<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    offsets: Vec<i32>,
}

impl<T: ArrowPrimitiveType> Default for Lists<T> {
    fn default() -> Self {
        Self { values: Vec::new(), offsets: vec![0] }
    }
}

fn end_of(length: usize) -> i32 {
    // `is_full` ends a shard long before.
    i32::try_from(length).unwrap_or(i32::MAX)
}

impl<T: ArrowPrimitiveType> Lists<T> {
    fn push(&mut self, row: &[T::Native]) {
        self.values.extend_from_slice(row);
        self.offsets.push(end_of(self.values.len()));
    }

    fn finish(self) -> std::result::Result<ArrayRef, ArrowError> {
        let values = PrimitiveArray::<T>::new(ScalarBuffer::from(self.values), None);
        list(self.offsets, Arc::new(values))
    }
}

fn offsets_of(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn list(offsets: Vec<i32>, values: ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    Ok(Arc::new(ListArray::try_new(field, offsets_of(offsets), values, None)?))
}

/// Texts, one after the other.
#[derive(Debug)]
struct Texts {
    bytes: Vec<u8>,
    offsets: Vec<i32>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { bytes: Vec::new(), offsets: vec![0] }
    }
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.offsets.push(end_of(self.bytes.len()));
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn finish(self, nulls: Option<NullBuffer>) -> std::result::Result<StringArray, ArrowError> {
        StringArray::try_new(offsets_of(self.offsets), Buffer::from_vec(self.bytes), nulls)
    }
}

/// Lists of texts of many rows.
#[derive(Debug)]
struct TextLists {
    texts: Texts,
    offsets: Vec<i32>,
}

impl Default for TextLists {
    fn default() -> Self {
        Self { texts: Texts::default(), offsets: vec![0] }
    }
}

impl TextLists {
    fn push<'a>(&mut self, row: impl Iterator<Item = &'a str>) {
        for text in row {
            self.texts.push(text);
        }
        self.offsets.push(end_of(self.texts.len()));
    }

    fn finish(self) -> std::result::Result<ArrayRef, ArrowError> {
        list(self.offsets, Arc::new(self.texts.finish(None)?))
    }
}

/// Maps from text to text of many rows.
#[derive(Debug)]
struct Maps {
    keys: Texts,
    values: Texts,
    offsets: Vec<i32>,
}

impl Default for Maps {
    fn default() -> Self {
        Self { keys: Texts::default(), values: Texts::default(), offsets: vec![0] }
    }
}

impl Maps {
    fn push(&mut self, row: &[(String, String)]) {
        for (key, value) in row {
            self.keys.push(key);
            self.values.push(value);
        }
        self.offsets.push(end_of(self.keys.len()));
    }

    fn finish(self) -> std::result::Result<ArrayRef, ArrowError> {
        let fields =
            Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
        let columns: Vec<ArrayRef> = vec![Arc::new(self.keys.finish(None)?), Arc::new(self.values.finish(None)?)];
        let entries = StructArray::try_new(fields, columns, None)?;
        let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
        Ok(Arc::new(MapArray::try_new(field, offsets_of(self.offsets), entries, None, false)?))
    }
}

/// The records of a shard that is being filled, column by column.
#[derive(Debug, Default)]
pub struct ShardBuilder {
    rows: usize,
    atoms: usize,
    blocks: usize,
    id: Texts,
    modality: Vec<i8>,
    split: Texts,
    split_known: Vec<bool>,
    labels: Maps,
    metadata: Maps,
    block_types: Lists<UInt16Type>,
    block_lengths: Lists<UInt32Type>,
    segment_ids: Lists<UInt8Type>,
    atom_types: Lists<UInt8Type>,
    coordinates: Vec<f32>,
    position_offsets: Vec<i32>,
    atom_intra: Lists<Int32Type>,
    atom_inter: Lists<Int32Type>,
    block_intra: Lists<Int32Type>,
    block_inter: Lists<Int32Type>,
    torsion_fixed: Lists<Int32Type>,
    torsion_moving: Lists<Int32Type>,
    torsion_sizes: Lists<UInt32Type>,
    torsion_atoms: Lists<Int32Type>,
    bond_first: Lists<Int32Type>,
    bond_second: Lists<Int32Type>,
    bond_orders: Lists<UInt8Type>,
    block_chains: TextLists,
    block_resnums: Lists<Int32Type>,
    block_icodes: TextLists,
    block_components: TextLists,
    atom_names: TextLists,
    source_path: Texts,
    source_sha256: Texts,
    ligand_chemistry: Texts,
}

/// Numbers in the longest column of a shard, beyond which it is closed early: far below the 2³¹ that offsets count,
/// and it bounds the memory of a build.
pub(crate) const MAX_VALUES: usize = 1 << 26;

impl ShardBuilder {
    /// Adds a record.
    pub fn push(&mut self, record: &Record) {
        self.rows += 1;
        self.atoms += record.atom_types.len();
        self.blocks += record.block_types.len();
        self.id.push(&record.id);
        self.modality.push(record.modality);
        self.split.push(record.split.as_deref().unwrap_or(""));
        self.split_known.push(record.split.is_some());
        self.labels.push(&record.labels);
        self.metadata.push(&record.metadata);
        self.block_types.push(&record.block_types);
        self.block_lengths.push(&record.block_lengths);
        self.segment_ids.push(&record.segment_ids);
        self.atom_types.push(&record.atom_types);
        if self.position_offsets.is_empty() {
            self.position_offsets.push(0);
        }
        self.coordinates.extend_from_slice(record.positions.as_flattened());
        self.position_offsets.push(end_of(self.coordinates.len() / 3));
        self.atom_intra.push(&record.atom_intra);
        self.atom_inter.push(&record.atom_inter);
        self.block_intra.push(&record.block_intra);
        self.block_inter.push(&record.block_inter);
        self.torsion_fixed.push(&record.torsions.fixed);
        self.torsion_moving.push(&record.torsions.moving);
        self.torsion_sizes.push(&record.torsions.sizes);
        self.torsion_atoms.push(&record.torsions.atoms);
        self.bond_first.push(&record.bond_first);
        self.bond_second.push(&record.bond_second);
        self.bond_orders.push(&record.bond_orders);
        self.block_chains.push(record.block_chains.iter().map(String::as_str));
        self.block_resnums.push(&record.block_resnums);
        self.block_icodes.push(record.block_icodes.iter().map(crate::read::Name::as_str));
        self.block_components.push(record.block_components.iter().map(crate::read::Name::as_str));
        self.atom_names.push(record.atom_names.iter().map(crate::read::Name::as_str));
        self.source_path.push(&record.source_path);
        self.source_sha256.push(&record.source_sha256);
        self.ligand_chemistry.push(record.ligand_chemistry);
    }

    /// Records so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Atoms so far.
    pub fn atoms(&self) -> usize {
        self.atoms
    }

    /// Blocks so far.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// As many records as asked for, or as many numbers as a shard should hold.
    pub fn is_full(&self, rows: usize) -> bool {
        self.rows >= rows || self.longest() >= MAX_VALUES
    }

    fn longest(&self) -> usize {
        self.atom_intra.values.len().max(self.coordinates.len()).max(self.torsion_atoms.values.len())
    }

    fn batch(self) -> std::result::Result<RecordBatch, ArrowError> {
        let coordinates = PrimitiveArray::<Float32Type>::new(ScalarBuffer::from(self.coordinates), None);
        let item = Arc::new(Field::new_list_field(DataType::Float32, true));
        let points = FixedSizeListArray::try_new(item, 3, Arc::new(coordinates), None)?;
        let split = self.split.finish(Some(NullBuffer::from(self.split_known)))?;
        let modality: ArrayRef = Arc::new(PrimitiveArray::<Int8Type>::new(ScalarBuffer::from(self.modality), None));
        let position_offsets = if self.position_offsets.is_empty() { vec![0] } else { self.position_offsets };
        // In the order of the schema.
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(self.id.finish(None)?)),
            ("modality", modality),
            ("split", Arc::new(split)),
            ("labels", self.labels.finish()?),
            ("metadata", self.metadata.finish()?),
            ("block_types", self.block_types.finish()?),
            ("block_lengths", self.block_lengths.finish()?),
            ("segment_ids", self.segment_ids.finish()?),
            ("atom_types", self.atom_types.finish()?),
            ("positions", list(position_offsets, Arc::new(points))?),
            ("atom_intra", self.atom_intra.finish()?),
            ("atom_inter", self.atom_inter.finish()?),
            ("block_intra", self.block_intra.finish()?),
            ("block_inter", self.block_inter.finish()?),
            ("torsion_fixed", self.torsion_fixed.finish()?),
            ("torsion_moving", self.torsion_moving.finish()?),
            ("torsion_sizes", self.torsion_sizes.finish()?),
            ("torsion_atoms", self.torsion_atoms.finish()?),
            ("bond_first", self.bond_first.finish()?),
            ("bond_second", self.bond_second.finish()?),
            ("bond_orders", self.bond_orders.finish()?),
            ("block_chains", self.block_chains.finish()?),
            ("block_resnums", self.block_resnums.finish()?),
            ("block_icodes", self.block_icodes.finish()?),
            ("block_components", self.block_components.finish()?),
            ("atom_names", self.atom_names.finish()?),
            ("source_path", Arc::new(self.source_path.finish(None)?)),
            ("source_sha256", Arc::new(self.source_sha256.finish(None)?)),
            ("ligand_chemistry", Arc::new(self.ligand_chemistry.finish(None)?)),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, array)| Field::new(*name, array.data_type().clone(), *name == "split"))
            .collect();
        let metadata: std::collections::HashMap<_, _> =
            [("schema_version".to_owned(), crate::SCHEMA_VERSION.to_string())].into();
        let schema = Schema::new_with_metadata(fields, metadata);
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array)| array).collect())
    }

    /// Writes the records as one Arrow IPC file with one record batch.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(self, folder: &Path, number: usize, compression: Compression) -> Result<ShardEntry> {
        let path = folder.display().to_string();
        let batch = self.batch().map_err(|e| Error::Write { path, reason: e.to_string() })?;
        write_batch(&batch, folder, number, compression)
    }
}

/// Writes one record batch as an Arrow IPC file.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn write_batch(
    batch: &RecordBatch,
    folder: &Path,
    number: usize,
    compression: Compression,
) -> Result<ShardEntry> {
    let file = format!("shard-{number:05}.arrow");
    let path = folder.join(&file);
    let wrong = |e: ArrowError| Error::Write { path: path.display().to_string(), reason: e.to_string() };
    let compression = match compression {
        Compression::None => None,
        Compression::Zstd => Some(CompressionType::ZSTD),
        Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
    };
    // 64 bytes, so that mapped columns are aligned for any vector unit.
    let options = IpcWriteOptions::try_new(64, false, MetadataVersion::V5)
        .and_then(|o| o.try_with_compression(compression))
        .map_err(wrong)?;
    let mut bytes = Vec::with_capacity(batch.get_array_memory_size());
    let mut writer = FileWriter::try_new_with_options(&mut bytes, &batch.schema(), options).map_err(wrong)?;
    writer.write(batch).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    drop(writer);
    // The checksum is made while the disk works.
    let (written, sha256) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write_atomically(&path, &bytes));
        let sha256 = sha256_hex(&bytes);
        (writing.join(), sha256)
    });
    written.map_err(|_| wrong(ArrowError::ComputeError("the thread that wrote it ended early".to_owned())))??;
    Ok(ShardEntry { file, rows: batch.num_rows() as u64, bytes: bytes.len() as u64, sha256 })
}
