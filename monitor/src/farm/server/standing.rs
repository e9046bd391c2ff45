//! The state of a server, its reason, and the next action.

use bellwether_proto::{
    level::Program,
    name::ServerName,
    record::{Role, Version},
    revision::{Epoch, Number},
    status::{ServerStatus, State},
};

use super::{Known, Phase, Refusal};

/// The time for which a balancer's loss of a drain is shown, in milliseconds.
const NEWS_MS: u64 = 600_000;
/// The time for which an unacknowledged request from outside the group is shown, in milliseconds.
const WARNED_MS: u64 = 24 * 3_600_000;
/// The time for which lost revisions are named, in milliseconds; the group's log keeps them.
const LOST_MS: u64 = 24 * 3_600_000;

/// The context in which a server's state is judged.
pub(in crate::farm) struct View<'a> {
    pub(in crate::farm) head: Option<Number>,
    pub(in crate::farm) record: Option<Version>,
    pub(in crate::farm) paused: bool,
    /// The rollout of the head is stopped.
    pub(in crate::farm) stopped: bool,
    pub(in crate::farm) observer: &'a ServerName,
    pub(in crate::farm) manager: &'a ServerName,
    pub(in crate::farm) now_ms: u64,
}

impl Known {
    /// The server's line of the status.
    pub(in crate::farm) fn status(&self, name: &ServerName, view: &View<'_>) -> ServerStatus {
        let revision = self.revision(name, view);
        let (state, reason) = self.state(name, revision, view);
        let reason = reason.or_else(|| self.forgotten(view)).or_else(|| self.lost(view));
        let lag_revisions = match (self.role, view.head) {
            _ if state == State::Unknown => 0,
            (Role::Member, Some(head)) => head.sequence.saturating_sub(revision.map_or(0, |at| at.sequence)),
            (Role::Member, None) | (Role::Manager | Role::Disabled, _) => 0,
        };
        let program = if name == view.observer { Some(Program::own()) } else { self.program.clone() };
        ServerStatus {
            name: name.clone(),
            address: self.address.clone(),
            role: self.role,
            state,
            revision,
            lag_revisions,
            lag_ms: self
                .behind
                .filter(|_| state != State::Unknown)
                .map_or(0, |behind| view.now_ms.saturating_sub(behind.since_ms)),
            reason,
            output: self
                .refused
                .as_ref()
                .filter(|_| state == State::Refused)
                .map(|refusal| refusal.output.clone())
                .unwrap_or_default(),
            waits_for: self.refused.as_ref().and_then(|refusal| refusal.cause).filter(|_| state == State::Waiting),
            drift: self.drift.clone(),
            drift_entries: self.drift_entries,
            held: self.held,
            progress: self.progress.clone(),
            seen_ms: if name == view.observer { Some(view.now_ms) } else { self.seen_ms },
            last_update_us: self.last_update_us,
            levels: program.as_ref().map(|program| program.levels),
            version: program.map(|program| program.version),
            kept: self.kept.clone(),
            kept_ms: self.kept_ms,
            drained: self.drained,
            verified: self.verified.clone(),
            balancers: self.balancers.clone(),
            warning: self.knock.clone().filter(|knock| view.now_ms < knock.time_ms.saturating_add(WARNED_MS)),
        }
    }

    /// The note that a balancer had forgotten that the server is drained, while it is news.
    fn forgotten(&self, view: &View<'_>) -> Option<String> {
        let (_, balancer) = self.drained_again.as_ref().filter(|(at_ms, _)| view.now_ms < at_ms + NEWS_MS)?;
        Some(format!(
            "balancer {balancer} had forgotten that it is drained (was it restarted?) and was told again; a server-state \
             file keeps that from happening: docs/balancers.md"
        ))
    }

    /// The note that the server has seen lost revisions, while it is news.
    fn lost(&self, view: &View<'_>) -> Option<String> {
        let (_, which) = self.saw_lost.as_ref().filter(|(at_ms, _)| view.now_ms < at_ms + LOST_MS)?;
        Some(format!(
            "has seen revisions of an earlier manager that are lost, for no history here has them: {which}; their files here \
             are saved as a kept copy, and all else must be made again (`bellwether group show --log` keeps the list)"
        ))
    }

    /// The server's revision. The manager holds the head, by definition, if the head is known.
    fn revision(&self, name: &ServerName, view: &View<'_>) -> Option<Number> {
        match (self.role, self.phase) {
            (Role::Manager, Phase::Unseen) if name != view.observer => self.at,
            (Role::Manager, _) => view.head,
            (Role::Member | Role::Disabled, _) => self.at,
        }
    }

    fn state(&self, name: &ServerName, revision: Option<Number>, view: &View<'_>) -> (State, Option<String>) {
        let silent = matches!(self.phase, Phase::Unseen | Phase::Away) || self.role == Role::Disabled;
        if let Some((state, reason)) = self.fenced.as_ref().filter(|_| silent) {
            return (*state, Some(reason.clone()));
        }
        if let Some(epoch) = self.led.filter(|_| silent) {
            return (State::Superseded, Some(led_reason(epoch, name, view)));
        }
        if self.role == Role::Disabled {
            return (State::Disabled, None);
        }
        match self.phase {
            Phase::Unseen if self.role == Role::Manager && name == view.observer => self.standing(name, revision, view),
            Phase::Unseen => (State::Unknown, Some(unknown_reason(view))),
            Phase::Idle => self.standing(name, revision, view),
            Phase::Faulty => (State::Error, Some(self.fault_reason(name))),
            Phase::Syncing => (State::Syncing, None),
            Phase::Updating => (State::Updating, None),
            Phase::Away => (State::Unreachable, Some(self.loss_reason(name))),
            Phase::Left => (State::Left, Some(left_reason(name))),
        }
    }

    /// The state of a server that answers, did not fail and is not at work.
    fn standing(&self, name: &ServerName, revision: Option<Number>, view: &View<'_>) -> (State, Option<String>) {
        let Some(head) = view.head else {
            return (State::AwaitingSync, Some(headless_reason(revision, view)));
        };
        if let Some(why) = &self.away {
            return (State::Refused, Some(format!("{why}; it takes no updates meanwhile, and continues by itself")));
        }
        if let (true, Some(at)) = (self.held, revision) {
            return (State::Drifted, Some(self.drift_reason(name, at)));
        }
        if let Some(refusal) = self.refused.as_ref().filter(|refusal| refusal.stands(revision, head)) {
            let (state, mut reason) = refusal.state(name, revision, head);
            if let (Some(at), 1..) = (revision, self.drift_entries) {
                reason = format!("{reason}; and {}", self.drift_reason(name, at));
            }
            return (state, Some(reason));
        }
        let Some(at) = revision else {
            return (State::AwaitingSync, Some(waiting_reason("holds no revision of this group yet", name, view)));
        };
        if at > head {
            return (State::Error, Some(ahead_reason(at, head, view)));
        }
        if self.drift_entries > 0 {
            return (State::Drifted, Some(self.drift_reason(name, at)));
        }
        if at < head {
            return (State::AwaitingSync, Some(waiting_reason(&format!("at {at}, the head is {head}"), name, view)));
        }
        if let Some(reason) = self.lacks_record(view) {
            return (State::GroupChange, Some(reason));
        }
        (State::InSync, None)
    }

    /// The note that the server does not hold the newest group record. Only the manager learns its members' records.
    fn lacks_record(&self, view: &View<'_>) -> Option<String> {
        let newest = view.record.filter(|_| self.role == Role::Member && view.observer == view.manager)?;
        match self.record {
            Some(held) if held >= newest => None,
            Some(held) => Some(format!("holds group record {held}; {newest}, the newest, comes by itself")),
            None => Some(format!("has not said yet that it holds group record {newest}")),
        }
    }

    fn fault_reason(&self, name: &ServerName) -> String {
        let why = self.fault.as_deref().unwrap_or("it failed");
        match self.role {
            // The reason itself names the next action.
            Role::Manager => why.to_owned(),
            Role::Member | Role::Disabled => {
                format!("{why}; it takes nothing until `bellwether sync {name}` succeeds")
            }
        }
    }

    fn loss_reason(&self, name: &ServerName) -> String {
        let why = self.loss.as_deref().unwrap_or("no answer");
        match &self.fault {
            Some(fault) => {
                format!("{why}; it had failed before ({fault}): once it answers, `bellwether sync {name}`")
            }
            None => format!("{why}; it catches up by itself once it answers"),
        }
    }

    fn drift_reason(&self, name: &ServerName, at: Number) -> String {
        let paths = self.drift.join(", ");
        let more = if self.drift_entries > self.drift.len() as u64 { " …" } else { "" };
        let entries = if self.drift_entries == 1 { "1 entry differs" } else { "entries differ" };
        let count = if self.drift_entries == 1 { String::new() } else { format!("{} ", self.drift_entries) };
        if self.role == Role::Manager {
            return format!(
                "{count}{entries} from {at} at the paths of the manager's sets: {paths}{more}; such edits are never published, and \
                 the next revision replaces them; to drop them now: `bellwether discard`; they become a kept copy"
            );
        }
        let held = if self.held { "held, it takes no updates until that is settled: " } else { "" };
        format!(
            "{count}{entries} from {at}: {paths}{more}; {held}`bellwether drift show {name}` shows the edits, \
             `drift keep {name}` gives them to all, `drift revert {name}` puts the manager's state back and keeps them as a \
             kept copy"
        )
    }
}

/// The manager by the record that is held now, whichever server took over first.
fn led_reason(epoch: Epoch, name: &ServerName, view: &View<'_>) -> String {
    let manager = view.manager;
    let leads = match view.record {
        Some(version) => format!("{manager} is the manager of epoch {} now", version.epoch),
        None => format!("{manager} is the manager now"),
    };
    format!(
        "this server was the manager of epoch {epoch}, {leads}; its changes that {manager} lacks are saved as a kept copy \
         when it takes this server back (there: `bellwether maintenance finish {name}`)"
    )
}

impl Refusal {
    /// Whether the refusal is the state of a server at `at`: it refused the head, or an earlier revision still waits.
    fn stands(&self, at: Option<Number>, head: Number) -> bool {
        self.revision == head || self.cause.is_some() && at.is_none_or(|at| at < self.revision) && self.revision < head
    }

    fn state(&self, name: &ServerName, at: Option<Number>, head: Number) -> (State, String) {
        let Self { revision, reason, cause, output: _ } = self;
        let Some(cause) = cause else {
            let next = format!("it takes the next revision; to try this one again: `bellwether sync {name}`");
            return (State::Refused, format!("refused {revision}: {reason}; {next}"));
        };
        let step = cause.next_step();
        let more = match at {
            Some(at) if head.sequence.saturating_sub(at.sequence) > 1 => {
                "; later revisions wait with it, because a revision is taken whole"
            }
            Some(_) | None => "",
        };
        let what = format!("waits to take {revision}: {reason}; {step}: it is tried again by itself{more}");
        (State::Waiting, what)
    }
}

fn left_reason(name: &ServerName) -> String {
    format!(
        "it left the group on its own machine; its configuration stays there: `bellwether server remove {name}`, or let \
         it join again with a token"
    )
}

fn unknown_reason(view: &View<'_>) -> String {
    if view.observer == view.manager {
        return "not heard of since this agent started".to_owned();
    }
    format!("not known here: ask on the manager, {}", view.manager)
}

/// The reason why there is no head: at the manager, or as far as is known elsewhere.
fn headless_reason(revision: Option<Number>, view: &View<'_>) -> String {
    if view.observer == view.manager {
        return "nothing was published yet: `bellwether publish`".to_owned();
    }
    let holds = revision.map_or_else(String::new, |at| format!("holds {at}; "));
    format!("{holds}the head is not known here until the manager, {}, answers", view.manager)
}

fn waiting_reason(what: &str, name: &ServerName, view: &View<'_>) -> String {
    if view.paused {
        return format!("{what}; propagation is paused: `bellwether resume`, or `bellwether sync {name}`");
    }
    if view.stopped {
        return format!("{what}; the rollout is stopped: `bellwether rollout show`, or `bellwether sync {name}`");
    }
    format!("{what}; its turn comes by itself")
}

fn ahead_reason(at: Number, head: Number, view: &View<'_>) -> String {
    format!(
        "holds {at}, which the manager does not have (its head is {head}): the state of {} was set back, or another \
         manager made it; publish nothing before that is explained",
        view.manager
    )
}
