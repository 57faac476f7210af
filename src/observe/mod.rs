//! What an operator can see of a running target.

pub mod counter;
