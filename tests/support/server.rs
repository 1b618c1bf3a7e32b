//! A small HTTP server that answers as a test wants it to: also wrongly, slowly, or with what another server says.
//! It knows nothing of registries.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// How it is answered.
pub enum Act {
    Whole(Answer),
    /// So many bytes of the body, and then the connection ends.
    Cut(Answer, usize),
    /// So many bytes of the body, and the rest when the gate is opened.
    Stall(Answer, usize),
    /// Nothing, until the gate is opened.
    Silence(Answer),
}

/// What to do about a request, and how many there were for the same path before.
type Rule = dyn Fn(&Asked, usize) -> Act + Send + Sync;

/// A server on the loopback, until it is dropped.
pub struct Server {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    rule: Mutex<Arc<Rule>>,
    asked: Mutex<Vec<Asked>>,
    gate: Mutex<bool>,
    opened: Condvar,
    over: AtomicBool,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let (line, headers) = head(&mut reader)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut asked = Self { method, path, headers, body: String::new() };
        let length = asked.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        reader.take(length).read_to_string(&mut asked.body).ok()?;
        Some(asked)
    }
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn send(&self, stream: &mut TcpStream, from: usize, to: usize) -> io::Result<()> {
        if from == 0 {
            let mut head = format!("HTTP/1.1 {} As wanted\r\nconnection: close\r\n", self.status);
            self.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
            stream.write_all((head + "\r\n").as_bytes())?;
        }
        let to = to.min(self.body.len());
        stream.write_all(&self.body[from.min(to)..to])?;
        stream.flush()
    }
}

/// What the server on this port answers.
pub fn forward(port: u16, asked: &Asked) -> Answer {
    // Before HTTP/1.1 nobody sends in chunks.
    let mut request = format!("{} {} HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n", asked.method, asked.path);
    for (name, value) in &asked.headers {
        if ["accept", "authorization", "range"].contains(&name.as_str()) {
            request += &format!("{name}: {value}\r\n");
        }
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to the server behind");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all((request + "\r\n").as_bytes()).expect("ask the server behind");
    let mut reader = BufReader::new(&stream);
    let (line, headers) = head(&mut reader).expect("the head of an answer");
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    let mut answer = Answer { status, headers, body: Vec::new() };
    answer.headers.retain(|(name, _)| name != "connection");
    reader.read_to_end(&mut answer.body).expect("the body of an answer");
    answer
}

/// The first line, and the headers with their names in small letters.
fn head(reader: &mut impl BufRead) -> Option<(String, Vec<(String, String)>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let first = lines.next()?;
    let split = |line: String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some((first, lines.filter_map(split).collect()))
}

impl Server {
    pub fn new(rule: impl Fn(&Asked, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let shared = Arc::new(Shared {
            rule: Mutex::new(Arc::new(rule)),
            asked: Mutex::default(),
            gate: Mutex::default(),
            opened: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                if shared.over.load(Ordering::SeqCst) {
                    break;
                }
                // A request that makes no sense, or whose sender has gone, ends only its own thread.
                std::thread::spawn(move || shared.attend(stream));
            }
        });
        Self { port, shared }
    }

    /// One that says what the server on another port says, but for what the rule has something else for.
    pub fn before(port: u16, rule: impl Fn(&Asked, usize) -> Option<Act> + Send + Sync + 'static) -> Self {
        Self::new(move |asked, nth| rule(asked, nth).unwrap_or_else(|| Act::Whole(forward(port, asked))))
    }

    /// Has another rule from now on.
    pub fn rule(&self, rule: impl Fn(&Asked, usize) -> Act + Send + Sync + 'static) {
        *self.shared.rule.lock().expect("the rule") = Arc::new(rule);
    }

    /// Lets those go on who were stalled, and will be.
    pub fn open(&self) {
        *self.shared.gate.lock().expect("the gate") = true;
        self.shared.opened.notify_all();
    }

    /// What was asked so far, and forgets it.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().expect("what was asked"))
    }

    /// Whether so many requests for such a path have come.
    pub fn was_asked(&self, part: &str) -> bool {
        self.shared.asked.lock().expect("what was asked").iter().any(|asked| asked.path.contains(part))
    }
}

impl Shared {
    fn attend(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        let asked = Asked::read(&stream)?;
        let nth = {
            let mut all = self.asked.lock().expect("what was asked");
            let nth = all.iter().filter(|other| other.path == asked.path).count();
            all.push(asked.clone());
            nth
        };
        let rule = Arc::clone(&self.rule.lock().expect("the rule"));
        let length = |answer: Answer| {
            let has = answer.headers.iter().any(|(name, _)| name == "content-length");
            let bytes = answer.body.len().to_string();
            if has { answer } else { answer.with("content-length", bytes) }
        };
        match rule(&asked, nth) {
            Act::Whole(answer) => length(answer).send(&mut stream, 0, usize::MAX),
            Act::Cut(answer, bytes) => length(answer).send(&mut stream, 0, bytes),
            Act::Silence(answer) => {
                self.wait();
                length(answer).send(&mut stream, 0, usize::MAX)
            }
            Act::Stall(answer, bytes) => {
                let answer = length(answer);
                answer.send(&mut stream, 0, bytes).ok()?;
                self.wait();
                answer.send(&mut stream, bytes, usize::MAX)
            }
        }
        .ok()
    }

    fn wait(&self) {
        let gate = self.gate.lock().expect("the gate");
        let shut = |open: &mut bool| !*open && !self.over.load(Ordering::SeqCst);
        drop(self.opened.wait_timeout_while(gate, PATIENCE, shut).expect("the gate"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.open();
        // So that it notices.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
