//! Understands some command lines without the definition of all of them, which takes longer to set up than most of these
//! commands to do their work: what opsrun tells itself, and what is typed, or run by scripts, again and again.
//! It knows nothing of what the commands do.
//!
//! Whatever is not understood here is left to the whole definition, which also has the words for what is wrong.

use clap::Args;

use crate::arguments::{Command, Exec, Ps, Run};

/// Whether nothing but the program's version is asked for.
pub(crate) fn asks_for_version() -> bool {
    let mut words = std::env::args_os().skip(1);
    words.next().is_some_and(|word| word == "--version" || word == "-V") && words.next().is_none()
}

/// The command of this process, if it is one of these.
pub(crate) fn command() -> Option<Command> {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect::<Result<_, _>>().ok()?;
    of(&words)
}

fn of(words: &[String]) -> Option<Command> {
    let texts: Vec<&str> = words.iter().map(String::as_str).collect();
    match texts[..] {
        ["create", id] if !id.starts_with('-') => Some(Command::Create { id: Some(id.to_owned()) }),
        ["supervise", service] => supervise("", service),
        ["supervise", flag, service] => supervise(flag, service),
        ["run", ..] => alone::<Run>(words).map(Command::Run),
        ["exec", ..] => alone::<Exec>(words).map(Command::Exec),
        ["ps", ..] => alone::<Ps>(words).map(Command::Ps),
        _ => None,
    }
}

fn supervise(flag: &str, service: &str) -> Option<Command> {
    if !["", "--unit", "--clear", "--again"].contains(&flag) {
        return None;
    }
    let (unit, clear, again) = (flag == "--unit", flag == "--clear", flag == "--again");
    Some(Command::Supervise { unit, clear, again, prove: false, service: service.parse().ok()? })
}

/// By the definition of this command alone.
fn alone<A: Args>(words: &[String]) -> Option<A> {
    let matches = A::augment_args(clap::Command::new("opsrun")).try_get_matches_from(words).ok()?;
    A::from_arg_matches(&matches).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::Arguments;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_understood_is_what_the_whole_definition_understands() {
        for line in [
            "create run-1",
            "supervise keystone",
            "supervise --unit keystone",
            "supervise --clear keystone",
            "supervise --again keystone",
            "run --rm keystone:zed true",
            "run -it --name x -v /a:/b:ro --memory 1g -e A=b --entrypoint sh keystone:zed x -c ls --all",
            "exec keystone true",
            "exec -i -t -u 1:2 -w /tmp -e A=b keystone sh -c -x",
            "ps",
            "ps --json",
            "ps -q",
        ] {
            let whole = Arguments::try_parse_from([words("opsrun"), words(line)].concat()).unwrap().command;
            assert_eq!(format!("{:?}", of(&words(line))), format!("{:?}", Some(whole)), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_or_asks_for_help_is_left_to_the_whole_definition() {
        for line in [
            "create --help",
            "supervise --unit --clear keystone",
            "supervise ..",
            "run",
            "run --help",
            "run --no-such keystone:zed",
            "exec keystone",
            "ps --json -q",
            "ps -h",
            "start keystone",
            "",
        ] {
            assert!(of(&words(line)).is_none(), "{line}");
        }
    }
}
