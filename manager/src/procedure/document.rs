//! The progress of all procedures as one signed document: made at the manager, kept at every candidate, so that a new
//! manager goes on with what is unfinished.

use bellwether_proto::{
    Malformed,
    key::{KeyPair, PublicKey},
    limits,
    name::ServerName,
    record::Record,
    revision::{Epoch, GroupId},
    v1,
};
use serde::{Deserialize, Serialize};

use super::{Holds, Id, Kind, Procedure, Task};

const CONTEXT: &str = "bellwether v1 procedures";
/// The format of the document; another one is refused.
const FORMAT: u32 = 1;
/// How many that are over are kept, for `procedure list`.
const OVER: usize = 20;

/// All procedures that are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    format: u32,
    /// The group.
    pub group: GroupId,
    /// The signer's epoch, then how often it was changed since the group was formed: the greater one is newer.
    pub version: (Epoch, u64),
    /// Oldest first.
    pub procedures: Vec<Procedure>,
}

impl Document {
    /// Without procedures; older than any other.
    pub fn empty(group: GroupId) -> Self {
        Self { format: FORMAT, group, version: (Epoch(0), 0), procedures: Vec::new() }
    }

    /// The one of that name.
    pub fn get(&self, id: Id) -> Option<&Procedure> {
        self.procedures.iter().find(|procedure| procedure.id == id)
    }

    /// A name that none has.
    pub fn next_id(&self) -> Id {
        Id(self.procedures.iter().map(|procedure| procedure.id.0).max().unwrap_or(0) + 1)
    }

    /// Puts `procedure` in the place of the one of its name, or at the end; forgets the oldest that are over.
    pub fn put(&mut self, procedure: Procedure) {
        match self.procedures.iter_mut().find(|held| held.id == procedure.id) {
            Some(held) => *held = procedure,
            None => self.procedures.push(procedure),
        }
        let over = self.procedures.iter().filter(|procedure| procedure.is_over()).count();
        let mut forget = over.saturating_sub(OVER);
        self.procedures.retain(|procedure| {
            let goes = forget > 0 && procedure.is_over();
            forget -= usize::from(goes);
            !goes
        });
    }

    /// Another server drives them from now on: its clock counts.
    pub fn take_over(&mut self, now_ms: u64) {
        for procedure in self.procedures.iter_mut().filter(|procedure| !procedure.is_over()) {
            procedure.began_ms = procedure.began_ms.min(now_ms);
            procedure.tried_ms = None;
        }
    }

    /// The members that an unfinished recovery drains before they are synced, and has not come to yet (W23).
    pub fn holds(&self) -> Holds {
        let mut holds = Holds::new();
        for procedure in self.procedures.iter().filter(|procedure| !procedure.is_over()) {
            let Kind::RecoverManager { .. } = procedure.kind else { continue };
            let mut drained_later = Holds::new();
            for (at, step) in procedure.steps.iter().enumerate() {
                match &step.task {
                    Task::Drain(servers) => drained_later.extend(servers.iter().cloned()),
                    Task::Sync(servers) if at > procedure.at => {
                        holds.extend(servers.iter().filter(|server| drained_later.contains(*server)).cloned());
                    }
                    _ => {}
                }
            }
        }
        holds
    }
}

/// A document with the bytes that were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDocument {
    document: Document,
    json: String,
    signer: PublicKey,
    signature: Vec<u8>,
}

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentRefused {
    /// Not such a document.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Not the manager's.
    #[error("the procedures are signed by {0}, which is not the group's manager")]
    Signer(PublicKey),
    /// Of another group, or of an epoch that is not the manager's.
    #[error("the procedures are of another group or epoch")]
    Other,
}

impl SignedDocument {
    /// Signs `document`.
    ///
    /// # Errors
    /// It is longer than anyone takes.
    pub fn sign(document: Document, key: &KeyPair) -> Result<Self, Malformed> {
        let json =
            serde_json::to_string(&document).map_err(|e| Malformed::new(format!("procedures without JSON: {e}")))?;
        check_length(json.len())?;
        let signature = key.sign(CONTEXT, json.as_bytes()).to_vec();
        Ok(Self { document, json, signer: key.public(), signature })
    }

    /// Reads and checks a document: its signature by the signer that it names.
    ///
    /// # Errors
    /// Not such a document.
    pub fn from_wire(wire: &v1::SignedProcedures) -> Result<Self, Malformed> {
        check_length(wire.document.len())?;
        let json = std::str::from_utf8(&wire.document).map_err(|_| Malformed::new("procedures that are not UTF-8"))?;
        Self::from_parts(json.to_owned(), PublicKey::try_from(wire.signer.as_ref())?, wire.signature.to_vec())
    }

    fn from_parts(json: String, signer: PublicKey, signature: Vec<u8>) -> Result<Self, Malformed> {
        check_length(json.len())?;
        if !signer.verifies(CONTEXT, json.as_bytes(), &signature) {
            return Err(Malformed::new(format!("procedures that {signer} did not sign")));
        }
        let document: Document =
            serde_json::from_str(&json).map_err(|e| Malformed::new(format!("not a list of procedures: {e}")))?;
        let sound = |procedure: &Procedure| procedure.at <= procedure.steps.len();
        if document.format != FORMAT || !document.procedures.iter().all(sound) {
            return Err(Malformed::new("a list of procedures that cannot be"));
        }
        Ok(Self { document, json, signer, signature })
    }

    /// The message that [`SignedDocument::from_wire`] reads.
    pub fn to_wire(&self) -> v1::SignedProcedures {
        v1::SignedProcedures {
            document: bytes::Bytes::copy_from_slice(self.json.as_bytes()),
            signer: bytes::Bytes::copy_from_slice(self.signer.as_bytes()),
            signature: bytes::Bytes::copy_from_slice(&self.signature),
        }
    }

    /// Who signed.
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// What was signed.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Whether the server `own`, which holds `held`, keeps this instead, as the word of the manager of `record`: it is newer, or
    /// another one's (what this server wrote as a candidate, or an earlier manager did, counts by itself), and this server is
    /// not about to take that manager's place, which has to end first.
    ///
    /// # Errors
    /// It is not that manager's word.
    pub fn takes_place_of(
        &self,
        held: Option<&SignedDocument>,
        record: &Record,
        own: &ServerName,
    ) -> Result<bool, DocumentRefused> {
        self.said_by(&record.manager().key, record.group, record.version.epoch)?;
        let Some(held) = held.filter(|held| held.document.group == record.group) else { return Ok(true) };
        let driven = |p: &Procedure| !p.is_over() && p.driver(&record.manager().name) == own;
        let newer = held.signer != self.signer || self.document.version > held.document.version;
        Ok(newer && !held.document.procedures.iter().any(driven))
    }

    /// Whether it is the word of `manager`, in force in `epoch` of `group`.
    ///
    /// # Errors
    /// Somebody else's.
    pub fn said_by(&self, manager: &PublicKey, group: GroupId, epoch: Epoch) -> Result<(), DocumentRefused> {
        if self.signer != *manager {
            return Err(DocumentRefused::Signer(self.signer));
        }
        if self.document.group != group || self.document.version.0 != epoch {
            return Err(DocumentRefused::Other);
        }
        Ok(())
    }
}

fn check_length(bytes: usize) -> Result<(), Malformed> {
    if bytes <= limits::PROCEDURES {
        return Ok(());
    }
    Err(Malformed::new(format!("procedures of {bytes} bytes; the limit is {}", limits::PROCEDURES)))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    document: String,
    signer: PublicKey,
    signature: String,
}

impl Serialize for SignedDocument {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let signature = data_encoding::BASE64.encode(&self.signature);
        Stored { document: self.json.clone(), signer: self.signer, signature }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SignedDocument {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let stored = Stored::deserialize(deserializer)?;
        let signature = data_encoding::BASE64.decode(stored.signature.as_bytes()).map_err(D::Error::custom)?;
        Self::from_parts(stored.document, stored.signer, signature).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Insists, Standing, Survey, Surveyed, model::farm, plan},
        *,
    };

    fn group() -> GroupId {
        GroupId::from([7; 16])
    }

    fn procedure(id: u64, over: bool) -> Procedure {
        let kind = Kind::MaintenanceFinish { server: "a".parse().unwrap() };
        let steps = plan(&kind, &farm(&["m", "a"]), &Survey::default()).unwrap();
        let mut procedure = Procedure::new(Id(id), kind, steps, "root".into(), 0);
        if over {
            procedure.standing = Standing::Done;
        }
        procedure
    }

    #[test]
    fn what_is_signed_is_read_again_and_a_changed_byte_is_refused() {
        let key = KeyPair::generate();
        let mut document = Document::empty(group());
        document.version = (Epoch(2), 9);
        document.put(procedure(1, false));
        let signed = SignedDocument::sign(document, &key).unwrap();
        assert_eq!(SignedDocument::from_wire(&signed.to_wire()), Ok(signed.clone()));
        let stored = serde_json::to_string(&signed).unwrap();
        assert_eq!(serde_json::from_str::<SignedDocument>(&stored).unwrap(), signed);
        let mut wire = signed.to_wire();
        wire.document = wire.document.iter().map(|byte| if *byte == b'9' { b'8' } else { *byte }).collect();
        assert!(SignedDocument::from_wire(&wire).is_err());
        assert_eq!(signed.said_by(&key.public(), group(), Epoch(2)), Ok(()));
        assert_eq!(signed.said_by(&key.public(), group(), Epoch(3)), Err(DocumentRefused::Other));
        let other = KeyPair::generate().public();
        assert!(matches!(signed.said_by(&other, group(), Epoch(2)), Err(DocumentRefused::Signer(_))));
    }

    #[test]
    fn only_the_oldest_that_are_over_are_forgotten() {
        let mut document = Document::empty(group());
        document.put(procedure(1, false));
        for id in 2..40 {
            document.put(procedure(id, true));
        }
        assert_eq!(document.procedures.len(), 1 + OVER);
        assert!(document.get(Id(1)).is_some() && document.get(Id(2)).is_none() && document.get(Id(39)).is_some());
        assert_eq!(document.next_id(), Id(40));
    }

    #[test]
    fn w23_members_of_later_batches_are_held_until_their_turn() {
        let mut world = farm(&["m", "a", "b", "c", "d"]);
        world.min_serving = 3;
        world.me = "a".parse().unwrap();
        let mut survey = Survey::default();
        survey.members.extend(["b", "c"].map(|name| (name.parse().unwrap(), Surveyed::Differs("1.9".into()))));
        survey.members.insert("d".parse().unwrap(), Surveyed::Behind);
        let (lost, new) = ("m".parse().unwrap(), "a".parse().unwrap());
        let kind = Kind::RecoverManager { lost, new, remove: false, insists: Insists::default() };
        let steps = plan(&kind, &world, &survey).unwrap();
        let syncs: Vec<usize> =
            steps.iter().enumerate().filter(|(_, s)| matches!(s.task, Task::Sync(_))).map(|(at, _)| at).collect();
        let mut document = Document::empty(group());
        let mut held = |at: usize| {
            let mut procedure = Procedure::new(Id(1), kind.clone(), steps.clone(), "root".into(), 0);
            procedure.at = at;
            document.put(procedure);
            document.holds().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(held(0), ["b", "c"], "d takes an update, which needs no drain");
        assert_eq!(held(syncs[0]), ["c"]);
        assert_eq!(held(syncs[1]), [] as [&str; 0]);
    }
}
