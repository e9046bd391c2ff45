//! The text of an error for people.

use std::error::Error;

/// An error's text and those of its causes, each once: `cannot read F: permission denied`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}; nothing was changed")]
    struct Above(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read F")]
    struct Plain(#[source] std::io::Error);

    #[test]
    fn each_text_is_there_once() {
        assert_eq!(chain(&Above(std::io::Error::other("the disk is full"))), "the disk is full; nothing was changed");
        assert_eq!(chain(&Plain(std::io::Error::other("denied"))), "cannot read F: denied");
    }
}
