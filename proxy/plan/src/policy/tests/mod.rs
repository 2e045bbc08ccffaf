//! Policies against packets: by the specification's clauses, and by chance.

mod clauses;
mod random;
mod scale;
mod suite;
mod support;
