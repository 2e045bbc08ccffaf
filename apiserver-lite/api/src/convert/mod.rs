//! Conversions between the stored form of a kind and another version or group of it.

pub(crate) mod event;
pub(crate) mod hpa;
