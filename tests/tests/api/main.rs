//! The API server alone: by kubectl, by the kube crate, by those who mean no good, and under `kill -9`.

#![allow(clippy::unwrap_used)]

mod client;
mod crash;
mod hostile;
mod kubectl;
mod security;
mod wrong;
