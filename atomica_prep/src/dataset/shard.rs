//! Arrow shards, written and read.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::{ArrowPrimitiveType, Float32Type, Int32Type, Int8Type, UInt16Type, UInt32Type, UInt8Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, ListArray, MapArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::reader::{read_footer_length, FileReader, FileReaderBuilder};
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_ipc::{root_as_footer, root_as_message, Block, CompressionType, MetadataVersion};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};

use super::manifest::{Compression, ShardEntry, SCHEMA_VERSION};
use crate::error::{Error, Result};
use crate::files::{sha256_hex, write_atomically};
use crate::record::Record;
use crate::structure::Name;

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
        self.block_icodes.push(record.block_icodes.iter().map(Name::as_str));
        self.block_components.push(record.block_components.iter().map(Name::as_str));
        self.atom_names.push(record.atom_names.iter().map(Name::as_str));
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
            [("schema_version".to_owned(), SCHEMA_VERSION.to_string())].into();
        let schema = Schema::new_with_metadata(fields, metadata);
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array)| array).collect())
    }

    /// The records as one Arrow IPC file with one record batch; `path` is its name in messages.
    ///
    /// # Errors
    /// Never for records that this crate made.
    pub fn to_bytes(self, path: &Path, compression: Compression) -> Result<Vec<u8>> {
        let batch =
            self.batch().map_err(|e| Error::Write { path: path.display().to_string(), reason: e.to_string() })?;
        encode(&batch, path, compression)
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

/// The bytes of an Arrow IPC file with one record batch; `path` is its name in messages.
fn encode(batch: &RecordBatch, path: &Path, compression: Compression) -> Result<Vec<u8>> {
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
    Ok(bytes)
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
    let bytes = encode(batch, &path, compression)?;
    // The checksum is made while the disk works.
    let (written, sha256) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write_atomically(&path, &bytes));
        let sha256 = sha256_hex(&bytes);
        (writing.join(), sha256)
    });
    let ended = |_| Error::Write {
        path: path.display().to_string(),
        reason: "the thread that wrote it ended early".to_owned(),
    };
    written.map_err(ended)??;
    Ok(ShardEntry { file, rows: batch.num_rows() as u64, bytes: bytes.len() as u64, sha256 })
}

/// Bytes that the packed columns of one record batch may claim to unpack to. A full shard holds about 1 GiB.
pub const MAX_UNPACKED: u64 = 1 << 32;

/// What is wrong with a shard.
type Checked<T> = std::result::Result<T, String>;

/// The record batches of a shard, one after the other. With `columns`, only these are read.
///
/// # Errors
/// The file cannot be opened, is no shard of this schema version, or is damaged where its footer can tell.
pub fn open_shard(path: &Path, columns: Option<&[&str]>) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::NotADataset { path: shown.clone(), reason: e.to_string() })?;
    read_shard(BufReader::new(file), &shown, columns)
}

/// As [`open_shard`], from any reader; `shown` is its name in messages.
///
/// # Errors
/// As those of [`open_shard`].
pub fn read_shard<R: Read + Seek>(
    mut reader: R,
    shown: &str,
    columns: Option<&[&str]>,
) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let path = shown.to_owned();
    let wrong = move |reason: String| Error::NotADataset { path: path.clone(), reason };
    let blocks = check_footer(&mut reader).map_err(&wrong)?;
    // Arrow's reader has seen nothing but the footer yet when it has told the schema.
    let schema = check_schema(&mut reader).map_err(|e| wrong(e.to_string()))?;
    let offsets = offset_buffers(&schema);
    for (block, limit) in &blocks {
        check_block(&mut reader, block, *limit, &offsets).map_err(&wrong)?;
    }
    let projection = columns.map(|names| names.iter().map(|n| schema.index_of(n)).collect()).transpose();
    let batches = projection.and_then(|p| FileReader::try_new(reader, p)).map_err(|e| wrong(e.to_string()))?;
    Ok(batches.map(move |batch| batch.map_err(|e| wrong(e.to_string()))))
}

/// The schema of a shard, if it is that of this version.
fn check_schema(reader: &mut (impl Read + Seek)) -> std::result::Result<SchemaRef, ArrowError> {
    let wanted = ShardBuilder::default().batch()?.schema();
    let found = FileReaderBuilder::new().build(reader)?.schema();
    let same =
        |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type().equals_datatype(b.data_type());
    if found.fields().len() != wanted.fields().len() || !wanted.fields().iter().zip(found.fields()).all(same) {
        let reason = format!("its columns are not those of schema {}", SCHEMA_VERSION);
        return Err(ArrowError::SchemaError(reason));
    }
    Ok(wanted)
}

/// For every buffer of a record batch, whether it holds offsets.
fn offset_buffers(schema: &Schema) -> Vec<bool> {
    fn add(kind: &DataType, out: &mut Vec<bool>) {
        // The first one says which values are missing.
        out.push(false);
        match kind {
            DataType::Utf8 => out.extend([true, false]),
            DataType::List(item) | DataType::Map(item, _) => {
                out.push(true);
                add(item.data_type(), out);
            }
            DataType::FixedSizeList(item, _) => add(item.data_type(), out),
            DataType::Struct(members) => members.iter().for_each(|m| add(m.data_type(), out)),
            _ => out.push(false),
        }
    }
    let mut out = Vec::new();
    schema.fields().iter().for_each(|field| add(field.data_type(), &mut out));
    out
}

/// The record batches of a file, and where the last one must have ended.
///
/// Here and in [`check_block`] every length in the file is compared with the file itself, because Arrow's reader
/// believes them: it would ask for as much memory as a damaged byte says.
fn check_footer(reader: &mut (impl Read + Seek)) -> Checked<Vec<(Block, u64)>> {
    /// Magic bytes and padding at the front.
    const FRONT: u64 = 8;
    /// Length of the footer, and the magic bytes again.
    const BACK: u64 = 10;
    let size = reader.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    let end = size.checked_sub(BACK).filter(|e| *e >= FRONT).ok_or("it is too short to be an Arrow file")?;
    let back = read_at(reader, end, BACK)?.try_into().unwrap_or_default();
    let length = read_footer_length(back).map_err(|e| e.to_string())? as u64;
    let body_end = end.checked_sub(length).filter(|e| *e >= FRONT).ok_or("its footer is longer than the file")?;
    let footer = read_at(reader, body_end, length)?;
    let footer = root_as_footer(&footer).map_err(|e| format!("its footer is damaged: {e}"))?;
    if footer.dictionaries().is_some_and(|d| !d.is_empty()) {
        return Err("it holds dictionaries, which no shard has".to_owned());
    }
    Ok(footer.recordBatches().into_iter().flatten().map(|block| (*block, body_end)).collect())
}

fn read_at(reader: &mut (impl Read + Seek), start: u64, length: u64) -> Checked<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
    reader.seek(SeekFrom::Start(start)).and_then(|_| reader.read_exact(&mut bytes)).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Where a piece of a file lies, if it ends before `limit`.
fn piece(offset: i64, length: i64, limit: u64) -> Option<(u64, u64)> {
    let (offset, length) = (u64::try_from(offset).ok()?, u64::try_from(length).ok()?);
    offset.checked_add(length).filter(|end| *end <= limit)?;
    Some((offset, length))
}

fn check_block(reader: &mut (impl Read + Seek), block: &Block, limit: u64, offsets: &[bool]) -> Checked<()> {
    let outside = || "a record batch lies outside of the file".to_owned();
    let (start, length) = piece(block.offset(), i64::from(block.metaDataLength()), limit).ok_or_else(outside)?;
    let body = start + length;
    let (_, body_length) = piece(block.offset(), block.bodyLength(), limit).ok_or_else(outside)?;
    if body.checked_add(body_length).is_none_or(|end| end > limit) {
        return Err(outside());
    }
    let head = read_at(reader, start, length)?;
    // A marker and the length of the message, in old files the length alone.
    let skip = if head.starts_with(&[0xff; 4]) { 8 } else { 4 };
    let message = head.get(skip..).ok_or("a record batch has no head")?;
    let message = root_as_message(message).map_err(|e| format!("the head of a record batch is damaged: {e}"))?;
    let batch = message.header_as_record_batch().ok_or("a record batch has the head of something else")?;
    let packed = batch.compression().is_some();
    let mut unpacked: u64 = 0;
    for (buffer, is_offsets) in batch.buffers().into_iter().flatten().zip(offsets) {
        let inside = piece(buffer.offset(), buffer.length(), body_length);
        let (offset, mut length) = inside.ok_or("a column lies outside of its record batch")?;
        if packed && length > 0 {
            let claim = read_at(reader, body + offset, length.min(8))?;
            let claim = claim.try_into().map(i64::from_le_bytes).map_err(|_| "a packed column has no length")?;
            // -1: not packed after all.
            length = if claim == -1 { length - 8 } else { u64::try_from(claim).unwrap_or(u64::MAX) };
            unpacked = unpacked.saturating_add(length);
        }
        if *is_offsets && length % 4 != 0 {
            return Err(format!("the offsets of a column take {length} bytes, which is no multiple of 4"));
        }
    }
    if unpacked > MAX_UNPACKED {
        return Err(format!("a record batch unpacks to {unpacked} bytes, more than the {MAX_UNPACKED} of any shard"));
    }
    for node in batch.nodes().into_iter().flatten() {
        let rows = u64::try_from(node.length()).ok().filter(|rows| *rows <= MAX_UNPACKED);
        if rows.is_none() || node.null_count() < 0 || node.null_count() > node.length() {
            return Err(format!("a column has {} values, {} of them missing", node.length(), node.null_count()));
        }
    }
    Ok(())
}
