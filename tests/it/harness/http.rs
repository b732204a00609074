//! The little HTTP that tests need on the servers' side: a token server, and a proxy before a real registry that loses
//! connections, sends elsewhere or asks for patience.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
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
    /// Hands it to the registry behind and the registry's answer back, or only its first bytes.
    Pass { cut: Option<usize> },
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
        Answer::Pass { cut } => {
            let mut registry = TcpStream::connect(("127.0.0.1", behind))?;
            write!(
                registry,
                "{} {} HTTP/1.1\r\nConnection: close\r\n",
                request.method, request.target
            )?;
            for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
                write!(registry, "{name}: {value}\r\n")?;
            }
            write!(registry, "\r\n")?;
            let mut reply = registry.take(cut.map_or(u64::MAX, |most| most as u64));
            std::io::copy(&mut reply, &mut client).map(drop)
        }
    }
}
