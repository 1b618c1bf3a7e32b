//! `bench-swap` from outside: what clients see of a swap that loses nothing, and of one that does.

mod support;

use serde_json::Value;
use support::Host;

/// Swaps the web service for itself, which another word in its configuration makes another generation.
fn measured(host: &Host, port: u16, options: &[&str], status: i32, shell: &str) -> Value {
    host.configure_busybox(port, shell);
    let line = [&["bench-swap", "busybox", "1", "--clients", "4", "--json"], options].concat();
    let done = host.opsrun(line);
    assert_eq!(done.status, status, "{done:?}");
    done.json()
}

#[test]
fn clients_see_what_a_swap_does_to_them() {
    let (host, port) = Host::with_busybox();
    host.opsrun(["start", "busybox:1"]).succeeds();

    let steered = measured(&host, port, &["--", "--soak", "200ms"], 0, "# second");
    assert_eq!(
        (&steered["failed"], &steered["exit"]),
        (&serde_json::json!({}), &Value::from(0)),
        "{steered}"
    );
    assert!(steered["requests"].as_u64() > Some(50), "{steered}");
    assert!(steered["gap_ms"].as_u64() < Some(2_000), "{steered}");

    // Between the two nobody listens.
    let stopped = measured(&host, port, &["--", "--soak", "200ms", "--stop-first"], 0, "# third");
    assert!(!stopped["failed"].as_object().expect("kinds").is_empty(), "{stopped}");

    // What never becomes healthy is not swapped for, which is said as `swap` says it; nobody has noticed.
    let back = measured(&host, port, &["--", "--timeout", "2s"], 3, "exit 1");
    assert_eq!((&back["failed"], &back["exit"]), (&serde_json::json!({}), &Value::from(3)), "{back}");

    let missing = host.opsrun(["bench-swap", "busybox", "1", "--path", "/none", "--json", "--", "--no-such"]);
    assert_eq!(missing.status, 1, "{missing:?}");
}
