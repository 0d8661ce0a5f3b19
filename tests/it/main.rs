//! What the project promises, tested from outside.

mod merge;
