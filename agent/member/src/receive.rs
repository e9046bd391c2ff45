//! One pack on its way in: its bytes to the history, its frames to the plan. Goes on where an interruption left it.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Instant,
};

use bellwether_proto::{hash::Hash, name::SetName, revision::SignedHeader, v1};
use bellwether_store::{
    apply::{Obstacle, Plan, Refused},
    history::{History, HistoryError, NewPack},
    pack::{self, Frame, OldChunks, PackError, Patch},
    scan::ScanError,
    tree::{Change, Tree},
};

/// Patches that are made from the history at once: their old chunks are held.
const AT_ONCE: usize = 64;

/// A pack that was offered and is arriving.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) header: SignedHeader,
    pub(crate) pack: Hash,
    pub(crate) size: u64,
    pub(crate) began: Instant,
    file: NewPack,
    base: bool,
    /// Its changes are planned as they come.
    plan: bool,
    /// The next byte.
    at: u64,
    /// One past the last byte that was promised or asked for.
    to: u64,
    reader: pack::Reader,
    head: Option<pack::Head>,
    changes: Vec<Change>,
    planned: Option<Planned>,
    olds: OldChunks,
    /// Patches of what is not in its place here any more.
    unmade: Vec<Patch>,
    done: bool,
}

/// What the pack makes of this server.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) target: Tree,
}

/// Makes the plan when all changes are there, and says where what patches are made from is.
pub(crate) type Planner<'a> = dyn FnMut(&pack::Head, Vec<Change>) -> Result<(Planned, OldChunks), ReceiveError> + 'a;

/// Why a pack is not taken; nothing live was touched.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It does not say what the offer said, or arrives out of order.
    #[error("the pack is not what was offered: {0}")]
    Offer(String),
    /// Its changes do not make the tree whose root was signed.
    #[error("the pack does not make the tree that was signed: {0}")]
    Tree(String),
    /// This server is not set up for it.
    #[error("{0}")]
    Setup(String),
    /// Edits of this server's own, which no update may touch (policy `hold`).
    #[error("{0}")]
    Held(String),
    /// It is damaged.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The sets cannot take it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The history.
    #[error("the history cannot take the pack")]
    History(#[from] HistoryError),
    /// The sets.
    #[error("the sets cannot be read")]
    Scan(#[from] ScanError),
    /// The disk.
    #[error("the history cannot be written")]
    Write(#[from] std::io::Error),
    /// The position.
    #[error("the position cannot be noted")]
    Position(#[from] bellwether_store::state::file::StateFileError),
}

impl ReceiveError {
    /// What stands in the way here and may pass; none: the pack, or how this server is set up. `paths`: where the sets are.
    pub(crate) fn obstacle(&self, paths: &BTreeMap<SetName, PathBuf>, state: &Path) -> Option<Obstacle> {
        match self {
            Self::Refused(refused) => refused.obstacle(),
            Self::Scan(ScanError::Held { set, path, .. }) => {
                Some(Obstacle::InTheWay { root: paths.get(set)?.clone(), path: path.clone() })
            }
            Self::Scan(ScanError::Io { set, source, .. }) => Some(Obstacle::of_io(paths.get(set)?, source)),
            Self::Scan(ScanError::Busy { .. } | ScanError::Open { .. }) => Some(Obstacle::Busy),
            Self::Scan(ScanError::Elsewhere { .. }) => Some(Obstacle::System),
            Self::History(_) | Self::Write(_) | Self::Position(_) => Obstacle::of_chain(state, self),
            Self::Offer(_)
            | Self::Tree(_)
            | Self::Setup(_)
            | Self::Held(_)
            | Self::Pack(_)
            | Self::Scan(ScanError::Large { .. } | ScanError::Pattern { .. }) => None,
        }
    }
}

/// Where a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// More bytes are on their way.
    More,
    /// All bytes that were promised, but not the pack: the caller asks for what it needs.
    Paused,
    /// The whole pack.
    Whole,
}

impl Receiving {
    /// Accepts an offer; the bytes before `offer.from`, which an interrupted transfer left, are read again.
    pub(crate) fn new(
        history: &History,
        offer: &v1::Offer,
        header: SignedHeader,
        plan: bool,
        planner: &mut Planner<'_>,
    ) -> Result<Self, ReceiveError> {
        let pack = Hash::try_from(offer.pack.as_ref()).map_err(|e| ReceiveError::Offer(e.to_string()))?;
        if offer.from > offer.to || offer.to > offer.size {
            return Err(ReceiveError::Offer(format!("bytes {} to {} of {}", offer.from, offer.to, offer.size)));
        }
        let file = if offer.from == 0 { history.create() } else { history.resume(pack)? };
        let mut receiving = Self {
            header,
            pack,
            size: offer.size,
            began: Instant::now(),
            file,
            base: offer.base,
            plan,
            at: 0,
            to: offer.to,
            reader: pack::Reader::default(),
            head: None,
            changes: Vec::new(),
            planned: None,
            olds: OldChunks::default(),
            unmade: Vec::new(),
            done: false,
        };
        receiving.replay(offer.from, planner)?;
        Ok(receiving)
    }

    fn replay(&mut self, from: u64, planner: &mut Planner<'_>) -> Result<(), ReceiveError> {
        let mut buffer = vec![0; if from == 0 { 0 } else { 256 << 10 }];
        while self.at < from {
            let due = buffer.len().min(usize::try_from(from - self.at).unwrap_or(usize::MAX));
            let count = self.file.read_at(&mut buffer[..due], self.at)?;
            if count == 0 {
                return Err(ReceiveError::Offer(format!("it goes on at byte {from}; {} are here", self.at)));
            }
            self.at += count as u64;
            self.take(&buffer[..count], planner)?;
        }
        Ok(self.file.shorten(from)?)
    }

    /// Takes the next bytes.
    pub(crate) fn slice(&mut self, slice: &v1::Slice, planner: &mut Planner<'_>) -> Result<Step, ReceiveError> {
        let end = slice.offset.saturating_add(slice.data.len() as u64);
        if slice.offset != self.at || end > self.to {
            let what = format!("bytes {} to {end} came, {} to {} were due", slice.offset, self.at, self.to);
            return Err(ReceiveError::Offer(what));
        }
        self.file.append(&slice.data)?;
        self.at = end;
        self.take(&slice.data, planner)?;
        if self.done && self.at != self.size {
            return Err(ReceiveError::Offer(format!("it ends after {} bytes of {}", self.at, self.size)));
        }
        Ok(self.step())
    }

    /// Where it is after what was taken.
    pub(crate) fn step(&self) -> Step {
        match (self.done, self.at == self.to) {
            (true, _) => Step::Whole,
            (false, true) => Step::Paused,
            (false, false) => Step::More,
        }
    }

    fn take(&mut self, bytes: &[u8], planner: &mut Planner<'_>) -> Result<(), ReceiveError> {
        for frame in self.reader.push(bytes)? {
            match frame {
                Frame::Head(head) => self.head(*head)?,
                Frame::Changes(mut changes) => self.changes.append(&mut changes),
                Frame::Chunks(chunks) if self.plan => self.chunks(&chunks)?,
                Frame::Patches(patches) if self.plan => self.patches(patches)?,
                // They are in the history when the revision is staged.
                Frame::Chunks(_) | Frame::Patches(_) => {}
                Frame::End => self.done = true,
            }
            self.plan_when_due(planner)?;
        }
        Ok(())
    }

    fn head(&mut self, head: pack::Head) -> Result<(), ReceiveError> {
        if head.pack != self.pack || head.header.id() != self.header.id() || head.base != self.base {
            return Err(ReceiveError::Offer(format!("it holds revision {}", head.header.number())));
        }
        self.head = Some(head);
        Ok(())
    }

    fn plan_when_due(&mut self, planner: &mut Planner<'_>) -> Result<(), ReceiveError> {
        let Some(head) = &self.head else { return Ok(()) };
        if self.plan && self.planned.is_none() && head.changes == self.changes.len() as u64 {
            let (planned, olds) = planner(head, std::mem::take(&mut self.changes))?;
            (self.planned, self.olds) = (Some(planned), olds);
        }
        Ok(())
    }

    fn chunks(&mut self, chunks: &[(bellwether_proto::entry::Chunk, bytes::Bytes)]) -> Result<(), ReceiveError> {
        let Some(planned) = &mut self.planned else {
            return Err(ReceiveError::Offer("chunks before all changes".into()));
        };
        for (chunk, bytes) in chunks {
            planned.plan.supply(&chunk.hash, bytes)?;
        }
        Ok(())
    }

    fn patches(&mut self, patches: Vec<Patch>) -> Result<(), ReceiveError> {
        let Some(planned) = &mut self.planned else {
            return Err(ReceiveError::Offer("patches before all changes".into()));
        };
        for patch in patches {
            match self.olds.apply(&patch) {
                Some(bytes) => planned.plan.supply(&patch.chunk.hash, &bytes)?,
                None => self.unmade.push(patch),
            }
        }
        Ok(())
    }

    /// Makes what could not be made from the files here (somebody edited them) from the history.
    pub(crate) fn make_rest(&mut self, history: &History) -> Result<(), ReceiveError> {
        let Some(planned) = &mut self.planned else { return Ok(()) };
        while !self.unmade.is_empty() {
            let some: Vec<Patch> = self.unmade.drain(..self.unmade.len().min(AT_ONCE)).collect();
            let mut olds = HashMap::new();
            history.chunks(&some.iter().map(|patch| patch.old).collect(), &mut |chunk, bytes| {
                olds.insert(chunk.hash, bytes);
            })?;
            for patch in some {
                let made = olds.get(&patch.old).map(|old| patch.apply(old));
                let lost =
                    || ReceiveError::Tree(format!("chunk {} is made from one that is lost", patch.chunk.hash.short()));
                planned.plan.supply(&patch.chunk.hash, &made.ok_or_else(lost)??)?;
            }
        }
        Ok(())
    }

    /// Takes what the pack did not bring (yet) from the files here.
    pub(crate) fn look_elsewhere(&mut self, live: &Tree) -> Result<(), ReceiveError> {
        let Some(planned) = &mut self.planned else { return Ok(()) };
        Ok(planned.plan.look_elsewhere(live)?)
    }

    /// The bytes that have not come.
    pub(crate) fn rest(&self) -> v1::Range {
        v1::Range { from: self.at, to: self.size }
    }

    /// All of those will come.
    pub(crate) fn want_rest(&mut self) {
        self.to = self.size;
    }

    /// The bytes of chunks that the pack would bring, before compression.
    pub(crate) fn chunk_bytes(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.chunk_bytes)
    }

    /// The plan, when all changes have arrived.
    pub(crate) fn plan(&self) -> Option<&Plan> {
        self.planned.as_ref().map(|planned| &planned.plan)
    }

    /// The same, to be supplied.
    pub(crate) fn plan_mut(&mut self) -> Option<&mut Plan> {
        self.planned.as_mut().map(|planned| &mut planned.plan)
    }

    /// Whether it holds a whole tree.
    pub(crate) fn is_base(&self) -> bool {
        self.base
    }

    /// Bytes that have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.at
    }

    /// The whole pack's file and what it makes of this server.
    pub(crate) fn into_parts(self) -> Result<(NewPack, Planned), ReceiveError> {
        let planned = self.planned.ok_or_else(|| ReceiveError::Offer("it ended before all changes".into()))?;
        Ok((self.file, planned))
    }

    /// The pack's file, and the tree of its revision, which is checked against the signed root. `parent`: the tree that it changes;
    /// none for a base.
    pub(crate) fn into_pack(self, parent: Option<Tree>) -> Result<(NewPack, Tree), ReceiveError> {
        let head = self.head.ok_or_else(|| ReceiveError::Offer("it has no head".into()))?;
        let parent =
            parent.map_or_else(|| Tree::empty(head.rules.iter().cloned()), |tree| tree.with_rules(&head.rules));
        let target = parent.apply(self.changes);
        let target = target.map_err(|e| ReceiveError::Tree(e.to_string()))?;
        match target.root() == self.header.header().root {
            true => Ok((self.file, target)),
            false => Err(ReceiveError::Tree("it has another root hash".into())),
        }
    }

    /// Keeps what has arrived, to go on after a reconnection.
    pub(crate) fn keep(self) {
        self.file.keep(self.pack);
    }
}
