//! A real nginx serves a member's set before and after an update.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    balancers::nginx_program,
    farm::{Answer, DEADLINE, Farm, free_port, get, wait_for},
};

/// A test's own nginx: an ordinary child process, with everything below one directory.
struct Nginx {
    process: Child,
    address: String,
}

impl Nginx {
    fn start(home: &Path, document_root: &Path) -> Self {
        fs::create_dir_all(home).expect("nginx's directory");
        let address = format!("127.0.0.1:{}", free_port());
        let config = home.join("nginx.conf");
        fs::write(&config, configuration(home, document_root, &address)).expect("nginx's configuration");
        let process = Command::new(nginx_program())
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(home)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx: run tests/run, which installs it");
        Self { process, address }
    }

    fn wait_page(&self, path: &str, content: &str) {
        wait_for(&format!("the page {path} with '{content}'"), DEADLINE, || {
            match get(&self.address, path).and_then(Answer::ok) {
                Ok(body) if body == content => Ok(()),
                Ok(other) | Err(other) => Err(other),
            }
        });
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(home: &Path, document_root: &Path, address: &str) -> String {
    let home = home.display();
    // One process leaves nothing behind when it is killed. As root it would otherwise serve as www-data, which may not enter
    // the farm's directory.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    format!(
        "daemon off; master_process off; {user} pid {home}/nginx.pid; error_log {home}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; types {{ text/html html; }}\n\
           client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;\n\
           uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;\n\
           server {{ listen {address}; root {}; }} }}\n",
        document_root.display()
    )
}

#[test]
fn w5_a_real_nginx_serves_the_changed_page_after_an_update() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", "<p>old</p>"));
    farm.wait_equal();
    let nginx = Nginx::start(&farm.directory().join("nginx"), farm.member(1).set("web"));
    nginx.wait_page("/index.html", "<p>old</p>");

    farm.manager().write("index.html", "<p>new</p>");
    farm.manager().write("news/today.html", "<p>today</p>");
    nginx.wait_page("/index.html", "<p>new</p>");
    nginx.wait_page("/news/today.html", "<p>today</p>");
    farm.wait_equal();
}

#[test]
fn invariant_1_no_reader_ever_meets_a_page_cut_short() {
    let page = |round: usize| format!("{round:03} ").repeat(40_000);
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("index.html", page(0)));
    farm.wait_equal();
    let nginx = Nginx::start(&farm.directory().join("nginx"), farm.member(1).set("web"));
    nginx.wait_page("/index.html", &page(0));
    let mut served = 0;
    for round in 1..=8 {
        farm.manager().write("index.html.new", page(round));
        fs::rename(farm.manager().web("index.html.new"), farm.manager().web("index.html")).expect("renamed");
        wait_for("the next page", DEADLINE, || {
            let body = get(&nginx.address, "/index.html")?.ok()?;
            served += 1;
            let whole = body == page(round) || body == page(round - 1);
            assert!(whole, "a page of {} bytes that begins with {:?}", body.len(), body.get(..12));
            if body == page(round) { Ok(()) } else { Err(format!("the page before, {served} served")) }
        });
    }
}
