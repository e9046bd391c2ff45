//! The progress of all procedures as one signed document: the manager writes it, and every candidate keeps it, so that
//! a new manager continues unfinished procedures.

use bellwether_proto::{
    Malformed,
    key::{KeyPair, PublicKey},
    level::{self, Level, State},
    limits,
    name::ServerName,
    record::Record,
    revision::{Epoch, GroupId},
    v1,
};
use serde::{Deserialize, Serialize};

use super::{Holds, Id, Kind, Procedure, Standing, Task};

/// The context of the signature on a document.
pub const CONTEXT: &str = "bellwether v1 procedures";
/// The number of ended procedures that are kept for `procedure list`.
const OVER: usize = 20;

/// All known procedures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The level of the group record in force at the signature: all servers read it.
    #[serde(default, skip_serializing_if = "Level::is_first")]
    pub level: Level,
    /// The group.
    pub group: GroupId,
    /// The signer's epoch, then the number of changes since the group was formed: the greater one is newer.
    pub version: (Epoch, u64),
    /// The procedures, oldest first.
    pub procedures: Vec<Procedure>,
}

impl Document {
    /// A document without procedures, older than any other.
    pub fn empty(group: GroupId) -> Self {
        Self { level: Level::FIRST, group, version: (Epoch(0), 0), procedures: Vec::new() }
    }

    /// The procedure of that name.
    pub fn get(&self, id: Id) -> Option<&Procedure> {
        self.procedures.iter().find(|procedure| procedure.id == id)
    }

    /// An unused name.
    pub fn next_id(&self) -> Id {
        Id(self.procedures.iter().map(|procedure| procedure.id.0).max().unwrap_or(0) + 1)
    }

    /// Replaces the procedure of the same name, or appends `procedure`; drops the oldest ended ones.
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

    /// The server `me`, now manager, drives the procedures by its clock. Recoveries by other servers are aborted.
    pub fn take_over(&mut self, me: &ServerName, now_ms: u64) {
        for procedure in self.procedures.iter_mut().filter(|procedure| !procedure.is_over()) {
            if procedure.driver(me) != me {
                let left = format!("the servers that it has drained stay drained; {me} is the manager");
                procedure.standing = Standing::Aborted { by: me.to_string(), left };
                continue;
            }
            procedure.began_ms = procedure.began_ms.min(now_ms);
            procedure.tried_ms = None;
        }
    }

    /// The members that an unfinished recovery drains before their sync, and has not come to yet (W23).
    pub fn holds(&self) -> Holds {
        let mut holds = Holds::new();
        for procedure in self.procedures.iter().filter(|procedure| !procedure.is_over()) {
            let Kind::RecoverManager { .. } = procedure.kind else { continue };
            let mut drained_later = Holds::new();
            for (at, step) in procedure.steps.iter().enumerate() {
                drained_later.extend(step.task.about().drains.iter().cloned());
                if let (Task::Sync(synced), true) = (&step.task, at > procedure.at) {
                    holds.extend(synced.0.iter().filter(|server| drained_later.contains(*server)).cloned());
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

/// The reason why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentRefused {
    /// The document is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The signer is not the manager.
    #[error("the procedures are signed by {0}, which is not the group's manager")]
    Signer(PublicKey),
    /// The document is of another group, or of an epoch that is not the manager's.
    #[error("the procedures are of another group or epoch")]
    Other,
}

impl SignedDocument {
    /// Signs `document`.
    ///
    /// # Errors
    /// The document is longer than the limit, or has what came after its level.
    pub fn sign(document: Document, key: &KeyPair) -> Result<Self, Malformed> {
        check_level(&document)?;
        let json =
            serde_json::to_string(&document).map_err(|e| Malformed::new(format!("procedures without JSON: {e}")))?;
        check_length(json.len())?;
        check_counts(&document)?;
        let signature = key.sign(CONTEXT, json.as_bytes()).to_vec();
        Ok(Self { document, json, signer: key.public(), signature })
    }

    /// Reads and checks a document: the signer that it names must have signed it.
    ///
    /// # Errors
    /// The document is malformed.
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
        let document: Document = level::read(&json, "the list of procedures", "not a list of procedures")?;
        let sound = |procedure: &Procedure| procedure.at <= procedure.steps.len();
        if !document.procedures.iter().all(sound) {
            return Err(Malformed::new("a list of procedures that cannot be"));
        }
        check_level(&document)?;
        check_counts(&document)?;
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

    /// The signer's key.
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// The signed document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The document that the server `own`, which holds `held`, keeps when this one comes from the manager of `record`:
    /// this one, if it is newer, or of another signer (documents of this server as a candidate and of former managers
    /// count by themselves). A server that is about to take that manager's place keeps its own recovery, too, signed by
    /// its own `key`, so that both continue wherever the role goes. None: it keeps `held`.
    ///
    /// # Errors
    /// That manager did not sign the document.
    pub fn taken(
        self,
        held: Option<&SignedDocument>,
        record: &Record,
        own: &ServerName,
        key: &KeyPair,
    ) -> Result<Option<Self>, DocumentRefused> {
        let manager = record.manager();
        self.said_by(&manager.key, record.group, record.version.epoch)?;
        let Some(held) = held.filter(|held| held.document.group == record.group) else { return Ok(Some(self)) };
        let newer = held.signer != self.signer || self.document.version > held.document.version;
        let driven = |p: &&Procedure| !p.is_over() && p.driver(&manager.name) == own;
        let driven: Vec<&Procedure> = held.document.procedures.iter().filter(driven).collect();
        if !newer || driven.is_empty() {
            return Ok(newer.then_some(self));
        }
        let mut document = self.document.clone();
        document.level = document.level.max(held.document.level);
        for procedure in driven {
            let id = match document.get(procedure.id) {
                Some(known) if known.kind == procedure.kind && known.is_over() => continue,
                Some(other) if other.kind != procedure.kind => document.next_id(),
                Some(_) | None => procedure.id,
            };
            document.put(Procedure { id, ..procedure.clone() });
        }
        if document.procedures == self.document.procedures {
            return Ok(Some(self));
        }
        if document.procedures == held.document.procedures {
            return Ok(None);
        }
        // If both are too long together, its own recovery is dropped.
        Ok(Self::sign(document, key).ok())
    }

    /// Checks that `manager`, in force in `epoch` of `group`, signed it.
    ///
    /// # Errors
    /// Another server signed it.
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

impl State for SignedDocument {
    fn level(&self) -> Level {
        self.document.level
    }
}

/// Checks that all programs of the document's level read it.
fn check_level(document: &Document) -> Result<(), Malformed> {
    match document.procedures.iter().find_map(|procedure| procedure.beyond(document.level)) {
        None => Ok(()),
        Some((what, came)) => {
            let level = document.level;
            Err(Malformed::new(format!("procedures of level {level} with {what}, which came with level {came}")))
        }
    }
}

/// Checks that each count can still be raised by one.
fn check_counts(document: &Document) -> Result<(), Malformed> {
    let ids = document.procedures.iter().map(|procedure| procedure.id.0);
    match ids.chain([document.version.1]).find(|count| *count > limits::COUNT) {
        None => Ok(()),
        Some(count) => Err(Malformed::new(format!("procedures whose number {count} is greater than there can be"))),
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
    use bellwether_proto::record::{self, Policy, Role, Server, Version};

    use super::{
        super::{Insists, Step, Survey, Surveyed, model::farm, plan, task},
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
    fn w18_a_candidate_keeps_its_recovery_beside_what_the_manager_says() {
        let keys = [KeyPair::generate(), KeyPair::generate()];
        let server = |(at, key): (usize, &KeyPair)| Server {
            name: ["m", "a"][at].parse().unwrap(),
            key: key.public(),
            address: format!("{at}:1"),
            role: if at == 0 { Role::Manager } else { Role::Member },
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        let record = Record {
            level: record::Level::NEWEST,
            group: group(),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: keys.iter().enumerate().map(server).collect(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        };
        let (lost, new): (ServerName, ServerName) = ("m".parse().unwrap(), "a".parse().unwrap());
        let kind = Kind::RecoverManager { lost, new: new.clone(), remove: false, insists: Insists::default() };
        let signed = |procedures: &[Procedure], version: u64, key: &KeyPair| {
            let mut document = Document::empty(group());
            document.version = (Epoch(1), version);
            procedures.iter().for_each(|procedure| document.put(procedure.clone()));
            SignedDocument::sign(document, key).unwrap()
        };
        let recovery = Procedure { kind: kind.clone(), ..procedure(1, false) };
        let held = signed(std::slice::from_ref(&recovery), 9, &keys[1]);
        // The manager began it at the same time, under the same name.
        let said = signed(&[procedure(1, false)], 1, &keys[0]);
        let taken = |said: SignedDocument, held: &SignedDocument| said.taken(Some(held), &record, &new, &keys[1]);
        let both = taken(said.clone(), &held).unwrap().expect("newer, for it is another one's");
        let kinds: Vec<_> = both.document.procedures.iter().map(|p| (p.id, p.kind.clone())).collect();
        assert_eq!(kinds, [(Id(1), procedure(1, false).kind), (Id(2), kind.clone())]);
        assert_eq!(both.signer(), keys[1].public());
        assert_eq!(taken(said.clone(), &both), Ok(None), "heard before");
        let over = Procedure { standing: Standing::Done, ..recovery };
        let ended = signed(std::slice::from_ref(&over), 1, &keys[0]);
        assert_eq!(taken(ended.clone(), &held), Ok(Some(ended)), "the manager knows of it, and that it is over");
        let over = signed(&[over], 9, &keys[1]);
        assert_eq!(taken(said.clone(), &over), Ok(Some(said)), "what is over makes room");
    }

    #[test]
    fn w24_who_becomes_manager_ends_the_recovery_of_another_candidate() {
        let recovery = |new: &str| {
            let (lost, new) = ("m".parse().unwrap(), new.parse().unwrap());
            Kind::RecoverManager { lost, new, remove: false, insists: Insists::default() }
        };
        let mut document = Document::empty(group());
        for (id, kind) in [(1, recovery("a")), (2, recovery("b")), (3, procedure(3, false).kind)] {
            document.put(Procedure { kind, ..procedure(id, false) });
        }
        document.take_over(&"b".parse().unwrap(), 7);
        let over: Vec<bool> = document.procedures.iter().map(Procedure::is_over).collect();
        assert_eq!(over, [true, false, false]);
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
    fn what_came_after_a_level_is_in_no_document_of_it_and_what_is_of_a_later_level_is_called_newer() {
        let key = KeyPair::generate();
        let later = Level(Level::NEWEST.0 + 1);
        let of = |level: Level, came: Level| {
            let mut document = Document::empty(group());
            let step = Step { task: task::Later(came).into(), why: "it is new".to_owned(), noted: None };
            document.put(Procedure { steps: vec![step], ..procedure(1, false) });
            Document { level, ..document }
        };
        for level in 1..=Level::NEWEST.0 {
            let signed = SignedDocument::sign(of(Level(level), Level(level)), &key).unwrap();
            assert_eq!(SignedDocument::from_wire(&signed.to_wire()), Ok(signed.clone()));
            assert_eq!(State::level(&signed), Level(level), "its file is as new");
        }
        let read = |json: String| {
            let signature = key.sign(CONTEXT, json.as_bytes()).to_vec();
            SignedDocument::from_parts(json, key.public(), signature).unwrap_err().to_string()
        };
        let wrong = of(Level::NEWEST, later);
        let refused = SignedDocument::sign(wrong.clone(), &key).unwrap_err().to_string();
        let says = format!("with the step 'do what is new', which came with level {later}");
        assert!(refused.contains(&says), "{refused}");
        assert_eq!(read(serde_json::to_string(&wrong).unwrap()), refused);

        // A program of a later level writes tasks, kinds and fields that this one does not know.
        let known = serde_json::to_value(of(later, Level::FIRST)).unwrap();
        for (place, unheard) in [
            ("/procedures/0/steps/0/task", serde_json::json!({ "unheard_of": 1 })),
            ("/procedures/0/kind", serde_json::json!({ "unheard_of": {} })),
            ("/procedures/0/standing", serde_json::json!("unheard_of")),
            ("/procedures", serde_json::json!({ "another": "form" })),
        ] {
            let mut json = known.clone();
            *json.pointer_mut(place).unwrap() = unheard;
            let refused = read(json.to_string());
            assert!(refused.contains("the list of procedures was made by a newer bellwether"), "{place}: {refused}");
        }
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
