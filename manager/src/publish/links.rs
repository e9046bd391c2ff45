//! Files of a set that have other names: an edit through a name outside the set makes no event in it.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_proto::name::SetName;
use bellwether_store::scan::HardLink;

/// A notice about them, for people; none if every name is in the set.
pub(crate) fn notice(set: &SetName, links: &BTreeSet<HardLink>) -> Option<String> {
    let mut files: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for link in links.iter().filter(|link| link.set == *set) {
        let (names, here) = files.entry(link.inode).or_default();
        *names = link.names.max(*names);
        *here += 1;
    }
    let outside = files.values().filter(|(names, here)| names > here).count();
    let files = match outside {
        0 => return None,
        1 => "1 file has another hard link".to_owned(),
        more => format!("{more} files have other hard links"),
    };
    Some(format!("{files} outside the set; only the next scan notices an edit through it"))
}

#[cfg(test)]
mod tests {
    use bellwether_proto::entry::EntryPath;

    use super::*;

    fn link(set: &str, path: &str, inode: u64, names: u32) -> HardLink {
        HardLink {
            set: set.parse().unwrap(),
            path: EntryPath::new(path.as_bytes()).unwrap(),
            inode,
            names,
            changed: (0, 0),
        }
    }

    #[test]
    fn only_names_outside_the_set_are_said() {
        let links = [link("web", "a", 1, 2), link("web", "b", 1, 2), link("etc", "a", 7, 3)];
        let said = |links: &[HardLink]| notice(&"web".parse().unwrap(), &links.iter().cloned().collect());
        assert_eq!(said(&links), None);
        let one = said(&[&links[..], &[link("web", "c", 2, 2)]].concat()).unwrap();
        assert!(one.starts_with("1 file has another hard link outside the set"), "{one}");
        let two = said(&[&links[..], &[link("web", "c", 2, 2), link("web", "d", 3, 9)]].concat()).unwrap();
        assert!(two.starts_with("2 files have other hard links outside the set"), "{two}");
    }
}
