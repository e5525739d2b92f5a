//! A data set on disk: a folder of Arrow shards with a manifest and the ledgers of what failed, was mended or found.

mod folder;
mod ledger;
mod manifest;
mod shard;

pub(crate) use folder::{clear_folder, PROGRESS};
pub(crate) use ledger::{by_frequency, count, Ledger, LEDGERS};
pub use ledger::{failures_by_code, Failure, RepairLine, FAILURES, REPAIRS};
pub use manifest::{
    read_manifest, BuildOptions, Compression, Counts, Manifest, Part, ShardEntry, Vocabulary, MANIFEST, SCHEMA_VERSION,
    VERSION,
};
pub use shard::{open_shard, read_shard, ShardBuilder, MAX_UNPACKED};
pub(crate) use shard::{write_batch, MAX_VALUES};
