//! A load balancer's view of a farm's readiness.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Answer, Server, get};

/// Asks `/ready` of some servers without a pause.
pub(crate) struct Balancer {
    stop: Arc<AtomicBool>,
    asking: Option<JoinHandle<(usize, Vec<String>)>>,
}

impl Balancer {
    pub(crate) fn begin<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let all: Vec<String> = servers.into_iter().map(|server| server.http.clone()).collect();
        let stopped = stop.clone();
        let asking = thread::spawn(move || {
            let (mut asked, mut bad) = (0, Vec::new());
            while !stopped.load(Ordering::SeqCst) {
                for server in &all {
                    asked += 1;
                    if let Err(answer) = get(server, "/ready").and_then(Answer::ok) {
                        bad.push(format!("{server}: {answer}"));
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            (asked, bad)
        });
        Self { stop, asking: Some(asking) }
    }

    /// Asserts that every server was ready at each question.
    #[track_caller]
    pub(crate) fn assert_always_ready(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let (asked, bad) = self.asking.take().expect("it asks").join().expect("it does not panic");
        assert!(asked > 0);
        assert_eq!(bad, Vec::<String>::new(), "of {asked} questions");
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
