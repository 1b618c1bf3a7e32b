//! Clients that ask a service all the time and try nothing twice: what they have seen, and what has failed.
//! It knows HTTP and nothing of opsrun; `scripts/bench` compiles it by itself, so it needs the standard library alone.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An answer's head is never longer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fewer requests are no load.
pub const REQUESTS_MIN: usize = 101;
/// In that long any server answers as many.
const LOAD_PATIENCE: Duration = Duration::from_secs(60);
/// So many failures are kept with when they happened.
const TOLD_MAX: usize = 50;

/// What clients do.
#[derive(Debug, Clone)]
pub struct Asking {
    pub address: SocketAddr,
    /// They are asked for in turn.
    pub paths: Vec<String>,
    pub headers: Vec<String>,
    pub clients: usize,
    /// Whether a connection is used for as long as the server lets it; else each request has its own.
    pub keep_alive: bool,
    /// From an answer to the client's next request.
    pub pause: Duration,
    /// A request that takes longer has failed.
    pub patience: Duration,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What clients have seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: usize,
    pub connections: usize,
    /// How many of them the server had closed while nothing was asked, which every client sees before it asks again.
    pub closed_idle: usize,
    /// How many failed, by kind: refused, reset, closed, timeout, status, other.
    pub failed: BTreeMap<&'static str, usize>,
    /// Some of them, with when and after which time.
    pub told: Vec<(Instant, String)>,
    /// Each answer, with when it was first and last seen.
    pub answers: BTreeMap<String, (Instant, Instant)>,
    /// What each good request took.
    pub took: Vec<Duration>,
    pub slowest: Duration,
}

impl Asking {
    /// One request a connection for `/` on this port of the loopback.
    pub fn port(port: u16, clients: usize) -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            paths: vec!["/".into()],
            headers: Vec::new(),
            clients,
            keep_alive: false,
            // As many connections as a busy controller gets, and not as many as the machine can make.
            pause: Duration::from_millis(20),
            patience: Duration::from_secs(20),
        }
    }
}

impl Load {
    pub fn begin(asking: &Asking) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number| {
            let mut client =
                Client { asking: asking.clone(), next: number, connection: None, seen: Seen::default() };
            let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
            std::thread::spawn(move || {
                // Not all at the same moment.
                std::thread::sleep(client.asking.pause.mul_f64(number as f64 / client.asking.clients as f64));
                while !stop.load(Ordering::Relaxed) {
                    client.ask();
                    requests.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(client.asking.pause);
                }
                client.seen
            })
        };
        let clients = (0..asking.clients).map(client).collect();
        Self { stop, requests, clients }
    }

    /// Ends it as soon as it was a load: on a slow machine what went on beside it may be over before.
    pub fn end(self) -> Seen {
        let deadline = Instant::now() + LOAD_PATIENCE;
        while self.requests.load(Ordering::Relaxed) < REQUESTS_MIN && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            all.add(client.join().expect("a client"));
        }
        all
    }
}

impl Seen {
    fn add(&mut self, seen: Self) {
        self.requests += seen.requests;
        self.connections += seen.connections;
        self.closed_idle += seen.closed_idle;
        self.told.extend(seen.told);
        self.took.extend(seen.took);
        self.slowest = self.slowest.max(seen.slowest);
        for (kind, count) in seen.failed {
            *self.failed.entry(kind).or_default() += count;
        }
        for (answer, (first, last)) in seen.answers {
            let of_all = self.answers.entry(answer).or_insert((first, last));
            *of_all = (of_all.0.min(first), of_all.1.max(last));
        }
    }

    /// Panics unless every request was answered well.
    #[track_caller]
    pub fn lost_nothing(&self) -> &Self {
        let words: Vec<_> = self.answers.keys().collect();
        println!("{} requests, slowest {} ms, answers {words:?}", self.requests, self.slowest.as_millis());
        assert!(self.requests >= REQUESTS_MIN, "{} requests are no load", self.requests);
        assert!(self.failed.is_empty(), "of {} requests: {:?} {:?}", self.requests, self.failed, self.told);
        self
    }

    /// Panics when anybody was refused, or has waited in vain. What a program had begun when it ended is cut off.
    #[track_caller]
    pub fn all_could_connect(&self) -> &Self {
        println!("{} requests, {:?} failed, slowest {:?}", self.requests, self.failed, self.slowest);
        assert!(self.requests >= REQUESTS_MIN, "{} requests are no load", self.requests);
        assert!(
            !self.failed.contains_key("refused") && !self.failed.contains_key("timeout"),
            "{:?}",
            self.told
        );
        self
    }

    /// Panics unless these were the answers.
    #[track_caller]
    pub fn saw_only(&self, words: &[&str]) {
        assert_eq!(self.answers.keys().map(String::as_str).collect::<Vec<_>>(), words);
    }
}

struct Client {
    asking: Asking,
    /// Which of the paths.
    next: usize,
    connection: Option<TcpStream>,
    seen: Seen,
}

struct Answer {
    status: u16,
    body: String,
    /// Whether the server closes the connection after it.
    closes: bool,
}

impl Client {
    fn ask(&mut self) {
        let began = Instant::now();
        self.seen.requests += 1;
        let outcome = self.request();
        let took = began.elapsed();
        self.seen.slowest = self.seen.slowest.max(took);
        let (kind, why) = match outcome {
            Ok(answer) if answer.status < 400 => {
                self.seen.took.push(took);
                let now = Instant::now();
                self.seen.answers.entry(shown(&answer.body)).or_insert((now, now)).1 = now;
                return;
            }
            Ok(answer) => ("status", answer.status.to_string()),
            Err(error) => (kind_of(&error), error.to_string()),
        };
        *self.seen.failed.entry(kind).or_default() += 1;
        if self.seen.told.len() < TOLD_MAX {
            let why = format!("{kind}: {why}, after {} ms", took.as_millis());
            self.seen.told.push((Instant::now(), why));
        }
    }

    fn request(&mut self) -> io::Result<Answer> {
        let asking = &self.asking;
        let kept = self.connection.take();
        let kept = kept.filter(|stream| {
            let open = is_open(stream);
            self.seen.closed_idle += usize::from(!open);
            open
        });
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                self.seen.connections += 1;
                let stream = TcpStream::connect_timeout(&asking.address, asking.patience)?;
                stream.set_read_timeout(Some(asking.patience))?;
                stream.set_write_timeout(Some(asking.patience))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let path = &asking.paths[self.next % asking.paths.len()];
        self.next += 1;
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", asking.address);
        asking.headers.iter().for_each(|header| text += &format!("{header}\r\n"));
        text += if asking.keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" };
        stream.write_all(text.as_bytes())?;
        let answer = read(&mut stream)?;
        if asking.keep_alive && !answer.closes {
            self.connection = Some(stream);
        }
        Ok(answer)
    }
}

fn read(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut text = Vec::new();
    let mut more = |text: &mut Vec<u8>| {
        let mut buffer = [0; 16 * 1024];
        let count = stream.read(&mut buffer)?;
        text.extend_from_slice(&buffer[..count]);
        Ok::<_, io::Error>(count)
    };
    let head_ends = loop {
        if let Some(at) = text.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if text.len() > HEAD_BYTES_MAX || more(&mut text)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&text[..head_ends]).to_ascii_lowercase();
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no answer: {first}")))?;
    let headers: BTreeMap<_, _> = lines.filter_map(|line| line.split_once(": ")).collect();
    if headers.contains_key("transfer-encoding") {
        return Err(io::Error::other("an answer in chunks, which this client does not read"));
    }
    let length: Option<usize> = headers.get("content-length").and_then(|length| length.trim().parse().ok());
    while length.is_none_or(|length| text.len() < head_ends + length) {
        if more(&mut text)? == 0 {
            match length {
                Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => break,
            }
        }
    }
    let closes =
        length.is_none() || first.starts_with("http/1.0") || headers.get("connection") == Some(&"close");
    Ok(Answer { status, body: String::from_utf8_lossy(&text[head_ends..]).into_owned(), closes })
}

/// Whether the other end has not closed a connection by which nothing is under way.
fn is_open(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let waits = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    waits && stream.set_nonblocking(false).is_ok()
}

/// Whole where it is a word.
fn shown(body: &str) -> String {
    match body.trim_end() {
        word if word.len() <= 40 && !word.contains('\n') => word.to_owned(),
        _ => "a longer text".to_owned(),
    }
}

fn kind_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            "reset"
        }
        io::ErrorKind::UnexpectedEof => "closed",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout",
        _ => "other",
    }
}
