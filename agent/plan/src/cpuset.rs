//! Sets of CPUs (or NUMA nodes) in the kernel's list format, such as `0-2,7`.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{BitAnd, BitOr, Deref, DerefMut, Sub};

/// Numbers of CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<u32>);

/// More than any kernel counts: a range beyond it is a mistake, and would fill the memory.
const MOST: u32 = 1 << 16;

impl CpuSet {
    /// Reads a list; an empty one is the empty set. `None` for what is no list.
    pub fn parse(list: &str) -> Option<Self> {
        let mut set = BTreeSet::new();
        for part in list.trim().split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u32>().ok();
            let (first, last) = (number(first)?, number(last)?);
            if first > last || last >= MOST {
                return None;
            }
            set.extend(first..=last);
        }
        Some(Self(set))
    }

    /// The numbers a mask has set.
    pub fn of_mask(mask: u64) -> Self {
        (0..u64::BITS).filter(|n| mask >> n & 1 == 1).collect()
    }

    /// The mask of all numbers below 64.
    pub fn mask(&self) -> u64 {
        self.0.iter().filter_map(|n| 1u64.checked_shl(*n)).sum()
    }

    /// All of another set are in this one.
    pub fn holds(&self, other: &Self) -> bool {
        self.0.is_superset(&other.0)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|n| *n == last + 1) {
                last = next;
            }
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl Deref for CpuSet {
    type Target = BTreeSet<u32>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for CpuSet {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl BitOr for &CpuSet {
    type Output = CpuSet;

    fn bitor(self, other: Self) -> CpuSet {
        CpuSet(&self.0 | &other.0)
    }
}

impl BitAnd for &CpuSet {
    type Output = CpuSet;

    fn bitand(self, other: Self) -> CpuSet {
        CpuSet(&self.0 & &other.0)
    }
}

impl Sub for &CpuSet {
    type Output = CpuSet;

    fn sub(self, other: Self) -> CpuSet {
        CpuSet(&self.0 - &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists() {
        let rows = [
            ("", Some("")),
            ("0", Some("0")),
            ("3,1,2", Some("1-3")),
            ("0-3,5,7-8\n", Some("0-3,5,7-8")),
            ("0-1,1-2", Some("0-2")),
            ("2-1", None),
            ("a", None),
            ("0-", None),
            ("0-4294967295", None),
        ];
        for (list, want) in rows {
            let got = CpuSet::parse(list).map(|s| s.to_string());
            assert_eq!(got.as_deref(), want, "{list}");
        }
        assert_eq!(CpuSet::of_mask(0b1011).to_string(), "0-1,3");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers in proptest::collection::btree_set(0u32..200, 0..40)) {
            let set: CpuSet = numbers.iter().copied().collect();
            prop_assert_eq!(CpuSet::parse(&set.to_string()), Some(set.clone()));
            let low: CpuSet = numbers.iter().copied().filter(|n| *n < 64).collect();
            prop_assert_eq!(CpuSet::of_mask(set.mask()), low);
        }
    }
}
