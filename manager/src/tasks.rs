//! Tasks that run until they are told to stop. The alarm names one that ends earlier, and the program ends and is
//! started again instead of living on without it.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bellwether_store::{failpoint, mutex::locked};
use serde::Serialize;
use tokio::{sync::watch, task::JoinHandle};

tokio::task_local! {
    static TASK: &'static str;
}

thread_local! {
    static THREAD: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The task that runs on this thread, if it is one of those.
pub fn current() -> Option<&'static str> {
    TASK.try_with(|name| *name).ok().or_else(|| THREAD.get())
}

/// Learns of the first task that ended unasked; knows all tasks.
#[derive(Debug, Clone)]
pub struct Alarm {
    first: watch::Sender<Option<&'static str>>,
    /// The number of running tasks of each name.
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { first: watch::Sender::new(None), running: Arc::default() }
    }
}

/// A task, for fault finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs.
    pub state: TaskState,
}

/// Whether a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It runs.
    Running,
    /// It has ended: its role has ended, or it failed.
    Ended,
}

/// Returns when the manager is to stop.
pub(crate) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a signal to stop.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

impl Alarm {
    /// Runs a task that may end only when `stop` is true.
    pub fn spawn(
        &self,
        name: &'static str,
        stop: &watch::Receiver<bool>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let guard = self.guard(name, stop);
        tokio::spawn(TASK.scope(name, async move {
            let _guard = guard;
            if passes(name) {
                task.await;
            }
        }))
    }

    /// The same for blocking work: it has a thread of its own.
    pub fn spawn_blocking(
        &self,
        name: &'static str,
        stop: &watch::Receiver<bool>,
        work: impl FnOnce() + Send + 'static,
    ) -> JoinHandle<()> {
        let guard = self.guard(name, stop);
        tokio::task::spawn_blocking(move || {
            let _guard = guard;
            THREAD.set(Some(name));
            if passes(name) {
                work();
            }
            THREAD.set(None);
        })
    }

    /// Guards work without its own task: the result must not be dropped before `stop` is true.
    pub fn guard(&self, name: &'static str, stop: &watch::Receiver<bool>) -> Guard {
        *locked(&self.running).entry(name).or_default() += 1;
        Guard { name, stop: stop.clone(), alarm: self.clone() }
    }

    /// All started tasks, by name.
    pub fn tasks(&self) -> Vec<Task> {
        let state = |running: usize| if running > 0 { TaskState::Running } else { TaskState::Ended };
        locked(&self.running).iter().map(|(name, running)| Task { name, state: state(*running) }).collect()
    }

    /// The first task that ended unasked, as soon as there is one.
    pub async fn raised(&self) -> &'static str {
        let mut raised = self.first.subscribe();
        match raised.wait_for(Option::is_some).await.ok().and_then(|name| *name) {
            Some(name) => name,
            // This alarm can still raise it.
            None => std::future::pending().await,
        }
    }
}

/// Raises the alarm when it is dropped: the task returned, panicked or was cancelled.
#[derive(Debug)]
pub struct Guard {
    name: &'static str,
    stop: watch::Receiver<bool>,
    alarm: Alarm,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(running) = locked(&self.alarm.running).get_mut(self.name) {
            *running -= 1;
        }
        if !*self.stop.borrow() {
            self.alarm.first.send_if_modified(|first| {
                let raises = first.is_none();
                first.get_or_insert(self.name);
                raises
            });
        }
    }
}

/// Every task is a failpoint, `task.NAME`: with `=error` it ends as soon as it has begun.
fn passes(name: &str) -> bool {
    !failpoint::THERE || failpoint::check(&format!("task.{name}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn silent(alarm: &Alarm) -> bool {
        tokio::task::yield_now().await;
        alarm.first.borrow().is_none()
    }

    #[tokio::test]
    async fn a_task_that_ends_unasked_is_named_and_only_the_first() {
        let (alarm, (stop, stopped)) = (Alarm::default(), watch::channel(false));
        let waits = alarm.spawn("waits", &stopped, std::future::pending());
        assert!(silent(&alarm).await);
        alarm.spawn("ends", &stopped, async {}).await.unwrap();
        assert_eq!(alarm.raised().await, "ends");
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        assert_eq!(alarm.raised().await, "ends");
        drop(stop);
    }

    #[tokio::test]
    async fn one_that_panics_is_named_whether_it_blocks_or_not() {
        let (_stop, stopped) = watch::channel(false);
        let alarm = Alarm::default();
        assert!(alarm.spawn("panics", &stopped, async { panic!("as it is to") }).await.unwrap_err().is_panic());
        assert_eq!(alarm.raised().await, "panics");
        let alarm = Alarm::default();
        assert!(alarm.spawn_blocking("blocks", &stopped, || panic!("as it is to")).await.unwrap_err().is_panic());
        assert_eq!(alarm.raised().await, "blocks");
    }

    #[tokio::test]
    async fn whoever_ends_at_the_stop_is_not_missed() {
        let (alarm, (stop, mut stopped)) = (Alarm::default(), watch::channel(false));
        let until = stopped.clone();
        let task = alarm.spawn("task", &until, async move { drop(stopped.wait_for(|stop| *stop).await) });
        stop.send_replace(true);
        task.await.unwrap();
        assert!(silent(&alarm).await);
    }

    #[tokio::test]
    async fn all_tasks_are_listed() {
        let (alarm, (stop, mut stopped)) = (Alarm::default(), watch::channel(false));
        let until = stopped.clone();
        let task = alarm.spawn("publisher", &until, async move { drop(stopped.wait_for(|stop| *stop).await) });
        assert_eq!(alarm.tasks(), [Task { name: "publisher", state: TaskState::Running }]);
        stop.send_replace(true);
        task.await.unwrap();
        assert_eq!(alarm.tasks(), [Task { name: "publisher", state: TaskState::Ended }]);
    }

    #[tokio::test]
    async fn a_task_knows_its_name() {
        let (alarm, (_stop, stopped)) = (Alarm::default(), watch::channel(false));
        assert_eq!(current(), None);
        let (say, said) = std::sync::mpsc::channel();
        let again = say.clone();
        alarm.spawn("task", &stopped, async move { say.send(current()).unwrap() }).await.unwrap();
        alarm.spawn_blocking("thread", &stopped, move || again.send(current()).unwrap()).await.unwrap();
        assert_eq!(said.try_iter().collect::<Vec<_>>(), [Some("task"), Some("thread")]);
    }
}
