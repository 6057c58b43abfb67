//! As much XML as a client of a well-behaved server needs: cutting a stream into elements, and a
//! small tree for the elements that must be understood.

pub mod split;
pub mod tree;
