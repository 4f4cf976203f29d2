//! To be written.
pub mod sampling;
