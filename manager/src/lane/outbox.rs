//! The messages for one member, in order. It holds at most one message of each small kind, and only positions for the
//! large ones: a stalled reader costs its lane a few messages of memory, whatever is published.

use std::collections::VecDeque;

use bellwether_proto::{hash::Hash, limits, v1};

use super::view::InFlight;
use crate::lane::plan::Sending;

/// The number of hashes to look for at first.
const LOOK: usize = 64;
/// Bytes of a pack in one message: below the allocator's size for separate areas, which many lanes would fragment.
const PIECE: u64 = 32 << 10;
/// The most open requests of one member.
const OPEN: usize = 64;

/// The next thing to send.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is sent at once, and never kept")]
pub enum Outgoing {
    /// That message.
    Message(v1::down::Message),
    /// Bytes of the pack that was offered.
    Slice {
        /// The position of the first one.
        at: u64,
        /// The number.
        length: u64,
    },
    /// As many of these chunks as fit a message; [`super::Session::supplied`] takes the rest back.
    Supply {
        /// Their hashes.
        wanted: VecDeque<Hash>,
        /// The number to look for.
        look: usize,
    },
}

#[derive(Debug)]
enum Transfer {
    Slices { at: u64, to: u64 },
    Chunks { wanted: VecDeque<Hash>, look: usize },
}

/// The messages to send.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) fence: Option<v1::Fence>,
    pub(crate) record: Option<v1::SignedRecord>,
    pub(crate) head: Option<v1::SignedHeader>,
    pub(crate) sync: Option<v1::Sync>,
    pub(crate) switch: Option<v1::Switch>,
    pub(crate) verify: Option<v1::Verify>,
    pub(crate) keepalive: Option<v1::Keepalive>,
    pub(crate) procedures: Option<v1::SignedProcedures>,
    offer: Option<v1::Offer>,
    /// The offer's first bytes were not sent yet.
    fresh: bool,
    work: VecDeque<Transfer>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { fence, record, head, sync, switch, verify, keepalive, procedures, offer, fresh: _, work } = self;
        fence.is_none()
            && record.is_none()
            && head.is_none()
            && sync.is_none()
            && switch.is_none()
            && verify.is_none()
            && keepalive.is_none()
            && procedures.is_none()
            && offer.is_none()
            && work.is_empty()
    }

    /// Offers a pack and sends its bytes.
    pub(crate) fn offer(&mut self, sending: &Sending) {
        let Sending { pack, from, to, sync: _, forked, purpose } = sending;
        self.offer = Some(v1::Offer {
            pack: pack.pack.into(),
            header: Some(pack.header.to_wire()),
            base: pack.base,
            size: pack.size,
            from: *from,
            to: *to,
            forked: *forked,
            r#use: (*purpose).into(),
        });
        self.work.clear();
        self.work.push_back(Transfer::Slices { at: *from, to: *to });
        self.fresh = true;
    }

    /// Queues more bytes of the offered pack, which has `size` of them.
    pub(crate) fn want_range(&mut self, range: &v1::Range, size: u64) -> Result<(), String> {
        if range.from > range.to || range.to > size {
            return Err(format!("it asked for bytes {} to {} of a pack of {size}", range.from, range.to));
        }
        self.open_request()?;
        self.work.push_back(Transfer::Slices { at: range.from, to: range.to });
        Ok(())
    }

    /// Queues chunks by hash.
    pub(crate) fn want_chunks(&mut self, hashes: v1::Hashes) -> Result<(), String> {
        self.open_request()?;
        let count = hashes.hashes.len();
        if count > limits::WANT {
            return Err(format!("it asked for {count} chunks at once; the limit is {}", limits::WANT));
        }
        let waiting: usize = self.work.iter().map(Transfer::hashes).sum();
        if waiting + count > 2 * limits::WANT {
            return Err(format!("it asked for more than {} chunks at once", 2 * limits::WANT));
        }
        let wanted = hashes.hashes.iter().map(|hash| Hash::try_from(hash.as_ref())).collect::<Result<_, _>>();
        self.work.push_back(Transfer::Chunks { wanted: wanted.map_err(|e| format!("it asked for {e}"))?, look: LOOK });
        Ok(())
    }

    /// The unsent part of the offered pack, which has `size` bytes.
    pub(crate) fn in_flight(&self, size: u64) -> InFlight {
        let unsent = |work: &Transfer| match work {
            Transfer::Slices { at, to } => to.saturating_sub(*at),
            Transfer::Chunks { .. } => 0,
        };
        let unsent_chunks = self.work.iter().map(Transfer::hashes).sum();
        InFlight { size, unsent_bytes: self.work.iter().map(unsent).sum(), unsent_chunks }
    }

    fn open_request(&self) -> Result<(), String> {
        if self.work.len() < OPEN {
            return Ok(());
        }
        Err(format!("it has more than {OPEN} requests open"))
    }

    /// Drops the messages of an offer that has ended.
    pub(crate) fn end_offer(&mut self) {
        self.offer = None;
        self.fresh = false;
        self.work.clear();
    }

    /// The next message; the small ones first.
    pub(crate) fn next(&mut self) -> Option<Outgoing> {
        use v1::down::Message;
        // A fence and a record go before a sync that hashes every byte.
        let small = (self.fence.take().map(Message::Fence))
            .or_else(|| self.record.take().map(Message::Record))
            .or_else(|| self.procedures.take().map(Message::Procedures))
            .or_else(|| self.keepalive.take().map(Message::Keepalive))
            .or_else(|| self.verify.take().map(Message::Verify))
            .or_else(|| self.sync.take().map(Message::Sync))
            .or_else(|| self.switch.take().map(Message::Switch))
            .or_else(|| self.offer.take().map(Message::Offer));
        if let Some(message) = small {
            return Some(Outgoing::Message(message));
        }
        // A small pack goes in one piece with its offer; the new head follows.
        if std::mem::take(&mut self.fresh)
            && let Some(first) = self.next_work()
        {
            return Some(first);
        }
        if let Some(head) = self.head.take() {
            return Some(Outgoing::Message(Message::Head(head)));
        }
        self.next_work()
    }

    fn next_work(&mut self) -> Option<Outgoing> {
        // An offer of no bytes: the member asks for those that it needs.
        while matches!(self.work.front(), Some(Transfer::Slices { at, to }) if at >= to) {
            self.work.pop_front();
        }
        match self.work.front_mut()? {
            Transfer::Slices { at, to } => {
                let (offset, length) = (*at, (*to - *at).min(PIECE));
                *at += length;
                if *at >= *to {
                    self.work.pop_front();
                }
                Some(Outgoing::Slice { at: offset, length })
            }
            Transfer::Chunks { wanted, look } => Some(Outgoing::Supply { wanted: std::mem::take(wanted), look: *look }),
        }
    }

    /// Takes back the chunks that were not sent.
    pub(crate) fn supplied(&mut self, rest: VecDeque<Hash>, next: usize) {
        if let Some(Transfer::Chunks { wanted, look }) = self.work.front_mut() {
            (*wanted, *look) = (rest, next);
            if wanted.is_empty() {
                self.work.pop_front();
            }
        }
    }
}

impl Transfer {
    fn hashes(&self) -> usize {
        match self {
            Self::Slices { .. } => 0,
            Self::Chunks { wanted, .. } => wanted.len(),
        }
    }
}
