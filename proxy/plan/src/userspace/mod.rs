//! The userspace backend's decisions: which ports the proxy listens on and who stands behind them
//! ([`listeners`]), who is next ([`Balancer`]), the rules that send traffic there ([`ruleset`]), and which UDP
//! flows go to a port that is not there any more ([`Redirected`]).

mod balancer;
mod flows;
mod live;
mod portals;
mod rules;

pub use balancer::{Balancer, MAX_CLIENTS};
pub use flows::Redirected;
pub use live::{differences, meant_for};
pub use portals::{Behind, Listener, listeners};
pub use rules::{Options, is_ruleset, ruleset};
