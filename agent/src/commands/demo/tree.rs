//! A configuration tree for the demo: a generated one that looks like nginx's, or a copy of the user's own.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use bellwether_proto::hash::Hash;
use data_encoding::BASE64;

/// The reason why there is no tree.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub(super) struct TreeError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TreeError {
    move |source| TreeError { action, path: path.to_owned(), source }
}

const SITES: [&str; 12] =
    ["accounts", "api", "assets", "billing", "blog", "docs", "intranet", "search", "shop", "status", "support", "www"];

const NGINX: &str = "\
user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;

events {
    worker_connections 1024;
}

http {
    include mime.types;
    default_type application/octet-stream;
    include conf.d/*.conf;
    include sites-enabled/*;
}
";

const MIME: &str = "\
types {
    text/html html htm;
    text/css css;
    text/javascript js;
    image/svg+xml svg;
    image/webp webp;
    application/json json;
    font/woff2 woff2;
}
";

const CONF_D: [(&str, &str); 6] = [
    ("gzip", "gzip on;\ngzip_comp_level 5;\ngzip_types text/css text/javascript application/json image/svg+xml;\n"),
    (
        "log",
        "log_format timed '$remote_addr $request $status $request_time';\naccess_log /var/log/nginx/access.log timed;\n",
    ),
    ("limits", "client_max_body_size 16m;\nlimit_req_zone $binary_remote_addr zone=perip:10m rate=20r/s;\n"),
    ("ssl", "ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:SSL:10m;\nssl_session_timeout 1h;\n"),
    ("timeouts", "keepalive_timeout 65;\nsend_timeout 30;\nproxy_read_timeout 60;\n"),
    ("tokens", "server_tokens off;\nsendfile on;\ntcp_nopush on;\n"),
];

const SNIPPETS: [(&str, &str); 4] = [
    ("headers", "add_header X-Content-Type-Options nosniff;\nadd_header Referrer-Policy same-origin;\n"),
    ("proxy", "proxy_set_header Host $host;\nproxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"),
    ("acme", "location /.well-known/acme-challenge/ {\n    root /var/www/acme;\n}\n"),
    ("deny-dotfiles", "location ~ /\\. {\n    deny all;\n}\n"),
];

/// Makes a tree of some sixty files below `root`, the same each time: directories, files of several modes, links.
pub(super) fn generate(root: &Path) -> Result<(), TreeError> {
    let tree = Writer { root };
    for (directory, mode) in [
        ("", 0o755),
        ("certs", 0o755),
        ("conf.d", 0o755),
        ("modules-enabled", 0o755),
        ("private", 0o700),
        ("sites-available", 0o755),
        ("sites-enabled", 0o755),
        ("snippets", 0o755),
    ] {
        tree.directory(directory, mode)?;
    }
    tree.file("nginx.conf", NGINX, 0o644)?;
    tree.file("mime.types", MIME, 0o644)?;
    for (name, text) in CONF_D {
        tree.file(&format!("conf.d/{name}.conf"), text, 0o644)?;
    }
    for (name, text) in SNIPPETS {
        tree.file(&format!("snippets/{name}.conf"), text, 0o644)?;
    }
    SITES.iter().try_for_each(|site| tree.site(site))
}

struct Writer<'a> {
    root: &'a Path,
}

impl Writer<'_> {
    fn directory(&self, name: &str, mode: u32) -> Result<(), TreeError> {
        let path = self.root.join(name);
        fs::DirBuilder::new().mode(mode).create(&path).map_err(failed("make", &path))
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> Result<(), TreeError> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(failed("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", &path))
    }

    fn site(&self, site: &str) -> Result<(), TreeError> {
        self.file(&format!("sites-available/{site}.conf"), &server_block(site), 0o644)?;
        self.file(&format!("certs/{site}.pem"), &armoured("CERTIFICATE", site, 40), 0o644)?;
        // Not a key: only its look and its mode are those of a key.
        self.file(&format!("private/{site}.key"), &armoured("DEMO DATA", site, 25), 0o600)?;
        let link = self.root.join(format!("sites-enabled/{site}.conf"));
        symlink(format!("../sites-available/{site}.conf"), &link).map_err(failed("link", &link))
    }
}

fn server_block(site: &str) -> String {
    format!(
        "upstream {site} {{
    server 10.0.0.11:8080;
    server 10.0.0.12:8080;
    keepalive 32;
}}

server {{
    listen 443 ssl;
    server_name {site}.example;
    ssl_certificate certs/{site}.pem;
    ssl_certificate_key private/{site}.key;
    include snippets/headers.conf;
    include snippets/deny-dotfiles.conf;

    location / {{
        include snippets/proxy.conf;
        proxy_pass http://{site};
    }}
}}
"
    )
}

/// Lines that look like a PEM file (RFC 7468) and compress as badly as one.
fn armoured(label: &str, seed: &str, lines: usize) -> String {
    let body: String = (0..lines)
        .map(|line| {
            let bytes = [0, 1].map(|half| *Hash::of(format!("{label} {seed} {line} {half}").as_bytes()).as_bytes());
            BASE64.encode(&bytes.concat()[..48]) + "\n"
        })
        .collect();
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
}

/// The size of a copy, and the entries that it left out.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// The number of regular files.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// The entries that were left out, with reasons, for people.
    pub(super) left_out: Vec<String>,
}

/// Copies the tree at `from` to `to`, which must not exist, and its symbolic links as links. Unreadable entries,
/// special files and `own`, the demo's directory, are left out and named.
pub(super) fn copy(from: &Path, to: &Path, own: &Path) -> Result<Copied, TreeError> {
    let mut copied = Copied::default();
    let own = own.canonicalize().map_err(failed("look at", own))?;
    copy_directory(from, to, &own, &mut copied)?;
    Ok(copied)
}

fn copy_directory(from: &Path, to: &Path, own: &Path, copied: &mut Copied) -> Result<(), TreeError> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(e) => {
            copied.left_out.push(format!("{}: {e}", from.display()));
            return Ok(());
        }
    };
    let mode = from.metadata().map_err(failed("look at", from))?.mode() & 0o7777;
    fs::DirBuilder::new().mode(0o700).create(to).map_err(failed("make", to))?;
    for entry in entries {
        let entry = entry.map_err(failed("read", from))?;
        copy_entry(&entry.path(), &to.join(entry.file_name()), own, copied)?;
    }
    // The mode is set last, because it may forbid writing.
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", to))
}

fn copy_entry(from: &Path, to: &Path, own: &Path, copied: &mut Copied) -> Result<(), TreeError> {
    let metadata = from.symlink_metadata().map_err(failed("look at", from))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        if from == own {
            return Ok(());
        }
        return copy_directory(from, to, own, copied);
    }
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(failed("read the link", from))?;
        return symlink(target, to).map_err(failed("link", to));
    }
    if kind.is_socket() || kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
        copied.left_out.push(format!("{}: not a file", from.display()));
        return Ok(());
    }
    match copy_file(from, to, &metadata) {
        Ok(bytes) => {
            copied.files += 1;
            copied.bytes += bytes;
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            copied.left_out.push(format!("{}: {e}", from.display()));
        }
        Err(e) => return Err(failed("copy", from)(e)),
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<u64> {
    let mut reader = fs::File::open(from)?;
    let mut writer = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let bytes = io::copy(&mut reader, &mut writer)?;
    writer.set_modified(metadata.modified()?)?;
    // Set-user-id bits are not copied, because a demonstration needs none.
    writer.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o1777))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::demo::compare::compare;

    #[test]
    fn the_made_tree_is_the_same_each_time_and_a_copy_is_equal() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second, copied] = ["first", "second", "copied"].map(|name| dir.path().join(name));
        generate(&first).unwrap();
        generate(&second).unwrap();
        let one = compare(&first, &second).unwrap();
        // The two trees may be made in different seconds.
        let others = one.differences.iter().filter(|difference| !difference.contains(": changed at "));
        assert_eq!(others.collect::<Vec<_>>(), [""; 0]);
        assert!((45..90).contains(&one.files), "{} files", one.files);
        let copy = copy(&first, &copied, dir.path()).unwrap();
        assert_eq!((copy.files, copy.bytes), (one.files, one.bytes));
        assert_eq!(compare(&first, &copied).unwrap().differences, [""; 0]);
    }

    #[test]
    fn what_is_not_a_file_is_named_and_the_demo_itself_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let own = from.join("own");
        fs::create_dir_all(&own).unwrap();
        fs::write(from.join("a"), "a").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("s")).unwrap();
        let copied = copy(&from, &own.join("copy"), &own).unwrap();
        assert_eq!((copied.files, copied.left_out.len()), (1, 1), "{copied:?}");
        assert!(!own.join("copy/own").exists());
    }
}
