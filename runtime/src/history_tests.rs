//! The history as it is written and read back, also when it was torn or is long.

use super::*;

fn history() -> (tempfile::TempDir, History) {
    let root = tempfile::tempdir().expect("folder");
    let history = History { path: root.path().join("history.jsonl") };
    (root, history)
}

fn made(release: &str) -> Made {
    Made {
        kind: Kind::Run,
        by: Cause::Start,
        person: Person { uid: 0, user: Some("root".into()), sudo_user: None },
        release: release.into(),
        image: format!("keystone:{release}"),
        image_id: "sha256:00".into(),
        from: None,
    }
}

fn stopped() -> End {
    End::Stopped { person: None }
}

#[test]
fn what_was_noted_is_read_and_nothing_is_said_twice() {
    let (_root, history) = history();
    history.made(1, made("zed"), 100).expect("made");
    history.serves(1).expect("serves");
    history.serves(1).expect("again, after a crash restart");
    history.ended(1, stopped()).expect("ended");
    history.ended(1, End::SupervisorLost).expect("too late");
    history.ended(1, End::Replaced { by: 2 }).expect("why it was stopped");
    history.ended(1, End::Replaced { by: 2 }).expect("again");
    let past = history.read().expect("read");
    let entry = past.entry(1).expect("an entry");
    assert_eq!(entry.made, Some(made("zed")));
    assert_eq!(entry.runs.len(), 1);
    assert!(matches!(entry.runs[0].ended, Some((_, End::Replaced { by: 2 }))));
    assert_eq!(history.lines().expect("lines").0.len(), 4);
}

#[test]
fn a_generation_may_serve_again_or_try_in_vain() {
    let (_root, history) = history();
    let reason = Failure::new("it exited with status 1");
    history.ended(3, stopped()).expect("it never served, so this says nothing");
    history.made(3, made("zed"), 100).expect("made");
    history.serves(3).expect("serves");
    history.ended(3, stopped()).expect("stopped");
    history.ended(3, End::NeverHealthy { reason: reason.clone() }).expect("started again in vain");
    history.ended(3, End::NeverHealthy { reason }).expect("as the client says, too");
    history.serves(3).expect("and again");
    let past = history.read().expect("read");
    let runs = &past.entry(3).expect("an entry").runs;
    assert_eq!(
        runs.iter().map(|run| (run.began_at_ms.is_some(), run.ended.is_some())).collect::<Vec<_>>(),
        [(true, true), (false, true), (true, false)]
    );
}

#[test]
fn a_torn_line_costs_only_itself() {
    let (_root, history) = history();
    history.made(1, made("zed"), 100).expect("made");
    let whole = std::fs::read(&history.path).expect("the file");
    for length in 1..whole.len() - 1 {
        std::fs::write(&history.path, [&whole[..], &whole[..length]].concat()).expect("tear");
        history.serves(1).expect("serves");
        let past = history.read().expect("read");
        assert_eq!((past.damaged, past.entries.len()), (1, 1), "torn at {length}");
        assert!(past.entries[0].serves() && past.entries[0].made.is_some(), "torn at {length}");
    }
}

#[test]
fn only_the_newest_entries_are_kept_and_the_largest_number_always() {
    let (_root, history) = history();
    for number in 1..=8 {
        history.made(number, made("zed"), 3).expect("made");
    }
    let past = history.read().expect("read");
    assert_eq!(past.entries.iter().map(|entry| entry.generation).collect::<Vec<_>>(), [6, 7, 8]);
    assert_eq!(past.last_number(), 8);
}

#[test]
fn of_one_that_is_up_and_down_for_ever_the_last_times_are_kept() {
    let (_root, history) = history();
    history.made(1, made("zed"), 3).expect("made");
    for _ in 0..3 * EVENTS_MAX {
        history.serves(1).expect("serves");
        history.ended(1, End::HostDown).expect("ended");
    }
    history.made(2, made("zed"), 3).expect("made");
    let past = history.read().expect("read");
    assert!(past.entries[0].made.is_some());
    assert_eq!(past.entries[0].runs.len(), EVENTS_MAX / 2);
}

#[test]
fn the_one_before_is_the_one_that_served_last_not_the_one_with_the_next_number() {
    let line = |at_ms, generation, event| Line { version: VERSION, at_ms, generation, event };
    let (_root, history) = history();
    let lines = [
        line(1, 1, Event::Serves),
        line(2, 1, Event::Ended(End::Replaced { by: 2 })),
        line(2, 2, Event::Serves),
        line(3, 3, Event::Ended(End::NeverHealthy { reason: Failure::new("x") })),
        line(4, 2, Event::Ended(End::Replaced { by: 4 })),
        line(4, 4, Event::Serves),
    ];
    std::fs::write(&history.path, lines.iter().flat_map(line_of).collect::<Vec<_>>()).expect("write");
    let past = history.read().expect("read");
    assert_eq!((past.before(4), past.before(2)), (Some(2), Some(4)));
    // One that became healthy and was taken back in its soak is nothing to go back to.
    let taken_back = [
        line(5, 5, Event::Serves),
        line(6, 5, Event::Ended(End::WentBack { reason: Failure::new("x") })),
        line(6, 4, Event::Ended(End::Replaced { by: 5 })),
        line(7, 4, Event::Serves),
    ];
    let lines = lines.iter().chain(&taken_back);
    std::fs::write(&history.path, lines.flat_map(line_of).collect::<Vec<_>>()).expect("write");
    assert_eq!(history.read().expect("read").before(4), Some(2));
}

#[test]
fn what_a_rollback_needs_is_not_forgotten() {
    let (_root, history) = history();
    for number in 1..=2 {
        history.made(number, made("zed"), 1).expect("made");
        history.serves(number).expect("serves");
    }
    history.made(3, Made { kind: Kind::Kept, ..made("zed") }, 1).expect("made");
    for number in 4..=8 {
        history.made(number, made("juno"), 1).expect("made");
        history.ended(number, End::NeverHealthy { reason: Failure::new("x") }).expect("ended");
    }
    let past = history.read().expect("read");
    assert_eq!(past.entries.iter().map(|entry| entry.generation).collect::<Vec<_>>(), [1, 2, 3, 8]);
}

#[test]
fn a_newer_history_is_refused_and_a_missing_one_is_empty() {
    let (_root, history) = history();
    assert_eq!(history.read().expect("read"), Past::default());
    std::fs::write(&history.path, "{\"version\":2,\"news\":1}\n").expect("write");
    assert!(matches!(history.serves(1), Err(Error::HistoryNewer { found: 2, .. })));
}
