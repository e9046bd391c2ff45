//! The content of increments.

use std::fs;

use bellwether_store::tree::Tree;

use crate::fixture::{Site, noise, unpack};

/// The increment from the content of `site` to that after `edit`.
fn increment(site: &Site, edit: impl FnOnce()) -> Vec<u8> {
    let before = site.scan();
    let first = site.header(None, before.root());
    edit();
    let after = site.scan();
    let pack = site.pack(&site.header(Some(&first), after.root()), &before, &after).unwrap();
    assert_eq!(unpack(&pack).unwrap().tree(&before).root(), after.root());
    pack
}

#[test]
fn a_one_line_change_is_a_few_hundred_bytes() {
    let site = Site::new();
    site.write("conf.d/site.conf", "listen 80;\nserver_name example;\n");
    for at in 0..20u64 {
        site.write(&format!("conf.d/{at}.conf"), noise(at, 2_000));
    }
    let pack = increment(&site, || site.write("conf.d/site.conf", "listen 81;\nserver_name example;\n"));
    assert!(pack.len() < 700, "{} bytes", pack.len());
}

#[test]
fn a_line_in_the_middle_of_20_mb_costs_kilobytes() {
    let site = Site::new();
    let lines = 0..400_000u32;
    let mut text: String =
        lines.map(|n| format!("{n:08} {:08x} location of something\n", n.wrapping_mul(2654435761))).collect();
    assert!(text.len() > 15 << 20);
    site.write("map.conf", &text);
    let middle = text.len() / 2;
    let middle = middle + text[middle..].find('\n').unwrap() + 1;
    let pack = increment(&site, || {
        text.insert_str(middle, "one line more\n");
        site.write("map.conf", &text);
    });
    assert!(pack.len() < 200 << 10, "{} bytes", pack.len());
}

#[test]
fn a_renamed_file_or_directory_is_not_sent_again() {
    let site = Site::new();
    for at in 0..10u64 {
        site.write(&format!("old/{at}"), noise(at, 50_000));
    }
    site.write("single", noise(99, 300_000));
    let pack = increment(&site, || {
        fs::rename(site.path("old"), site.path("new")).unwrap();
        fs::create_dir(site.path("sub")).unwrap();
        fs::rename(site.path("single"), site.path("sub/single")).unwrap();
    });
    assert!(unpack(&pack).unwrap().chunks.is_empty());
}

#[test]
fn equal_files_are_sent_once() {
    let site = Site::new();
    site.write("keep", "x");
    let pack = increment(&site, || {
        for copy in ["a", "b/c", "d"] {
            site.write(copy, noise(5, 40_000));
        }
    });
    let chunks = unpack(&pack).unwrap().chunks;
    assert_eq!(chunks.iter().map(|(chunk, _)| chunk.length).sum::<u32>(), 40_000);
}

/// Incompressible content is stored without compression: the pack is larger only by its frames.
#[test]
fn noise_is_stored_as_it_is() {
    let site = Site::new();
    site.write("noise", noise(3, 3 << 20));
    let tree = site.scan();
    let pack = site.pack(&site.header(None, tree.root()), &Tree::default(), &tree).unwrap();
    assert!(pack.len() < (3 << 20) + 10_000, "{} bytes", pack.len());
}
