//! A thousand pods come and go while the daemon is killed again and again: no address is given twice, and nothing is
//! left.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use tonic::Status;

use crate::harness::{Cri, Netns, Node, Pod, eventually, own_network, patience, v1};

const PODS: usize = 1000;
const CLIENTS: usize = 8;
/// Pods that each client has at a time.
const KEPT: usize = 6;
const KILLS: usize = 20;
/// Twice as many addresses as pods at a time, so that they come again and again.
const CONFIG: &str = "[net]\nsubnet = \"10.98.0.0/25,fd98::/64\"\n";
/// Of the first pod; each has one of its own.
const FIRST_PORT: usize = 20_000;

/// Who has which address, as clients were told.
#[derive(Default)]
struct Told(Mutex<HashMap<IpAddr, String>>);

impl Told {
    fn take(&self, pod: &Pod, ips: &[IpAddr]) {
        for ip in ips {
            let other = self.told().insert(*ip, pod.id.clone());
            assert_eq!(other, None, "{ip} is {}'s as well", pod.id);
        }
    }

    fn give_back(&self, ips: &[IpAddr]) {
        let mut told = self.told();
        ips.iter().for_each(|ip| _ = told.remove(ip));
    }

    fn told(&self) -> MutexGuard<'_, HashMap<IpAddr, String>> {
        self.0.lock().expect("no panic while the table is held")
    }
}

/// How many times the daemon died and was ready again: odd while it is dead.
struct Lives(AtomicUsize);

impl Lives {
    /// Asks until there is an answer, as a kubelet does. Only a daemon that died may give none.
    fn persist<T>(&self, ask: impl Fn() -> Result<T, Status>) -> T {
        let start = Instant::now();
        loop {
            let before = self.0.load(Ordering::SeqCst);
            let status = match ask() {
                Ok(answer) => return answer,
                Err(status) => status,
            };
            let died = before % 2 == 1 || self.0.load(Ordering::SeqCst) != before;
            assert!(died, "of a daemon that lives: {status:?}");
            assert!(start.elapsed() < patience(Duration::from_secs(60)), "{status:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn config(node: &Node, number: usize) -> v1::PodSandboxConfig {
    node.pod_config(|config| {
        own_network(config);
        config.port_mappings.push(v1::PortMapping {
            container_port: 8080,
            host_port: i32::try_from(FIRST_PORT + number).expect("a port"),
            ..Default::default()
        });
    })
}

/// Runs pods until there were enough, and ends each when some more are there.
fn client(cri: &Cri, configs: &[v1::PodSandboxConfig], lives: &Lives, begun: &AtomicUsize, told: &Told) {
    let mut pods = VecDeque::new();
    loop {
        let config = configs.get(begun.fetch_add(1, Ordering::Relaxed));
        if let Some(config) = config {
            let pod = lives.persist(|| Pod::run(cri, config));
            let ips = lives.persist(|| pod.try_ips());
            assert_eq!(ips.len(), 2, "{ips:?}");
            told.take(&pod, &ips);
            pods.push_back((pod, ips));
        }
        if config.is_none() || pods.len() > KEPT {
            let Some((pod, ips)) = pods.pop_front() else { return };
            told.give_back(&ips);
            lives.persist(|| pod.try_stop());
            lives.persist(|| pod.try_remove());
        }
    }
}

#[test]
fn a_thousand_pods_and_twenty_kills_leave_nothing_and_no_address_is_given_twice() {
    let netns = Netns::new();
    let mut node = Node::within(&netns, CONFIG);
    let links = netns.links();
    let (lives, begun, told) = (Lives(AtomicUsize::new(0)), AtomicUsize::new(0), Told::default());
    let configs: Vec<_> = (0..PODS).map(|number| config(&node, number)).collect();
    let (cri, start) = (node.cri.clone(), Instant::now());
    thread::scope(|scope| {
        let one = || scope.spawn(|| client(&cri, &configs, &lives, &begun, &told));
        let clients: Vec<_> = (0..CLIENTS).map(|_| one()).collect();
        for kill in 1..=KILLS {
            eventually("more pods", Duration::from_secs(60), || {
                // A client that failed says so at the end.
                let failed = clients.iter().any(ScopedJoinHandle::is_finished);
                (failed || begun.load(Ordering::Relaxed) >= kill * PODS / (KILLS + 1)).then_some(())
            });
            // Not in step with anything.
            thread::sleep(Duration::from_millis((kill as u64 * 37) % 23));
            lives.0.fetch_add(1, Ordering::SeqCst);
            node.daemon.kill9();
            // Some die again while they look at what is there.
            for _ in 0..kill % 3 {
                node.daemon.begin();
                thread::sleep(Duration::from_millis(3 + (kill as u64 * 13) % 17));
                node.daemon.kill9();
            }
            node.daemon.restart();
            lives.0.fetch_add(1, Ordering::SeqCst);
        }
    });
    eprintln!("{PODS} pods and {KILLS} kills in {:?}", start.elapsed());
    eventually("all addresses are free", Duration::from_secs(10), || {
        (node.leases() == 0).then_some(())
    });
    assert_eq!(netns.links(), links);
    let table = netns.sh("nft list ruleset");
    assert!(!table.contains("elements = { tcp"), "{table}");
}
