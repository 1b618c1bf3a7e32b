//! Tables of the life cycle, and what holds for every sequence of events.

use proptest::prelude::*;

use super::*;
use crate::definition::{HealthCheck, Restart, Stop};

fn rules() -> Definition {
    Definition {
        version: 1,
        service: "keystone".into(),
        release: "zed".into(),
        image: "keystone:zed".into(),
        image_id: "sha256:0".into(),
        generation: 1,
        ports: vec![5000],
        listen_stream: Vec::new(),
        health: HealthCheck {
            probe: Probe::Tcp { address: "127.0.0.1".into(), port: 5000 },
            interval_ms: 1000,
            timeout_ms: 500,
            retries: 3,
            start_timeout_ms: 10_000,
        },
        restart: Restart {
            policy: RestartPolicy::Always,
            backoff_first_ms: 100,
            backoff_max_ms: 350,
            crash_loop_failures: 4,
            stable_after_ms: 60_000,
        },
        stop: Stop { signal: "SIGTERM".into(), grace_ms: 5000 },
        stop_first: false,
        init: true,
        log: crate::log::Rotation::default(),
    }
}

/// Runs events one second apart; the last actions.
fn run(rules: Definition, events: &[Event]) -> (Life, Vec<Action>) {
    let mut life = Life::new(rules);
    let mut actions = Vec::new();
    for (second, event) in events.iter().enumerate() {
        (life, actions) = life.step(event.clone(), second as u64 * 1000);
    }
    (life, actions)
}

fn healthy() -> Vec<Event> {
    vec![Event::Start, Event::Created, Event::Executed, Event::Probed(Ok(()))]
}

fn crash() -> Vec<Event> {
    vec![Event::Exited(1), Event::Deadline, Event::Created, Event::Executed, Event::Probed(Ok(()))]
}

#[test]
fn a_start_reports_once_it_is_healthy() {
    let (life, actions) = run(rules(), &healthy());
    assert_eq!(actions, [Action::Deadline(None), Action::Probe(1000), Action::Report(Outcome::Healthy)]);
    assert_eq!((life.state(), life.health()), (State::Running, Health::Healthy));
}

#[test]
fn a_start_that_ends_before_it_is_healthy_fails_and_leaves_nothing() {
    let (life, actions) = run(rules(), &[Event::Start, Event::Created, Event::Executed, Event::Exited(139)]);
    let failure = Failure::new("it was ended by SIGSEGV before it was healthy");
    assert_eq!(
        actions,
        [
            Action::NoProbe,
            Action::Clear,
            Action::Deadline(None),
            Action::Report(Outcome::StartFailed(failure)),
            Action::End
        ]
    );
    assert!(life.start_failed());
}

#[test]
fn a_start_that_is_never_healthy_says_what_its_last_probe_said() {
    let refused = Event::Probed(Err("connection refused".into()));
    let (_, actions) =
        run(rules(), &[Event::Start, Event::Created, Event::Executed, refused, Event::Deadline]);
    let failure = Failure::new("connection refused").within("it was not healthy after 10.0 s");
    assert!(actions.contains(&Action::Report(Outcome::StartFailed(failure))), "{actions:?}");
}

#[test]
fn each_crash_in_a_row_waits_twice_as_long_up_to_the_limit_and_then_it_is_left_alone() {
    let mut life = Life::new(rules());
    for event in healthy() {
        (life, _) = life.step(event, 0);
    }
    let mut waits = Vec::new();
    loop {
        let (next, actions) = life.step(Event::Exited(1), 1000);
        life = next;
        if actions.contains(&Action::End) {
            break;
        }
        waits.extend(actions.iter().filter_map(|action| match action {
            Action::Deadline(Some(at)) => Some(at - 1000),
            _ => None,
        }));
        for event in &crash()[1..] {
            (life, _) = life.step(event.clone(), 1000);
        }
    }
    assert_eq!(waits, [100, 200, 350]);
    assert_eq!(life.state(), State::CrashLoop);
    assert_eq!(life.restarts(), 3);
    let causes = &life.last_failure().expect("a failure").causes;
    assert_eq!(causes, &["it failed 4 times in a row and is left alone", "it exited with status 1"]);
}

#[test]
fn a_long_run_ends_the_row_of_failures() {
    let mut life = Life::new(rules());
    for event in healthy() {
        (life, _) = life.step(event, 0);
    }
    for crash_number in 1..20_u64 {
        let now = crash_number * 60_000;
        for event in crash() {
            (life, _) = life.step(event, now);
        }
        assert_eq!(life.state(), State::Running, "after crash {crash_number}");
    }
    assert_eq!(life.restarts(), 19);
}

#[test]
fn policies_decide_which_ends_are_followed_by_a_restart() {
    for (policy, status, expected) in [
        (RestartPolicy::Always, 0, State::BackingOff),
        (RestartPolicy::Always, 1, State::BackingOff),
        (RestartPolicy::OnFailure, 0, State::Stopped),
        (RestartPolicy::OnFailure, 137, State::BackingOff),
        (RestartPolicy::No, 1, State::Stopped),
    ] {
        let mut rules = rules();
        rules.restart.policy = policy;
        let mut events = healthy();
        events.push(Event::Exited(status));
        let (life, _) = run(rules, &events);
        assert_eq!(life.state(), expected, "{policy:?} after status {status}");
    }
}

#[test]
fn a_stop_signals_waits_for_the_grace_and_kills() {
    let mut events = healthy();
    events.push(Event::Stop);
    let (life, actions) = run(rules(), &events);
    assert_eq!(actions, [Action::NoProbe, Action::Signal, Action::Deadline(Some(4000 + 5000))]);
    let (life, actions) = life.step(Event::Deadline, 9000);
    assert_eq!(actions, [Action::Deadline(None), Action::Kill]);
    let (life, actions) = life.step(Event::Exited(137), 9001);
    assert!(actions.contains(&Action::Report(Outcome::Stopped)));
    assert_eq!((life.state(), life.wanted()), (State::Stopped, Wanted::Down));
}

#[test]
fn failing_probes_show_as_unhealthy_and_one_success_ends_it() {
    let failed = Event::Probed(Err("status 500".into()));
    let mut events = healthy();
    events.extend([failed.clone(), failed.clone()]);
    assert_eq!(run(rules(), &events).0.health(), Health::Healthy);
    events.push(failed);
    assert_eq!(run(rules(), &events).0.health(), Health::Unhealthy);
    events.push(Event::Probed(Ok(())));
    assert_eq!(run(rules(), &events).0.health(), Health::Healthy);
}

#[test]
fn what_the_host_takes_down_is_still_wanted() {
    let mut events = healthy();
    events.extend([Event::Halt, Event::Exited(0)]);
    let (life, _) = run(rules(), &events);
    assert_eq!((life.state(), life.wanted()), (State::Stopped, Wanted::Up));
}

#[test]
fn what_was_proven_before_is_tried_again_and_who_waits_hears_of_the_first_failure() {
    let no = || Event::NotMade(Failure::new("no"));
    let (life, actions) = run(rules(), &[Event::Resume, no()]);
    assert!(actions.iter().any(|action| matches!(action, Action::Report(Outcome::StartFailed(_)))));
    assert_eq!((life.state(), life.start_failed()), (State::BackingOff, false));
    let (life, _) = life.step(Event::Deadline, 100_000);
    let (life, actions) = life.step(no(), 100_001);
    assert!(!actions.iter().any(|action| matches!(action, Action::Report(_))));
    assert_eq!(life.state(), State::BackingOff);
}

#[test]
fn what_runs_already_is_watched_from_then_on() {
    let (life, actions) = run(rules(), &[Event::Adopted]);
    assert!(matches!(actions[..], [Action::Probe(_)]), "{actions:?}");
    assert_eq!((life.state(), life.health()), (State::Running, Health::Healthy));
    let (life, actions) = life.step(Event::Exited(crate::record::STATUS_UNSEEN), 9000);
    assert_eq!(life.state(), State::BackingOff);
    assert!(actions.contains(&Action::Clear));
}

#[test]
fn a_kill_for_want_of_memory_is_the_cause_of_the_end_that_follows() {
    let mut life = Life::new(rules());
    for event in healthy() {
        (life, _) = life.step(event, 0);
    }
    let sentence = "killed: out of memory, limit 60 MiB, peak 60 MiB".to_owned();
    let (life, actions) = life.step(Event::OutOfMemory { processes: 1, message: sentence.clone() }, 1000);
    assert!(actions.is_empty(), "{actions:?}");
    assert_eq!(life.state(), State::Running);
    let told = |life: &Life| life.last_failure().expect("a failure").causes.join("; ");
    assert!(told(&life).contains(&sentence), "{}", told(&life));
    let (life, _) = life.step(Event::Exited(137), 1000);
    assert_eq!(life.state(), State::BackingOff);
    assert!(told(&life).contains(&sentence), "{}", told(&life));
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        Just(Event::Stop),
        Just(Event::Halt),
        Just(Event::Resume),
        Just(Event::Created),
        Just(Event::Executed),
        Just(Event::NotMade(Failure::new("no"))),
        (0..=255).prop_map(Event::Exited),
        Just(Event::Probed(Ok(()))),
        Just(Event::Probed(Err("no".into()))),
        Just(Event::Deadline),
        Just(Event::OutOfMemory { processes: 1, message: "killed: out of memory".into() }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: containers are made one at a time, each is cleared before the next, after
    /// the end nothing is done any more, and at the end nothing is left.
    #[test]
    fn at_most_one_container_and_none_after_the_end(
        events in proptest::collection::vec((any_event(), 0..100_000_u64), 0..200)
    ) {
        let mut life = Life::new(rules());
        let (mut containers, mut ended, mut now) = (0, false, 0);
        for (event, later) in events {
            now += later;
            let (next, actions) = life.step(event, now);
            life = next;
            // One that is down can be told again that it is not wanted; nothing is done to it.
            let told = [Action::Deadline(None), Action::Report(Outcome::Stopped), Action::End];
            prop_assert!(!ended || actions.is_empty() || actions == told);
            for action in actions {
                match action {
                    Action::Make => containers += 1,
                    Action::Clear => containers = 0,
                    Action::End => ended = true,
                    _ => {}
                }
                prop_assert!(containers <= 1);
            }
            prop_assert!(!ended || containers == 0);
        }
    }
}

fn on_trial(events: &[Event]) -> (Life, Vec<Action>) {
    let mut life = Life::on_trial(rules(), Some(2_000), 1);
    let mut actions = Vec::new();
    for (second, event) in events.iter().enumerate() {
        (life, actions) = life.step(event.clone(), second as u64 * 1000);
    }
    (life, actions)
}

#[test]
fn a_parked_container_waits_until_it_is_released() {
    let (_, actions) = on_trial(&[Event::Park, Event::Created]);
    assert_eq!(actions, [Action::Report(Outcome::Parked)]);
    let (_, actions) = on_trial(&[Event::Park, Event::Created, Event::Release]);
    assert_eq!(actions, [Action::Go]);
}

#[test]
fn a_start_may_wait_for_another_generations_end_for_as_long_as_that_takes() {
    let started = [Event::Start, Event::Created, Event::Executed];
    let (_, actions) = on_trial(&[&started[..], &[Event::Wait]].concat());
    assert_eq!(actions, [Action::NoProbe, Action::Deadline(None)]);
    let late = Event::Probed(Err("refused".into()));
    assert_eq!(on_trial(&[&started[..], &[Event::Wait, late]].concat()).1, []);
    let (life, actions) = on_trial(&[&started[..], &[Event::Wait, Event::Release]].concat());
    // All of its time begins here.
    assert_eq!(actions, [Action::Deadline(Some(4_000 + 2_000)), Action::Probe(0)]);
    let (_, actions) = life.step(Event::Probed(Ok(())), 5_000);
    assert!(actions.contains(&Action::Report(Outcome::Healthy)), "{actions:?}");
    // That it was executed may be heard of only afterwards.
    let (_, actions) = on_trial(&[Event::Start, Event::Created, Event::Wait, Event::Executed]);
    assert_eq!(actions, []);
    let (_, actions) = on_trial(&[&started[..], &[Event::Wait, Event::Exited(7)]].concat());
    assert!(matches!(actions.last(), Some(Action::Report(Outcome::StartFailed(_)))), "{actions:?}");
}

#[test]
fn on_trial_nothing_is_forgiven_and_nothing_cleared_until_it_is_accepted() {
    let healthy = [Event::Park, Event::Created, Event::Release, Event::Executed, Event::Probed(Ok(()))];
    let ill = Event::Probed(Err("answered 500".into()));
    for wrong in [vec![Event::Exited(0)], vec![ill.clone(), ill.clone(), ill]] {
        let (life, actions) = on_trial(&[&healthy[..], &wrong[..]].concat());
        assert!(matches!(actions.last(), Some(Action::Report(Outcome::StartFailed(_)))), "{actions:?}");
        assert!(!actions.contains(&Action::Clear) && life.is_over());
    }
    let (life, actions) = on_trial(&[&healthy[..], &[Event::Accept, Event::Exited(1)]].concat());
    assert_eq!((life.state(), life.start_failed()), (State::BackingOff, false), "{actions:?}");
}

#[test]
fn one_that_has_clients_on_trial_is_probed_more_often_and_one_failed_probe_is_too_many() {
    let healthy = [Event::Start, Event::Created, Event::Executed, Event::Probed(Ok(()))];
    let watched = [&healthy[..], &[Event::Watch { closely: true }]].concat();
    let (_, actions) = on_trial(&watched);
    let often = rules().health.interval_ms.min(1000);
    assert_eq!(actions, [Action::Probe(often)]);
    let ill = Event::Probed(Err("answered 500".into()));
    let (life, actions) = on_trial(&[&watched[..], std::slice::from_ref(&ill)].concat());
    let failure = Failure::new("answered 500").within("its health check failed");
    assert_eq!(actions.last(), Some(&Action::Report(Outcome::StartFailed(failure))));
    assert!(life.is_over());
    // When it has all clients, it is as with any other.
    let (life, _) = on_trial(&[&watched[..], &[Event::Watch { closely: false }, ill]].concat());
    assert_eq!((life.state(), life.health()), (State::Running, Health::Healthy));
}

/// How long each of these probes of a start is waited after.
fn waits(mut life: Life, results: &[Result<(), String>]) -> Vec<u64> {
    for event in [Event::Start, Event::Created, Event::Executed] {
        (life, _) = life.step(event, 0);
    }
    let mut waits = Vec::new();
    for result in results {
        let actions;
        (life, actions) = life.step(Event::Probed(result.clone()), 1);
        waits.extend(actions.iter().filter_map(|action| match action {
            Action::Probe(after_ms) => Some(*after_ms),
            _ => None,
        }));
    }
    waits
}

#[test]
fn a_start_is_probed_at_shorter_intervals_at_first() {
    let refused = || Err("refused".to_owned());
    let refusals: Vec<_> = std::iter::repeat_with(refused).take(6).collect();
    assert_eq!(waits(Life::new(rules()), &refusals), [10, 20, 40, 80, 100, 100]);
    let mut short = rules();
    short.health.interval_ms = 30;
    assert_eq!(waits(Life::new(short), &refusals), [10, 20, 30, 30, 30, 30]);
    let mut costly = rules();
    costly.health.probe = Probe::Command { arguments: vec!["true".into()] };
    assert_eq!(waits(Life::new(costly), &refusals[..2]), [1000, 1000]);
    // Each start begins anew.
    let (mut life, _) = run(rules(), &healthy());
    for event in crash().into_iter().take(4) {
        (life, _) = life.step(event, 10_000);
    }
    assert_eq!(life.step(Event::Probed(refused()), 10_000).1, [Action::Probe(10)]);
}

#[test]
fn probes_that_prove_a_candidate_lie_as_far_apart_as_ever() {
    let trial = || Life::on_trial(rules(), None, 3);
    assert_eq!(waits(trial(), &[Ok(()), Ok(())]), [100, 100]);
    assert_eq!(waits(trial(), &[Err("refused".into()), Ok(()), Ok(())]), [10, 100, 100]);
}
