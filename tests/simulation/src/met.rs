//! The events of histories: a simulation that never comes to a conflict tells nothing about conflicts.

use bellwether_group::procedure::Kind;
use bellwether_proto::v1::{self, up};

/// The counts, each with its words.
macro_rules! counts {
    ($($name:ident = $words:literal,)*) => {
        /// The number of events of each kind.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Met {
            $(#[doc = $words] pub $name: u64,)*
        }

        impl Met {
            /// Each count with its words.
            #[must_use]
            pub fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$(($words, self.$name),)*]
            }
        }

        impl std::ops::AddAssign for Met {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counts! {
    acknowledged = "changes acknowledged",
    crashes_at_a_save = "crashes at a save",
    handovers = "handovers",
    takeovers = "takeovers",
    fenced = "managers fenced",
    conflicts = "conflicts shown",
    kept_copies = "kept copies",
    lists_of_losses = "lists of losses",
    restored = "restored from a backup",
    went_back = "managers whose state went back",
    kept_out = "members kept out",
    lies = "lies of a member",
    rebuilt = "groups rebuilt",
    rebuilt_without = "groups rebuilt without a key",
    confirmed = "confirmations of that",
    went_back_by_root = "servers that root took back to an earlier epoch",
    jumps_refused = "records that jump refused",
    keys_refused = "records by a refused key refused",
    gave_way = "promotions that gave way",
    copied = "machines copied",
    copies_noticed = "copies noticed",
    chunks_wanted = "chunks wanted by hash",
    asked_again = "refused revisions asked for again",
    held = "updates held back by edits",
    paused = "propagation held",
    bases_wanted = "bases wanted",
    waves_passed = "waves that passed",
    rollouts_stopped = "rollouts stopped",
    taken_back = "revisions taken back",
    continued = "rollouts continued by a person",
    revisions_refused = "revisions refused by a machine",
    staged = "revisions staged before any switch",
    kept_ahead = "packs kept ahead of the sets",
    procedures = "procedures begun",
    drains = "servers drained",
    member_recoveries = "recoveries of a member begun",
    manager_recoveries = "recoveries of the manager begun",
    recovered = "recoveries done",
    undrained = "servers put back into service",
    promoted = "takeovers by a procedure",
    attested = "questions answered",
    resumed = "procedures resumed",
    given_up = "procedures given up",
    put_back = "procedures that stopped and put back whom they had drained",
    carried_on = "procedures carried on by a new manager",
}

impl Met {
    /// Counts that a procedure of that kind is begun.
    pub(crate) fn begins(&mut self, kind: &Kind) {
        self.procedures += 1;
        self.member_recoveries += u64::from(matches!(kind, Kind::RecoverMember { .. }));
        self.manager_recoveries += u64::from(matches!(kind, Kind::RecoverManager { .. }));
    }

    /// Counts that a procedure of that kind has ended.
    pub(crate) fn ends(&mut self, kind: &Kind) {
        let recovery = matches!(kind, Kind::RecoverMember { .. } | Kind::RecoverManager { .. });
        self.recovered += u64::from(recovery);
    }

    /// Counts a member's message.
    pub(crate) fn said(&mut self, message: &up::Message) {
        match message {
            up::Message::Want(v1::Want { want: Some(v1::want::Want::Chunks(_)) }) => self.chunks_wanted += 1,
            up::Message::Again(_) => self.asked_again += 1,
            up::Message::Drift(drift) => self.held += u64::from(drift.held),
            _ => {}
        }
    }

    /// Counts that a person lets a procedure go on, with an answer or without.
    pub(crate) fn goes_on(&mut self, attested: bool) {
        self.attested += u64::from(attested);
        self.resumed += u64::from(!attested);
    }
}
