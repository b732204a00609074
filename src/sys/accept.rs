//! TCP connections that are served by a task each.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// A listener and the tasks that serve its connections; they end with it.
///
/// A connection has a place until it has made its request. When there are too many without one, the oldest of them goes:
/// whoever means it asks at once, and one who only connects keeps nobody out.
pub struct Connections {
    listener: TcpListener,
    tasks: JoinSet<()>,
    /// The oldest first.
    waiting: VecDeque<(Weak<()>, AbortHandle)>,
    most_waiting: usize,
}

/// Held by a connection for as long as it counts among those that wait.
pub struct Place(#[expect(dead_code, reason = "counted by its references")] Arc<()>);

impl Connections {
    pub fn new(listener: TcpListener, most_waiting: usize) -> Self {
        Self {
            listener,
            tasks: JoinSet::new(),
            waiting: VecDeque::new(),
            most_waiting,
        }
    }

    /// The next one.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = self.tasks.join_next() => continue,
            };
            match accepted {
                Ok(accepted) => return accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others have to end first.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Serves one.
    pub fn serve<F>(&mut self, work: impl FnOnce(Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let place = Arc::new(());
        let mark = Arc::downgrade(&place);
        let task = self.tasks.spawn(work(Place(place)));
        self.waiting.retain(|(place, _)| place.strong_count() > 0);
        if self.waiting.len() >= self.most_waiting
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            oldest.abort();
        }
        self.waiting.push_back((mark, task));
    }
}
