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

// From bottom to top: a module knows those above it in this list and no other.
pub mod error;
pub mod vocab;
pub mod files;
mod accounts;
pub mod structure;
pub mod index;
pub mod torsion;
pub mod neighbors;
pub mod convolution;
pub mod read;
pub mod fragments;
pub mod record;
pub mod interface;
pub mod perturb;
pub mod discover;
pub mod dataset;
pub mod build;
pub mod cli;
#[cfg(feature = "python")]
mod py;
