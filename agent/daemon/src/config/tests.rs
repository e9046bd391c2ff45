//! The checks of agent.toml and the flags.

use super::*;

fn given(file: &Path) -> Given {
    Given { file: Some(file.to_owned()), ..Given::default() }
}

fn load_text(text: &str, flags: &Flags) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, text).expect("written");
    load(&given(&file), flags).map_err(|e| e.to_string())
}

const FULL: &str = r#"
    name = "web1"
    listen = "[::]:7440"
    advertise = "web1.example:7440"
    http = "127.0.0.1:7441"
    http_names = ["farm.example", "10.0.0.1"]

    [[set]]
    name = "nginx"
    path = "/srv/farm/nginx/"
    source = "/srv/git/nginx"
    local = ["conf.d/local-*.conf"]

    [[set]]
    name = "haproxy"
    path = "/srv/farm/haproxy"
"#;

#[test]
fn the_documented_file_is_read() {
    let config = load_text(FULL, &Flags::default()).expect("it is right");
    assert_eq!(config.name.as_str(), "web1");
    assert_eq!(config.advertise, "web1.example:7440");
    assert_eq!(config.http_names, ["farm.example", "10.0.0.1"]);
    assert_eq!(config.state_dir, Path::new("/var/lib/bellwether"));
    assert_eq!(config.admin_socket, Path::new("/run/bellwether/admin.sock"));
    let sets: Vec<_> = config.sets.iter().map(|set| (set.name.as_str(), set.path.to_str().unwrap())).collect();
    assert_eq!(sets, [("haproxy", "/srv/farm/haproxy"), ("nginx", "/srv/farm/nginx")]);
    assert_eq!(config.sets[1].local, ["conf.d/local-*.conf"]);
    let sources: Vec<_> = config.sets.iter().map(|set| set.source.as_deref()).collect();
    assert_eq!(sources, [None, Some(Path::new("/srv/git/nginx"))]);
}

#[test]
fn what_is_written_is_read_again() {
    let config = load_text(FULL, &Flags::default()).expect("it is right");
    let again = load_text(&to_toml(&config), &Flags::default()).expect("what was written is right");
    assert_eq!(again, Config { file: again.file.clone(), ..config });
}

#[test]
fn flags_win_over_the_file_and_replace_its_sets() {
    let flags = Flags {
        name: Some("web9".into()),
        listen: Some("127.0.0.1:1".into()),
        set: vec!["a=/srv/a=b".into()],
        ..Flags::default()
    };
    let config = load_text(FULL, &flags).expect("both are right");
    assert_eq!((config.name.as_str(), config.listen.port()), ("web9", 1));
    assert_eq!(config.sets.len(), 1);
    assert_eq!(config.sets[0].path, Path::new("/srv/a=b"));
}

#[test]
fn a_missing_file_is_no_error_when_flags_say_enough() {
    let flags = Flags { name: Some("web1".into()), set: vec!["a=/srv/a".into()], ..Flags::default() };
    let config = load(&given(Path::new("/nonexistent/agent.toml")), &flags).expect("flags are enough");
    assert!(!config.file_exists);
    assert!(config.advertise.ends_with(":7440"), "{}", config.advertise);
}

#[test]
fn what_is_wrong_is_named() {
    for (text, expected) in [
        ("nmae = 'x'", "agent.toml: there is no key 'nmae'; the keys are: name, listen,"),
        ("name = 'a b'", "agent.toml: name: 'a b' is not a server name"),
        ("name = 3", "invalid type"),
        ("listen = 'localhost:7440'", "agent.toml: listen: 'localhost:7440' is not an address and a port"),
        ("advertise = 'web1'", "agent.toml: advertise: 'web1' is not HOST:PORT"),
        ("advertise = 'web1:0'", "is not HOST:PORT"),
        ("advertise = '::1:7440'", "is not HOST:PORT"),
        ("listen = '[::]:0'", "advertise: must be given where listen has port 0"),
        ("state_dir = 'var'", "agent.toml: state_dir: 'var' is not an absolute path"),
        ("[[set]]\nname = 'a'", "missing field `path`"),
        ("[[set]]\nname = 'a'\npath = 'etc'", "[[set]] number 1: path: 'etc' is not an absolute path"),
        ("[[set]]\nname = 'a'\npath = '/srv/../etc'", "is not an absolute path without .."),
        ("[[set]]\nname = 'a'\npath = '/srv/a'\nreload = ''", "[[set]] number 1: reload: an empty command"),
        ("[[set]]\nname = 'a'\npath = '/srv/a'\nsource = 'x'", "[[set]] number 1: source: 'x' is not an absolute path"),
        (
            "[[set]]\nname = 'a'\npath = '/srv/a'\nsource = '/srv/a/git'",
            "the source of a set and its path must not nest",
        ),
        (
            "[[set]]\nname = 'a'\npath = '/srv/a/live'\nsource = '/srv/a'",
            "the source of a set and its path must not nest",
        ),
        ("[[set]]\nname = 'a'\npath = '/srv/a'\nsource = '/srv/a'", "the source of a set and its path must not nest"),
        ("[[set]]\nname = 'a'\npath = '/srv/a'\nsource = '/var/lib/bellwether/x'", "lies in the state directory"),
        (
            "[[set]]\nname = 'a'\npath = '/srv/a'\n[[set]]\nname = 'b'\npath = '/srv/b'\nsource = '/srv/a/b'",
            "/srv/a holds or is set b; sets must not nest",
        ),
        (
            "[[set]]\nname = 'a'\npath = '/srv/a'\nmode = 1",
            "[[set]] number 1: there is no key 'mode'; the keys are: name, path,",
        ),
        (
            "[[balancer]]\nname = 'a'\nkin = 'x'",
            "[[balancer]] number 1: there is no key 'kin'; the keys are: name, kind,",
        ),
    ] {
        let error = load_text(text, &Flags::default()).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    for (written, expected) in [
        (
            "validate = { run = 'x', tiemout = '1s' }",
            "validate: there is no key 'tiemout'; the keys are: run, user, timeout",
        ),
        ("reload = { command = 'x' }", "reload: there is no key 'command'; the keys are: run, user, timeout"),
        ("reload = {}", "reload: the key 'run' is needed; the keys are: run, user, timeout"),
        ("check = { probe = 'x', retry = 1 }", "check: there is no key 'retry'; the keys are: probe, user, timeout,"),
        ("check = { probe = 'x', retries = '1' }", "check: retries: a whole number is needed"),
        ("check = { probe = 'x', timeout = 5 }", "check: timeout: a string is needed"),
        ("validate = ['nginx', '-t']", "validate: a string is needed, or a table with the keys run, user, timeout"),
    ] {
        let text = format!("[[set]]\nname = 'a'\npath = '/srv/a'\n{written}");
        let error = load_text(&text, &Flags::default()).expect_err(written);
        let expected = format!("agent.toml: [[set]] number 1: {expected}");
        assert!(error.contains(&expected) && !error.contains("untagged"), "{written}: {error}");
    }
}

#[test]
fn sets_neither_nest_nor_hold_the_state_nor_this_file() {
    let sets = |sets: &[&str], state: &str| {
        let flags = Flags { set: sets.iter().map(|s| (*s).to_owned()).collect(), ..Flags::default() };
        load_text(&format!("name = 'web1'\nstate_dir = '{state}'"), &flags).map(|_| ())
    };
    assert_eq!(sets(&["a=/srv/farm", "b=/srv/farm2"], "/srv/state"), Ok(()));
    assert!(sets(&["a=/srv/farm", "b=/srv/farm/b"], "/srv/state").unwrap_err().contains("sets must not nest"));
    assert!(sets(&["a=/srv/farm", "b=/srv/farm"], "/srv/state").unwrap_err().contains("sets must not nest"));
    assert!(sets(&["a=/srv/farm", "a=/srv/other"], "/srv/state").unwrap_err().contains("a is there twice"));
    assert!(sets(&["a=/srv/farm"], "/srv/farm/state").unwrap_err().contains("holds the state directory"));
    assert!(sets(&["a=/srv/state/a"], "/srv/state").unwrap_err().contains("lies in the state directory"));
    assert!(sets(&["a=/"], "/srv/state").unwrap_err().contains("holds the state directory"));
}

#[test]
fn a_set_does_not_hold_the_file_of_settings_whether_it_is_there_yet_or_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("etc/bellwether/agent.toml");
    let flags = Flags { set: vec![format!("etc={}", directory.path().join("etc").display())], ..Flags::default() };
    let given = Given { state_dir: Some("/srv/state".into()), ..given(&file) };
    for there in [false, true] {
        if there {
            std::fs::create_dir_all(file.parent().expect("its directory")).expect("made");
            std::fs::write(&file, "").expect("written");
        }
        let refused = super::load(&given, &flags).map(drop).expect_err("refused").to_string();
        assert!(refused.contains("holds this agent's own"), "{there}: {refused}");
    }
}

#[test]
fn a_link_does_not_hide_that_sets_nest() {
    let directory = tempfile::tempdir().expect("a directory");
    let real = directory.path().join("real");
    std::fs::create_dir_all(real.join("inner")).expect("made");
    std::os::unix::fs::symlink(&real, directory.path().join("link")).expect("linked");
    let flags = Flags {
        set: vec![
            format!("a={}", real.display()),
            format!("b={}", directory.path().join("link/inner/deeper").display()),
        ],
        ..Flags::default()
    };
    assert!(load_text("name = 'web1'", &flags).unwrap_err().contains("sets must not nest"));
}

#[test]
fn the_file_is_never_part_of_a_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, "name = 'web1'").expect("written");
    let flags = Flags { set: vec![format!("a={}", directory.path().display())], ..Flags::default() };
    let error = load(&given(&file), &flags).expect_err("it holds the file").to_string();
    assert!(error.contains("holds this agent's own"), "{error}");
}

const BALANCERS: &str = r#"
    name = "web1"
    advertise = "web1.example:7440"
    agent_check = "127.0.0.1:7442"

    [[balancer]]
    name = "f5"
    kind = "command"
    command = "/usr/local/sbin/f5-member"
    timeout = "90s"

    [[balancer]]
    name = "edge"
    kind = "nginx"
    file = "/etc/nginx/upstreams/app.conf"
"#;

#[test]
fn balancers_are_files_and_commands_of_this_machine() {
    let config = load_text(BALANCERS, &Flags::default()).expect("it is right");
    assert_eq!(config.agent_check, Some("127.0.0.1:7442".parse().unwrap()));
    let names: Vec<_> = config.balancers.iter().map(|local| local.name.as_str()).collect();
    assert_eq!(names, ["edge", "f5"]);
    let again = load_text(&to_toml(&config), &Flags::default()).expect("what was written is right");
    assert_eq!(again, Config { file: again.file.clone(), ..config });
}

#[test]
fn a_balancer_that_cannot_be_is_refused() {
    for (from, to) in [
        ("\"edge\"", "\"f5\""),
        ("\"edge\"", "\"-\""),
        ("kind = \"nginx\"", "kind = \"haproxy\""),
        ("kind = \"nginx\"", "kind = \"apache\""),
        ("kind = \"nginx\"", "kind = \"command\""),
        ("file = \"/etc/nginx/upstreams/app.conf\"", ""),
        ("file = \"/etc", "file = \"etc"),
        ("command = \"/usr/local/sbin/f5-member\"", ""),
        ("\"90s\"", "\"soon\""),
        ("timeout", "timeouts"),
    ] {
        let text = BALANCERS.replace(from, to);
        assert_ne!(text, BALANCERS, "{from}");
        load_text(&text, &Flags::default()).expect_err(to);
    }
}
