//! The rollout of the head in waves: the program's own machine, a model disk for its state, and the way back.

use bellwether_group::{
    edits::RecordEdit,
    rollout::{Hold, Now, Release, TakeBack},
};
use bellwether_proto::{
    name::ServerName,
    revision::{SignedHeader, TAKEN_BACK},
    status::RolloutState,
};

use super::Server;
use crate::world::{Command, Notice};

impl Server {
    /// What the rollout lets that member do.
    pub(super) fn release(&self, name: &ServerName) -> Release {
        let taken = || self.head().map(|head| head.id());
        if self.rules.waves { self.plan.release(name) } else { Release { gated: true, staged: None, taken: taken() } }
    }

    /// Whether nothing is published without a person.
    pub(super) fn is_held(&self) -> bool {
        self.head().is_some_and(|head| self.plan.holds(head.id()).is_some())
    }

    /// Looks at the rollout, saves its state, and tells the lanes.
    pub(super) async fn look_at_rollout(&mut self) {
        let (Some(record), Some(head)) = (self.record(), self.head()) else { return };
        let before = self.rollout.kept().clone();
        let plan = self.rollout.look(record.record(), &head, Now { at_ms: self.now(), wall_ms: self.now() });
        let kept = self.rollout.kept().clone();
        if kept.revision == before.revision {
            let mut world = self.world.borrow_mut();
            world.met.waves_passed += kept.passed.saturating_sub(before.passed) as u64;
            world.met.rollouts_stopped += u64::from(before.stopped.is_none() && kept.stopped.is_some());
        }
        if self.drive.read(|disk| self.rollout.has_news(&disk.rollout)) && (plan.gated || plan.status.is_some()) {
            self.drive.save("the rollout", |disk| disk.rollout = kept).await;
        }
        let names: Vec<ServerName> = self.lanes.keys().cloned().collect();
        {
            let mut world = self.world.borrow_mut();
            let due = names.iter().filter_map(|name| Some((plan.release(name).taken?, name.clone())));
            world.may_hold.extend(due);
            if plan.status.as_ref().is_some_and(|status| status.state == RolloutState::Stopped) {
                world.notice(self.machine, Notice::Stopped);
            }
        }
        let (changed, back) = (plan != self.plan, plan.take_back.clone());
        self.plan = plan;
        if changed {
            for name in names {
                let release = self.release(&name);
                self.put_in(&name, bellwether_manager::lane::Input::Released(release));
            }
        }
        if let Some(back) = back {
            self.take_back(&head, &back).await;
        }
    }

    /// Publishes the content from before the stopped revision. The changes that go are named, and the history has them.
    async fn take_back(&mut self, head: &SignedHeader, back: &TakeBack) {
        let Some(record) = self.record().filter(|_| self.leads() && !self.rival && self.handing.is_none()) else {
            return;
        };
        let content = {
            let mut world = self.world.borrow_mut();
            let history = &world.disks[self.machine].history;
            let good = history.iter().copied().find(|id| world.header(*id).map(|header| header.number()) == back.to);
            let (now, then) = (world.content(Some(head.id())), world.content(good.or(head.header().parent)));
            world.listed = world.listed.and(now.without(then));
            world.met.taken_back += 1;
            then
        };
        let labels = [(TAKEN_BACK.to_owned(), back.revision.to_string())].into();
        let header = self.signed(&record, head, content, (format!("taken back: {}", back.revision), labels));
        self.keep_with(header, content, Default::default()).await;
    }

    /// A person confirms the head, if it waits for that.
    pub(super) async fn confirm(&mut self) {
        let Some(head) = self.head() else { return };
        if let Some(Hold::Unconfirmed(_)) = self.plan.holds(head.id()) {
            self.world.borrow_mut().met.confirmed_in_time += 1;
            let confirmed = Command::EditRecord(RecordEdit::Confirmed(head.id()));
            // A refusal is as if nobody had confirmed it.
            let _ = self.edit_group(confirmed).await;
            self.look_at_rollout().await;
        }
    }

    /// A person stops or continues the rollout; edits that were held are published then.
    pub(super) async fn decide_rollout(&mut self, stop: bool) {
        let Some(record) = self.record().filter(|_| self.leads()) else { return };
        let record = record.record();
        let decided = if stop { self.rollout.stop(record, "root") } else { self.rollout.go_on(record) };
        if decided == Ok(true) && !stop {
            self.world.borrow_mut().met.continued += 1;
        }
        self.look_at_rollout().await;
        self.publish().await;
    }
}
