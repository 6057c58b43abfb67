//! The XML that a client of a well-behaved server needs: cutting a stream into elements, and a
//! small tree for elements that must be read.

pub mod split;
pub mod tree;
