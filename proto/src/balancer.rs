//! Load balancers in the group record, and a server's names at them.
//!
//! The record holds addresses only: commands and files for a balancer of another kind come from the local agent.toml.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Malformed, limits, name::BalancerName};

/// One balancer of the group. Its text, on the command line, is `NAME=haproxy:ADDRESS[,backend=NAME…]`, `NAME=nginx` or
/// `NAME=command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balancer {
    /// Its name in the group.
    pub name: BalancerName,
    /// The way of its control.
    pub kind: Kind,
}

/// The way in which a balancer is controlled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Over HAProxy's runtime API.
    Haproxy(Haproxy),
    /// By an upstream file of an nginx on the manager's machine, which its agent.toml names.
    Nginx,
    /// By a command that the manager's agent.toml names.
    Command,
}

/// The place of HAProxy's runtime API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Haproxy {
    /// Its socket, `level admin`.
    pub address: Runtime,
    /// The backends that are searched for servers; none: all of them.
    pub backends: Vec<Backend>,
}

/// The address of a runtime API: `unix:/PATH` or `tcp:HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Runtime {
    /// An absolute path on the machine that connects.
    Unix(String),
    /// `HOST:PORT`.
    Tcp(String),
}

/// Characters that HAProxy allows in the names of backends and servers (configuration manual, 2.6, chapter 4).
fn is_label(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    (1..=128).contains(&text.len()) && text.chars().all(fits)
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect::<String>().escape_debug().to_string()
}

/// The name of a backend (of an upstream), as the balancer has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Backend(String);

/// A server's name at a balancer: `BACKEND/SERVER`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackendServer {
    backend: Backend,
    server: String,
}

impl Backend {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl BackendServer {
    /// The name of `server` in `backend`.
    ///
    /// # Errors
    /// HAProxy would not accept the server's name.
    pub fn new(backend: Backend, server: &str) -> Result<Self, Malformed> {
        if is_label(server) {
            return Ok(Self { backend, server: server.to_owned() });
        }
        Err(Malformed::new(format!("'{}' is not the name of a server at a balancer", cut(server))))
    }

    /// The backend.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The server's name there.
    pub fn server(&self) -> &str {
        &self.server
    }
}

/// The places where a server takes traffic. The text is a list of `BACKEND/SERVER`, or the one word `none`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Traffic {
    /// Wherever a balancer has a server of its name.
    #[default]
    ByName,
    /// At these places.
    At(Vec<BackendServer>),
    /// The server takes no traffic.
    None,
}

/// The word of [`Traffic::None`].
pub const NONE: &str = "none";

impl Traffic {
    /// Reads a server's places in the record.
    ///
    /// # Errors
    /// A text is not `BACKEND/SERVER`, comes twice, or is too much; or `none` stands beside others.
    pub fn parse(backends: &[String]) -> Result<Self, Malformed> {
        if backends.is_empty() {
            return Ok(Self::ByName);
        }
        if backends == [NONE] {
            return Ok(Self::None);
        }
        if backends.len() > limits::BACKENDS {
            let what = format!("{} places at balancers; the limit is {}", backends.len(), limits::BACKENDS);
            return Err(Malformed::new(what));
        }
        let mut places = backends.iter().map(|text| text.parse()).collect::<Result<Vec<BackendServer>, _>>()?;
        places.sort();
        match places.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(Malformed::new(format!("{} is there twice", twice[0]))),
            None => Ok(Self::At(places)),
        }
    }
}

/// Checks the balancers of a record: sorted by name, each once, within the limits.
///
/// # Errors
/// The broken rule.
pub fn check(balancers: &[Balancer]) -> Result<(), Malformed> {
    if balancers.len() > limits::BALANCERS {
        let what = format!("{} balancers; the limit is {}", balancers.len(), limits::BALANCERS);
        return Err(Malformed::new(what));
    }
    if !balancers.is_sorted_by(|a, b| a.name < b.name) {
        return Err(Malformed::new("balancers that are not sorted, or twice there"));
    }
    for balancer in balancers {
        if let Kind::Haproxy(Haproxy { backends, .. }) = &balancer.kind
            && backends.len() > limits::BACKENDS
        {
            let what = format!("{} backends of balancer {}", backends.len(), balancer.name);
            return Err(Malformed::new(format!("{what}; the limit is {}", limits::BACKENDS)));
        }
    }
    Ok(())
}

impl FromStr for Backend {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if is_label(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Malformed::new(format!("'{}' is not the name of a backend", cut(text))))
    }
}

impl FromStr for BackendServer {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parts = text.split_once('/').and_then(|(backend, server)| Some((backend.parse().ok()?, server)));
        parts.and_then(|(backend, server)| Self::new(backend, server).ok()).ok_or_else(|| {
            Malformed::new(format!("'{}' is not a server at a balancer: BACKEND/SERVER, as in app/web1", cut(text)))
        })
    }
}

impl FromStr for Runtime {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || {
            let what = "is not the address of a runtime API: unix:/PATH or tcp:HOST:PORT";
            Malformed::new(format!("'{}' {what}", cut(text)))
        };
        let plain = text.len() <= 300 && text.chars().all(|c| c.is_ascii_graphic() && c != ',');
        // The field sun_path of a Unix socket's address holds 107 bytes.
        let path = text.strip_prefix("unix:").filter(|path| plain && path.starts_with('/') && path.len() <= 107);
        let host = text.strip_prefix("tcp:").filter(|address| {
            let parts = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            plain && parts.and_then(|(_, port)| port.parse::<u16>().ok()).is_some_and(|port| port != 0)
        });
        match (path, host) {
            (Some(path), _) => Ok(Self::Unix(path.to_owned())),
            (None, Some(host)) => Ok(Self::Tcp(host.to_owned())),
            (None, None) => Err(wrong()),
        }
    }
}

impl FromStr for Balancer {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wrong = || {
            let what = "is not a balancer: NAME=haproxy:unix:/PATH, NAME=haproxy:tcp:HOST:PORT (each with ,backend=NAME \
                        as often as needed), NAME=nginx or NAME=command";
            Malformed::new(format!("'{}' {what}", cut(text)))
        };
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let name = name.parse()?;
        let kind = match rest {
            "nginx" => Kind::Nginx,
            "command" => Kind::Command,
            _ => {
                let mut parts = rest.strip_prefix("haproxy:").ok_or_else(wrong)?.split(',');
                let address = parts.next().unwrap_or_default().parse()?;
                let backend = |part: &str| part.strip_prefix("backend=").ok_or_else(wrong)?.parse();
                let mut backends = parts.map(backend).collect::<Result<Vec<_>, _>>()?;
                backends.sort();
                backends.dedup();
                Kind::Haproxy(Haproxy { address, backends })
            }
        };
        Ok(Self { name, kind })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BackendServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl fmt::Display for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Nginx => write!(f, "{}=nginx", self.name),
            Kind::Command => write!(f, "{}=command", self.name),
            Kind::Haproxy(Haproxy { address, backends }) => {
                write!(f, "{}=haproxy:{address}", self.name)?;
                backends.iter().try_for_each(|backend| write!(f, ",backend={backend}"))
            }
        }
    }
}

macro_rules! text {
    ($($type:ident)*) => {
        $(impl TryFrom<String> for $type {
            type Error = Malformed;

            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        })*
    };
}

text! { Backend BackendServer Runtime }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_printed() {
        for text in [
            "lb1=haproxy:unix:/run/haproxy/admin.sock",
            "lb1=haproxy:tcp:lb1.example:9999,backend=app,backend=static:2",
            "lb-1=haproxy:tcp:[2001:db8::1]:9999",
            "edge=nginx",
            "f5=command",
        ] {
            let balancer: Balancer = text.parse().unwrap();
            assert_eq!(balancer.to_string(), text);
            let json = serde_json::to_string(&balancer).unwrap();
            assert_eq!(serde_json::from_str::<Balancer>(&json).unwrap(), balancer);
        }
    }

    #[test]
    fn what_could_say_something_else_to_a_balancer_is_refused() {
        for text in [
            "lb1",
            "=nginx",
            "lb1=apache",
            "lb1=haproxy",
            "lb1=haproxy:/run/admin.sock",
            "lb1=haproxy:unix:relative.sock",
            "lb1=haproxy:unix:/run/a b.sock",
            "lb1=haproxy:tcp:lb1",
            "lb1=haproxy:tcp::9999",
            "lb1=haproxy:tcp:lb1:0",
            "lb1=haproxy:tcp:lb1:99999",
            "lb1=haproxy:unix:/run/a.sock,web",
            "lb1=haproxy:unix:/run/a.sock,backend=a;b",
            "lb1=haproxy:unix:/run/a.sock,backend=",
            "lb/1=nginx",
        ] {
            assert!(text.parse::<Balancer>().is_err(), "{text}");
        }
        let long = format!("lb1=haproxy:unix:/{}", "x".repeat(107));
        assert!(long.parse::<Balancer>().is_err());
        for text in ["", "app", "app/", "/web1", "app/web1;", "app/web1\nshow", "app/web 1", "app/a/b"] {
            assert!(text.parse::<BackendServer>().is_err(), "{text}");
        }
    }

    #[test]
    fn where_a_server_takes_traffic() {
        let parse = |texts: &[&str]| Traffic::parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok(Traffic::ByName));
        assert_eq!(parse(&["none"]), Ok(Traffic::None));
        let places = ["app/web1", "static/web1"].map(|text| text.parse().unwrap());
        assert_eq!(parse(&["static/web1", "app/web1"]), Ok(Traffic::At(places.to_vec())));
        assert!(parse(&["app/web1", "app/web1"]).is_err());
        assert!(parse(&["app/web1", "none"]).is_err());
    }

    #[test]
    fn balancers_come_once_and_in_order() {
        let balancers = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<Balancer>>();
        assert_eq!(check(&balancers(&["a=nginx", "b=command"])), Ok(()));
        assert!(check(&balancers(&["b=nginx", "a=command"])).is_err());
        assert!(check(&balancers(&["a=nginx", "a=command"])).is_err());
        let many: Vec<_> = (0..=limits::BALANCERS).map(|i| format!("lb{i:03}=nginx").parse().unwrap()).collect();
        assert!(check(&many).is_err());
    }
}
