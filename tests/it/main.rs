//! What the project promises, tested from outside.

mod support;

mod flights;

mod merge;
