//! Names of servers, sets and balancers: short, safe in a path, a table and a shell.

use std::{fmt, str::FromStr};

use crate::Malformed;

fn check(kind: &str, text: &str) -> Result<(), Malformed> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let first = |c: char| c.is_ascii_alphanumeric();
    if text.len() <= 63 && text.starts_with(first) && text.chars().all(fits) {
        return Ok(());
    }
    Err(Malformed::new(format!(
        "'{}' is not a {kind} name: 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit",
        text.chars().take(64).collect::<String>().escape_default()
    )))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(std::sync::Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Malformed;
            fn from_str(text: &str) -> Result<Self, Malformed> {
                check($kind, text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of a server in its group.
    ServerName,
    "server"
);
name!(
    /// The name of a config set, the same on every server.
    SetName,
    "set"
);
name!(
    /// The name of a load balancer in its group.
    BalancerName,
    "balancer"
);
