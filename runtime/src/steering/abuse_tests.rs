//! Servers that make what they can of being notified about: none of it helps them, or harms anybody else.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use nix::libc;
use rustix::net::{AddressFamily, SocketType, listen, socket};

use super::notified::Heard;
use super::tests::{PATIENCE, Server, asked, free_port, steering};
use super::*;
use crate::os;

/// A `struct sockaddr_in` that is written to while it is read.
static ADDRESS: [AtomicU8; 16] = [const { AtomicU8::new(0) }; 16];

/// What a server of this name does before it binds as any other.
pub(super) fn misbehave(word: &str, address: &str) {
    match word {
        "wild" => pass_anything(),
        "changing" => change_while_read(address),
        "hidden" => nix::sys::prctl::set_dumpable(false).expect("PR_SET_DUMPABLE"),
        "busy" => bind_in_loops(),
        _ => {}
    }
}

/// Each is answered as the kernel would, or the server ends here.
fn pass_anything() {
    let it = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let number = it.as_raw_fd();
    let good = ADDRESS.as_ptr() as usize;
    ADDRESS[0].store(2, Ordering::Relaxed);
    let beyond = usize::MAX - 4095;
    for (socket, address, bytes, error) in [
        (number, 0, 16, libc::EFAULT),
        (number, 1, 16, libc::EFAULT),
        (number, beyond, 16, libc::EFAULT),
        (number, good, 0, libc::EINVAL),
        (number, good, 15, libc::EINVAL),
        (number, good, 1 << 20, libc::EINVAL),
        (number, good, u32::MAX as usize, libc::EINVAL),
        (-1, good, 16, libc::EBADF),
        (i32::MAX, good, 16, libc::EBADF),
        (1, good, 16, libc::ENOTSOCK),
    ] {
        let answer = os::bind_anything(socket, address, bytes);
        let found = answer.err().and_then(|error| error.raw_os_error());
        assert_eq!(found, Some(error), "{socket} {address:#x} {bytes}");
    }
}

/// Binds of an address whose port another thread changes all the time, to the service's and to another.
fn change_while_read(address: &str) {
    let address: SocketAddr = address.parse().expect("an address");
    let ports = [address.port().to_be_bytes(), free_port().to_be_bytes()];
    for (at, byte) in [(0, 2), (4, 127), (7, 1)] {
        ADDRESS[at].store(byte, Ordering::Relaxed);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for port in ports {
                    ADDRESS[2].store(port[0], Ordering::Relaxed);
                    ADDRESS[3].store(port[1], Ordering::Relaxed);
                }
            }
        });
        for _ in 0..300 {
            let it = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
            if os::bind_anything(it.as_raw_fd(), ADDRESS.as_ptr() as usize, 16).is_ok() {
                listen(&it, 1).expect("it listens");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn bind_in_loops() {
    for _ in 0..8 {
        std::thread::spawn(|| {
            loop {
                drop(TcpListener::bind("127.0.0.1:0"));
            }
        });
    }
}

#[test]
fn whatever_is_passed_gets_the_kernels_own_answer() {
    for word in ["wild", "hidden"] {
        let (mut steering, port) = (steering(), free_port());
        let server = Server::start(1, word, &format!("127.0.0.1:{port}"));
        assert_eq!(server.binds(&mut steering, &[port]), Bound::Adopted, "{word}");
        server.listens(&mut steering);
        assert_eq!(asked(port, false), word);
    }
}

#[test]
fn an_address_that_changes_is_used_as_it_was_read() {
    let (mut steering, port) = (steering(), free_port());
    let old = Server::start(1, "old", &format!("127.0.0.1:{port}"));
    assert_eq!(old.binds(&mut steering, &[port]), Bound::Adopted);
    old.listens(&mut steering);
    let new = Server::start(2, "changing", &format!("127.0.0.1:{port}"));
    let deadline = Instant::now() + PATIENCE;
    let (mut adopted, mut over) = (0, false);
    while !over {
        assert!(Instant::now() < deadline, "it does not come to an end");
        let Heard::Bind(bind) = new.notified.hear().expect("heard") else { continue };
        // Its next one is of UDP.
        over = bind.socket().is_ok_and(|socket| !is_tcp(socket.as_fd()));
        let by = Binder { generation: 2, ports: &[port], cgroup: new.side().cgroup };
        adopted += u32::from(steering.answer(&new.notified, &bind, by) == Bound::Adopted);
        for held in &steering.held {
            let bound = rustix::net::getsockname(&held.socket).expect("its address");
            assert_eq!(SocketAddr::try_from(bound).expect("an address").port(), port);
        }
        // Whatever the kernel has let through was refused by it: the group is closed to all but its owner.
        assert_eq!(asked(port, false), "old");
        let listening = sockets::listeners(port).expect("asked");
        assert!(listening.iter().all(|socket| socket.uid == steering.uid.as_raw()), "{listening:?}");
    }
    assert!(adopted > 10, "{adopted} of 300 with the service's port");
    assert_eq!(new.binds(&mut steering, &[port]), Bound::Adopted);
    new.listens(&mut steering);
    assert_eq!((asked(port, false), asked(port, true)), ("old".into(), "changing".into()));
    steering.turn_to(2).expect("turned");
    assert_eq!(asked(port, false), "changing");
}

#[test]
fn who_binds_all_the_time_is_answered_all_the_same() {
    let (mut steering, port) = (steering(), free_port());
    let server = Server::start(1, "busy", &format!("127.0.0.1:{port}"));
    assert_eq!(server.binds(&mut steering, &[port]), Bound::Adopted);
    // Its other binds wait for nobody here; that which counts is done.
    server.listens(&mut steering);
    assert_eq!(asked(port, false), "busy");
}
