//! How a swap goes in each way, and that whatever happens it ends once and in balance.

use super::*;

fn after(way: Way, events: &[Event]) -> (Swap, Vec<Action>) {
    let mut swap = Swap::new(way, "why".into(), 30_000);
    let mut actions = Vec::new();
    for (second, event) in events.iter().enumerate() {
        (swap, actions) = swap.step(event.clone(), second as u64 * 1000);
    }
    (swap, actions)
}

fn broken() -> Failure {
    Failure::new("it exited with status 1")
}

fn swapped(gap_ms: u64, left: Left) -> Verdict {
    Verdict::Swapped { gap_ms, waited: false, left }
}

const STOPPED_FIRST: [Event; 4] = [Event::Begin, Event::Parked, Event::OldDown, Event::Healthy];

#[test]
fn the_old_one_is_stopped_only_when_the_candidates_container_exists() {
    let (_, actions) = after(Way::StopFirst, &[Event::Begin]);
    assert_eq!(actions.last(), Some(&Action::MakeCandidate { parked: true }));
    let (_, actions) = after(Way::StopFirst, &[Event::Begin, Event::Failed(broken())]);
    assert_eq!(
        actions,
        [Action::ClearCandidate, Action::End(Verdict::WentBack { failure: broken(), gap_ms: 0 })]
    );
    let (_, actions) = after(Way::StopFirst, &STOPPED_FIRST[..2]);
    assert_eq!(actions.last(), Some(&Action::StopOld));
}

#[test]
fn the_gap_is_from_the_stop_to_the_candidates_health() {
    let (swap, actions) = after(Way::StopFirst, &STOPPED_FIRST);
    assert_eq!(actions[0], Action::Commit);
    assert!(actions.contains(&Action::Tell(Step::Soaking { gap_ms: 2000, waited: false, soak_ms: 30_000 })));
    assert!(swap.is_committed());
    let (_, actions) = swap.step(Event::TimeIsUp, 60_000);
    assert_eq!(actions, [Action::Accept, Action::End(swapped(2000, Left::default()))]);
}

#[test]
fn side_by_side_the_old_one_serves_until_the_soak_is_over() {
    let (swap, actions) = after(Way::SideBySide, &[Event::Begin, Event::Healthy]);
    assert_eq!(actions[0], Action::Commit);
    let (swap, actions) = swap.step(Event::TimeIsUp, 40_000);
    assert_eq!(actions.last(), Some(&Action::StopOld));
    let (_, actions) = swap.step(Event::OldDown, 41_000);
    assert_eq!(actions, [Action::End(swapped(0, Left::default()))]);
}

const STEERED: [Event; 3] = [Event::Begin, Event::Healthy, Event::Turned];

#[test]
fn steered_the_record_goes_over_when_connections_do_and_the_old_one_ends_when_it_has_none() {
    assert_eq!(after(Way::Steered, &STEERED[..2]).1, [Action::Turn]);
    let (swap, actions) = after(Way::Steered, &STEERED);
    assert_eq!(actions[0], Action::Commit);
    assert_eq!(actions[1], Action::Drain { candidate: false });
    // What it has begun it may finish for as long as the soak takes, and longer if it was given more.
    let (late, actions) = swap.clone().step(Event::TimeIsUp, 40_000);
    assert!(actions.is_empty() && late.only_drains());
    let left = Left { connections: 2, idle: 1, after_ms: 38_000, unhandled: None };
    let (late, actions) = late.step(Event::Drained(left.clone()), 41_000);
    assert_eq!(actions, [Action::Accept, Action::Tell(Step::Retiring(left.clone())), Action::StopOld]);
    let (_, actions) = late.step(Event::OldDown, 41_000);
    assert_eq!(actions, [Action::End(swapped(0, left))]);
    // And it lives on without connections until the soak is over.
    let (early, actions) = swap.step(Event::Drained(Left::default()), 4000);
    assert_eq!(actions, []);
    let (_, actions) = early.step(Event::TimeIsUp, 40_000);
    assert_eq!(actions.last(), Some(&Action::StopOld));
}

#[test]
fn steered_a_failure_in_the_soak_turns_connections_back_before_the_candidate_is_killed() {
    let mut events = STEERED.to_vec();
    events.push(Event::Failed(broken()));
    let (swap, actions) = after(Way::Steered, &events);
    assert_eq!(actions[..2], [Action::Uncommit, Action::TurnBack]);
    assert_eq!(actions.last(), Some(&Action::Drain { candidate: true }));
    assert!(!actions.contains(&Action::ClearCandidate));
    let back = Action::End(Verdict::WentBack { failure: broken(), gap_ms: 0 });
    let (_, actions) = swap.clone().step(Event::Drained(Left::default()), 9000);
    assert_eq!(actions, [Action::ClearCandidate, back.clone()]);
    let left = Left { connections: 3, ..Left::default() };
    let (_, actions) = swap.step(Event::Drained(left.clone()), 9000);
    assert_eq!(actions, [Action::ClearCandidate, Action::Tell(Step::Cut(left)), back]);
}

fn canary() -> Canary {
    Canary { share: "10%".parse().expect("a share"), for_ms: 60_000 }
}

fn shared(events: &[Event]) -> (Swap, Vec<Action>) {
    let mut swap = Swap::new(Way::Steered, "why".into(), 30_000).sharing_first(Some(canary()));
    let mut actions = Vec::new();
    for event in events {
        (swap, actions) = swap.step(event.clone(), 1000);
    }
    (swap, actions)
}

#[test]
fn a_share_goes_to_the_candidate_first_and_all_when_its_time_is_over() {
    assert_eq!(shared(&[Event::Begin, Event::Healthy]).1, [Action::Share(canary())]);
    let (swap, actions) = shared(&[Event::Begin, Event::Healthy, Event::Shared]);
    assert_eq!(actions, [Action::Tell(Step::Sharing(canary())), Action::Wake(61_000)]);
    assert!(swap.is_shared() && !swap.is_committed());
    let (swap, actions) = swap.step(Event::TimeIsUp, 61_000);
    assert_eq!(actions, [Action::Turn]);
    let (swap, actions) = swap.step(Event::Turned, 61_000);
    assert_eq!(actions[0], Action::Commit);
    assert!(swap.is_committed());
}

#[test]
fn a_candidate_that_fails_with_its_share_is_taken_back_and_nothing_was_committed() {
    let failed = [Event::Begin, Event::Healthy, Event::Shared, Event::Failed(broken())];
    let (swap, actions) = shared(&failed);
    assert_eq!(
        actions,
        [Action::TurnBack, Action::Tell(Step::Withdrawing), Action::Drain { candidate: true }]
    );
    // The time that was asked for comes all the same, and means nothing any more.
    let (swap, actions) = swap.step(Event::TimeIsUp, 61_000);
    assert_eq!(actions, []);
    let (_, actions) = swap.step(Event::Drained(Left::default()), 61_000);
    let back = Verdict::WentBack { failure: broken(), gap_ms: 0 };
    assert_eq!(actions, [Action::ClearCandidate, Action::End(back)]);
}

#[test]
fn a_candidate_that_cannot_get_a_share_does_not_get_all_instead() {
    let (swap, actions) = shared(&[Event::Begin, Event::Collides("it listens elsewhere".into())]);
    assert_eq!(actions[0], Action::ClearCandidate);
    let Some(Action::End(Verdict::WentBack { failure, .. })) = actions.last() else { panic!("{actions:?}") };
    assert_eq!(failure.causes.last().map(String::as_str), Some("it listens elsewhere"));
    assert_eq!(swap.stage, Stage::Over);
}
const GATED: [Event; 5] = [Event::Begin, Event::Waits, Event::OldDown, Event::Waited, Event::Healthy];

#[test]
fn gated_the_candidate_is_let_in_when_the_old_one_is_down() {
    let (swap, actions) = after(Way::Gated, &GATED[..1]);
    assert_eq!(actions.last(), Some(&Action::MakeCandidate { parked: false }));
    assert!(swap.is_shut());
    let (swap, actions) = after(Way::Gated, &GATED[..2]);
    assert_eq!(actions, [Action::HoldCandidate, Action::Tell(Step::StoppingOld), Action::StopOld]);
    assert!(swap.is_shut(), "a second port waits as well");
    assert!(swap.clone().step(Event::Waits, 1500).1.is_empty(), "the old one is stopped once");
    let (swap, actions) = after(Way::Gated, &GATED[..3]);
    assert_eq!(actions, [Action::Tell(Step::Proving), Action::LetIn]);
    assert!(!swap.is_shut());
    let (swap, actions) = after(Way::Gated, &GATED);
    assert_eq!(actions[0], Action::Commit);
    assert!(actions.contains(&Action::Tell(Step::Soaking { gap_ms: 3000, waited: true, soak_ms: 30_000 })));
    let (_, actions) = swap.step(Event::TimeIsUp, 60_000);
    assert_eq!(
        actions,
        [Action::Accept, Action::End(Verdict::Swapped { gap_ms: 3000, waited: true, left: Left::default() })]
    );
}

#[test]
fn gated_the_old_one_is_touched_only_when_the_candidate_waits_for_its_port() {
    for failure in [Event::Failed(broken()), Event::Healthy] {
        let (_, actions) = after(Way::Gated, &[Event::Begin, failure]);
        assert_eq!(actions[0], Action::ClearCandidate);
        assert!(matches!(actions[1], Action::End(Verdict::WentBack { gap_ms: 0, .. })), "{actions:?}");
    }
}

#[test]
fn gated_a_failure_brings_the_old_one_back() {
    let failed = Event::Failed(broken());
    let events = [Event::Begin, Event::Waits, failed.clone()];
    let (swap, actions) = after(Way::Gated, &events);
    assert!(!actions.contains(&Action::StartOld), "it is still on its way down");
    assert_eq!(swap.step(Event::OldDown, 4000).1, [Action::StartOld]);
    let (swap, actions) = after(Way::Gated, &[&GATED[..3], std::slice::from_ref(&failed)].concat());
    assert_eq!(
        actions,
        [Action::ClearCandidate, Action::Tell(Step::Returning), Action::StartOld],
        "{swap:?}"
    );
    let (_, actions) = swap.step(Event::OldHealthy, 8000);
    assert_eq!(actions, [Action::End(Verdict::WentBack { failure: broken(), gap_ms: 7000 })]);
    let (_, actions) = after(Way::Gated, &[&GATED[..], &[failed]].concat());
    assert_eq!(actions[..2], [Action::Uncommit, Action::ClearCandidate]);
    assert_eq!(actions.last(), Some(&Action::StartOld));
}

#[test]
fn a_candidate_that_would_take_clients_waits_where_it_is_until_the_old_one_has_ended() {
    let events = [Event::Begin, Event::Collides("it listens elsewhere".into())];
    let (swap, actions) = after(Way::Steered, &events);
    assert_eq!(swap.way(), Way::Gated);
    assert!(swap.is_shut() && !actions.contains(&Action::ClearCandidate));
    assert_eq!(actions[1..], [Action::HoldCandidate, Action::Tell(Step::StoppingOld), Action::StopOld]);
    let reason = "it listens elsewhere".to_owned();
    assert_eq!(actions[0], Action::Tell(Step::Way { way: Way::Gated, reason }));
}

#[test]
fn a_candidate_whose_binds_nobody_hears_of_is_made_again_and_waits_for_the_old_one_to_end() {
    for way in [Way::Steered, Way::Gated] {
        unheard(way);
    }
}

fn unheard(way: Way) {
    let events = [Event::Begin, Event::Unheard("the kernel cannot".into())];
    let (swap, actions) = after(way, &events);
    assert_eq!(actions[0], Action::ClearCandidate);
    assert_eq!(actions.last(), Some(&Action::MakeCandidate { parked: true }));
    assert_eq!(swap.way(), Way::StopFirst);
    let (_, actions) = swap.step(Event::Parked, 5000);
    assert_eq!(actions.last(), Some(&Action::StopOld));
}

#[test]
fn a_failure_in_the_soak_goes_back_on_record_before_anything_is_killed() {
    for way in [Way::StopFirst, Way::SideBySide] {
        let mut events = STOPPED_FIRST.to_vec();
        events.push(Event::Failed(broken()));
        let (_, actions) = after(way, &events);
        assert_eq!(actions[..2], [Action::Uncommit, Action::ClearCandidate], "{way:?}");
    }
}

#[test]
fn when_neither_serves_both_reasons_are_told() {
    let mut events = STOPPED_FIRST[..3].to_vec();
    let back = Failure::new("its port is taken");
    events.extend([Event::Failed(broken()), Event::OldFailed(back.clone())]);
    let (_, actions) = after(Way::StopFirst, &events);
    assert_eq!(actions, [Action::End(Verdict::NeitherServes { failure: broken(), back })]);
}

/// Every sequence of events, up to a length: what was begun is undone or ended, exactly once.
#[test]
fn whatever_happens_it_ends_once_and_commits_are_in_balance() {
    let all = [
        Event::Begin,
        Event::Parked,
        Event::Healthy,
        Event::Failed(broken()),
        Event::OldDown,
        Event::OldHealthy,
        Event::OldFailed(broken()),
        Event::TimeIsUp,
        Event::Collides("why".into()),
        Event::Shared,
        Event::Waits,
        Event::Unheard("why".into()),
        Event::Waited,
        Event::Turned,
        Event::Drained(Left::default()),
        Event::Cancel,
    ];
    let ways = [Way::StopFirst, Way::SideBySide, Way::Gated, Way::Steered].map(|way| (way, None));
    for (way, canary) in ways.into_iter().chain([(Way::Steered, Some(canary()))]) {
        let mut paths = vec![(Swap::new(way, "why".into(), 1).sharing_first(canary), 0, 0)];
        for _ in 0..7 {
            let mut next = Vec::new();
            for (swap, commits, ends) in paths {
                for event in &all {
                    let (swap, actions) = swap.clone().step(event.clone(), 1);
                    let count = |wanted: &dyn Fn(&Action) -> bool| {
                        i32::try_from(actions.iter().filter(|action| wanted(action)).count()).expect("few")
                    };
                    let commits = commits + count(&|action| *action == Action::Commit)
                        - count(&|action| *action == Action::Uncommit);
                    let ends = ends + count(&|action| matches!(action, Action::End(_)));
                    assert!((0..=1).contains(&commits) && ends <= 1, "{way:?} {event:?} {swap:?}");
                    assert!(ends == 0 || swap.stage == Stage::Over);
                    next.push((swap, commits, ends));
                }
            }
            next.sort_by_key(|path| format!("{path:?}"));
            next.dedup();
            paths = next;
        }
        assert!(paths.iter().any(|(swap, commits, _)| swap.stage == Stage::Over && *commits == 1));
    }
}
