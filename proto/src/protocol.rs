//! The protocol between two programs: the newest that both speak. Version N talks to N−1.

/// The versions that this program speaks: the lowest and the highest.
pub const SPOKEN: (u32, u32) = (1, 1);

/// One of the two sides.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The server's name.
    pub server: &'a str,
    /// Its program's version; empty: not reported.
    pub program: &'a str,
    /// The protocol versions that it speaks: the lowest and the highest.
    pub speaks: (u32, u32),
}

/// Two programs speak no protocol in common.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{ours} and {theirs} cannot talk: their versions are too far apart; upgrade the older one: {older}")]
pub struct TooFarApart {
    ours: String,
    theirs: String,
    /// The one to upgrade, with its program's version.
    pub older: String,
}

/// The protocol version that both speak: the lower one of their highest. Both sides compute the same.
///
/// # Errors
/// One side's highest is below the other's lowest: that side must be upgraded.
pub fn negotiate(ours: &Side<'_>, theirs: &Side<'_>) -> Result<u32, TooFarApart> {
    let agreed = ours.speaks.1.min(theirs.speaks.1);
    let older = match agreed {
        _ if agreed < ours.speaks.0 => theirs,
        _ if agreed < theirs.speaks.0 => ours,
        _ => return Ok(agreed),
    };
    let older = match older.program {
        "" => older.server.to_owned(),
        program => format!("{} ({program})", older.server),
    };
    Err(TooFarApart { ours: ours.server.to_owned(), theirs: theirs.server.to_owned(), older })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(server: &'static str, speaks: (u32, u32)) -> Side<'static> {
        Side { server, program: "0.1.0", speaks }
    }

    #[test]
    fn both_come_to_the_newest_that_both_speak() {
        for (a, b, agreed) in [((1, 1), (1, 1), 1), ((1, 2), (1, 1), 1), ((1, 2), (2, 3), 2), ((2, 3), (2, 3), 3)] {
            let (a, b) = (side("a", a), side("b", b));
            assert_eq!((negotiate(&a, &b), negotiate(&b, &a)), (Ok(agreed), Ok(agreed)));
        }
    }

    #[test]
    fn the_older_one_is_named_on_both_sides() {
        let (old, new) = (side("web2", (1, 2)), side("web1", (3, 4)));
        for said in [negotiate(&old, &new), negotiate(&new, &old)] {
            let said = said.unwrap_err().to_string();
            let ends = "their versions are too far apart; upgrade the older one: web2 (0.1.0)";
            assert!(said.ends_with(ends), "{said}");
        }
        let silent = Side { program: "", ..old };
        assert_eq!(negotiate(&silent, &new).unwrap_err().older, "web2");
    }
}
