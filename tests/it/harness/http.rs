//! The little HTTP that tests need on the servers' side: a token server, and a proxy before a real registry that loses
//! connections, sends elsewhere, is slow or asks for patience.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// The head of a request: its first line, and its headers with lower-case names.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn read(from: &mut TcpStream) -> Option<Request> {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            from.read_exact(&mut byte).ok()?;
            // Whoever tries TLS sees at once that there is none.
            if bytes.is_empty() && !byte[0].is_ascii_uppercase() {
                return None;
            }
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).ok()?;
        let mut lines = head.lines();
        let mut first = lines.next()?.split(' ');
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request = Request {
            method: first.next()?.into(),
            target: first.next()?.into(),
            headers,
            body: String::new(),
        };
        let length = request.header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        from.read_exact(&mut body).ok()?;
        request.body = String::from_utf8(body).ok()?;
        Some(request)
    }
}

/// What a server does with a request.
pub enum Answer {
    /// Status line without the protocol, further header lines, body.
    Say(&'static str, String, String),
    /// 200 with these bytes as this media type.
    Give(String, Vec<u8>),
    /// Hands it to the registry behind and the registry's answer back, or only its first bytes.
    Pass { cut: Option<usize> },
    /// A proxy's answer to CONNECT: bytes there and back, to the registry behind.
    Tunnel,
    /// The same as if the whole had been asked for, when it was a part.
    PassWhole,
    /// The same at so many bytes a second; after `stall` bytes nothing comes any more, for as long as the client waits.
    Pace { rate: usize, stall: Option<usize> },
}

/// A server on loopback; it remembers every request. Ends with the test's process.
#[derive(Clone)]
pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Before the registry at port `behind`; `decide` gets the request and how many came before it.
    pub fn start(behind: u16, decide: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Server {
            port,
            seen: Arc::default(),
        };
        let (seen, decide) = (server.seen.clone(), Arc::new(decide));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, decide) = (seen.clone(), decide.clone());
                // A client that leaves in the middle is no error of the server's.
                thread::spawn(move || drop(serve(client, behind, &seen, &*decide)));
            }
        });
        server
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic while it is held").clone()
    }
}

/// One request for each connection.
fn serve(
    mut client: TcpStream,
    behind: u16,
    seen: &Mutex<Vec<Request>>,
    decide: &dyn Fn(&Request, usize) -> Answer,
) -> std::io::Result<()> {
    let Some(request) = Request::read(&mut client) else {
        return Ok(());
    };
    let before = {
        let mut seen = seen.lock().expect("no panic while it is held");
        seen.push(request.clone());
        seen.len() - 1
    };
    match decide(&request, before) {
        Answer::Say(status, headers, body) => {
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
        }
        Answer::Give(media_type, body) => {
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            client.write_all(&body)
        }
        Answer::Pass { cut } => {
            let mut reply = ask(behind, &request, true)?.take(cut.map_or(u64::MAX, |most| most as u64));
            std::io::copy(&mut reply, &mut client).map(drop)
        }
        Answer::Tunnel => {
            let registry = TcpStream::connect(("127.0.0.1", behind))?;
            write!(client, "HTTP/1.1 200 Connection established\r\n\r\n")?;
            let (mut there, mut back) = ((client.try_clone()?, registry.try_clone()?), (registry, client));
            thread::spawn(move || std::io::copy(&mut there.0, &mut there.1));
            std::io::copy(&mut back.0, &mut back.1).map(drop)
        }
        Answer::PassWhole => std::io::copy(&mut ask(behind, &request, false)?, &mut client).map(drop),
        Answer::Pace { rate, stall } => pace(ask(behind, &request, true)?, client, rate, stall),
    }
}

/// Hands a request to the registry behind.
fn ask(behind: u16, request: &Request, with_range: bool) -> std::io::Result<TcpStream> {
    let mut registry = TcpStream::connect(("127.0.0.1", behind))?;
    write!(
        registry,
        "{} {} HTTP/1.1\r\nConnection: close\r\n",
        request.method, request.target
    )?;
    for (name, value) in &request.headers {
        let is_ours = name == "connection" || (!with_range && ["range", "if-range"].contains(&name.as_str()));
        if !is_ours {
            write!(registry, "{name}: {value}\r\n")?;
        }
    }
    write!(registry, "\r\n")?;
    Ok(registry)
}

fn pace(mut from: TcpStream, mut to: TcpStream, rate: usize, stall: Option<usize>) -> std::io::Result<()> {
    let (begin, mut sent) = (Instant::now(), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let room = buffer.len().min(stall.map_or(usize::MAX, |most| most - sent));
        if room == 0 {
            // A client that sends nothing more has its end read here.
            return to.read(&mut buffer).map(drop);
        }
        let read = from.read(&mut buffer[..room])?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        sent += read;
        let due = Duration::from_secs_f64(sent as f64 / rate as f64);
        thread::sleep(due.saturating_sub(begin.elapsed()));
    }
}
