//! Whether the keys of agent.toml are known, in words for people: the file, the place, the key, and the allowed ones.

use toml::{Table, Value};

/// The keys of the file.
const FILE: [&str; 10] = [
    "name",
    "listen",
    "advertise",
    "http",
    "http_names",
    "admin_socket",
    "state_dir",
    "agent_check",
    "set",
    "balancer",
];
/// The keys of a `[[set]]`.
const SET: [&str; 9] = ["name", "path", "source", "local", "preset", "user", "validate", "reload", "check"];
/// The keys of a `[[balancer]]`.
const BALANCER: [&str; 8] = ["name", "kind", "file", "pid", "test", "reload", "command", "timeout"];
/// The keys of `validate` and `reload` as tables; the first one is needed.
const COMMAND: [&str; 3] = ["run", "user", "timeout"];
/// The keys of `check` as a table; the first one is needed.
const CHECK: [&str; 5] = ["probe", "user", "timeout", "retries", "interval"];

/// Checks all keys, and the types of those of commands.
///
/// # Errors
/// The place, the key and what is allowed.
pub(super) fn check(file: &Table) -> Result<(), String> {
    known("", file, &FILE)?;
    for (place, balancer) in tables(file, "balancer") {
        known(&place, balancer, &BALANCER)?;
    }
    for (place, set) in tables(file, "set") {
        known(&place, set, &SET)?;
        for (key, keys) in [("validate", &COMMAND[..]), ("reload", &COMMAND), ("check", &CHECK)] {
            match set.get(key) {
                None => {}
                // Several checks run one after the other.
                Some(Value::Array(several)) if key == "check" => {
                    several.iter().try_for_each(|value| command(&format!("{place}{key}: "), value, keys))?;
                }
                Some(value) => command(&format!("{place}{key}: "), value, keys)?,
            }
        }
    }
    Ok(())
}

/// The tables of an array, with their places.
fn tables<'a>(file: &'a Table, key: &'static str) -> impl Iterator<Item = (String, &'a Table)> {
    let all = file.get(key).and_then(Value::as_array).into_iter().flatten().enumerate();
    all.filter_map(move |(at, value)| Some((format!("[[{key}]] number {}: ", at + 1), value.as_table()?)))
}

fn known(place: &str, table: &Table, keys: &[&str]) -> Result<(), String> {
    match table.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(format!("{place}there is no key '{key}'; the keys are: {}", keys.join(", "))),
    }
}

/// A command: a string, or a table with these keys.
fn command(place: &str, value: &Value, keys: &[&str]) -> Result<(), String> {
    let table = match value {
        Value::String(_) => return Ok(()),
        Value::Table(table) => table,
        _ => return Err(format!("{place}a string is needed, or a table with the keys {}", keys.join(", "))),
    };
    known(place, table, keys)?;
    if !table.contains_key(keys[0]) {
        return Err(format!("{place}the key '{}' is needed; the keys are: {}", keys[0], keys.join(", ")));
    }
    for (key, value) in table {
        match (key.as_str(), value) {
            ("retries", Value::Integer(count)) if u32::try_from(*count).is_ok() => {}
            ("retries", _) => return Err(format!("{place}{key}: a whole number is needed, 0 or more")),
            (_, Value::String(_)) => {}
            (_, _) => return Err(format!("{place}{key}: a string is needed, in quotation marks")),
        }
    }
    Ok(())
}
