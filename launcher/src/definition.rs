//! Decides the rules of a generation: the operator's file over the image's own words over the catalogue over defaults.
//! Pure: it reads nothing and starts nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use bundles::bundle::{ImageFacts, ImageHealthcheck};
use runtime::definition::{
    Definition, HealthCheck, LISTENERS_MAX, Probe, Restart, RestartPolicy, Stop, VERSION,
};
use runtime::log::Rotation;

use crate::limits_value::Size;
use crate::settings::{Check, Log, Policy, Settings};
use crate::settings_value::{ListenAddress, SignalName};
use crate::time_span::TimeSpan;

/// Four times the longest line that is not cut.
const LOG_SIZE_MIN: u64 = 64 * 1024;

/// The label by which an image says where its program is to be given listeners, as `listen_stream` does.
const LISTEN_LABEL: &str = "org.opsrun.listen-stream";

/// What an image says that counts here.
#[derive(Debug, Clone, Copy)]
struct Image<'a> {
    health: Option<&'a ImageHealthcheck>,
    stop_signal: Option<&'a str>,
}

/// Which image and generation the rules are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The service.
    pub service: String,
    /// The release.
    pub release: String,
    /// Name and tag of the image.
    pub image: String,
    /// Id of the image.
    pub image_id: String,
    /// Number of the generation.
    pub generation: u32,
}

/// Defaults, milliseconds unless the name says otherwise.
mod default {
    pub(super) const ADDRESS: &str = "127.0.0.1";
    pub(super) const RUNS_FOR: u64 = 5_000;
    pub(super) const INTERVAL: u64 = 10_000;
    pub(super) const TIMEOUT: u64 = 5_000;
    pub(super) const RETRIES: u32 = 3;
    pub(super) const START_TIMEOUT: u64 = 120_000;
    pub(super) const BACKOFF_FIRST: u64 = 1_000;
    pub(super) const BACKOFF_MAX: u64 = 60_000;
    pub(super) const CRASH_LOOP_FAILURES: u32 = 5;
    /// Longer than a service needs to fail by a wrong configuration, a missing database for example.
    pub(super) const STABLE_AFTER: u64 = 60_000;
    pub(super) const SIGNAL: &str = "SIGTERM";
    pub(super) const GRACE: u64 = 30_000;
    /// `docker build` writes these down only when they differ (Dockerfile reference, HEALTHCHECK).
    pub(super) const IMAGE_INTERVAL: u64 = 30_000;
    pub(super) const IMAGE_TIMEOUT: u64 = 30_000;
}

/// The rules of a generation.
///
/// `settings` is the operator's file, `catalogue` the entry for the name, each empty when there is none.
///
/// # Errors
/// Why the image or the settings cannot be followed, in words.
pub(crate) fn decide(
    subject: Subject,
    settings: &Settings,
    catalogue: &Settings,
    image: &ImageFacts,
) -> Result<Definition, String> {
    let signal: Option<SignalName> = match &image.stop_signal {
        Some(text) => {
            Some(text.parse().map_err(|()| format!("the image's STOPSIGNAL {text:?} is no signal"))?)
        }
        None => None,
    };
    let labelled = labelled_listeners(image)?;
    let image =
        Image { health: image.healthcheck.as_ref(), stop_signal: signal.as_ref().map(SignalName::as_str) };
    let both = settings.clone().over(catalogue.clone());
    let listed = settings.listen_stream.clone().or(labelled).or(catalogue.listen_stream.clone());
    let listen_stream: Vec<SocketAddr> = listed.iter().flatten().map(|address| address.get()).collect();
    let ports = decide_ports(&both, &listen_stream)?;
    Ok(Definition {
        version: VERSION,
        service: subject.service,
        release: subject.release,
        image: subject.image,
        image_id: subject.image_id,
        generation: subject.generation,
        health: decide_health(settings, catalogue, image, &ports)?,
        ports,
        listen_stream,
        restart: decide_restart(&both),
        stop: Stop {
            signal: (settings.stop.signal.as_ref().map(|signal| signal.as_str()))
                // An image's own signal is about the program in it; the catalogue's only about the usual one.
                .or(image.stop_signal)
                .or(catalogue.stop.signal.as_ref().map(|signal| signal.as_str()))
                .unwrap_or(default::SIGNAL)
                .to_owned(),
            grace_ms: both.stop.grace.map_or(default::GRACE, |grace| grace.ms),
        },
        stop_first: both.swap.stop_first.unwrap_or(false),
        init: both.init.unwrap_or(true),
        log: decide_log(&both.log)?,
    })
}

/// What the image says it is to be started with to listen, the addresses with spaces between them.
fn labelled_listeners(image: &ImageFacts) -> Result<Option<Vec<ListenAddress>>, String> {
    let Some(text) = image.labels.get(LISTEN_LABEL) else { return Ok(None) };
    let wrong = |word: &str| {
        format!(
            "the image's label {LISTEN_LABEL} has {word:?}, which is no IP address and port such as 127.0.0.1:5000"
        )
    };
    let addresses = text.split_whitespace().map(|word| word.parse().map_err(|()| wrong(word)));
    addresses.collect::<Result<Vec<_>, _>>().map(Some)
}

/// The ports that are listed, or those of the listeners.
fn decide_ports(both: &Settings, listen_stream: &[SocketAddr]) -> Result<Vec<u16>, String> {
    if listen_stream.len() > LISTENERS_MAX {
        return Err(format!(
            "`listen_stream` has {} addresses, and a program can get {LISTENERS_MAX}",
            listen_stream.len()
        ));
    }
    let Some(listed) = &both.ports else {
        let ports: BTreeSet<u16> = listen_stream.iter().map(SocketAddr::port).collect();
        return Ok(ports.into_iter().collect());
    };
    let ports: Vec<u16> = listed.iter().map(|port| port.number()).collect();
    match listen_stream.iter().find(|address| !ports.contains(&address.port())) {
        Some(address) => Err(format!("`listen_stream` has {address}, and `ports` does not list that port")),
        None => Ok(ports),
    }
}

fn decide_log(log: &Log) -> Result<Rotation, String> {
    let usual = Rotation::default();
    let bytes_max = log.max_size.map_or(usual.bytes_max, Size::bytes);
    if bytes_max < LOG_SIZE_MIN {
        return Err(format!(
            "`log.max_size` is {bytes_max} bytes, and a file has room for some lines from 64k on"
        ));
    }
    Ok(Rotation { bytes_max, files_max: log.max_files.map_or(usual.files_max, NonZeroU32::get) })
}

fn decide_restart(both: &Settings) -> Restart {
    let restart = &both.restart;
    Restart {
        policy: match restart.policy {
            None | Some(Policy::Always) => RestartPolicy::Always,
            Some(Policy::OnFailure) => RestartPolicy::OnFailure,
            Some(Policy::No) => RestartPolicy::No,
        },
        backoff_first_ms: restart.backoff_first.map_or(default::BACKOFF_FIRST, |time| time.ms),
        backoff_max_ms: restart.backoff_max.map_or(default::BACKOFF_MAX, |time| time.ms),
        crash_loop_failures: restart.crash_loop_failures.unwrap_or(default::CRASH_LOOP_FAILURES),
        stable_after_ms: restart.stable_after.map_or(default::STABLE_AFTER, |time| time.ms),
    }
}

/// Which check it is: the operator's, else the image's, else the catalogue's, else a port, else that it runs.
fn decide_health(
    settings: &Settings,
    catalogue: &Settings,
    image: Image<'_>,
    ports: &[u16],
) -> Result<HealthCheck, String> {
    let both = settings.clone().over(catalogue.clone()).health;
    let check = match (settings.health.check, image.health, catalogue.health.check) {
        (Some(check), _, _) => check,
        // Whoever built the image wrote the check on purpose, for the very program that is in it.
        (None, Some(_), _) => Check::Image,
        (None, None, Some(check)) => check,
        (None, None, None) if ports.is_empty() => Check::Runs,
        (None, None, None) => Check::Tcp,
    };
    let address = both.address.map_or(default::ADDRESS.to_owned(), |address| address.to_string());
    let port = both.port.map(|port| port.number()).or(ports.first().copied());
    let need_port = || {
        port.ok_or(
            "its health check connects to a port, and neither `health.port` nor `ports` names one".to_owned(),
        )
    };
    let from_image = if check == Check::Image { image.health } else { None };
    let probe = match check {
        Check::Runs => Probe::Runs { for_ms: both.runs_for.map_or(default::RUNS_FOR, |time| time.ms) },
        Check::Tcp => Probe::Tcp { address, port: need_port()? },
        Check::Http => Probe::Http {
            address,
            port: need_port()?,
            path: both.path.as_ref().map_or("/", |path| path.as_str()).to_owned(),
        },
        Check::Command => Probe::Command { arguments: both.command.clone().unwrap_or_default() },
        Check::Image => Probe::Command {
            arguments: from_image
                .map(|health| health.test.clone())
                .ok_or("its health check is the image's HEALTHCHECK, and the image has none".to_owned())?,
        },
    };
    // Under an image's check lie the image's times: the catalogue's were written for another check.
    let under =
        |image_ms: Option<Option<u64>>, image_default, catalogue_ms: Option<u64>, default| match image_ms {
            Some(image_ms) => image_ms.unwrap_or(image_default),
            None => catalogue_ms.unwrap_or(default),
        };
    let (own, listed) = (&settings.health, &catalogue.health);
    let ms = |time: Option<TimeSpan>| time.map(|time| time.ms);
    Ok(HealthCheck {
        probe,
        interval_ms: ms(own.interval).unwrap_or_else(|| {
            let image_ms = from_image.map(|health| health.interval_ms);
            under(image_ms, default::IMAGE_INTERVAL, ms(listed.interval), default::INTERVAL)
        }),
        timeout_ms: ms(own.timeout).unwrap_or_else(|| {
            let image_ms = from_image.map(|health| health.timeout_ms);
            under(image_ms, default::IMAGE_TIMEOUT, ms(listed.timeout), default::TIMEOUT)
        }),
        retries: own
            .retries
            .or(from_image.and_then(|health| health.retries))
            .or(listed.retries)
            .unwrap_or(default::RETRIES)
            .max(1),
        start_timeout_ms: ms(own.start_timeout).unwrap_or_else(|| {
            let start_period_ms = from_image.and_then(|health| health.start_period_ms).unwrap_or(0);
            ms(listed.start_timeout).unwrap_or(default::START_TIMEOUT).max(start_period_ms)
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use runtime::record::Way;

    use super::*;
    use crate::settings::parse_toml;

    #[test]
    fn both_rooms_mean_the_same_uids_by_those_of_listening_sockets() {
        let last = runtime::UID_FIRST | !runtime::UID_MASK;
        assert_eq!(bundles::account::UIDS_OF_LISTENERS, runtime::UID_FIRST..=last);
    }

    fn settings(text: &str) -> Settings {
        parse_toml(text, Path::new("x.toml")).unwrap()
    }

    fn decide(own: &str, catalogue: &str, image: &ImageFacts) -> Result<Definition, String> {
        let subject = Subject {
            service: "keystone".into(),
            release: "zed".into(),
            image: "keystone:zed".into(),
            image_id: "sha256:0".into(),
            generation: 1,
        };
        super::decide(subject, &settings(own), &settings(catalogue), image)
    }

    fn silent() -> ImageFacts {
        ImageFacts::default()
    }

    fn checked() -> ImageFacts {
        let healthcheck = ImageHealthcheck {
            test: vec!["/check".into()],
            interval_ms: None,
            timeout_ms: Some(1_000),
            start_period_ms: Some(600_000),
            start_interval_ms: None,
            retries: None,
        };
        ImageFacts { stop_signal: Some("QUIT".into()), healthcheck: Some(healthcheck), ..silent() }
    }

    const LISTED: &str = "ports = [5000]\nhealth = { check = \"http\", path = \"/healthcheck\", interval = \"7s\" }\nstop = { grace = \"1m\", signal = \"SIGINT\" }";

    #[test]
    fn with_nothing_said_it_is_healthy_when_it_runs() {
        let definition = decide("", "", &silent()).unwrap();
        assert_eq!(definition.health.probe, Probe::Runs { for_ms: 5_000 });
        assert_eq!(definition.stop, Stop { signal: "SIGTERM".into(), grace_ms: 30_000 });
        assert!(definition.init);
    }

    #[test]
    fn with_a_port_alone_it_is_healthy_when_it_listens() {
        let definition = decide("ports = [8080]", "", &silent()).unwrap();
        assert_eq!(definition.health.probe, Probe::Tcp { address: "127.0.0.1".into(), port: 8080 });
    }

    #[test]
    fn a_program_is_given_the_listeners_that_its_file_or_its_image_lists() {
        let labelled = |text: &str| ImageFacts {
            labels: BTreeMap::from([(LISTEN_LABEL.to_owned(), text.to_owned())]),
            ..silent()
        };
        let image = labelled("127.0.0.1:5000 [::1]:5001");
        let definition = decide("", "ports = [5000, 5001, 5002]", &image).unwrap();
        let addresses = ["127.0.0.1:5000".parse().unwrap(), "[::1]:5001".parse().unwrap()];
        assert_eq!((definition.listen_stream, definition.ports.len()), (addresses.to_vec(), 3));
        assert_eq!(decide("", "", &image).unwrap().ports, [5000, 5001]);
        let own = decide("listen_stream = []", "ports = [5000]", &image).unwrap();
        assert!(own.listen_stream.is_empty());
        for (own, image, said) in [
            ("", labelled("5000"), "has \"5000\", which is no IP address"),
            ("", labelled("127.0.0.1:0"), "has \"127.0.0.1:0\""),
            ("ports = [5001]", image.clone(), "has 127.0.0.1:5000, and `ports` does not list"),
        ] {
            let refused = decide(own, "", &image).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
        let many = format!(
            "listen_stream = [{}]",
            (1..=17).map(|port| format!("\"127.0.0.1:{port}\",")).collect::<String>()
        );
        assert!(decide(&many, "", &silent()).unwrap_err().contains("17 addresses"));
    }

    #[test]
    fn two_of_what_owns_its_files_never_run_at_the_same_time() {
        let catalogue = "ports = [3306]\nswap = { stop_first = true }\n";
        let way = |old, new| {
            let decided = |own| decide(own, catalogue, &silent()).unwrap();
            runtime::way::choose(&decided(old), &decided(new)).0
        };
        assert_eq!(way("", ""), Way::StopFirst);
        let shared = "swap = { stop_first = false }";
        assert_eq!(way(shared, shared), Way::Steered);
        // Either of the two knows best.
        assert_eq!([way("", shared), way(shared, "")], [Way::StopFirst; 2]);
    }

    #[test]
    fn the_catalogue_counts_when_image_and_file_are_silent() {
        let definition = decide("", LISTED, &silent()).unwrap();
        let probe = Probe::Http { address: "127.0.0.1".into(), port: 5000, path: "/healthcheck".into() };
        assert_eq!(definition.health.probe, probe);
        assert_eq!(definition.health.interval_ms, 7_000);
        assert_eq!(definition.stop, Stop { signal: "SIGINT".into(), grace_ms: 60_000 });
    }

    #[test]
    fn the_image_knows_better_than_the_catalogue() {
        let definition = decide("", LISTED, &checked()).unwrap();
        assert_eq!(definition.health.probe, Probe::Command { arguments: vec!["/check".into()] });
        let health = &definition.health;
        assert_eq!((health.interval_ms, health.timeout_ms, health.retries), (30_000, 1_000, 3));
        assert_eq!(health.start_timeout_ms, 600_000);
        assert_eq!(definition.stop.signal, "SIGQUIT");
    }

    #[test]
    fn the_operator_knows_better_than_both() {
        let own = "ports = [5001]\n[health]\ncheck = \"http\"\ninterval = \"1s\"\n[stop]\nsignal = \"HUP\"\n";
        let definition = decide(own, LISTED, &checked()).unwrap();
        let probe = Probe::Http { address: "127.0.0.1".into(), port: 5001, path: "/healthcheck".into() };
        assert_eq!(definition.health.probe, probe);
        assert_eq!((definition.health.interval_ms, definition.health.timeout_ms), (1_000, 5_000));
        assert_eq!((definition.ports, definition.stop.signal.as_str()), (vec![5001], "SIGHUP"));
    }

    #[test]
    fn so_much_of_the_output_is_kept_as_is_said() {
        let definition = decide("[log]\nmax_size = \"1m\"\n", "[log]\nmax_files = 3\n", &silent()).unwrap();
        assert_eq!(definition.log, Rotation { bytes_max: 1 << 20, files_max: 3 });
        assert!(decide("[log]\nmax_size = \"10k\"\n", "", &silent()).unwrap_err().contains("64k"));
    }

    #[test]
    fn a_check_that_cannot_be_made_is_refused() {
        assert!(decide("[health]\ncheck = \"tcp\"\n", "", &checked()).unwrap_err().contains("port"));
        let none = decide("[health]\ncheck = \"image\"\n", "", &silent());
        assert!(none.unwrap_err().contains("HEALTHCHECK"));
    }
}
