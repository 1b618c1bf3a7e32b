//! `bench-swap`: a service's own swap, as its clients see it.
//! It measures; the swap is that of `swap`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use clap::Parser;
use runtime::definition::{Definition, Probe};
use runtime::status;

use crate::arguments::{Arguments, BenchSwap, Command};
use crate::clients::{Clients, Outcome, Question};
use crate::commands::{look, swap};
use crate::error::Error;
use crate::exit::Exit;
use crate::layout::Layout;
use crate::listing::{MeasuredSwap, VERSION};
use crate::print::{self, sentence};

/// Clients ask so long before and after.
const AROUND: Duration = Duration::from_secs(1);

/// Swaps a service while clients ask it, and says what they saw.
///
/// # Errors
/// Those of `swap`, whose exit status this has, too; [`Error::NothingToAsk`].
pub(crate) fn bench_swap(layout: &Layout, arguments: BenchSwap) -> Result<Exit, Error> {
    let mut words = vec!["opsrun".to_owned(), "swap".to_owned()];
    words.extend(arguments.swap_options.iter().cloned());
    words.extend([arguments.service.to_string(), arguments.release.clone()]);
    let Command::Swap(wanted) = Arguments::try_parse_from(words)
        .map_err(|error| Error::SwapOptions {
            reason: error.kind().as_str().unwrap_or("they are not understood").to_owned(),
        })?
        .command
    else {
        return Err(Error::SwapOptions { reason: "they are those of another command".to_owned() });
    };
    let (folders, looked) = look(layout, &arguments.service)?;
    let definition = status::definition(&folders, &looked.record)?;
    let question = question(&definition, &arguments)?;

    let failed = |error| Error::io("start the clients", error);
    let clients = Clients::begin(&question, arguments.clients).map_err(failed)?;
    std::thread::sleep(AROUND);
    let began = Instant::now();
    let swapped = swap::swap(layout, wanted);
    let took = began.elapsed();
    std::thread::sleep(AROUND);
    let outcome = clients.end();

    let exit = swapped.as_ref().map_or_else(Error::exit, |exit| *exit);
    let measured = measured(&arguments, &question, &outcome, took, exit);
    if arguments.json {
        print::json(&measured)?;
    } else {
        print::data(&sentence::measured_swap(&measured))?;
    }
    swapped
}

/// What the health check asks, or what is typed.
fn question(definition: &Definition, arguments: &BenchSwap) -> Result<Question, Error> {
    let (address, port, path) = match &definition.health.probe {
        Probe::Http { address, port, path } => (address.as_str(), *port, path.as_str()),
        Probe::Tcp { address, port } => (address.as_str(), *port, "/"),
        Probe::Runs { .. } | Probe::Command { .. } => {
            let port = definition.ports.first();
            let service = definition.service.clone();
            ("127.0.0.1", *port.ok_or(Error::NothingToAsk { service })?, "/")
        }
    };
    let address: IpAddr = address.parse().unwrap_or_else(|_| IpAddr::from([127, 0, 0, 1]));
    Ok(Question {
        address: SocketAddr::new(address, port),
        path: arguments.path.clone().unwrap_or_else(|| path.to_owned()),
        keep_alive: arguments.keep_alive,
    })
}

fn measured(
    arguments: &BenchSwap,
    question: &Question,
    outcome: &Outcome,
    took: Duration,
    exit: Exit,
) -> MeasuredSwap {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    MeasuredSwap {
        version: VERSION,
        service: arguments.service.to_string(),
        release: arguments.release.clone(),
        address: question.address.to_string(),
        path: question.path.clone(),
        clients: arguments.clients,
        keep_alive: question.keep_alive,
        requests: outcome.sent(),
        failed: outcome.failed.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        sent_again: outcome.sent_again,
        median_us: outcome.median().map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        slowest_ms: outcome.slowest().map(ms),
        gap_ms: ms(outcome.gap),
        swap_ms: ms(took),
        exit: exit.status(),
    }
}
