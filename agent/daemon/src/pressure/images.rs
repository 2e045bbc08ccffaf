//! Removes images that nobody needs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use keelson_agent_plan::event::Event;
use keelson_agent_plan::eviction::Observation;
use keelson_agent_plan::image_gc::{Image, Tracker, Uses, named, not_enough};
use keelson_runtime::image::normalise;

use crate::observe::IMAGE_LABEL;
use crate::shared::{Shared, chain};

/// Collects images from time to time, and when there is no space left.
pub(super) struct Collector {
    shared: Arc<Shared>,
    tracker: Tracker,
    next: Instant,
    /// The last time failed: another failure is told.
    failed: bool,
}

impl Collector {
    /// A collector that has seen nothing yet.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            tracker: Tracker::default(),
            next: Instant::now(),
            failed: false,
        }
    }

    /// When it is time: removes those that are too old, and others when the disk is too full.
    pub(super) async fn turn(&mut self, disk: Observation) {
        let policy = self.shared.config.image_gc;
        let ready = *self.shared.imported.borrow();
        if !policy.is_on() || !ready || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + self.shared.config.image_gc_period;
        let failure = self.collect(disk).await.err();
        let node = &self.shared.config.node_name;
        if let Some(error) = &failure {
            tracing::warn!(error, "images cannot be collected");
            if self.failed {
                let event = Event::pod("ImageGCFailed", error.clone());
                self.shared.events.node(node, event);
            }
        }
        self.failed = failure.is_some();
    }

    async fn collect(&mut self, disk: Observation) -> Result<(), String> {
        let policy = self.shared.config.image_gc;
        let (mut images, uses) = self.look().await?;
        let now = Timestamp::now();
        let old = ids(&self.tracker.outdated(&images, &uses, &policy, now));
        let mut freed = self.remove(&images, &old).await;
        images.retain(|i| !old.contains(&i.id));
        let Some(bytes) = policy.to_free(disk) else {
            return Ok(());
        };
        let wanted = bytes.saturating_sub(freed);
        let chosen = ids(&self
            .tracker
            .until_free(&images, &uses, &policy, wanted, now));
        freed += self.remove(&images, &chosen).await;
        if freed >= bytes {
            return Ok(());
        }
        let message = not_enough(disk, freed);
        let event = Event::pod("FreeDiskSpaceFailed", message.clone());
        self.shared
            .events
            .node(&self.shared.config.node_name, event);
        Err(message)
    }

    /// Removes all that nobody needs.
    pub(super) async fn remove_unused(&mut self) {
        if !*self.shared.imported.borrow() {
            return;
        }
        let policy = self.shared.config.image_gc;
        match self.look().await {
            Ok((images, uses)) => {
                let now = Timestamp::now();
                let chosen = ids(&self
                    .tracker
                    .until_free(&images, &uses, &policy, u64::MAX, now));
                self.remove(&images, &chosen).await;
            }
            Err(error) => tracing::warn!(error, "images cannot be collected"),
        }
    }

    /// The images there are, and those that are needed: by containers, dead ones too, by pods that are to run, and
    /// those whose archives are there for every start.
    async fn look(&mut self) -> Result<(Vec<Image>, Uses), String> {
        let runtime = &self.shared.runtime;
        let images = runtime.images().await.map_err(|e| chain(&e))?;
        let image = |i: keelson_runtime::Image| Image {
            id: i.id,
            names: i.names,
            size: i.size,
            kept: i.kept,
        };
        let images: Vec<Image> = images.into_iter().map(image).collect();
        let mut uses = self.wanted();
        for c in runtime.containers().await.map_err(|e| chain(&e))? {
            uses.extend(c.labels.get(IMAGE_LABEL).cloned());
            uses.extend(normalise(&c.image).ok());
            uses.insert(c.image_id);
        }
        self.tracker.note(&images, &uses, Timestamp::now());
        Ok((images, uses))
    }

    /// Names that pods, or the next start, will ask for.
    fn wanted(&self) -> Uses {
        let mut uses: Uses = self.shared.preloaded().clone();
        for entry in self.shared.active() {
            let spec = entry.pod.spec.iter();
            uses.extend(spec.flat_map(named).filter_map(|n| normalise(n).ok()));
        }
        uses
    }

    /// Removes images, but those that a pod has asked for since; how many bytes they had.
    async fn remove(&self, images: &[Image], chosen: &BTreeSet<String>) -> u64 {
        let mut freed = 0;
        for image in images.iter().filter(|i| chosen.contains(&i.id)) {
            let wanted = self.wanted();
            if image.names.iter().any(|n| wanted.contains(n)) {
                continue;
            }
            tracing::info!(image = image.id, names = ?image.names, bytes = image.size, "image removed");
            let mut whole = true;
            for name in &image.names {
                if let Err(error) = self.shared.runtime.image_remove(name).await {
                    tracing::warn!(image = name, error = %chain(&error), "image cannot be removed");
                    whole = false;
                }
            }
            freed += if whole { image.size } else { 0 };
        }
        if freed > 0 {
            self.shared.images_stale.notify_one();
        }
        freed
    }
}

fn ids(images: &[&Image]) -> BTreeSet<String> {
    images.iter().map(|i| i.id.clone()).collect()
}
