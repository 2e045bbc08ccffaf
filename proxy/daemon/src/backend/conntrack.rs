//! UDP flows that outlived their endpoint end.

use keelson_proxy_plan::conntrack::Wanted;
use keelson_proxy_plan::model::{Change, Family, Protocol};
use keelson_proxy_plan::state::State;

/// Whether a change may leave such flows behind.
pub(super) fn concerns(change: &Change) -> bool {
    let entries = change.before.iter().chain(&change.after);
    entries
        .into_iter()
        .any(|e| e.port.protocol == Protocol::Udp)
}

/// Where flows may go.
pub(super) fn wanted(state: &State) -> Wanted {
    let families = [Family::V4, Family::V6];
    Wanted::new(&families.map(|f| (f, state.served(f))))
}
