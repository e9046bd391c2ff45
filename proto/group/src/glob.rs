//! Globs over names: `*` matches any run of characters, `?` any one, and every other character itself.

/// Whether `name` matches `glob`. Linear in practice: on a mismatch only the last `*` is tried again.
pub fn matches(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut g, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, n));
                g += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                g += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                g = at + 1;
                n = from + 1;
            }
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (glob, name, fits) in [
            ("*", "web1", true),
            ("web*", "web1", true),
            ("web?", "web1", true),
            ("web?", "web10", false),
            ("web", "web1", false),
            ("*1", "web1", true),
            ("w*b*1", "web-b-1", true),
            ("*.example", "a.example.com", false),
            ("", "web1", false),
            ("web1*", "web1", true),
            ("a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("[w]eb1", "web1", false),
        ] {
            assert_eq!(matches(glob, name), fits, "{glob} {name}");
        }
    }
}
