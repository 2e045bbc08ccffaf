use super::*;
use crate::ipvs::{Flags, Rules, Scheduler};
use crate::model::Protocol;
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

fn key(id: u8, protocol: Protocol) -> ServerKey {
    ServerKey {
        address: [10, 43, 0, id].into(),
        protocol,
        port: 80,
    }
}

fn at(id: u8) -> SocketAddr {
    ([10, 42, 0, id], 8080).into()
}

fn server(key: ServerKey, scheduler: &str, flags: Flags) -> VirtualServer {
    VirtualServer {
        key,
        scheduler: Scheduler::read(scheduler),
        flags,
        timeout: 0,
        netmask: u32::MAX,
    }
}

fn want(servers: &[(ServerKey, &[u8])]) -> Wanted {
    let mut wanted = Wanted::default();
    for (key, ids) in servers {
        let destinations = ids.iter().copied().map(at).collect();
        wanted.servers.insert(
            *key,
            WantedServer {
                server: server(*key, "rr", Flags::OURS),
                destinations,
            },
        );
        wanted.addresses.insert(key.address);
    }
    wanted
}

/// Looks and acts until nothing is left to do; the actions of each time.
fn settle(live: &mut Live, wanted: &Wanted) -> Vec<Vec<Action>> {
    let mut rounds = Vec::new();
    loop {
        let actions = diff(live, wanted);
        if actions.is_empty() {
            return rounds;
        }
        assert!(rounds.len() < 2, "no end: {actions:?}");
        actions.iter().for_each(|a| live.apply(a));
        rounds.push(actions);
    }
}

fn live(wanted: &Wanted) -> Live {
    let mut live = Live::default();
    settle(&mut live, wanted);
    live
}

fn busy(live: &mut Live, key: ServerKey, id: u8, active: u32) {
    live.servers
        .get_mut(&key)
        .expect("server")
        .destinations
        .get_mut(&at(id))
        .expect("destination")
        .active = active;
}

#[test]
fn a_service_is_reachable_only_when_it_is_whole() {
    let a = key(1, Protocol::Tcp);
    let actions = diff(&Live::default(), &want(&[(a, &[2, 3])]));
    let new = |id| Action::AddDestination(a, Destination::new(at(id)));
    assert_eq!(
        actions,
        [
            Action::AddServer(server(a, "rr", Flags::OURS)),
            new(2),
            new(3),
            Action::Bind(a.address)
        ]
    );
}

#[test]
fn a_destination_goes_when_its_last_connection_has() {
    let a = key(1, Protocol::Tcp);
    let mut live = live(&want(&[(a, &[2])]));
    busy(&mut live, a, 2, 1);
    let moved = want(&[(a, &[3])]);
    let rounds = settle(&mut live, &moved);
    let drained = Destination {
        weight: 0,
        active: 1,
        ..Destination::new(at(2))
    };
    assert_eq!(
        rounds,
        [vec![
            Action::AddDestination(a, Destination::new(at(3))),
            Action::SetDestination(a, drained)
        ]],
        "new before old"
    );
    assert_eq!(live.draining().collect::<Vec<_>>(), [a]);
    busy(&mut live, a, 2, 0);
    assert_eq!(
        settle(&mut live, &moved),
        [vec![Action::DeleteDestination(a, at(2))]]
    );
    assert_eq!(live.draining().count(), 0);
}

#[test]
fn a_destination_comes_back_while_it_drains() {
    let a = key(1, Protocol::Tcp);
    let mut live = live(&want(&[(a, &[2])]));
    busy(&mut live, a, 2, 1);
    settle(&mut live, &want(&[(a, &[])]));
    let back = settle(&mut live, &want(&[(a, &[2])]));
    assert_eq!(
        back,
        [vec![Action::SetDestination(a, Destination::new(at(2)))]]
    );
}

#[test]
fn a_server_waits_for_its_connections_with_its_address() {
    let (a, b) = (key(1, Protocol::Tcp), key(2, Protocol::Udp));
    let mut live = live(&want(&[(a, &[2]), (b, &[2])]));
    for f in [a, b] {
        busy(&mut live, f, 2, 1);
    }
    settle(&mut live, &Wanted::default());
    assert_eq!(
        live.servers.keys().collect::<Vec<_>>(),
        [&a],
        "nobody waits for UDP"
    );
    assert!(live.addresses.contains(&a.address) && live.addresses.len() == 1);
    busy(&mut live, a, 2, 0);
    assert_eq!(
        settle(&mut live, &Wanted::default()),
        [vec![Action::Unbind(a.address), Action::DeleteServer(a)]]
    );
}

#[test]
fn others_servers_stay_unless_one_is_wanted_there() {
    let (a, b) = (key(1, Protocol::Tcp), key(2, Protocol::Tcp));
    let mut live = Live::default();
    for f in [a, b] {
        live.apply(&Action::AddServer(server(f, "wlc", Flags::NONE)));
        live.apply(&Action::AddDestination(f, Destination::new(at(9))));
    }
    let foreign = live.servers[&b].clone();
    settle(&mut live, &want(&[(a, &[2])]));
    assert_eq!(live.servers[&b], foreign);
    assert_eq!(live.servers[&a].server, server(a, "rr", Flags::OURS));
    settle(&mut live, &Wanted::default());
    assert_eq!(live.servers.keys().collect::<Vec<_>>(), [&b]);
}

prop_compose! {
    fn any_key()(id in 1..5u8, udp in any::<bool>()) -> ServerKey {
        key(id, if udp { Protocol::Udp } else { Protocol::Tcp })
    }
}

prop_compose! {
    fn any_wanted()(servers in btree_map(any_key(), btree_set(1..6u8, 0..5), 0..6), extra in btree_set(1..9u8, 0..3)) -> Wanted {
        let mut wanted = Wanted { rules: Rules::default(), ..Wanted::default() };
        for (key, ids) in servers {
            let destinations = ids.into_iter().map(at).collect();
            wanted.servers.insert(key, WantedServer { server: server(key, "rr", Flags::OURS), destinations });
        }
        wanted.addresses = extra.into_iter().map(|i| [10, 43, 0, i].into()).collect();
        wanted
    }
}

prop_compose! {
    fn any_destination()(id in 1..6u8, weight in 0..3u32, active in 0..2u32, inactive in 0..2u32) -> Destination {
        Destination { weight, active, inactive, ..Destination::new(at(id)) }
    }
}

prop_compose! {
    fn any_live()(servers in btree_map(any_key(), (any::<bool>(), proptest::collection::vec(any_destination(), 0..5)), 0..6), addresses in btree_set(1..9u8, 0..5)) -> Live {
        let mut live = Live::default();
        for (key, (ours, destinations)) in servers {
            let flags = if ours { Flags::OURS } else { Flags::NONE };
            let destinations = destinations.into_iter().map(|d| (d.at, d)).collect();
            live.servers.insert(key, Server { server: server(key, if ours { "rr" } else { "wlc" }, flags), destinations });
        }
        live.addresses = addresses.into_iter().map(|i| [10, 43, 0, i].into()).collect();
        live
    }
}

proptest! {
    /// From anything to anything: what is wanted is there after one round, nothing but what drains is there beside it
    /// after two, and a third has nothing to do. Established TCP connections lose neither destination nor address.
    #[test]
    fn actions_lead_to_what_is_wanted(before in any_live(), wanted in any_wanted()) {
        let mut live = before.clone();
        diff(&live, &wanted).iter().for_each(|a| live.apply(a));
        for (key, want) in &wanted.servers {
            let server = &live.servers[key];
            prop_assert_eq!(&server.server, &want.server);
            let taking: BTreeSet<_> = server.destinations.values().filter(|d| d.weight > 0).map(|d| d.at).collect();
            prop_assert_eq!(&taking, &want.destinations);
        }
        prop_assert!(live.addresses.is_superset(&wanted.addresses));
        settle(&mut live, &wanted);
        for (key, server) in &live.servers {
            let want = wanted.servers.get(key);
            prop_assert!(want.is_some() || !server.server.is_ours() || server.destinations.values().any(|d| !d.is_idle()), "{} is left", key);
            let wanted = |d: &&Destination| want.is_some_and(|w| w.destinations.contains(&d.at));
            for d in server.destinations.values().filter(|d| server.server.is_ours() && !wanted(d)) {
                prop_assert!(d.weight == 0 && is_graceful(key.protocol));
            }
        }
        for (key, server) in before.servers.iter().filter(|(f, s)| s.server.is_ours() && is_graceful(f.protocol)) {
            for d in server.destinations.values().filter(|d| !d.is_idle()) {
                prop_assert!(live.servers.get(key).is_some_and(|s| s.destinations.contains_key(&d.at)), "{} lost {}", key, d.at);
                // One that is wanted without its address has it on another link now.
                let moved = wanted.servers.contains_key(key) || !before.addresses.contains(&key.address);
                prop_assert!(moved || live.addresses.contains(&key.address));
            }
        }
        for (key, server) in before.servers.iter().filter(|(f, s)| !s.server.is_ours() && !wanted.servers.contains_key(f)) {
            prop_assert_eq!(live.servers.get(key), Some(server));
        }
    }
}
