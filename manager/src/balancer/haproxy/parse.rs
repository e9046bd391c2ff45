//! Parses `show servers state` and `show stat` (HAProxy 2.6, management guide, chapter 9.3); columns are found by name.

use std::collections::BTreeMap;

use bellwether_proto::balancer::{Backend, BackendServer};

use crate::balancer::rules::{Line, Standing};

/// The administrative state of a server (`srv_admin_state`): a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admin(u32);

impl Admin {
    /// Forced by a command or the configuration, inherited, or without an address by DNS.
    const MAINTENANCE: u32 = 0x01 | 0x02 | 0x20;
    /// Forced by a command, or inherited.
    const DRAIN: u32 = 0x08 | 0x10;
}

/// A line of `show servers state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) place: BackendServer,
    operational: u32,
    admin: Admin,
    weight: u32,
}

impl State {
    pub(super) fn standing(&self) -> Standing {
        match (self.admin.0, self.operational) {
            (admin, _) if admin & Admin::MAINTENANCE != 0 => Standing::Maintenance,
            (admin, _) if admin & Admin::DRAIN != 0 => Standing::Drained,
            // 1 is starting (slowstart), 2 is running; a weight of 0 takes no new traffic.
            (_, 1 | 2) if self.weight > 0 => Standing::Serving,
            _ => Standing::Down,
        }
    }
}

/// A line of `show stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) sessions: u64,
    pub(super) note: String,
}

struct Columns<'a>(Vec<&'a str>);

impl<'a> Columns<'a> {
    fn find(&self, name: &str) -> Result<usize, String> {
        self.0.iter().position(|column| *column == name).ok_or_else(|| format!("it has no column {name}"))
    }
}

fn number<T: std::str::FromStr>(fields: &[impl AsRef<str>], at: usize, line: usize) -> Result<T, String> {
    let text = fields.get(at).map(AsRef::as_ref).ok_or_else(|| format!("line {line} has too few columns"))?;
    text.parse().map_err(|_| format!("line {line} has '{}' where a number belongs", shown(text)))
}

/// The beginning of a foreign text, printable.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(200).collect::<String>().escape_debug().to_string()
}

/// The place of a line; none for an internal server of HAProxy (`<HTTPCLIENT>`).
fn place(backend: &str, server: &str, line: usize) -> Result<Option<BackendServer>, String> {
    if backend.starts_with('<') || server.starts_with('<') {
        return Ok(None);
    }
    let wrong = |e: bellwether_proto::Malformed| format!("line {line}: {e}");
    let backend: Backend = backend.parse().map_err(wrong)?;
    BackendServer::new(backend, server).map(Some).map_err(wrong)
}

/// Reads `show servers state`.
pub(super) fn states(text: &str) -> Result<Vec<State>, String> {
    let mut lines = text.lines().enumerate();
    match lines.next() {
        Some((_, "1")) => {}
        other => return Err(format!("it begins with '{}', not with format 1", shown(other.map_or("", |(_, l)| l)))),
    }
    let header = lines.next().and_then(|(_, line)| line.strip_prefix("# ")).ok_or("it names no columns")?;
    let columns = Columns(header.split(' ').collect());
    let [backend, server, operational, admin, weight] =
        ["be_name", "srv_name", "srv_op_state", "srv_admin_state", "srv_uweight"].map(|name| columns.find(name));
    let (backend, server, operational, admin, weight) = (backend?, server?, operational?, admin?, weight?);
    let mut states = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let line_number = index + 1;
        let fields: Vec<&str> = line.split(' ').collect();
        if fields.len() < columns.0.len() {
            return Err(format!("line {line_number} has {} columns of {}", fields.len(), columns.0.len()));
        }
        let Some(place) = place(fields[backend], fields[server], line_number)? else { continue };
        states.push(State {
            place,
            operational: number(&fields, operational, line_number)?,
            admin: Admin(number(&fields, admin, line_number)?),
            weight: number(&fields, weight, line_number)?,
        });
    }
    Ok(states)
}

/// Reads `show stat` of servers.
pub(super) fn stats(text: &str) -> Result<BTreeMap<BackendServer, Stat>, String> {
    let text = text.strip_prefix("# ").ok_or("it names no columns")?;
    let mut records = records(text).into_iter().enumerate();
    let (_, header) = records.next().ok_or("it is empty")?;
    let columns = Columns(header.iter().map(String::as_str).collect());
    let [proxy, server, queued, current, status, check] =
        ["pxname", "svname", "qcur", "scur", "status", "check_status"].map(|name| columns.find(name));
    let (proxy, server, queued, current, status) = (proxy?, server?, queued?, current?, status?);
    let mut stats = BTreeMap::new();
    for (index, fields) in records {
        let line = index + 1;
        let field = |at: usize| fields.get(at).map_or("", String::as_str);
        let Some(place) = place(field(proxy), field(server), line)? else { continue };
        let (queued, current): (u64, u64) = (number(&fields, queued, line)?, number(&fields, current, line)?);
        // HAProxy's state, and the result of its check (L7STS …) if there is one.
        let words = [field(status), check.as_ref().map_or("", |check| field(*check))].join(" ");
        let note = shown(words.trim());
        stats.insert(place, Stat { sessions: queued.saturating_add(current), note });
    }
    Ok(stats)
}

/// Records of comma-separated values (RFC 4180); quoted fields may hold commas, quotes and line ends.
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => record.push(std::mem::take(&mut field)),
            ('\n', false) => {
                record.push(std::mem::take(&mut field));
                let record = std::mem::take(&mut record);
                if record.len() > 1 {
                    records.push(record);
                }
            }
            (c, _) => field.push(c),
        }
    }
    records
}

/// Joins both answers: a line for each server.
pub(super) fn lines(states: Vec<State>, mut stats: BTreeMap<BackendServer, Stat>) -> Result<Vec<Line>, String> {
    let line = |state: State| {
        let standing = state.standing();
        let stat = stats.remove(&state.place).ok_or_else(|| format!("it has no line for {}", state.place))?;
        Ok(Line { standing, sessions: stat.sessions, note: stat.note, place: state.place })
    };
    states.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: &str = "1\n\
        # be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_port\n\
        3 app 1 web1 127.0.0.1 2 0 1 1 80\n\
        3 app 2 web2 127.0.0.1 2 8 1 1 80\n\
        3 app 3 web3 127.0.0.1 0 5 1 1 80\n\
        3 app 4 web4 - 0 0 1 1 80\n\
        3 app 5 web5 127.0.0.1 2 4 0 1 80\n\
        9 <HTTPCLIENT> 1 <HTTPSCLIENT> - 2 0 1 1 0\n\n";

    const STATS: &str = "# pxname,svname,qcur,scur,status,check_status,last_chk,\n\
        app,web1,1,2,UP,L7OK,\"a \"\"word\"\", or\ntwo\",\n\
        app,web2,0,3,DRAIN,,,\n\
        app,web3,0,0,MAINT,,,\n\
        app,web4,0,0,DOWN,L4CON,Connection refused,\n\
        app,web5,0,0,DRAIN,,,\n\n";

    #[test]
    fn both_answers_make_one_line_for_each_server() {
        let lines = lines(states(STATES).unwrap(), stats(STATS).unwrap()).unwrap();
        let seen: Vec<_> = lines.iter().map(|l| (l.place.server(), l.standing, l.sessions, l.note.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("web1", Standing::Serving, 3, "UP L7OK"),
                ("web2", Standing::Drained, 3, "DRAIN"),
                ("web3", Standing::Maintenance, 0, "MAINT"),
                ("web4", Standing::Down, 0, "DOWN L4CON"),
                ("web5", Standing::Down, 0, "DRAIN"),
            ]
        );
    }

    #[test]
    fn what_is_not_haproxys_is_refused() {
        for text in [
            "",
            "2\n# be_name\n",
            "HTTP/1.1 400 Bad Request\n\n",
            "1\nno columns\n",
            "1\n# be_name srv_name\n",
            &STATES.replace("2 0 1 1 80", "2 0 1"),
            &STATES.replace("2 8 1", "2 x 1"),
            &STATES.replace("web1", "web;1"),
        ] {
            assert!(states(text).is_err(), "{text}");
        }
        for text in ["", "pxname,svname", "# pxname,svname\n", &STATS.replace("web1,1,2", "web1,1,x")] {
            assert!(stats(text).is_err(), "{text}");
        }
        let without = stats(&STATS.replace("app,web2", "app,other")).unwrap();
        assert!(lines(states(STATES).unwrap(), without).is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_a_balancer_says_ends_this_program(text in "[1# \n,\"a-z<0-9]{0,200}") {
            let _ = states(&text);
            let _ = stats(&text);
            let _ = states(&format!("{STATES}{text}"));
            let _ = stats(&format!("{STATS}{text}"));
        }
    }
}
