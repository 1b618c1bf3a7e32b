//! Real servers, of which none is prepared for opsrun, in each way that they open their ports: of one family or both,
//! several, in workers, twice, under another user, before they execute themselves anew. They are told to load themselves anew
//! while clients ask, and then another release follows: no request is lost, and the right one answers.

mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::sockopt;
use support::load::{Asking, Load};
use support::{Host, until};

const V4: &str = "127.0.0.1";
const V6: &str = "::1";

/// How a server is begun, as shell, which knows `$port`, `$other` and `$word`; where it is asked; which signal has it load
/// itself anew.
struct Kind {
    name: &'static str,
    shell: &'static str,
    /// An address, and whether it is that of the first port.
    asked: &'static [(&'static str, bool)],
    reload: Option<Signal>,
    stop: &'static str,
}

const KINDS: [Kind; 6] = [
    Kind {
        // Both families by one socket; the workers are another user's.
        name: "gunicorn",
        shell: "exec gunicorn --user www-data --workers 2 --bind \"[::]:$port\" application",
        asked: &[(V4, true), (V6, true)],
        reload: Some(Signal::SIGHUP),
        stop: "SIGTERM",
    },
    Kind {
        // Opened as another user; executes itself anew with what it has open.
        name: "uwsgi",
        shell: "exec uwsgi --plugin python3 --uid 33 --gid 33 --http-socket \"[::1]:$port\" --http-socket \"127.0.0.1:$other\" \
                --add-header 'Connection: close' --module application --need-app --lazy-apps --master --processes 2 \
                --die-on-term --disable-logging",
        asked: &[(V6, true), (V4, false)],
        reload: Some(Signal::SIGHUP),
        stop: "SIGTERM",
    },
    Kind {
        // One address of the two ports is opened once for each worker.
        name: "nginx",
        shell: "{ echo 'daemon off; user www-data; worker_processes 2; pid /tmp/nginx.pid; error_log /dev/stderr; events {}
                http { access_log off; server {'
                echo \"listen 127.0.0.1:$port deferred backlog=77 so_keepalive=30m::10; listen [::1]:$port;\"
                echo \"listen 0.0.0.0:$other reuseport; location / { return 200 '$word'; } } }\"; } > /tmp/nginx.conf
                exec nginx -c /tmp/nginx.conf",
        asked: &[(V4, true), (V6, true), (V4, false)],
        reload: Some(Signal::SIGHUP),
        stop: "SIGQUIT",
    },
    Kind {
        // SIGHUP would end the requests under way.
        name: "apache",
        shell: "listen=\"[::]:$port\"; exec apache2 -D FOREGROUND -f /servers/apache.conf -c \"Listen 127.0.0.1:$other\"",
        asked: &[(V4, true), (V6, true), (V4, false)],
        reload: Some(Signal::SIGUSR1),
        stop: "SIGWINCH",
    },
    Kind {
        name: "workers",
        shell: "exec python3 /etc/servers/workers.py",
        asked: &[(V4, true)],
        reload: None,
        stop: "SIGTERM",
    },
    Kind {
        name: "itself",
        shell: "exec python3 /etc/servers/itself.py",
        asked: &[(V6, true)],
        reload: Some(Signal::SIGHUP),
        stop: "SIGTERM",
    },
];

/// Each worker opens the port for itself, with `SO_REUSEPORT`, which eventlet sets.
const WORKERS: &str = "\
import os, sys
sys.path.insert(0, '/servers')
for _ in range(2):
    if os.fork() == 0:
        import eventlet, eventlet.wsgi
        from application import application
        listener = eventlet.listen(('127.0.0.1', int(os.environ['port'])))
        eventlet.wsgi.server(listener, application, log_output=False, keepalive=False)
os.wait()
";

/// Looks first whether the port is free, opens it, and executes itself with the listener: at first, and on SIGHUP.
const ITSELF: &str = "\
import os, signal, socket, sys

def opened():
    it = socket.socket(socket.AF_INET6)
    it.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 9)
    it.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12345)
    it.bind(('::', int(os.environ['port'])))
    return it

def options(it):
    known = [('reuseport', socket.SOL_SOCKET, socket.SO_REUSEPORT), ('keepalive', socket.SOL_SOCKET, socket.SO_KEEPALIVE),
             ('only', socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), ('user_timeout', socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
             ('defer', socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)]
    told = [f'{name}={it.getsockopt(level, option)}' for name, level, option in known]
    # Of a listener that is how long its queue may be (tcp_info, tcpi_sacked).
    told.append('backlog=%d' % int.from_bytes(it.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)[28:32], 'little'))
    return ' '.join(told)

def execute(listener, times):
    os.execv(sys.executable, [sys.executable, __file__, str(listener.fileno()), str(times)])

if len(sys.argv) == 1:
    opened().close()
    listener = opened()
    listener.set_inheritable(True)
    listener.listen(201)
    execute(listener, 1)
listener, times, again = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), []
signal.signal(signal.SIGHUP, lambda *_: again.append(1))
while not again:
    client, _ = listener.accept()
    with client:
        text = b''
        while not text.endswith(b'\\r\\n\\r\\n') and (more := client.recv(4096)):
            text += more
        path = (text.split(b' ') + [b''])[1]
        answer = {b'/times': str(times), b'/options': options(listener)}.get(path, os.environ['word'])
        client.sendall(f'HTTP/1.0 200 OK\\r\\nContent-Length: {len(answer)}\\r\\n\\r\\n{answer}'.encode())
execute(listener, times + 1)
";

/// One of them, as a service of its own.
struct Server<'a> {
    host: &'a Host,
    kind: &'a Kind,
    port: u16,
    other: u16,
}

impl<'a> Server<'a> {
    fn begin(host: &'a Host, kind: &'a Kind) -> Self {
        let it = Self { host, kind, port: support::free_port(), other: support::free_port() };
        let Self { port, other, .. } = it;
        let Kind { name, stop, asked, .. } = kind;
        let ports = if asked.iter().all(|(_, first)| *first) { vec![port] } else { vec![port, other] };
        let settings = format!(
            "image = \"servers\"\nports = {ports:?}\nfolders = {{ conf = \"/etc/servers\" }}\n\
             health = {{ check = \"http\", address = \"{}\", path = \"/health\", interval = \"100ms\", timeout = \"20s\" }}\n\
             stop = {{ signal = \"{stop}\", grace = \"20s\" }}\n",
            asked[0].0
        );
        host.write(&format!("etc/opsrun/{name}.toml"), &settings);
        host.opsrun(["config", "init", name, "--from", "1"]).succeeds();
        host.write(&format!("opt/{name}/conf/workers.py"), WORKERS);
        host.write(&format!("opt/{name}/conf/itself.py"), ITSELF);
        it.next_says("old");
        host.opsrun(["start", &format!("{name}:1")]).succeeds();
        it
    }

    fn next_says(&self, word: &str) {
        let Self { kind: Kind { name, shell, .. }, port, other, .. } = self;
        let text = format!(
            "address=127.0.0.1 port={port} other={other} word={word}\ndelay=0 warm=0 fails= fails_after=0\ncd /servers\n{shell}\n"
        );
        self.host.write(&format!("opt/{name}/conf/servers.conf"), &text);
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let port = |first| if first { self.port } else { self.other };
        self.kind
            .asked
            .iter()
            .map(move |(ip, first)| SocketAddr::new(ip.parse().expect("an IP"), port(*first)))
    }

    fn processes(&self) -> BTreeSet<i32> {
        let pid = self.host.service(self.kind.name)["process"].as_i64().expect("a process");
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
        let group = group.lines().find_map(|line| line.strip_prefix("0::/")).expect("one of v2");
        let list = support::cgroup_mount().join(group).join("cgroup.procs");
        let list = std::fs::read_to_string(list).expect("its processes");
        list.lines().map(|line| line.parse().expect("a pid")).collect()
    }

    /// Has it load itself anew, and waits until none of its workers is the one it was.
    fn reload(&self, signal: Signal) {
        let pid = self.host.service(self.kind.name)["process"].as_i64().expect("a process");
        let init = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        let before = self.processes();
        kill(init, signal).expect("kill");
        let name = self.kind.name;
        if name == "itself" {
            return until("it has executed itself", || self.asked("/times").ends_with("\n2"));
        }
        // opsrun's init and the first process of the server stay.
        until(&format!("{name} has other workers"), || {
            let now = self.processes();
            now.len() > 2 && now.intersection(&before).count() == 2
        });
    }

    fn asked(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(self.addresses().next().expect("an address")).expect("connected");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn is_reloaded_and_swapped(&self) {
        let Kind { name, reload, .. } = self.kind;
        let asking = |address| Asking { address, ..Asking::port(0, 2) };
        let loads: Vec<_> =
            self.addresses().map(|address| (address, Load::begin(&asking(address)))).collect();
        if let Some(signal) = reload {
            self.reload(*signal);
        }
        self.next_says("new");
        let done = self.host.opsrun(["swap", name, "2", "--soak", "0s"]);
        assert!(done.succeeds().stderr.contains("is proven beside it"), "{done}");
        for address in self.addresses() {
            let load = Load::begin(&asking(address));
            load.end().lost_nothing().saw_only(&["new"]);
        }
        // The new one too: what it has now is what it has opened itself.
        if let Some(signal) = reload.filter(|_| *name != "itself") {
            self.reload(signal);
        }
        for (address, load) in loads {
            println!("{name} on {address}:");
            load.end().lost_nothing().saw_only(&["new", "old"]);
        }
    }

    /// The listener on an address, taken from a process that has it.
    fn listener(&self, address: SocketAddr) -> OwnedFd {
        use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
        let of = |pid| {
            let pid = rustix::process::Pid::from_raw(pid)?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            (3..64).find_map(|number| {
                let it = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok()?;
                let name = rustix::net::getsockname(&it).ok().and_then(|it| SocketAddr::try_from(it).ok());
                let listens = name == Some(address) && sockopt::socket_acceptconn(&it).unwrap_or(false);
                listens.then_some(it)
            })
        };
        self.processes().into_iter().find_map(of).unwrap_or_else(|| panic!("nobody listens on {address}"))
    }
}

/// What a server has set on its sockets, before it opens its port and after, is there.
fn options_are_kept(server: &Server<'_>) {
    if server.kind.name == "itself" {
        let told = server.asked("/options");
        let expected = "reuseport=1 keepalive=1 only=1 user_timeout=12345 defer=";
        assert!(
            told.contains(expected) && !told.contains("defer=0") && told.ends_with(" backlog=201"),
            "{told}"
        );
    }
    if server.kind.name == "nginx" {
        let v4 = server.listener(SocketAddr::from((Ipv4Addr::LOCALHOST, server.port)));
        assert_eq!(sockopt::socket_keepalive(&v4), Ok(true));
        assert_eq!(sockopt::tcp_keepidle(&v4).map(|time| time.as_secs()), Ok(1800));
        assert_eq!(sockopt::tcp_keepcnt(&v4), Ok(10));
        let v6 = server.listener(SocketAddr::from((Ipv6Addr::LOCALHOST, server.port)));
        assert_eq!((sockopt::ipv6_v6only(&v6), sockopt::socket_keepalive(&v6)), (Ok(true), Ok(false)));
        // Who says nothing is not heard of, by `deferred`.
        let silent = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).expect("connected");
        let ours = silent.local_addr().expect("an address").port();
        let table = std::fs::read_to_string("/proc/net/tcp").expect("connections");
        let half_open = format!(":{:04X} 0100007F:{ours:04X} 03 ", server.port);
        assert!(table.contains(&half_open), "{half_open} is missing: {table}");
    }
}

#[test]
fn servers_are_reloaded_and_swapped_without_a_lost_request_however_they_open_their_ports() {
    let host = Host::new();
    let archive = support::image("servers-1.tar").display().to_string();
    for release in ["servers:1", "servers:2"] {
        host.opsrun(["load", "--tag", release, &archive]).succeeds();
    }
    let only = std::env::var("OPSRUN_TEST_SERVER").unwrap_or_default();
    std::thread::scope(|scope| {
        for kind in KINDS.iter().filter(|kind| only.is_empty() || only == kind.name) {
            let host = &host;
            std::thread::Builder::new()
                .name(kind.name.to_owned())
                .spawn_scoped(scope, move || {
                    let server = Server::begin(host, kind);
                    options_are_kept(&server);
                    server.is_reloaded_and_swapped();
                    options_are_kept(&server);
                    host.opsrun(["stop", kind.name]).succeeds();
                })
                .expect("a thread");
        }
    });
    until("nothing is left", || host.left_over().is_empty());
}
