//! Which images go: those that nobody uses, the longest unused first, when the disk is too full or they are too old.
//! Rules and texts are upstream's (`pkg/kubelet/images`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PodSpec, Volume};

use crate::eviction::{Error, Observation};

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Percent of the disk in use from which on images go; 100: never for space.
    pub high: u8,
    /// Percent down to which.
    pub low: u8,
    /// One that came less long ago stays: it was pulled for a container that is about to start.
    pub min_age: SignedDuration,
    /// One that was not used for longer goes whatever the disk says.
    pub max_age: Option<SignedDuration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            high: 85,
            low: 80,
            min_age: SignedDuration::from_mins(2),
            max_age: None,
        }
    }
}

impl Policy {
    /// Refuses what makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |field: &str, why: String| Err(Error::new(field, None, why));
        if self.high > 100 {
            let why = format!("{} must be between 0 and 100, inclusive", self.high);
            return wrong("imageGCHighThresholdPercent", why);
        }
        if self.low >= self.high {
            let why = format!(
                "{} must be less than imageGCHighThresholdPercent {}",
                self.low, self.high
            );
            return wrong("imageGCLowThresholdPercent", why);
        }
        if self.max_age.is_some_and(|max| max <= self.min_age) {
            return wrong(
                "imageMaximumGCAge",
                "must be greater than imageMinimumGCAge".into(),
            );
        }
        Ok(())
    }

    /// Whether anything is to be looked at from time to time.
    pub fn is_on(&self) -> bool {
        self.high < 100 || self.max_age.is_some()
    }

    /// Bytes to free on a disk; `None` while it is not too full.
    pub fn to_free(&self, disk: Observation) -> Option<u64> {
        let low = u128::from(100 - self.low.min(100));
        let target = u128::from(disk.capacity) * low / 100;
        let target = u64::try_from(target).unwrap_or(u64::MAX);
        (self.high < 100 && disk.capacity > 0 && used_percent(disk) >= u64::from(self.high))
            .then(|| target.saturating_sub(disk.available))
    }
}

fn used_percent(disk: Observation) -> u64 {
    let free =
        u128::from(disk.available.min(disk.capacity)) * 100 / u128::from(disk.capacity.max(1));
    100 - u64::try_from(free).unwrap_or(100)
}

/// An image as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Nobody may remove it: pinned, or somebody else's.
    pub kept: bool,
}

/// What is needed of images: ids, references and names of pods' images.
pub type Uses = BTreeSet<String>;

/// Names of all images that a pod may need, those of its volumes too.
pub fn named(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let plain = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let plain = plain.filter_map(|c| c.image.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.filter_map(|c| c.image.as_deref());
    let of_volume = |v: &'_ Volume| -> bool { v.image.is_some() };
    let volumes = spec.volumes.iter().flatten().filter(move |v| of_volume(v));
    let volumes = volumes.filter_map(|v| v.image.as_ref()?.reference.as_deref());
    plain.chain(ephemeral).chain(volumes)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Unset: it was there before the agent.
    first: Option<Timestamp>,
    used: Option<Timestamp>,
}

/// What is known of images' pasts. It begins anew with the agent: what it finds then may go at once.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    images: BTreeMap<String, Seen>,
    began: Option<Timestamp>,
}

impl Tracker {
    /// Takes in which images there are and which are used.
    pub fn note(&mut self, images: &[Image], uses: &Uses, now: Timestamp) {
        let first = self.began.map(|_| now);
        self.began.get_or_insert(now);
        self.images
            .retain(|id, _| images.iter().any(|i| i.id == *id));
        for i in images {
            let seen = self
                .images
                .entry(i.id.clone())
                .or_insert(Seen { first, used: None });
            if is_used(i, uses) {
                seen.used = Some(now);
            }
        }
    }

    /// Images that may go, the longest unused first, then the oldest.
    fn spare<'a>(&self, images: &'a [Image], uses: &Uses) -> Vec<(Seen, &'a Image)> {
        let seen = |i: &Image| self.images.get(&i.id).copied().unwrap_or_default();
        let spare = images.iter().filter(|i| !i.kept && !is_used(i, uses));
        let mut spare: Vec<(Seen, &Image)> = spare.map(|i| (seen(i), i)).collect();
        spare.sort_by_key(|(s, i)| (s.used, s.first, i.id.clone()));
        spare
    }

    /// Images that were not used for too long.
    pub fn outdated<'a>(
        &self,
        images: &'a [Image],
        uses: &Uses,
        policy: &Policy,
        now: Timestamp,
    ) -> Vec<&'a Image> {
        let Some(max) = policy.max_age else {
            return Vec::new();
        };
        // Nobody knows what was used before the agent ran.
        let since = |s: &Seen| s.used.max(s.first).max(self.began).unwrap_or(now);
        let spare = self.spare(images, uses).into_iter();
        spare
            .filter(|(s, _)| now.duration_since(since(s)) > max)
            .map(|(_, i)| i)
            .collect()
    }

    /// Images to remove, in order, until so many bytes are free. Those that have just come stay.
    pub fn until_free<'a>(
        &self,
        images: &'a [Image],
        uses: &Uses,
        policy: &Policy,
        bytes: u64,
        now: Timestamp,
    ) -> Vec<&'a Image> {
        let young = |s: &Seen| {
            s.first
                .is_some_and(|at| now.duration_since(at) < policy.min_age)
        };
        let mut freed = 0u64;
        let mut chosen = Vec::new();
        for (seen, image) in self.spare(images, uses) {
            if freed >= bytes {
                break;
            }
            if !young(&seen) {
                freed = freed.saturating_add(image.size);
                chosen.push(image);
            }
        }
        chosen
    }
}

fn is_used(image: &Image, uses: &Uses) -> bool {
    uses.contains(&image.id) || image.names.iter().any(|n| uses.contains(n))
}

/// The message of `FreeDiskSpaceFailed` and of the failure.
pub fn not_enough(disk: Observation, freed: u64) -> String {
    format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
        used_percent(disk),
        size(disk.capacity)
    )
}

fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = units[0];
    for next in &units[1..] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("time")
    }

    fn image(id: &str, size: u64) -> Image {
        Image {
            id: id.into(),
            names: vec![format!("docker.io/library/{id}:1")],
            size,
            kept: false,
        }
    }

    fn uses(all: &[&str]) -> Uses {
        all.iter().map(|u| (*u).to_owned()).collect()
    }

    fn ids(images: &[&Image]) -> Vec<String> {
        images.iter().map(|i| i.id.clone()).collect()
    }

    /// Known since before the agent: a used until 100, b until 50, c never; d came at 200.
    fn tracker(images: &[Image]) -> Tracker {
        let mut t = Tracker::default();
        let old = |t: &mut Tracker, used: &[&str], s| t.note(&images[..3], &uses(used), at(s));
        old(&mut t, &["a", "docker.io/library/b:1"], 50);
        old(&mut t, &["a"], 100);
        t.note(images, &uses(&[]), at(200));
        t
    }

    #[test]
    fn the_longest_unused_go_first() {
        let mut images = vec![
            image("a", 10),
            image("b", 10),
            image("c", 10),
            image("d", 10),
        ];
        let t = tracker(&images);
        let policy = Policy::default();
        type Row<'a> = (&'a str, &'a [&'a str], u64, i64, &'a [&'a str]);
        let rows: [Row<'_>; 7] = [
            ("nothing to free", &[], 0, 210, &[]),
            ("one is enough", &[], 10, 210, &["c"]),
            ("a byte more takes the next", &[], 11, 210, &["c", "b"]),
            (
                "all but the young one",
                &[],
                u64::MAX,
                319,
                &["c", "b", "a"],
            ),
            ("it grows old", &[], u64::MAX, 320, &["c", "d", "b", "a"]),
            ("used by id", &["c"], 20, 210, &["b", "a"]),
            (
                "used by name",
                &["docker.io/library/c:1"],
                20,
                210,
                &["b", "a"],
            ),
        ];
        for (name, used, bytes, now, want) in rows {
            let got = t.until_free(&images, &uses(used), &policy, bytes, at(now));
            assert_eq!(ids(&got), want, "{name}");
        }
        images[2].kept = true;
        let got = t.until_free(&images, &uses(&[]), &policy, 10, at(210));
        assert_eq!(ids(&got), ["b"], "pinned ones stay");
    }

    #[test]
    fn the_outdated_go() {
        let images = [image("a", 1), image("b", 1), image("c", 1), image("d", 1)];
        let t = tracker(&images);
        let policy = Policy {
            max_age: Some(SignedDuration::from_secs(1000)),
            ..Policy::default()
        };
        let rows: [(i64, &[&str]); 4] = [
            (1050, &[]),
            (1051, &["c", "b"]),
            (1101, &["c", "b", "a"]),
            (1201, &["c", "d", "b", "a"]),
        ];
        for (now, want) in rows {
            assert_eq!(
                ids(&t.outdated(&images, &uses(&[]), &policy, at(now))),
                want,
                "{now}"
            );
        }
        assert_eq!(
            ids(&t.outdated(&images, &uses(&["b"]), &policy, at(1051))),
            ["c"],
            "used again"
        );
        assert!(
            t.outdated(&images, &uses(&[]), &Policy::default(), at(9999))
                .is_empty(),
            "no age is set"
        );
    }

    #[test]
    fn how_much_to_free() {
        let policy = |high, low| Policy {
            high,
            low,
            ..Policy::default()
        };
        let rows = [
            ("below", policy(85, 80), 160, None),
            ("at the high mark", policy(85, 80), 150, Some(50)),
            ("full", policy(85, 80), 0, Some(200)),
            ("off", policy(100, 80), 0, None),
        ];
        for (name, policy, available, want) in rows {
            let disk = Observation {
                available,
                capacity: 1000,
            };
            assert_eq!(policy.to_free(disk), want, "{name}");
        }
        assert_eq!(
            policy(85, 80).to_free(Observation::default()),
            None,
            "no disk"
        );
    }

    #[test]
    fn policies_are_checked() {
        let policy = |high, low, max| Policy {
            high,
            low,
            max_age: Some(SignedDuration::from_secs(max)),
            ..Policy::default()
        };
        let rows = [
            (policy(85, 80, 121), None),
            (policy(101, 80, 121), Some("imageGCHighThresholdPercent")),
            (policy(80, 80, 121), Some("imageGCLowThresholdPercent")),
            (policy(85, 80, 120), Some("imageMaximumGCAge")),
        ];
        for (policy, want) in rows {
            assert_eq!(policy.check().err().map(|e| e.field).as_deref(), want);
        }
    }

    #[test]
    fn texts() {
        let disk = Observation {
            available: 1 << 30,
            capacity: 10 << 30,
        };
        assert!(not_enough(disk, 7).starts_with(
            "Insufficient free disk space on the node's image filesystem (90% of 10.0 GiB used). Failed to free sufficient space by deleting unused images (freed 7 bytes)."
        ));
    }

    #[test]
    fn a_pods_images_are_all_that_it_names() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "a", "image": "one"}], "initContainers": [{"name": "b", "image": "two"}],
            "ephemeralContainers": [{"name": "c", "image": "three"}],
            "volumes": [{"name": "v", "image": {"reference": "four"}}, {"name": "w", "emptyDir": {}}]}))
        .expect("spec");
        assert_eq!(
            named(&spec).collect::<Vec<_>>(),
            ["one", "two", "three", "four"]
        );
    }
}
