//! The nftables backend: tables as values ([`table`]), the services' table ([`services`]), the policies' ([`policies`]),
//! that of what a node answers itself ([`own`]),
//! what makes one table out of another ([`transaction`]), tables as text for people ([`render`]), and what a packet does
//! in one ([`walk`]).

pub mod intervals;
pub mod own;
pub mod parts;
pub mod policies;
pub mod render;
pub mod services;
pub mod table;
pub mod transaction;
pub mod walk;
