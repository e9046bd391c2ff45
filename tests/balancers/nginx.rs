//! An nginx that serves a server's set `web`: an ordinary child process, everything below one directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::farm::{DEADLINE, Server, free_port, wait_for};

/// An nginx. All of its answers have the header `X-Server` with the name of its server.
#[derive(Debug)]
pub(crate) struct Nginx {
    /// The address at which it listens.
    pub(crate) address: String,
    home: PathBuf,
    process: Option<Child>,
}

impl Nginx {
    /// Starts one for that server, and waits until it listens.
    pub(crate) fn start(site: &Path, server: &Server) -> Self {
        let home = site.join(format!("nginx-{}", server.name));
        fs::create_dir_all(&home).expect("nginx's directory");
        // The timeout is long enough for a session that lasts as long as a test.
        fs::write(home.join("slow"), vec![b'x'; 8 << 20]).expect("a large file");
        let address = format!("127.0.0.1:{}", free_port());
        fs::write(home.join("nginx.conf"), configuration(&home, server, &address)).expect("nginx's configuration");
        let mut nginx = Self { address, home, process: None };
        nginx.revive();
        nginx
    }

    /// Starts it again.
    pub(crate) fn revive(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let mut command = Command::new(program());
        command.arg("-c").arg(self.home.join("nginx.conf")).arg("-p").arg(&self.home);
        let process = command.stdin(Stdio::null()).spawn().expect("nginx: run tests/run, which installs it");
        self.process = Some(process);
        wait_for("nginx listening", DEADLINE, || {
            std::net::TcpStream::connect(&self.address).map(drop).map_err(|e| e.to_string())
        });
    }

    /// The number of readiness checks while its agent did not answer.
    pub(crate) fn checks_without_agent(&self) -> usize {
        fs::read_to_string(self.home.join("without_agent.log")).unwrap_or_default().lines().count()
    }

    /// kill -9, like a power loss.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The path of the program on Debian, which is not in the PATH of users who are not root.
pub(crate) fn program() -> PathBuf {
    let debian = Path::new("/usr/sbin/nginx");
    if debian.exists() { debian.to_owned() } else { PathBuf::from("nginx") }
}

/// `location = /bellwether/ready` is the documented one (docs/balancers.md) except for its timeouts: on a busy machine a late
/// answer of the agent would count as no answer.
fn configuration(home: &Path, server: &Server, address: &str) -> String {
    let home = home.display();
    // One process leaves nothing behind when it is killed. As root it would otherwise serve as www-data, which may not enter
    // the farm's directory.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    format!(
        "daemon off; master_process off; {user} pid {home}/nginx.pid; error_log {home}/error.log;\n\
         events {{ worker_connections 1000; }}\n\
         http {{ access_log off; types {{ text/html html; }} keepalive_timeout 600s; keepalive_requests 1000000;\n\
           client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;\n\
           uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;\n\
           server {{\n\
             listen {address}; root {web};\n\
             add_header X-Server {name} always;\n\
             location = /bellwether/ready {{\n\
               proxy_pass http://{http}/ready;\n\
               proxy_connect_timeout 60s;\n\
               proxy_read_timeout 60s;\n\
               error_page 502 504 = @without_agent;\n\
             }}\n\
             location @without_agent {{ access_log {home}/without_agent.log; return 200; }}\n\
             location = /slow {{ alias {home}/slow; limit_rate 1k; add_header X-Server {name} always; }}\n\
             location = /large {{ alias {home}/slow; }}\n\
           }} }}\n",
        web = server.set("web").display(),
        name = server.name,
        http = server.http,
    )
}
