//! Whose turn it is: endpoints one after the other, and by client where a service wants that.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Clients that are remembered for one port at most; beyond, those that came longest ago are forgotten.
pub const MAX_CLIENTS: usize = 65_536;

/// The endpoints of one listener. All times are since any fixed point.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    endpoints: Vec<SocketAddr>,
    next: usize,
    affinity: Option<Duration>,
    clients: HashMap<IpAddr, Held>,
}

/// Which endpoint a client has.
#[derive(Clone, Copy, Debug)]
struct Held {
    endpoint: SocketAddr,
    last: Duration,
}

impl Balancer {
    /// Without endpoints. `start` (any number) sets which is first, so that not all nodes begin with the same.
    pub fn new(start: usize) -> Self {
        Self {
            next: start,
            ..Self::default()
        }
    }

    /// Sets who is there, and for how long a client stays with its endpoint. The turn goes on where it was; clients
    /// of endpoints that are gone are forgotten. `false`: nothing changed.
    pub fn set(&mut self, mut endpoints: Vec<SocketAddr>, affinity: Option<u32>) -> bool {
        endpoints.sort_unstable();
        endpoints.dedup();
        let affinity = affinity.map(|s| Duration::from_secs(s.into()));
        if self.endpoints == endpoints && self.affinity == affinity {
            return false;
        }
        if let Some(turn) = self.endpoints.get(self.next) {
            self.next = endpoints.partition_point(|e| e < turn);
        }
        let there = |held: &Held| endpoints.binary_search(&held.endpoint).is_ok();
        self.clients
            .retain(|_, held| affinity.is_some() && there(held));
        (self.endpoints, self.affinity) = (endpoints, affinity);
        true
    }

    /// Who is there, in order.
    pub fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// The endpoint for a client; `None`: there is none. `failed`: the one that it had could not be reached, it gets
    /// another (the same again where there is only one).
    pub fn next(&mut self, client: IpAddr, now: Duration, failed: bool) -> Option<SocketAddr> {
        let affinity = self.affinity;
        if let (Some(affinity), Some(held)) = (affinity, self.clients.get_mut(&client))
            && !failed
            && now.saturating_sub(held.last) < affinity
        {
            held.last = now;
            return Some(held.endpoint);
        }
        let count = self.endpoints.len();
        let at = self.next.checked_rem(count)?;
        let endpoint = *self.endpoints.get(at)?;
        self.next = (at + 1) % count;
        if affinity.is_some() {
            self.make_room(now);
            let held = Held {
                endpoint,
                last: now,
            };
            self.clients.insert(client, held);
        }
        Some(endpoint)
    }

    /// Forgets a client: it comes as if for the first time.
    pub fn forget(&mut self, client: IpAddr) {
        self.clients.remove(&client);
    }

    /// Forgets clients whose time is over, and where that is not enough, the older half: rare, so that a client more
    /// costs the same however many there are.
    fn make_room(&mut self, now: Duration) {
        if self.clients.len() < MAX_CLIENTS {
            return;
        }
        let affinity = self.affinity.unwrap_or_default();
        self.clients
            .retain(|_, held| now.saturating_sub(held.last) < affinity);
        if self.clients.len() < MAX_CLIENTS {
            return;
        }
        let mut times: Vec<Duration> = self.clients.values().map(|held| held.last).collect();
        let half = times.len() / 2;
        let (_, middle, _) = times.select_nth_unstable(half);
        let middle = *middle;
        self.clients.retain(|_, held| held.last > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(id: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, id], 80))
    }

    fn client(id: u8) -> IpAddr {
        [192, 168, 0, id].into()
    }

    fn with(ids: &[u8], affinity: Option<u32>) -> Balancer {
        let mut balancer = Balancer::new(0);
        balancer.set(ids.iter().map(|i| at(*i)).collect(), affinity);
        balancer
    }

    /// One after the other at second `t`: client, failed before, wanted endpoint (0: none).
    type Turn = (u64, u8, bool, u8);

    #[test]
    fn turns() {
        type Case = (&'static str, &'static [u8], Option<u32>, &'static [Turn]);
        let cases: &[Case] = &[
            ("none", &[], None, &[(0, 1, false, 0)]),
            (
                "round robin, whoever comes",
                &[1, 2, 3],
                None,
                &[
                    (0, 1, false, 1),
                    (0, 1, false, 2),
                    (0, 9, false, 3),
                    (0, 1, false, 1),
                ],
            ),
            (
                "a client stays",
                &[1, 2],
                Some(10),
                &[
                    (0, 1, false, 1),
                    (9, 1, false, 1),
                    (9, 2, false, 2),
                    (18, 1, false, 1),
                ],
            ),
            (
                "until its time is over since it came last",
                &[1, 2],
                Some(10),
                &[(0, 1, false, 1), (9, 1, false, 1), (19, 1, false, 2)],
            ),
            (
                "or its endpoint fails, and stays with the other",
                &[1, 2],
                Some(10),
                &[(0, 1, false, 1), (1, 1, true, 2), (2, 1, false, 2)],
            ),
            (
                "the only one is tried again",
                &[1],
                Some(10),
                &[(0, 1, false, 1), (0, 1, true, 1)],
            ),
        ];
        for (name, ids, affinity, turns) in cases {
            let mut balancer = with(ids, *affinity);
            for (i, (second, who, failed, want)) in turns.iter().enumerate() {
                let got = balancer.next(client(*who), Duration::from_secs(*second), *failed);
                assert_eq!(got, (*want > 0).then(|| at(*want)), "{name}, turn {i}");
            }
        }
    }

    #[test]
    fn a_change_goes_on_with_the_turn_and_forgets_only_who_lost_its_endpoint() {
        let mut balancer = with(&[1, 2, 3], Some(10));
        let now = Duration::ZERO;
        assert_eq!(balancer.next(client(1), now, false), Some(at(1)));
        assert_eq!(balancer.next(client(2), now, false), Some(at(2)));
        assert!(!balancer.set(vec![at(3), at(2), at(1), at(1)], Some(10)));
        assert!(balancer.set(vec![at(2), at(3), at(4)], Some(10)));
        assert_eq!(balancer.next(client(2), now, false), Some(at(2)), "kept");
        assert_eq!(
            balancer.next(client(1), now, false),
            Some(at(3)),
            "its turn"
        );
        balancer.forget(client(1));
        assert_eq!(balancer.next(client(1), now, false), Some(at(4)));
        assert!(balancer.set(vec![at(2)], None), "no affinity any more");
        assert!(balancer.clients.is_empty());
        assert!(balancer.set(vec![], None));
        assert_eq!(balancer.next(client(1), now, false), None);
    }

    #[test]
    fn remembered_clients_are_bounded() {
        let mut balancer = with(&[1, 2], Some(1_000_000));
        for i in 0..200_000u32 {
            let who = IpAddr::from(i.to_be_bytes());
            balancer.next(who, Duration::from_millis(i.into()), false);
            assert!(balancer.clients.len() <= MAX_CLIENTS);
        }
        let last = IpAddr::from(199_999u32.to_be_bytes());
        assert!(balancer.clients.contains_key(&last), "the newest stays");
    }

    proptest! {
        /// Without affinity, any run of turns gives every endpoint equally often, to within one.
        #[test]
        fn shares_are_equal(count in 1u8..20, turns in 1usize..200, start: usize) {
            let mut balancer = Balancer::new(start);
            balancer.set((0..count).map(at).collect(), None);
            let mut seen = HashMap::<SocketAddr, usize>::new();
            for _ in 0..turns {
                *seen.entry(balancer.next(client(1), Duration::ZERO, false).expect("one")).or_default() += 1;
            }
            let (least, most) = (turns / usize::from(count), turns.div_ceil(usize::from(count)));
            let each = (0..count).map(|i| seen.get(&at(i)).copied().unwrap_or(0));
            prop_assert!(each.clone().all(|n| n >= least && n <= most), "{:?}", seen);
        }
    }
}
