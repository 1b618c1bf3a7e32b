//! Asks an HTTP server again and again from many connections at once, and counts what came of it.
//! It knows nothing of services, nor of why anybody asks.
//!
//! The tests and `scripts/bench` have clients of their own (`tests/support/load.rs`): nothing of the program may judge the program.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow};

/// Each client waits so long after an answer: what is measured needs the processors, too.
const PAUSE: Duration = Duration::from_millis(5);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer's status line and headers are never longer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// More headers than this and the answer is none.
const HEADERS_MAX: usize = 100;

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// Where the server listens.
    pub address: SocketAddr,
    /// The path, beginning with `/`.
    pub path: String,
    /// Whether a connection is used for one request after the other.
    pub keep_alive: bool,
}

/// What came of all requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How long each that was answered took.
    pub answered: Vec<Duration>,
    /// How many were not answered as they should be, by what was seen.
    pub failed: BTreeMap<&'static str, u64>,
    /// How many were sent a second time: the server had closed the connection while nothing was asked on it, as HTTP allows
    /// (RFC 9110, 9.2.2).
    pub sent_again: u64,
    /// The longest time in which nothing was answered.
    pub gap: Duration,
}

/// Clients that ask until they are told to stop.
pub(crate) struct Clients {
    began: Instant,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    /// When each answer was there, since the clients began, and how long it took.
    answered: Vec<(Duration, Duration)>,
    failed: BTreeMap<&'static str, u64>,
    sent_again: u64,
}

impl Clients {
    /// Starts so many.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn begin(question: &Question, count: u16) -> io::Result<Self> {
        let (began, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        // Signals are for the thread that does something about them.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let threads = (0..count).map(|_| {
            let (question, over) = (question.clone(), Arc::clone(&over));
            let client = move || ask_until(&question, began, &over);
            std::thread::Builder::new().name("client".to_owned()).spawn(client)
        });
        let threads = threads.collect::<io::Result<Vec<_>>>();
        before.thread_set_mask()?;
        Ok(Self { began, over, threads: threads? })
    }

    /// Has them finish what they do; what came of it.
    pub(crate) fn end(self) -> Outcome {
        self.over.store(true, Ordering::Relaxed);
        let asked = self.began.elapsed();
        let mut outcome = Outcome::default();
        let mut answers = Vec::new();
        for thread in self.threads {
            let Ok(seen) = thread.join() else { continue };
            for (kind, count) in seen.failed {
                *outcome.failed.entry(kind).or_default() += count;
            }
            outcome.sent_again += seen.sent_again;
            answers.extend(seen.answered.iter().map(|(at, _)| *at));
            outcome.answered.extend(seen.answered.iter().map(|(_, took)| *took));
        }
        outcome.answered.sort_unstable();
        outcome.gap = longest_gap(answers, asked);
        outcome
    }
}

impl Outcome {
    /// How many requests were made.
    pub(crate) fn sent(&self) -> u64 {
        self.answered.len() as u64 + self.failed.values().sum::<u64>()
    }

    /// The one in the middle; none where nothing was answered.
    pub(crate) fn median(&self) -> Option<Duration> {
        self.answered.get(self.answered.len() / 2).copied()
    }

    /// The one that took longest.
    pub(crate) fn slowest(&self) -> Option<Duration> {
        self.answered.last().copied()
    }
}

fn longest_gap(mut answers: Vec<Duration>, end: Duration) -> Duration {
    answers.push(Duration::ZERO);
    answers.push(end);
    answers.sort_unstable();
    answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

fn ask_until(question: &Question, began: Instant, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut kept = None;
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let was_kept = kept.is_some();
        let mut answer = ask(question, &mut kept);
        if was_kept && matches!(answer, Err(Failed { untouched: true, .. })) {
            seen.sent_again += 1;
            kept = None;
            answer = ask(question, &mut kept);
        }
        match answer {
            Ok(()) => seen.answered.push((began.elapsed(), asked.elapsed())),
            Err(failed) => {
                kept = None;
                *seen.failed.entry(failed.kind).or_default() += 1;
            }
        }
        std::thread::sleep(PAUSE);
    }
    seen
}

/// Why a request was not answered.
struct Failed {
    kind: &'static str,
    /// Whether the server closed the connection before it said anything.
    untouched: bool,
}

fn failed(kind: &'static str) -> Failed {
    Failed { kind, untouched: false }
}

/// One request, on the connection that was kept or on another one.
fn ask(question: &Question, kept: &mut Option<TcpStream>) -> Result<(), Failed> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(question.address)?,
    };
    let word = if question.keep_alive { "keep-alive" } else { "close" };
    let text = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: opsrun\r\nAccept: */*\r\nConnection: {word}\r\n\r\n",
        question.path, question.address
    );
    if let Err(error) = connection.write_all(text.as_bytes()) {
        return Err(Failed { untouched: true, ..of(&error) });
    }
    let (head, mut rest) = read_head(&mut connection)?;
    let stays = read_body(&mut connection, &head, &mut rest)?;
    if head.status >= 400 {
        return Err(failed(if head.status >= 500 {
            "status of a server's error"
        } else {
            "status of a refusal"
        }));
    }
    if question.keep_alive && stays {
        *kept = Some(connection);
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream, Failed> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| of(&error))?;
    let set = |set: io::Result<()>| set.map_err(|error| of(&error));
    set(connection.set_read_timeout(Some(PATIENCE)))?;
    set(connection.set_write_timeout(Some(PATIENCE)))?;
    set(connection.set_nodelay(true))?;
    Ok(connection)
}

fn of(error: &io::Error) -> Failed {
    failed(match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "late",
        io::ErrorKind::UnexpectedEof => "closed",
        _ => "other",
    })
}

/// What the head of an answer says of the rest.
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
    closes: bool,
}

/// The head of an answer, and what of its body has come with it.
fn read_head(connection: &mut TcpStream) -> Result<(Head, Vec<u8>), Failed> {
    let mut text = Vec::new();
    loop {
        let begun = !text.is_empty();
        let more = read_some(connection, &mut text).map_err(|error| match of(&error) {
            Failed { kind: kind @ ("closed" | "reset"), .. } => Failed { kind, untouched: !begun },
            other => other,
        })?;
        if more == 0 {
            return Err(Failed { kind: "closed", untouched: !begun });
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let bytes = match answer.parse(&text) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) if text.len() < HEAD_BYTES_MAX => continue,
            _ => return Err(failed("no HTTP")),
        };
        let value = |name: &str| {
            let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok().map(|value| value.trim().to_ascii_lowercase())
        };
        let head = Head {
            status: answer.code.unwrap_or(0),
            length: value("content-length").and_then(|value| value.parse().ok()),
            chunked: value("transfer-encoding").is_some_and(|value| value.ends_with("chunked")),
            closes: value("connection").is_some_and(|value| value == "close") || answer.version == Some(0),
        };
        return Ok((head, text.split_off(bytes)));
    }
}

/// Reads the rest of an answer; whether the connection can be used once more. An answer that breaks off is none.
fn read_body(connection: &mut TcpStream, head: &Head, rest: &mut Vec<u8>) -> Result<bool, Failed> {
    let mut more = |rest: &mut Vec<u8>| match read_some(connection, rest) {
        Ok(0) => Ok(false),
        Ok(_) => Ok(true),
        Err(error) => Err(of(&error)),
    };
    if matches!(head.status, 204 | 304) {
        return Ok(!head.closes);
    }
    if head.chunked {
        // What a chunk holds is passed over with its length.
        loop {
            match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((start, length))) => {
                    let end = start + usize::try_from(length).unwrap_or(usize::MAX - start - 2) + 2;
                    while rest.len() < end {
                        if !more(rest)? {
                            return Err(failed("broken off"));
                        }
                    }
                    rest.drain(..end);
                    if length == 0 {
                        return Ok(!head.closes);
                    }
                }
                Ok(httparse::Status::Partial) => {
                    if !more(rest)? {
                        return Err(failed("broken off"));
                    }
                }
                Err(_) => return Err(failed("no HTTP")),
            }
        }
    }
    if let Some(length) = head.length {
        while (rest.len() as u64) < length {
            if !more(rest)? {
                return Err(failed("broken off"));
            }
        }
        return Ok(!head.closes);
    }
    while more(rest)? {}
    Ok(false)
}

fn read_some(connection: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut bytes = [0; 16 * 1024];
    loop {
        match connection.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(count) => {
                into.extend_from_slice(&bytes[..count]);
                return Ok(count);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers each connection's requests with these texts, one after the other, and then closes it.
    fn server(answers: &'static [&'static str]) -> SocketAddr {
        server_until(answers, None)
    }

    fn server_until(answers: &'static [&'static str], over: Option<Arc<AtomicBool>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (number, connection) in listener.incoming().enumerate() {
                if let (3.., Some(over)) = (number, &over) {
                    over.store(true, Ordering::Relaxed);
                }
                let mut connection = connection.unwrap();
                let mut bytes = [0; 4096];
                // Closed with a question unread it would be reset.
                if answers.is_empty() {
                    let _ = connection.read(&mut bytes);
                }
                for answer in answers {
                    if connection.read(&mut bytes).unwrap_or(0) == 0 {
                        break;
                    }
                    let _ = connection.write_all(answer.as_bytes());
                }
            }
        });
        address
    }

    fn asked(
        address: SocketAddr,
        keep_alive: bool,
        kept: &mut Option<TcpStream>,
    ) -> Result<(), &'static str> {
        let question = Question { address, path: "/".to_owned(), keep_alive };
        ask(&question, kept).map_err(|failed| failed.kind)
    }

    #[test]
    fn an_answer_counts_when_all_of_it_came_with_a_good_status() {
        for (answer, said) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok(())),
            ("HTTP/1.0 200 OK\r\n\r\nto the end", Ok(())),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Ok(())),
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Err("broken off")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Err("broken off")),
            ("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", Err("status of a server's error")),
            ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Err("status of a refusal")),
            ("SSH-2.0-x\r\n\r\n", Err("no HTTP")),
        ] {
            let address = server(Box::leak(Box::new([answer])));
            assert_eq!(asked(address, false, &mut None), said, "{answer:?}");
        }
        assert_eq!(asked(server(&[]), false, &mut None), Err("closed"));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(asked(nobody, false, &mut None), Err("refused"));
    }

    /// What one client sees that stops when the server has got its fourth connection.
    fn seen(answers: &'static [&'static str]) -> Seen {
        let over = Arc::new(AtomicBool::new(false));
        let address = server_until(answers, Some(Arc::clone(&over)));
        ask_until(&Question { address, path: "/".to_owned(), keep_alive: true }, Instant::now(), &over)
    }

    #[test]
    fn a_connection_that_was_closed_while_idle_is_no_failure_and_one_that_broke_off_is() {
        const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        // Two requests on a connection, then it is closed: the next one is sent again.
        let kept = seen(&[ANSWER, ANSWER]);
        assert_eq!((kept.failed, kept.sent_again), (BTreeMap::new(), 3));
        assert_eq!(kept.answered.len(), 7);
        // The second answer breaks off.
        let broken = seen(&[ANSWER, "HTTP/1.1 "]);
        assert_eq!((broken.failed.get("closed"), broken.sent_again), (Some(&3), 0));
    }

    #[test]
    fn the_gap_is_the_longest_time_without_an_answer_ends_included() {
        let ms = Duration::from_millis;
        assert_eq!(longest_gap(vec![ms(40), ms(10), ms(20)], ms(50)), ms(20));
        assert_eq!(longest_gap(vec![ms(5)], ms(50)), ms(45));
        assert_eq!(longest_gap(Vec::new(), ms(50)), ms(50));
    }
}
