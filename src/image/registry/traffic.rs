//! What all sessions of this node share: connections, bandwidth, room for what came early, and which endpoints are silent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::Url;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use crate::image::shares::Shares;

/// Bytes of a piece of a blob that is fetched in several at once.
pub const PIECE: u64 = 4 << 20;
/// Pieces of all blobs together that are in memory ahead of their turn.
const AHEAD: usize = 8;
/// How long an endpoint that did not answer is asked last.
const SILENCE: Duration = Duration::from_secs(30);
/// How much faster than its rate a bucket may be for a moment.
const BURST: Duration = Duration::from_millis(100);

/// How much may go on at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bodies that are fetched at once.
    pub connections: usize,
    /// Bytes a second; 0: no limit.
    pub bandwidth: u64,
    /// Pieces of one blob that are fetched at once; 1: none is fetched in pieces.
    pub ranges: usize,
    /// A blob that has fewer bytes left is not fetched in pieces.
    pub ranges_from: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 16,
            bandwidth: 0,
            ranges: 4,
            ranges_from: 32 << 20,
        }
    }
}

/// Shared by whoever fetches.
pub struct Traffic {
    pub bounds: Bounds,
    /// One place for each body.
    pub connections: Arc<Shares>,
    bucket: Option<Bucket>,
    ahead: Arc<Semaphore>,
    /// Endpoints by origin, and when they last did not answer. Guards the table only.
    silent: Mutex<HashMap<String, Instant>>,
}

impl Traffic {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            connections: Shares::new(bounds.connections),
            bucket: (bounds.bandwidth > 0).then(|| Bucket::new(bounds.bandwidth)),
            ahead: Arc::new(Semaphore::new(AHEAD)),
            silent: Mutex::default(),
        }
    }

    /// Returns when so many bytes more may have come.
    pub async fn pass(&self, bytes: usize) {
        if let Some(bucket) = &self.bucket {
            bucket.pass(bytes as u64).await;
        }
    }

    /// Room for one piece that comes before its turn.
    pub fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.ahead.clone().try_acquire_owned().ok()
    }

    pub fn did_not_answer(&self, endpoint: &Url) {
        let mut silent = self.silent.lock().expect("no panic while the table is held");
        silent.retain(|_, since| since.elapsed() < SILENCE);
        silent.insert(origin(endpoint), Instant::now());
    }

    /// Whether it did not answer lately.
    pub fn is_silent(&self, endpoint: &Url) -> bool {
        let silent = self.silent.lock().expect("no panic while the table is held");
        let since = silent.get(&origin(endpoint));
        since.is_some_and(|since| since.elapsed() < SILENCE)
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Lets bytes through at a rate, whoever they are for in the order of asking.
struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// When all that was let through until now has had its time.
    until: Mutex<Instant>,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self {
            rate,
            until: Mutex::new(Instant::now()),
        }
    }

    async fn pass(&self, bytes: u64) {
        let until = {
            let mut until = self.until.lock().expect("no panic while it is held");
            // What was not used is lost, but for a moment's worth.
            let from = (*until).max(Instant::now() - BURST);
            *until = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            *until
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_at_the_rate_however_many_streams_there_are() {
        let traffic = Arc::new(Traffic::new(Bounds {
            bandwidth: 10_000,
            ..Bounds::default()
        }));
        let begin = Instant::now();
        let streams = (0..4).map(|_| {
            let traffic = traffic.clone();
            async move {
                for _ in 0..10 {
                    traffic.pass(100).await;
                }
            }
        });
        futures_util::future::join_all(streams).await;
        let took = begin.elapsed().as_secs_f64();
        assert!(took > 0.29, "{took}");
        // A time without traffic does not allow that much at once later.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begin = Instant::now();
        traffic.pass(3000).await;
        assert!(begin.elapsed().as_secs_f64() > 0.19);
    }

    #[test]
    fn silence_is_of_one_endpoint_and_passes() {
        let traffic = Traffic::default();
        let url = |text: &str| Url::parse(text).unwrap();
        traffic.did_not_answer(&url("http://a.test:5000/v2/"));
        assert!(traffic.is_silent(&url("http://a.test:5000/other")));
        assert!(!traffic.is_silent(&url("http://a.test/v2/")));
        let then = Instant::now() - SILENCE;
        traffic
            .silent
            .lock()
            .unwrap()
            .values_mut()
            .for_each(|since| *since = then);
        assert!(!traffic.is_silent(&url("http://a.test:5000/")));
    }
}
