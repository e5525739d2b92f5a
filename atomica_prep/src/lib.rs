//! Reads molecular structures, cuts out their interfaces and writes them as Arrow shards.
//!
//! Data flows one way: [`index`] → [`read`] → [`interface`] → [`neighbors`], [`torsion`] → [`dataset`], put together by
//! [`build`] and started by [`cli`]. [`perturb`] puts noise on records when they are read again. With the feature
//! `python` the crate is also the module `atomica._prep`.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests may panic"
    )
)]

pub mod build;
pub mod cli;
pub mod convolution;
pub mod dataset;
pub mod discover;
pub mod error;
pub mod files;
pub mod fragments;
pub mod index;
pub mod interface;
pub mod neighbors;
pub mod perturb;
#[cfg(feature = "python")]
mod py;
pub mod read;
pub mod record;
pub mod structure;
pub mod torsion;
pub mod vocab;

/// Version of the shard schema that this crate writes.
pub const SCHEMA_VERSION: u32 = 2;
/// Version of the crate, written into every manifest.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
