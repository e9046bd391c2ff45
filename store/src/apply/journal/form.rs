//! How paths and entries are written as JSON, and checked when they are read.

use bellwether_proto::{
    entry::{Entry, EntryPath, Owners},
    hash::Hash,
    v1,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes: text where they are UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Raw(Vec<u8>),
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Raw(bytes.to_owned()),
        }
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Raw(raw) => raw,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindForm {
    Directory,
    File(Vec<(Hash, u32)>),
    Link(Bytes),
}

#[derive(Serialize, Deserialize)]
struct EntryForm {
    mode: u32,
    user: String,
    group: String,
    mtime: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<(Bytes, Bytes)>,
    kind: KindForm,
}

impl From<&Entry> for EntryForm {
    fn from(entry: &Entry) -> Self {
        use bellwether_proto::entry::Kind;
        let meta = &entry.meta;
        let xattrs = meta.xattrs.iter().flat_map(|list| list.iter());
        Self {
            mode: meta.mode.into(),
            user: meta.owner.user.to_string(),
            group: meta.owner.group.to_string(),
            mtime: meta.mtime,
            xattrs: xattrs.map(|(name, value)| (name.as_ref().into(), value.as_ref().into())).collect(),
            kind: match &entry.kind {
                Kind::Directory => KindForm::Directory,
                Kind::File(content) => KindForm::File(content.chunks().iter().map(|c| (c.hash, c.length)).collect()),
                Kind::Link(target) => KindForm::Link(target.as_ref().into()),
            },
        }
    }
}

impl TryFrom<EntryForm> for Entry {
    type Error = bellwether_proto::Malformed;

    fn try_from(form: EntryForm) -> Result<Self, Self::Error> {
        use v1::entry::Kind;
        let bytes = |bytes: Bytes| bytes::Bytes::from(Vec::from(bytes));
        let chunk = |(hash, length): (Hash, u32)| v1::Chunk { hash: hash.into(), length };
        let wire = v1::Entry {
            mode: form.mode,
            user: form.user,
            group: form.group,
            mtime: form.mtime,
            xattrs: form
                .xattrs
                .into_iter()
                .map(|(name, value)| v1::Xattr { name: bytes(name), value: bytes(value) })
                .collect(),
            kind: Some(match form.kind {
                KindForm::Directory => Kind::Directory(v1::Directory {}),
                KindForm::File(chunks) => Kind::File(v1::File { chunks: chunks.into_iter().map(chunk).collect() }),
                KindForm::Link(target) => Kind::Link(bytes(target)),
            }),
        };
        Entry::from_wire(wire, &mut Owners::default())
    }
}

pub(in crate::apply) mod path {
    use super::*;

    pub(in crate::apply) fn serialize<S: Serializer>(path: &EntryPath, serializer: S) -> Result<S::Ok, S::Error> {
        Bytes::from(path.as_bytes()).serialize(serializer)
    }

    pub(in crate::apply) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EntryPath, D::Error> {
        let bytes: Vec<u8> = Bytes::deserialize(deserializer)?.into();
        EntryPath::new(&bytes).map_err(D::Error::custom)
    }
}

pub(super) mod entry {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(entry: &Option<Entry>, serializer: S) -> Result<S::Ok, S::Error> {
        entry.as_ref().map(EntryForm::from).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Entry>, D::Error> {
        let form = Option::<EntryForm>::deserialize(deserializer)?;
        form.map(Entry::try_from).transpose().map_err(D::Error::custom)
    }
}

pub(super) mod meta {
    use bellwether_proto::entry::{Kind, Meta};

    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(meta: &Meta, serializer: S) -> Result<S::Ok, S::Error> {
        EntryForm::from(&Entry { meta: meta.clone(), kind: Kind::Directory }).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Meta, D::Error> {
        let entry = Entry::try_from(EntryForm::deserialize(deserializer)?).map_err(D::Error::custom)?;
        Ok(entry.meta)
    }
}
