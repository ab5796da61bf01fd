//! The shape of the source: all that decides a row's text, its key and its tenant, and whether the stream has its changes.
//!
//! A Relation message says only a part of it, and comes only with the next change. So the shape is read at the start of a
//! session and every second, and [`compare`] decides what a difference means.

mod compare;
mod faults;
mod model;
mod read;

pub(crate) use compare::{ShapeChange, compare, outdates_slot};
pub(crate) use faults::{Fault, GeneratedColumns, faults, generated_columns};
pub(crate) use model::{LeafShape, SourceShape};
pub(crate) use read::ShapeReader;

#[cfg(test)]
mod tests;
