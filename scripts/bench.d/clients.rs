//! Clients for a bench: they ask until standard input ends, or for a time, and then tell what they have seen as JSON.
//! It knows nothing of what they ask.
//!
//!     clients ADDRESS:PORT [--path=PATH]... [--header='NAME: VALUE']... [--clients=N] [--keep-alive] [--pause=MS]
//!             [--patience=MS] [--seconds=S]

use std::io::Read;
use std::time::{Duration, Instant};

#[allow(dead_code, missing_docs)] // The tests use the rest of it.
#[path = "../../tests/support/load.rs"]
mod load;

use load::{Asking, Load, Seen};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().and_then(|word| word.parse().ok()).expect("ADDRESS:PORT");
    let mut asking = Asking { address, paths: Vec::new(), ..Asking::port(0, 64) };
    let mut seconds = None;
    for option in arguments {
        if option == "--keep-alive" {
            asking.keep_alive = true;
            continue;
        }
        let (name, value) = option.split_once('=').expect("--OPTION=VALUE");
        let number = || value.parse().expect("a number");
        match name {
            "--path" => asking.paths.push(value.to_owned()),
            "--header" => asking.headers.push(value.to_owned()),
            "--clients" => asking.clients = value.parse().expect("a number"),
            "--pause" => asking.pause = Duration::from_millis(number()),
            "--patience" => asking.patience = Duration::from_millis(number()),
            "--seconds" => seconds = Some(Duration::from_secs(number())),
            _ => panic!("no such option: {option}"),
        }
    }
    if asking.paths.is_empty() {
        asking.paths.push("/".into());
    }
    let began = Instant::now();
    let load = Load::begin(&asking);
    match seconds {
        Some(time) => std::thread::sleep(time),
        None => drop(std::io::stdin().read_to_end(&mut Vec::new())),
    }
    let asked_for = began.elapsed();
    tell(&mut load.end(), began, asked_for);
}

/// One line of JSON; times are milliseconds.
fn tell(seen: &mut Seen, began: Instant, asked_for: Duration) {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    seen.took.sort();
    let at = |share: usize| seen.took.get(seen.took.len() * share / 100).copied().unwrap_or_default();
    let failures: usize = seen.failed.values().sum();
    let kinds: Vec<_> = seen.failed.iter().map(|(kind, count)| format!("\"{kind}\":{count}")).collect();
    seen.told.sort();
    let told = seen.told.iter().take(50);
    let told: Vec<_> = told
        .map(|(when, what)| format!("\"{:.0} {}\"", ms(*when - began), what.replace(['"', '\\'], " ")))
        .collect();
    let answers: Vec<_> = seen.answers.keys().map(|answer| format!("{answer:?}")).collect();
    println!(
        "{{\"requests\":{},\"connections\":{},\"closed_idle\":{},\"failed\":{failures},\"kinds\":{{{}}},\"slowest_ms\":{:.1},\
         \"median_ms\":{:.3},\"p99_ms\":{:.3},\"seconds\":{:.3},\"answers\":[{}],\"told\":[{}]}}",
        seen.requests,
        seen.connections,
        seen.closed_idle,
        kinds.join(","),
        ms(seen.slowest),
        ms(at(50)),
        ms(at(99)),
        asked_for.as_secs_f64(),
        answers.join(","),
        told.join(","),
    );
}
