//! nginx: upstreams and server blocks.

use std::fmt::Write;

use bellwether_random::Rng;

use super::words;

/// Server blocks until there are `size` bytes.
pub(super) fn fill(rng: &mut Rng, size: usize, text: &mut String) {
    text.push_str("# Managed centrally: changes made here by hand are reverted.\n\n");
    while text.len() < size {
        site(rng, text).expect("writing to a string does not fail");
    }
}

fn site(rng: &mut Rng, text: &mut String) -> std::fmt::Result {
    let customer = words::customer(rng);
    let (host, upstream) = (words::host(rng, &customer), customer.replace('-', "_"));
    writeln!(text, "upstream {upstream} {{\n    zone {upstream} 64k;\n    least_conn;")?;
    for _ in 0..2 + rng.below(4) {
        let weight = rng.pick(&["", " weight=2", " backup", " max_fails=3 fail_timeout=10s"]);
        writeln!(text, "    server {}:{}{weight};", words::address(rng), 8_000 + rng.below(200))?;
    }
    writeln!(text, "    keepalive {};\n}}\n", 8 << rng.below(4))?;
    writeln!(text, "server {{\n    listen 443 ssl http2;\n    server_name {host} {customer}.internal;")?;
    writeln!(text, "    ssl_certificate     /etc/nginx/tls/{customer}.pem;")?;
    writeln!(text, "    ssl_certificate_key /etc/nginx/tls/{customer}.key;")?;
    writeln!(text, "    access_log /var/log/nginx/{customer}.access.log combined buffer=32k flush=5s;")?;
    writeln!(text, "    client_max_body_size {}m;\n", 1 << rng.below(7))?;
    for _ in 0..1 + rng.below(5) {
        location(rng, &upstream, text)?;
    }
    text.push_str("}\n\n");
    Ok(())
}

fn location(rng: &mut Rng, upstream: &str, text: &mut String) -> std::fmt::Result {
    let path = rng.pick(&["/", "/api/", "/static/", "/login", "/search", "/images/", "/ws/", "/checkout/"]);
    writeln!(text, "    location {path} {{\n        proxy_pass http://{upstream};")?;
    text.push_str("        proxy_set_header Host $host;\n        proxy_set_header X-Real-IP $remote_addr;\n");
    text.push_str("        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n");
    writeln!(text, "        proxy_read_timeout {}s;", 5 * (1 + rng.below(24)))?;
    match rng.below(4) {
        0 => writeln!(text, "        limit_req zone=per_ip burst={} nodelay;", 10 * (1 + rng.below(20)))?,
        1 => writeln!(text, "        proxy_cache_valid 200 302 {}m;", 1 + rng.below(120))?,
        2 => writeln!(text, "        allow {}/24;\n        deny all;", words::address(rng))?,
        _ => writeln!(text, "        add_header X-Trace {:016x} always;", rng.number())?,
    }
    text.push_str("    }\n\n");
    Ok(())
}
