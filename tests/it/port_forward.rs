//! PortForward: through crictl over both transports, and frame by frame for what crictl never does.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::BytesMut;
use inro::stream::spdy::{
    frame::{Decoder, Frame},
    headers::{Deflater, Headers, Inflater},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::{Container, Node, Pod, own_network, v1};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

fn pod(node: &Node) -> (Pod, Container) {
    node.pull("shell");
    let pod = node.pod(own_network);
    let container = pod.run_container("shell", &["sleep", "100000"]);
    (pod, container)
}

/// A listener on the pod's loopback, whose connections are served one thread each.
fn serve(container: &Container, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let namespace = File::open(format!("/proc/{}/ns/net", container.pid())).expect("its network");
    let listener = thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        TcpListener::bind("127.0.0.1:0").expect("a port")
    });
    let listener = listener.join().expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    let handle = std::sync::Arc::new(handle);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(connection));
        }
    });
    port
}

/// Answers with what it got, turned round, once it has got all of it.
fn reverser(mut connection: TcpStream) {
    let mut got = Vec::new();
    if connection.read_to_end(&mut got).is_ok() {
        got.reverse();
        // A client that left does not want it.
        let _ = connection.write_all(&got);
    }
}

/// `crictl port-forward` and the local port it listens on.
struct Forward {
    crictl: Child,
    port: u16,
}

impl Forward {
    fn start(node: &Node, pod: &Pod, transport: &str, port: u16) -> Forward {
        let mut crictl = node
            .crictl_command(&["port-forward", "-r", transport, &pod.id, &format!(":{port}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("crictl");
        let mut said = BufReader::new(crictl.stdout.take().expect("stdout"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        let port = line.split([':', ' ']).find_map(|word| word.parse().ok());
        // It goes on talking, and must not break its pipe.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Forward {
            crictl,
            port: port.unwrap_or_else(|| panic!("no port in {line:?}")),
        }
    }

    fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(("127.0.0.1", self.port)).expect("the forwarded port");
        connection
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a time limit");
        connection
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.crictl.kill();
        let _ = self.crictl.wait();
    }
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 977 + seed) as u8).collect()
}

#[test]
fn many_connections_each_whole_and_half_closed() {
    let node = Node::start();
    let (pod, container) = pod(&node);
    let port = serve(&container, reverser);
    for transport in TRANSPORTS {
        let forward = Forward::start(&node, &pod, transport, port);
        thread::scope(|scope| {
            for number in 0..40 {
                let forward = &forward;
                scope.spawn(move || {
                    let sent = bytes(200_000 + number, number);
                    let mut connection = forward.connect();
                    connection.write_all(&sent).expect("sent");
                    connection.shutdown(Shutdown::Write).expect("half-closed");
                    let mut got = Vec::new();
                    connection.read_to_end(&mut got).expect("an answer");
                    got.reverse();
                    assert!(
                        got == sent,
                        "{transport} {number}: {} of {} bytes",
                        got.len(),
                        sent.len()
                    );
                });
            }
        });
    }
}

#[test]
fn much_goes_both_ways_at_once() {
    let node = Node::start();
    let (pod, container) = pod(&node);
    let mib: usize = std::env::var("INRO_STREAM_MIB").map_or(64, |mib| mib.parse().expect("a number"));
    let port = serve(&container, |mut connection| {
        let mut back = connection.try_clone().expect("a second handle");
        let _ = std::io::copy(&mut connection, &mut back);
    });
    for transport in TRANSPORTS {
        let forward = Forward::start(&node, &pod, transport, port);
        let mut to = forward.connect();
        let mut from = to.try_clone().expect("a second handle");
        let began = std::time::Instant::now();
        let piece = bytes(1 << 20, 5);
        let expected = piece.clone();
        let sender: JoinHandle<()> = thread::spawn(move || {
            for _ in 0..mib {
                to.write_all(&piece).expect("sent");
            }
            to.shutdown(Shutdown::Write).expect("half-closed");
        });
        let mut got = vec![0; 1 << 20];
        for number in 0..mib {
            from.read_exact(&mut got).expect("an answer");
            assert!(got == expected, "{transport}: mebibyte {number}");
        }
        assert_eq!(from.read(&mut got).expect("the end"), 0);
        sender.join().expect("sent");
        eprintln!("{transport}: {mib} MiB there and back in {:.1?}", began.elapsed());
    }
}

#[test]
fn the_hosts_network_is_reached_as_well() {
    let node = Node::start();
    node.pull("shell");
    let pod = node.pod(|_| {});
    let container = pod.run_container("shell", &["sleep", "100000"]);
    let port = serve(&container, reverser);
    let forward = Forward::start(&node, &pod, "spdy", port);
    let mut connection = forward.connect();
    connection.write_all(b"abc").expect("sent");
    connection.shutdown(Shutdown::Write).expect("half-closed");
    let mut got = String::new();
    connection.read_to_string(&mut got).expect("an answer");
    assert_eq!(got, "cba");
}

#[test]
fn a_port_nobody_listens_on_is_told() {
    let node = Node::start();
    let (pod, _container) = pod(&node);
    for transport in TRANSPORTS {
        let mut forward = Forward::start(&node, &pod, transport, 9);
        let mut got = Vec::new();
        let _ = forward.connect().read_to_end(&mut got);
        assert!(got.is_empty());
        let mut told = String::new();
        let mut stderr = forward.crictl.stderr.take().expect("stderr");
        stderr.read_to_string(&mut told).expect("what it said");
        assert!(told.contains("nothing answers on port 9"), "{transport}: {told}");
    }
}

/// A client that speaks SPDY by hand.
struct Spdy {
    connection: TcpStream,
    deflater: Deflater,
    inflater: Inflater,
    decoder: Decoder,
    buffer: BytesMut,
    next: u32,
}

impl Spdy {
    fn connect(node: &Node, pod: &Pod) -> Spdy {
        let request = v1::PortForwardRequest {
            pod_sandbox_id: pod.id.clone(),
            port: vec![],
        };
        let url = node.cri.port_forward(request).expect("a URL").url;
        let (address, path) = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .expect("a URL");
        let mut connection = TcpStream::connect(address).expect("the server");
        connection
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a time limit");
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).expect("asked");
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            connection.read_exact(&mut byte).expect("an answer");
            answer.push(byte[0]);
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        Spdy {
            connection,
            deflater: Deflater::default(),
            inflater: Inflater::default(),
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
            next: 1,
        }
    }

    /// Error and data stream of one request; the data stream's number.
    fn pair(&mut self, port: u16, request: &str) -> u32 {
        for kind in ["error", "data"] {
            let pairs = [
                ("port", port.to_string()),
                ("requestid", request.into()),
                ("streamtype", kind.into()),
            ];
            let headers = Headers(pairs.map(|(name, value)| (name.to_owned(), value)).into());
            let (stream, block) = (self.next, self.deflater.block(&headers));
            let fin = kind == "error";
            self.say(Frame::SynStream { stream, fin, block });
            self.next += 2;
        }
        self.next - 2
    }

    fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        let bytes = bytes.to_vec().into();
        self.say(Frame::Data { stream, fin, bytes });
    }

    fn say(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        frame.put(&mut out);
        self.connection.write_all(&out).expect("said");
    }

    fn hear(&mut self) -> Frame {
        loop {
            match self.decoder.next(&mut self.buffer).expect("frames") {
                Some(Frame::SynReply { block, .. }) => drop(self.inflater.headers(&block).expect("headers")),
                Some(frame) => return frame,
                None => {
                    let mut piece = [0; 4096];
                    let count = self.connection.read(&mut piece).expect("bytes");
                    assert!(count > 0, "the server closed the connection");
                    self.buffer.extend_from_slice(&piece[..count]);
                }
            }
        }
    }

    /// What comes on a stream until its end; nothing may come on any other.
    fn hear_all(&mut self, wanted: u32) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            match self.hear() {
                Frame::Data { stream, fin, bytes } if stream == wanted => {
                    heard.extend_from_slice(&bytes);
                    if fin {
                        return heard;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn either_side_may_close_its_half_first() {
    let node = Node::start();
    let (pod, container) = pod(&node);
    // Says its word, closes its half, and only then reads.
    let (told, heard) = std::sync::mpsc::channel();
    let port = serve(&container, move |mut connection| {
        connection.write_all(b"my word").expect("said");
        connection.shutdown(Shutdown::Write).expect("half-closed");
        let mut got = String::new();
        connection.read_to_string(&mut got).expect("heard");
        told.send(got).expect("the test waits");
    });
    let mut spdy = Spdy::connect(&node, &pod);
    let data = spdy.pair(port, "0");
    assert_eq!(spdy.hear_all(data), b"my word");
    spdy.data(data, b"and ", false);
    spdy.data(data, b"mine", true);
    assert_eq!(
        heard.recv_timeout(Duration::from_secs(20)).expect("it heard"),
        "and mine"
    );
    assert_eq!(spdy.hear_all(data - 2), b"", "the error stream ends without a word");
    // The connection goes on: another pair, closed in the other order.
    let port = serve(&container, reverser);
    let data = spdy.pair(port, "1");
    spdy.data(data, b"abc", true);
    assert_eq!(spdy.hear_all(data), b"cba");
    assert_eq!(spdy.hear_all(data - 2), b"");
    // A client that gives a stream up has the pod's connection closed.
    let (told, heard) = std::sync::mpsc::channel();
    let port = serve(&container, move |mut connection| {
        let _ = connection.read_to_end(&mut Vec::new());
        told.send(()).expect("the test waits");
    });
    let stream = spdy.pair(port, "2");
    spdy.data(stream, b"abc", false);
    spdy.say(Frame::RstStream { stream, status: 5 });
    heard.recv_timeout(Duration::from_secs(20)).expect("it was closed");
    assert_eq!(spdy.hear_all(stream - 2), b"");
    // Pings are answered.
    spdy.say(Frame::Ping { id: 77 });
    assert_eq!(spdy.hear(), Frame::Ping { id: 77 });
}

#[test]
fn half_a_pair_is_given_up() {
    let node = Node::with_config("[stream]\ncreation_timeout_s = 1\n");
    let (pod, _container) = pod(&node);
    let mut spdy = Spdy::connect(&node, &pod);
    let headers = [("port", "80"), ("requestid", "0"), ("streamtype", "data")];
    let headers = Headers(headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let block = spdy.deflater.block(&headers);
    let (stream, fin) = (1, false);
    spdy.say(Frame::SynStream { stream, fin, block });
    assert!(matches!(spdy.hear(), Frame::RstStream { stream: 1, .. }));
}
