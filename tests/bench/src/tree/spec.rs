//! The specification of a tree.

use serde::Serialize;

use bellwether_random::Rng;

/// The kinds of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// Sites, profiles, maps and certificates of many sizes.
    Mixed,
    /// The same kinds, all of the same few bytes.
    Tiny,
    /// Maps and profiles of many megabytes.
    Large,
}

/// A tree to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Spec {
    /// Its name in results and in `--rows`' output, the same in all sizes of a run.
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) files: usize,
    /// The mean size of a file in bytes.
    pub(crate) mean: u64,
    /// The size in bytes of its first file, a map, if that is to be larger than the others.
    pub(crate) first: Option<u64>,
}

impl Spec {
    /// The size of the `index`th file.
    pub(super) fn size(&self, index: usize, rng: &mut Rng) -> u64 {
        match (self.first, self.shape) {
            (Some(first), _) if index == 0 => first,
            (_, Shape::Tiny | Shape::Large) => self.mean,
            // Many files are small and few are large: 0.1 to 2.8 times the mean, by the square.
            (_, Shape::Mixed) => (self.mean as f64 * (0.1 + 2.7 * rng.fraction().powi(2))) as u64,
        }
    }

    /// The size for people: `20,000 files, 200 MB`.
    pub(crate) fn label(&self) -> String {
        let others = self.files as u64 - u64::from(self.first.is_some());
        let bytes = self.mean * others + self.first.unwrap_or(0);
        format!("{} files, {}", crate::report::format::count(self.files as u64), crate::report::format::bytes(bytes))
    }
}
