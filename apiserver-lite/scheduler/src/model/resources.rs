//! Amounts of CPU, memory and whatever else a node offers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts: CPU in thousandths of a core, the others in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Number of pods.
    pub pods: i64,
    /// Huge pages and extended resources.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// Amounts as the API writes them. One that cannot be read counts as none; the API server refuses those.
    pub fn parse(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut this = Self::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            let quantity = quantity
                .0
                .parse()
                .unwrap_or(keelson_api::quantity::Quantity::ZERO);
            let amount = if name == "cpu" {
                quantity.milli()
            } else {
                quantity.value()
            };
            *this.entry(name) = amount;
        }
        this
    }

    fn entry(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.ephemeral_storage,
            "pods" => &mut self.pods,
            _ => self.other.entry(name.into()).or_default(),
        }
    }

    /// The amount of a resource.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            _ => self.other.get(name).copied().unwrap_or_default(),
        }
    }

    /// Names and amounts, those of none included for the built-in resources.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        [
            ("cpu", self.cpu),
            ("memory", self.memory),
            ("ephemeral-storage", self.ephemeral_storage),
            ("pods", self.pods),
        ]
        .into_iter()
        .chain(
            self.other
                .iter()
                .map(|(name, amount)| (name.as_str(), *amount)),
        )
    }

    fn merge(&mut self, other: &Self, how: impl Fn(i64, i64) -> i64) {
        for (name, amount) in other.iter() {
            let entry = self.entry(name);
            *entry = how(*entry, amount);
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    /// Takes away; what was added by `add`.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, i64::saturating_sub);
        self.other.retain(|_, amount| *amount != 0);
    }

    /// The larger of each.
    pub fn max(&mut self, other: &Self) {
        self.merge(other, i64::max);
    }

    /// Puts the other's amounts in place of ours, where it has any.
    pub fn replace(&mut self, other: &Self) {
        self.merge(
            other,
            |ours, theirs| if theirs == 0 { ours } else { theirs },
        );
    }
}
