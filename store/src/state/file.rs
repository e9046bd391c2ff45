//! Small state files: JSON with a format level and a checksum, replaced atomically. Unreadable ones are an error.
//!
//! On disk: `{"format":<LEVEL>,"checksum":"<BLAKE3 of the body's bytes>","body":<JSON>}` and a newline. The level is
//! the oldest one whose programs read the body ([`State::level`]), so version N−1 can read a file without new content. A
//! body without new content stays of that level for ever, and is read for as long ([`State::oldest`]).

#[cfg(fuzzing)]
pub mod fuzzing;

use std::{
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use bellwether_proto::{
    hash::Hash,
    level::{Level, Program, State},
};

use crate::durable;

/// The beginning of a state file; the level follows.
const BEGINS: &str = "{\"format\":";
/// The most bytes up to the end of the level.
const HEAD: u64 = 64;

/// A state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The system's error.
    #[error("cannot {action} {path}")]
    Io {
        /// The action: read or write.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The level is later than this program's.
    #[error(
        "{path} was made by a newer bellwether: it is of level {level}, and this server's bellwether is {own}; upgrade \
         bellwether on this server; nothing was changed",
        own = Program::own()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its level.
        level: Level,
    },
    /// The level is of a form that this program does not read any more.
    #[error(
        "{path} was made by a version that is too old: it is of level {level}, and this server's bellwether is {own}; run \
         the version before this one until the group's level is raised; nothing was changed",
        own = Program::own()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its level.
        level: Level,
    },
    /// The content is not the written one.
    #[error("{path} is damaged ({what}); nothing was changed")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error.
        what: String,
    },
}

/// Bytes are no state file that this program reads.
#[derive(Debug)]
enum Unread {
    Newer(Level),
    Older(Level),
    Damaged(String),
}

impl From<&str> for Unread {
    fn from(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}

impl Unread {
    fn of(self, path: &Path) -> StateFileError {
        let path = path.to_owned();
        match self {
            Self::Newer(level) => StateFileError::Newer { path, level },
            Self::Older(level) => StateFileError::Older { path, level },
            Self::Damaged(what) => StateFileError::Damaged { path, what },
        }
    }
}

/// Checks that no newer bellwether made the file in `path`, if there is one. Damage is found when it is loaded.
///
/// # Errors
/// It cannot be read, or a newer bellwether made it.
pub fn check_level(path: &Path) -> Result<(), StateFileError> {
    let read = durable::open_regular(path).and_then(|file| {
        let mut head = Vec::new();
        file.take(HEAD).read_to_end(&mut head).map(|_| head)
    });
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StateFileError::Io { action: "read", path: path.to_owned(), source }),
        Ok(head) => check(path, &head),
    }
}

/// As [`check_level`], of bytes that `path` holds.
pub(crate) fn check(path: &Path, bytes: &[u8]) -> Result<(), StateFileError> {
    match level(bytes) {
        Err(newer @ Unread::Newer(_)) => Err(newer.of(path)),
        Err(Unread::Older(_) | Unread::Damaged(_)) | Ok(_) => Ok(()),
    }
}

/// The state in `path`; none if there is no such file.
///
/// # Errors
/// It cannot be read, a newer bellwether or one that is too old made it, or it is damaged.
pub fn load<T: State>(path: &Path) -> Result<Option<T>, StateFileError> {
    let bytes = match durable::read_regular(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateFileError::Io { action: "read", path: path.to_owned(), source }),
        Ok(bytes) => bytes,
    };
    read(path, &bytes).map(Some)
}

/// The state that `bytes` hold, which `path` has.
pub(crate) fn read<T: State>(path: &Path, bytes: &[u8]) -> Result<T, StateFileError> {
    decode(bytes).map_err(|unread| unread.of(path))
}

/// Replaces the state in `path` (mode 0600), durably: a power loss leaves the old one or the new one.
///
/// # Errors
/// It cannot be written; the old state is unchanged.
pub fn save<T: State>(path: &Path, state: &T) -> Result<(), StateFileError> {
    let failed = |source| StateFileError::Io { action: "write", path: path.to_owned(), source };
    let bytes = encode(state).map_err(|error| failed(error.into()))?;
    let (directory, name) = (path.parent(), path.file_name());
    let (Some(directory), Some(name)) = (directory, name) else {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let held = std::fs::File::open(directory).map_err(failed)?;
    durable::replace_file(held.as_fd(), name.as_bytes(), &bytes).map_err(failed)
}

/// Replaces a note in `path` (mode 0600) without fsync: a power loss may leave the old one, a damaged one, or none.
///
/// # Errors
/// It cannot be written; the one before is unchanged.
pub fn note<T: State>(path: &Path, state: &T) -> Result<(), StateFileError> {
    let failed = |source| StateFileError::Io { action: "write", path: path.to_owned(), source };
    let bytes = encode(state).map_err(|error| failed(error.into()))?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = open.and_then(|mut file| file.write_all(&bytes)).and_then(|()| std::fs::rename(&new, path));
    written.map_err(failed)
}

/// The bytes of a state file that holds `state`.
pub(crate) fn encode<T: State>(state: &T) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::to_vec(state)?;
    Ok(framed(state.level(), &body))
}

fn framed(level: Level, body: &[u8]) -> Vec<u8> {
    let head = format!("{BEGINS}{level},\"checksum\":\"{}\",\"body\":", Hash::of(body));
    [head.as_bytes(), body, b"}\n"].concat()
}

/// The level of a state file, and the bytes after it.
fn level(bytes: &[u8]) -> Result<(Level, &[u8]), Unread> {
    let rest = bytes.strip_prefix(BEGINS.as_bytes()).ok_or("it does not begin as a state file")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at(digits);
    let rest = rest.strip_prefix(b",").ok_or("it has no format level")?;
    let level = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).map(Level);
    match level {
        Some(level) if level > Level::NEWEST => Err(Unread::Newer(level)),
        Some(level) if digits[0] != b'0' => Ok((level, rest)),
        Some(_) | None => Err("its format level is unknown".into()),
    }
}

/// Parses the frame by its bytes: anything that [`encode`] does not write is damaged, even if it is well-formed.
fn decode<T: State>(bytes: &[u8]) -> Result<T, Unread> {
    let (level, rest) = level(bytes)?;
    if level < T::oldest() {
        return Err(Unread::Older(level));
    }
    let rest = rest.strip_prefix(b"\"checksum\":\"").ok_or("it has no checksum")?;
    let (checksum, rest) = rest.split_at_checked(64).ok_or("it is cut short")?;
    let body =
        rest.strip_prefix(b"\",\"body\":").and_then(|rest| rest.strip_suffix(b"}\n")).ok_or("it is cut short")?;
    if Hash::of(body).to_string().as_bytes() != checksum {
        return Err("its checksum does not fit".into());
    }
    T::read(level, body).map_err(|error| Unread::Damaged(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde::{Deserialize, Serialize, de::DeserializeOwned};

    use super::*;

    /// Any value as a state.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub(crate) struct Any<T>(pub(crate) T);

    impl<T: Serialize + DeserializeOwned> State for Any<T> {}

    /// A state that keeps the form before its own: a number alone, at the first level.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Counted {
        count: u32,
        by: String,
    }

    impl State for Counted {
        fn read(level: Level, body: &[u8]) -> serde_json::Result<Self> {
            if level.is_first() && body.first() != Some(&b'{') {
                return Ok(Self { count: serde_json::from_slice(body)?, by: "nobody".to_owned() });
            }
            serde_json::from_slice(body)
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_nobody_else_may_read_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        assert!(load::<Any<Vec<u32>>>(&path).unwrap().is_none());
        for (state, write) in
            [(Any(vec![1u32, 2, 3]), save as fn(&Path, &_) -> _), (Any(vec![4]), note), (Any(vec![]), save)]
        {
            write(&path, &state).unwrap();
            assert_eq!(load::<Any<Vec<u32>>>(&path).unwrap(), Some(state));
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn one_changed_or_missing_byte_is_damage() {
        let bytes = encode(&Any("some state".to_owned())).unwrap();
        assert_eq!(decode::<Any<String>>(&bytes).unwrap(), Any("some state".to_owned()));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode::<Any<String>>(&changed).is_err(), "byte {at}");
            assert!(decode::<Any<String>>(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn damage_names_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        std::fs::write(&path, "").unwrap();
        let error = load::<Any<u32>>(&path).unwrap_err().to_string();
        assert!(error.contains("state is damaged (it does not begin as a state file)"), "{error}");
    }

    #[test]
    fn what_a_newer_program_made_is_not_called_damaged_and_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        for level in [Level::NEWEST.0 + 1, u32::MAX] {
            // The rest may have any form.
            for rest in ["\"body\":1}\n", "", "\0\0"] {
                let bytes = format!("{{\"format\":{level},{rest}");
                std::fs::write(&path, &bytes).unwrap();
                for said in [load::<Any<u32>>(&path).map(drop), check_level(&path)] {
                    let said = said.unwrap_err().to_string();
                    assert!(said.contains("state was made by a newer bellwether"), "{said}");
                    assert!(said.contains(&format!("level {level}")) && !said.contains("damaged"), "{said}");
                }
                assert_eq!(std::fs::read(&path).unwrap(), bytes.as_bytes());
            }
        }
        for damaged in ["", "{\"format\":0,", "{\"format\":01,", "{\"format\":99999999999,", "{\"format\":2", "rubbish"]
        {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(load::<Any<u32>>(&path), Err(StateFileError::Damaged { .. })), "{damaged}");
            check_level(&path).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        check_level(&path).unwrap();
    }

    /// A state whose form before is not read any more.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Anew(u32);

    impl State for Anew {
        fn level(&self) -> Level {
            Level::NEWEST
        }

        fn oldest() -> Level {
            Level(2)
        }
    }

    #[test]
    fn a_form_that_is_not_read_any_more_is_not_called_damaged() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        save(&path, &Any(1u32)).unwrap();
        let said = load::<Anew>(&path).unwrap_err().to_string();
        assert!(said.contains("is too old: it is of level 1") && !said.contains("damaged"), "{said}");
        assert_eq!(load::<Any<u32>>(&path).unwrap(), Some(Any(1)), "whatever levels a group may have");
    }

    #[test]
    fn a_form_that_changed_reads_the_form_before() {
        let counted = Counted { count: 7, by: "root".to_owned() };
        assert_eq!(decode::<Counted>(&encode(&counted).unwrap()).unwrap(), counted);
        let before = encode(&Any(7u32)).unwrap();
        assert_eq!(decode::<Counted>(&before).unwrap(), Counted { by: "nobody".to_owned(), ..counted });
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
            proptest::prop_assert!(decode::<Any<u32>>(&bytes).is_err());
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        save(&path, &Any(1u32)).unwrap();
        // Create, write, fsync, rename.
        for k in 0..4 {
            let result = durable::recording::failing(home.path(), k, k + 1, || save(&path, &Any(2u32)));
            assert!(matches!(result, Err(StateFileError::Io { action: "write", .. })), "{k}");
            assert_eq!(load::<Any<u32>>(&path).unwrap(), Some(Any(1)), "{k}");
        }
    }
}
