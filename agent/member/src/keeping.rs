//! What a member keeps of the past: a base of its own when the increments have grown, and no segment that is too old.

use bellwether_proto::{error::chain, revision::SignedHeader};
use bellwether_store::{
    history::REVISIONS,
    pack::{self, Contents},
    tree::Tree,
};

use super::{Member, receive::ReceiveError};

impl Member {
    /// Begins a new segment when it is due, and lets old ones go. After the report: nobody waits for it.
    pub(super) fn tidy_history(&mut self, header: &SignedHeader) {
        self.settle_log();
        // A base is packed from the sets: they have to hold the revision and nothing else.
        if !self.history.base_due() || self.follower.drift().entries > 0 {
            return;
        }
        let tidied = self.pack_base(header).and_then(|()| Ok(self.history.retain(REVISIONS)?));
        if let Err(error) = tidied {
            tracing::warn!(error = chain(&error), "the history grows: tried again after the next revision");
        }
    }

    /// Empties the log when it is large.
    pub(super) fn settle_log(&mut self) {
        if let Err(error) = self.history.settle(false) {
            tracing::warn!(error = chain(&error), "the log grows: tried again after the next switch");
        }
    }

    /// Packs the sets as they are now as a base of `header`: what the manager would have sent.
    pub(super) fn pack_base(&mut self, header: &SignedHeader) -> Result<(), ReceiveError> {
        let site = self.sets.site();
        let rules: Vec<_> = self.sets.tree.sets().iter().map(|set| set.rules.clone()).collect();
        let parent = Tree::empty(rules.iter().cloned());
        let changes = parent.diff(&self.sets.tree);
        let codec = self.record.current().record().policy.codec;
        let mut new = self.history.create();
        let history = self.history.packs();
        let contents = Contents {
            header,
            base: true,
            parent: &parent,
            rules: &rules,
            changes: &changes,
            sources: &site.sources,
            history: Some(&history),
            codec,
            outlines: None,
        };
        pack::write(&contents, &mut new)?;
        self.history.commit(new)?;
        Ok(())
    }
}
