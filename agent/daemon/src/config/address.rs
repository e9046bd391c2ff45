//! The address that a server advertises if no setting names one. It has to lead to this server, with or without DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

/// `host:port` for a server called `host` that listens on `listen`. The host is its name, if that resolves to an
/// address that other machines can dial. Otherwise it is the address of the interface towards `peer` (`host:port` of
/// the manager; none: the default route), or else of another interface.
pub(super) fn advertised(host: &str, listen: SocketAddr, peer: Option<&str>) -> String {
    let port = listen.port();
    if !listen.ip().is_unspecified() {
        let named = resolved(host, port).iter().any(|address| address.ip() == listen.ip());
        return if named { format!("{host}:{port}") } else { listen.to_string() };
    }
    if resolved(host, port).iter().any(|address| !address.ip().is_loopback()) {
        return format!("{host}:{port}");
    }
    let towards = peer.and_then(|peer| peer.to_socket_addrs().ok()?.find_map(source));
    // Addresses for documentation (RFC 5737, RFC 3849): nothing is sent, only the route is looked up.
    let anywhere = || {
        let away: [IpAddr; 2] =
            [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
        away.into_iter().find_map(|ip| source(SocketAddr::new(ip, 9)))
    };
    match towards.or_else(anywhere).or_else(of_an_interface) {
        Some(ip) => SocketAddr::new(ip, port).to_string(),
        // `doctor` and the manager's dialling report that this address is wrong.
        None => format!("{host}:{port}"),
    }
}

fn resolved(host: &str, port: u16) -> Vec<SocketAddr> {
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// The address from which this machine would reach `peer`; none without a route.
fn source(peer: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr =
        if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The first address of an interface that other machines can dial.
fn of_an_interface() -> Option<IpAddr> {
    let mut all = if_addrs::get_if_addrs().ok()?;
    all.retain(|interface| !interface.is_loopback() && !interface.is_link_local());
    all.sort_by_key(|interface| !interface.ip().is_ipv4());
    all.first().map(if_addrs::Interface::ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_others_cannot_dial_is_not_advertised() {
        for host in ["localhost", "no-such-host.invalid"] {
            let listen = "[::]:7440".parse().expect("an address");
            let address = advertised(host, listen, Some("127.0.0.1:1"));
            assert_eq!(address, "127.0.0.1:7440", "the way to a manager on this machine");
        }
    }

    #[test]
    fn a_server_that_listens_on_one_address_advertises_that() {
        let listen = "127.0.0.2:7440".parse().expect("an address");
        assert_eq!(advertised("no-such-host.invalid", listen, None), "127.0.0.2:7440");
        let listen = "[::1]:7440".parse().expect("an address");
        assert_eq!(advertised("no-such-host.invalid", listen, None), "[::1]:7440");
        let listen = "127.0.0.1:7440".parse().expect("an address");
        assert_eq!(advertised("localhost", listen, None), "localhost:7440");
    }
}
