//! The host names of this server.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr};

use axum::http::{Request, header, uri::Authority};

/// Addresses, `localhost`, and this server's own names.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeSet<String>);

impl Names {
    /// Makes the names, beside addresses and `localhost`.
    pub fn new<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Self {
        Self(names.into_iter().map(|name| normal(name.as_ref())).collect())
    }

    /// The first host name of `request` that is not this server's. A request without a host name comes from no browser,
    /// so no rebound name can have led it here.
    pub(super) fn unknown<T>(&self, request: &Request<T>) -> Option<String> {
        let in_uri = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let in_head = request.headers().get_all(header::HOST).iter().map(|host| host.as_bytes());
        let asked = in_uri.into_iter().chain(in_head);
        asked.map(String::from_utf8_lossy).find(|asked| !self.know(asked)).map(Cow::into_owned)
    }

    /// Whether `host`, perhaps with a port, is this server. Every address is: only a name can be made to lead
    /// elsewhere.
    fn know(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let host = normal(authority.host());
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        address.parse::<IpAddr>().is_ok() || host == "localhost" || self.0.contains(&host)
    }
}

/// The form in which names are compared: in lower case, without the root's dot.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_own_names_are_known() {
        let names = Names::new(["Web1", "web1.example."]);
        for known in [
            "127.0.0.1",
            "127.0.0.1:7441",
            "[::1]:7441",
            "[2001:db8::1]",
            "localhost:7441",
            "LOCALHOST",
            "web1",
            "WEB1.example:80",
            "web1.example.",
        ] {
            assert!(names.know(known), "{known}");
        }
        for unknown in [
            "evil.example",
            "web1.example.evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "web2",
            "",
            " ",
            "web1 x",
            "127.0.0.1/x",
            "evil@",
            "evil@web1",
            "web1@evil.example",
            "[evil]",
            "\u{202e}",
        ] {
            assert!(!names.know(unknown), "{unknown}");
        }
    }

    #[test]
    fn every_name_of_a_request_counts() {
        let names = Names::new(["web1"]);
        let asked = |uri: &str, hosts: &[&str]| {
            let request = hosts.iter().fold(Request::builder().uri(uri), |request, host| request.header("host", *host));
            names.unknown(&request.body(()).unwrap())
        };
        assert_eq!(asked("/status", &[]), None, "no browser");
        assert_eq!(asked("/status", &["web1:7441"]), None);
        assert_eq!(asked("/status", &["evil"]).as_deref(), Some("evil"));
        assert_eq!(asked("/status", &["web1", "evil"]).as_deref(), Some("evil"));
        assert_eq!(asked("http://evil/status", &["web1"]).as_deref(), Some("evil"));
    }
}
